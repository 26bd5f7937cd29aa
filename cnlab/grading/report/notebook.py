"""The report as a notebook: it reads the tables beside it, so that an instructor can go on from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

TIMEOUT_S = 120

_SETUP = """\
from cnlab.grading.report import figures, tables
"""
_SECTIONS = (
    (
        "How the class did",
        """\
students = tables.read("students.csv")
figures.distribution(students.numbers("percent"))
""",
    ),
    (
        "Task by task",
        """\
tasks = tables.read("tasks.csv")
figures.shares(tasks.texts("task"), tasks.numbers("all points"), tasks.numbers("some"), tasks.numbers("none"))
""",
    ),
    (
        "The hardest checks",
        """\
checks = tables.read("checks.csv")
figures.shares(
    checks.texts("check"), checks.numbers("all points"), checks.numbers("some"), checks.numbers("none")
)
""",
    ),
    ("Why checks fail", 'tables.read("reasons.csv")\n'),
    ("How long submissions ran", 'figures.times(students.numbers("seconds"))\n'),
    ("When they came", 'figures.arrivals(students.numbers("hours after due"))\n'),
    ("Late", 'tables.read("late.csv")\n'),
    ("What the sandbox refused or ended", 'tables.read("events.csv")\n'),
    ("What was put right before it ran", 'tables.read("repairs.csv")\n'),
    ("Troubles of the runs", 'tables.read("troubles.csv")\n'),
    ("Alike", 'tables.read("similar.csv")\n'),
    ("All students", "students\n"),
)


def report_notebook(assignment: str) -> NotebookNode:
    """Return the notebook, not yet executed."""
    from nbformat import v4

    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [v4.new_markdown_cell(f"# {assignment}: how it went"), v4.new_code_cell(_SETUP.rstrip())]
    for title, code in _SECTIONS:
        cells += [v4.new_markdown_cell(f"## {title}"), v4.new_code_cell(code.rstrip())]
    for place, cell in enumerate(cells):
        cell["id"] = f"report-{place}"  # the same report is the same file
    notebook: NotebookNode = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    return notebook


def execute(notebook: NotebookNode, directory: Path) -> None:
    """Run the notebook in `directory`, as an instructor would; its outputs are then in it."""
    from nbclient import NotebookClient
    from traitlets.config import Config

    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # marks pass between the two
        resources={"metadata": {"path": str(directory)}},
    )
    client.execute()
