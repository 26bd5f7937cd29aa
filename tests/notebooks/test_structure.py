"""Every notebook and lab has the form that CURRICULUM's readers can rely on; nothing is run here."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

KERNELSPECS = (
    {"name": "cnlab", "display_name": "Cloud Native Lab", "language": "python"},
    {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
)
SHELL_LINE = re.compile(r"^\s*[!%]", re.MULTILINE)
AUTHORS_PATH = re.compile(r"(?<![\w/])/(home|Users|srv|work)\b")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(path: Path, cell_type: str) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == cell_type]


def is_folded(cell: NotebookNode) -> bool:
    """Whether the book and JupyterLab show the source only when asked."""
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
    return hidden and "hide-input" in cell.metadata.get("tags", [])


def test_file_is_valid_and_every_cell_has_an_id_of_its_own(notebook_or_lab):
    """Ids tie a cell to its history and to the gradebook; a copied cell brings its id along."""
    content = read(notebook_or_lab)

    nbformat.validate(content)
    assert (content.nbformat, content.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in content.cells]
    assert len(set(ids)) == len(ids)


def test_no_output_is_committed(notebook_or_lab):
    """Outputs come from the reader's machine, or from the machine that built the book."""
    assert [cell.id for cell in cells(notebook_or_lab, "code") if cell.outputs or cell.execution_count] == []


def test_notebook_chooses_its_kernel(notebook_or_lab):
    """Whoever opens it is not asked: a private kernel where root is needed, else the ordinary one."""
    assert read(notebook_or_lab).metadata.kernelspec in KERNELSPECS


def test_no_shell_line_and_no_path_of_the_author(notebook_or_lab):
    """Both would run on the author's machine only."""
    for cell in cells(notebook_or_lab, "code"):
        assert not SHELL_LINE.search(cell.source), cell.source
        assert not AUTHORS_PATH.search(cell.source), cell.source


def test_code_cell_is_short(notebook):
    """One idea a cell; what is longer belongs in the package."""
    lengths = {cell.source: len(cell.source.splitlines()) for cell in cells(notebook, "code")}

    assert [source for source, length in lengths.items() if length > 20] == []


def test_code_line_fits_the_page(notebook):
    """The rendered book and a laptop's JupyterLab show 88 columns; what is beyond is cut off."""
    shown = [cell for cell in cells(notebook, "code") if not is_folded(cell)]
    lines = [line for cell in shown for line in cell.source.splitlines()]

    assert [line for line in lines if len(line) > 88] == []


def test_first_cell_says_what_the_reader_gets_and_needs(notebook):
    """Who opens it decides by this cell whether to go on."""
    first = read(notebook).cells[0]

    assert first.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    missing = [
        word
        for word in ("You will be able to", "Before this", "Time", "Needs")
        if f"**{word}" not in first.source
    ]
    assert missing == []
    objectives = re.findall(r"^[-*] ", first.source, re.MULTILINE)
    assert 3 <= len(objectives) <= 5


def test_second_cell_asks_the_machine_for_what_the_notebook_needs(notebook):
    """A machine that cannot run the notebook says so here, and not in the middle of it."""
    second = read(notebook).cells[1]

    assert second.cell_type == "code"
    assert "cnlab" in second.source


def test_last_cell_sums_up(notebook):
    """It answers the first cell: what we saw, and where to go on."""
    last = read(notebook).cells[-1]

    assert last.cell_type == "markdown"
    assert re.match(r"## \S", last.source)


def test_reader_predicts_at_least_three_times(notebook):
    """Who has committed to an answer remembers the run that settles it."""
    questions = [cell for cell in read(notebook).cells if re.search(r"\bpredict\(|\*Predict", cell.source)]

    assert len(questions) >= 3


def test_answer_is_folded_away(notebook):
    """The cell that asks a question also holds its answer."""
    questions = [
        cell for cell in cells(notebook, "code") if re.search(r"^predict\(", cell.source, re.MULTILINE)
    ]

    assert [cell.source for cell in questions if not is_folded(cell)] == []


def test_notebook_names_the_standard_it_spoke(notebook):
    """The reader can look everything up at its source."""
    boxes = [
        cell
        for cell in cells(notebook, "markdown")
        if re.search(r"^> \*\*Standard", cell.source, re.MULTILINE)
    ]

    assert boxes != []


def test_exercise_is_a_stub_then_a_check_then_the_solution_folded(notebook):
    """Only the check of an exercise may fail, and its solution is at hand but not in the way."""
    steps = []
    for cell in cells(notebook, "code"):
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            assert "NotImplementedError" in cell.source
            steps.append("stub")
        elif steps[-1:] == ["stub"]:
            assert "raises-exception" in tags
            steps.append("check")
        elif "solution" in tags:
            assert is_folded(cell)
            steps.append("solution")

    assert steps == ["stub", "check", "solution"] * (len(steps) // 3)
