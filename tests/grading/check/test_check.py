"""``check("task")`` in a notebook: what a student sees, and what it does to nobody."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from grading.small_lab import setup_source, small_lab, write
from labs.course import nbgrader_of, source_of
from nbformat.v4 import new_code_cell, new_notebook
from notebook import Cell, Notebook
from student import ROOT

from cnlab.clock import wait_until
from cnlab.grading.attempt import execution
from cnlab.grading.attempt.execution import Job

RIGHT = "def square(x):\n    return x * x"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel beside a small lab, which all tests here share: a check leaves nothing in it."""
    directory = tmp_path_factory.mktemp("lab")
    write(small_lab(), directory / "lab99.ipynb")
    with Notebook(directory, kernel="python3") as notebook:
        notebook.run(
            f"{setup_source()}\nimport os\nfrom cnlab.grading import check as checks\ncheck = checks.check"
        )
        yield notebook


def shown(notebook: Notebook, call: str, *before: str, timeout_s: float = 60) -> str:
    """What stands below a cell in which somebody calls `check`, after the cells `before`."""
    for source in before:
        assert notebook.run(source).error == ""
    cell = notebook.run(call, stdin="", timeout_s=timeout_s)
    assert cell.error == ""
    return text_of(cell)


def text_of(cell: Cell) -> str:
    kinds = ("display_data", "update_display_data")
    cards = [message["content"]["data"] for message in cell.messages if message["msg_type"] in kinds]
    return str(cards[-1]["text/plain"]) if cards else cell.text


def test_right_answer_passes(running: Notebook) -> None:
    """With the points that its visible checks have."""
    text = shown(running, "check('square')", RIGHT)

    assert "Square a number with square: 3 of 3 points" in text
    assert "✓ check-square: passed, 2 of 2 points" in text


def test_wrong_answer_is_told_what_was_expected_what_came_and_where_to_look(running: Notebook) -> None:
    """And costs nothing but its own check."""
    text = shown(running, "check(1)", "def square(x):\n    return x * abs(x)")

    assert [line.strip() for line in text.splitlines()[1:6]] == [
        "✗ check-square: failed, 0 of 2 points",
        "expected: 9 for -3",
        "got: -9",
        "look: at `**`",
        "✓ check-square-type: passed, 1 of 1 point",
    ]


def test_task_that_is_not_begun_is_not_called_wrong(running: Notebook) -> None:
    """A red mark on each stub would hide the one that matters."""
    text = shown(running, "check()", "def square(x):\n    raise NotImplementedError()")

    assert "○ check-square: not answered yet" in text


def test_function_that_is_not_there_is_named(running: Notebook) -> None:
    """The commonest reason is a cell that has not run."""
    text = shown(running, "check('greet')")

    assert "`greet` is not there yet: run the cell that defines it first" in text


def test_number_at_the_end_is_the_score(running: Notebook) -> None:
    """As in grading."""
    text = shown(running, "check(2)", "def greet(name):\n    return 'hi ' + name")

    assert "◐ check-greet: partly, 0.5 of 2 points" in text


def test_object_that_equals_everything_does_not_pass(running: Notebook) -> None:
    """The check runs in a process where no code of the student's ran: as in grading."""
    forged = (
        "class Any:\n    def __eq__(self, other):\n        return True\n\ndef square(x):\n    return Any()"
    )

    assert "✗ check-square: failed" in shown(running, "check('square')", forged)


def test_check_sees_the_answer_as_it_is_now_and_says_that_it_is_not_saved(running: Notebook) -> None:
    """What is handed in is the file."""
    text = shown(running, "check('square')", RIGHT)

    assert "square: what you have run is not what lab99.ipynb holds. Run the cell; save the notebook." in text
    assert "save" not in shown(running, "check('greet')", str(small_lab().cells[7].source))


def test_kernel_is_afterwards_what_it_was(running: Notebook) -> None:
    """A check may call a function that moves its process; the notebook's stays where it is."""
    moves = "import os\nseen = []\ndef square(x):\n    seen.append(x)\n    os.chdir('/')\n    return x * x"
    assert "3 of 3 points" in shown(running, "check('square')", moves)

    assert running.run("print(seen, os.getcwd())").text.split() == ["[]", running.directory]


def test_function_that_ends_its_process_fails_alone(running: Notebook) -> None:
    """The kernel lives."""
    text = shown(running, "check()", "import os\ndef square(x):\n    os._exit(3)")

    assert "✗ check-square: failed" in text
    assert "its process ended" in text
    assert "check-greet" in text


def test_function_that_loops_is_stopped(running: Notebook) -> None:
    """It says which call it was."""
    text = shown(running, "checks.CHECK_S = 1\ncheck('check-square')", "def square(x):\n    while True: pass")
    running.run("checks.CHECK_S = 60")

    assert "`square(3)`" in text
    assert "look for a loop" in text.replace("look: for", "look for")


def test_what_a_function_has_started_is_ended(running: Notebook) -> None:
    """Also what has left its session."""
    starts = (
        "import subprocess\ndef square(x):\n"
        "    subprocess.Popen(['sleep', '4711'], start_new_session=True)\n    return x * x"
    )
    shown(running, "check('square')", starts)

    assert (
        running.run("print(subprocess.run(['pgrep', '-fx', 'sleep 4711']).returncode)").text.split()[-1]
        == "1"
    )


def test_nothing_but_the_warm_process_stays(running: Notebook) -> None:
    """No copy of the kernel, no tester."""
    shown(running, "check()", RIGHT)
    children = running.run(
        "from pathlib import Path\n"
        "pids = Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text().split()\n"
        "for pid in pids: print(Path(f'/proc/{pid}/cmdline').read_text().split(chr(0))[3],"
        " Path(f'/proc/{pid}/task/{pid}/children').read_text())"
    )

    assert children.text.split() == ["cnlab.grading.attempt.forkserver"]


def test_interrupt_ends_it(running: Notebook, tmp_path: Path) -> None:
    """The stop button of the notebook, pressed while a check loops."""
    flag = tmp_path / "flag"
    running.run(f"def square(x):\n    open({str(flag)!r}, 'w').close()\n    while True: pass")
    # what is sent after an error is otherwise not run
    asked = running.client.execute("check('square')", allow_stdin=True, stop_on_error=False)
    wait_until(flag.exists, timeout_s=20, what="the check to call the function")
    running.manager.interrupt_kernel()
    reply = running.client.get_shell_msg(timeout=20)
    while reply["parent_header"].get("msg_id") != asked:
        reply = running.client.get_shell_msg(timeout=20)

    assert reply["content"]["ename"] == "KeyboardInterrupt"
    test_nothing_but_the_warm_process_stays(running)


def test_program_that_runs_the_notebook_checks_nothing(running: Notebook) -> None:
    """A `check()` that was left in a submission costs no time and no mark."""
    cell = running.run("check()")

    assert (cell.error, cell.text.strip()) == (
        "",
        "check() is for you while you work: here nobody is looking, and nothing was checked.",
    )


def test_call_that_was_left_in_a_submission_does_no_harm() -> None:
    """In the sandbox too: nothing is checked twice, and nothing fails."""
    cell = new_code_cell("from cnlab.grading.check import check\ncheck()")
    job = Job("left-in", json.dumps(new_notebook(cells=[cell])), (("student", ""),), options={"preload": []})
    result = execution.run_job(job)

    assert (result.error, [cell.status for cell in result.cells]) == ("", ["ok"])
    assert "nothing was checked" in result.notebook


def test_module_that_came_with_the_lab_is_there_for_the_checks(tmp_path: Path) -> None:
    """It lies beside the notebook, and locked cells import it."""
    lab = small_lab()
    lab.cells[1].source = "from lab99 import shout"
    write(lab, tmp_path / "lab99.ipynb")
    (tmp_path / "lab99.py").write_text("def shout(text):\n    return text.upper()\n")
    with Notebook(tmp_path, kernel="python3") as notebook:
        before = ("from cnlab.grading.check import check", "def greet(name):\n    return 'hello ' + name")
        text = shown(notebook, "check('greet')", *before)

    assert "✓ check-greet: passed, 2 of 2 points" in text


def test_notebook_is_told_by_the_cells_that_ran(tmp_path: Path) -> None:
    """A folder may hold last week's lab too, or a copy of this one."""
    other = copy.deepcopy(small_lab())
    other.cells[2].source = "## Task 1 · Another"
    other.cells[3].source = "def square(number): ..."
    for name, lab in (("other", other), ("this", small_lab())):
        write(lab, tmp_path / f"{name}.ipynb")
    with Notebook(tmp_path, kernel="python3") as notebook:
        notebook.run("from cnlab.grading.check import check")
        doubt = shown(notebook, "check(1)")
        known = shown(notebook, "check(1)", small_lab().cells[3].source)
        named = shown(notebook, "check(1, notebook='other.ipynb')")

    assert "this may be any of other.ipynb, this.ipynb: say which by check(…, notebook=" in doubt
    assert "Square a number" in known
    assert "Another" in named


@pytest.mark.as_student
def test_student_checks_where_nothing_is_and_nothing_is_left() -> None:
    """No root, no notebook, and no process when the kernel has ended."""
    with Notebook(kernel="python3") as notebook:
        nowhere = shown(notebook, "from cnlab.grading.check import check\ncheck()")
        write(small_lab(), "lab99.ipynb")
        text = shown(notebook, "check('square')", setup_source(), RIGHT)

    assert nowhere.startswith("Nothing was checked: no notebook with checks lies in")
    assert "3 of 3 points" in text


@pytest.mark.needs_uml
@pytest.mark.as_student
def test_check_works_on_the_private_kernel() -> None:
    """There a check looks into /proc for what a function has done as root, from outside its process."""
    lab = "lab01-namespaces"
    answered = {str(nbgrader_of(cell).get("grade_id")): cell.source for cell in source_of(lab).cells}
    shutil.copytree(ROOT / "labs" / lab, "lab")
    with Notebook("lab") as notebook:
        before = ("from cnlab.grading.check import check", answered["setup"], answered["start"])
        text = shown(notebook, "check('start')", *before)

    assert os.getuid() != 0
    assert "Start a command in namespaces of its own: 4 of 4 points" in text
