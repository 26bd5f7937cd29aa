"""A submission runs, its checks are fair, and nothing that it does changes anything but its own marks."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from grading.jobs import check, job_of, locked, run, student
from grading.sandboxed import accepted

from cnlab.clock import wait_until
from cnlab.grading.attempt import execution
from cnlab.grading.attempt.checking import busy_share
from cnlab.grading.attempt.execution import CellResult, Event, Job, Result, run_job
from cnlab.linux.processes import processes

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]

QUICK = {"cell_s": 1.5}
SQUARE = student("def square(x):\n    return x * x", "square")
NINE = check("assert square(3) == 9, f'expected 9, got {square(3)!r}'")


@pytest.fixture(scope="module", autouse=True)
def _servers_end_with_the_tests():
    """They are children of pytest."""
    yield
    execution.close()


def test_job_survives_the_wire():
    """It goes to other machines as text, hidden tests, binary files and all."""
    job = job_of(
        SQUARE, NINE, files={"a/b.bin": b"\0\xff"}, limits=QUICK, names=("sum",), modules={"m": "x = 1"}
    )

    assert Job.from_json(job.to_json()) == job


def test_result_survives_the_wire():
    """And comes back as text."""
    cell = CellResult(1, "check", "failed", "AssertionError", 0.1, 2, 1)
    result = Result("key", "{}", (cell,), (Event("memory", "out", 1),), {"cpu_s": 1.0}, 2.0, 2, ("again",))

    assert Result.from_json(result.to_json()) == result


def test_right_answer_earns_its_points_and_a_wrong_one_its_message():
    """The heart of it."""
    ran = run(SQUARE, NINE, student("def square(x): return x + x", "wrong"), check(NINE[2], "again"))

    assert (ran.points("check"), ran.points("again")) == (2, 0)
    assert ran["again"].message == "AssertionError: expected 9, got 6"
    assert ran["again"].line == 1


def test_check_sees_the_notebook_as_it_was_at_its_place():
    """What stands below a check in the notebook has not happened yet."""
    ran = run(
        student("x = 1"), check("assert x == 1", "first"), student("x = 2", "more"), check("assert x == 2")
    )

    assert set(ran.statuses.values()) == {"ok"}


def test_one_check_does_not_change_what_the_next_sees():
    """So the order of checks cannot matter, and a broken one breaks no other."""
    task = student("seen = []\ndef remember(x):\n    seen.append(x)\n    return len(seen)")
    ran = run(task, check("assert remember(1) == 1", "one"), check("assert remember(2) == 1", "two"))

    assert ran.statuses == {"task": "ok", "one": "ok", "two": "ok"}


def test_setup_cells_win_over_what_the_student_makes_of_them():
    """A helper of the instructor's is the instructor's, whatever the student calls by its name."""
    ran = run(
        locked("import math\ndef is_right(x): return x == 9"),
        student("def is_right(x): return True\nclass math: isclose = staticmethod(lambda *a: True)\n"),
        student("def f(): return 8", "f"),
        check("assert is_right(f())", "helper"),
        check("assert math.isclose(f(), 9)", "module"),
    )

    assert (ran.points("helper"), ran.points("module")) == (0, 0)


def test_builtins_are_pythons_own_in_checks():
    """`all`, `len` and AssertionError of the student's mean nothing there."""
    ran = run(
        student("def all(x): return True\ndef len(x): return 3\nclass AssertionError(Exception): pass"),
        check("assert all([False])", "all"),
        check("assert len([1]) == 3", "len"),
        check("try:\n    assert False\nexcept AssertionError:\n    1 / 0", "class"),
    )

    assert [ran.points(name) for name in ("all", "len", "class")] == [0, 0, 0]


def test_builtin_that_a_task_defines_anew_is_the_students():
    """A task may be called `filter`; its check is told so."""
    task = student("def filter(x): return 'mine'")

    assert run(task, check("assert filter(1) == 'mine'"), names=("filter",)).points() == 2


def test_imports_of_the_instructor_are_there_in_checks():
    """Most checks say `np`, which an unlocked cell imports."""
    source = "import numpy as np\nimport no_such_module_here\n"
    ran = run(student("np = None"), check("assert np.allclose([1], [1])"), imports=source)

    assert ran.points() == 2


def test_module_of_the_students_answers_no_check():
    """A check that uses a module which only the student imported would let the student compare."""
    ran = run(student("import numpy.ma as np"), check("assert np.allclose([1], [1])"))

    assert "must import itself" in ran["check"].message


def test_module_beside_the_notebook_is_the_instructors_in_checks():
    """A file of the same name in the submission is for the student's own cells."""
    ran = run(
        student("import tools"),
        check("import tools\nassert tools.NAME == 'instructor'"),
        files={"tools.py": b"NAME = 'student'", "numpy.py": b"raise SystemExit"},
        modules={"tools": "NAME = 'instructor'"},
    )

    assert ran.statuses == {"task": "ok", "check": "ok"}


def test_checks_read_the_files_that_the_student_wrote():
    """Functions that write files are tasks too."""
    task = student("def save(text):\n    open('out.txt', 'w').write(text)\n")

    assert run(task, check("save('hi')\nassert open('out.txt').read() == 'hi'")).points() == 2


def test_endless_loop_costs_its_cell_and_is_named():
    """The next cell runs, and the check of what was there before counts."""
    loop, more = student("while True: pass", "loop"), student("y = 1", "y")
    ran = run(SQUARE, NINE, loop, more, check("assert y == 1", "c"), limits=QUICK)

    assert ran.statuses == {"square": "ok", "check": "ok", "loop": "timeout", "y": "ok", "c": "ok"}
    assert ran["loop"].message == "the cell `loop` was stopped: it ran for more than 1.5 s"
    assert "KeyboardInterrupt" in "\n".join(ran.outputs("loop")[-1].traceback)


def test_loop_that_ignores_signals_ends_the_notebook_but_not_its_earlier_checks():
    """There is nobody left to run the later cells."""
    stubborn = """
        while True:
            try:
                while True: sum(range(1000))
            except BaseException: pass
    """
    ran = run(
        SQUARE, NINE, student(stubborn, "loop"), student("y = 1", "y"), check("1", "late"), limits=QUICK
    )

    assert ran.statuses == {
        "square": "ok", "check": "ok", "loop": "timeout", "y": "skipped", "late": "skipped"
    }  # fmt: skip
    assert ran.points("late") == 0


def test_call_that_never_returns_costs_its_check_alone():
    """And the message says which call."""
    ran = run(student("def square(x):\n    while True: pass"), NINE, check("assert 1", "next"), limits=QUICK)

    assert ran.statuses == {"task": "ok", "check": "timeout", "next": "ok"}
    assert "`square(3)`" in ran["check"].message


def test_call_that_ends_its_process_costs_its_check_alone():
    """A fork that forgot to exit, a crash in C, an exit."""
    ran = run(student("import os\ndef square(x): os._exit(0)"), NINE, check("assert 1", "next"))

    assert (ran.points(), ran.points("next")) == (0, 2)
    assert "its process ended" in ran["check"].message


def test_function_that_returns_twice_answers_once():
    """The child of a forgotten fork must not answer the next question."""
    ran = run(student("import os\ndef square(x):\n    os.fork()\n    return x * x"),
              check("assert square(2) == 4\nassert square(3) == 9\nassert square(4) == 16"))  # fmt: skip

    assert ran.points() == 2


def test_cell_that_ends_its_process_is_named_in_what_follows():
    """Rather than ten failures that explain nothing."""
    ran = run(student("import os\nos._exit(0)", "bye"), SQUARE, NINE)

    assert ran.statuses == {"bye": "died", "square": "skipped", "check": "skipped"}
    assert "`bye`" in ran["check"].message


def test_stderr_costs_nothing():
    """To nbgrader text on stderr is a failure, so a library's warning would cost an honest student."""
    warns = "import sys, warnings\nwarnings.warn('old')\nprint('x', file=sys.stderr)\n"
    ran = run(SQUARE, check(warns + "assert square(3) == 9"))

    assert ran.points() == 2
    assert "UserWarning: old" in ran.printed("check")


def test_check_that_ends_in_a_number_gives_that_many_points():
    """nbgrader's partial credit."""
    assert run(SQUARE, check("square(3) / 9 + 0.5")).points() == 1.5


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-1", "3"])
def test_number_that_is_no_score_gives_none(value):
    """nbgrader gives all points for nan and for less than nothing."""
    ran = run(student(f"def value(): return {value}"), check("value()"))

    assert ran.points() == 0
    assert "expected a score between 0 and 2" in ran["check"].message


def test_exit_in_a_check_is_no_success():
    """Whatever way it comes."""
    ran = run(
        student("def f(x): raise SystemExit(0)"), check("f(1)", "one"), check("raise SystemExit", "two")
    )

    assert (ran.points("one"), ran.points("two")) == (0, 0)


def test_hidden_input_does_not_come_back_in_a_later_message():
    """All that students see runs before the first hidden test: there is nothing to tell yet."""
    spy = """
        from pathlib import Path
        def told(x):
            note = Path("/tmp/note")
            if isinstance(x, str):
                note.write_text(x)
            return note.read_text() if note.exists() else x
    """
    asks = "assert told(1) == 1\n### BEGIN HIDDEN TESTS\nassert told('secret')\n### END HIDDEN TESTS"
    ran = run(student(spy), check(asks, "first"), check("assert told(2) == 3, f'got {told(2)}'", "second"))

    assert ran["second"].message == "AssertionError: got 2"
    assert "secret" not in str(ran.outputs("second"))


def test_outputs_of_hidden_tests_are_told_from_those_that_students_see():
    """Feedback shows the first `shown` of them."""
    ran = run(
        student("def say(x): print(x)"),
        check("say('seen')\n### BEGIN HIDDEN TESTS\nsay('unseen')\nassert False\n### END HIDDEN TESTS"),
    )
    seen = ran.outputs("check")[: ran["check"].shown]

    assert [output.text for output in seen] == ["seen\n"]
    assert ran["check"].line == 4
    assert ran.points() == 0


def test_hidden_test_goes_on_with_what_the_visible_part_made():
    """They are one cell: an object made above is used below."""
    account = "class Account:\n    def __init__(self): self.sum = 0\n    def put(self, n): self.sum += n"
    asks = (
        "a = Account()\na.put(5)\n### BEGIN HIDDEN TESTS\na.put(7)\nassert a.sum == 12\n### END HIDDEN TESTS"
    )

    assert run(student(account), check(asks)).points() == 2


def test_check_that_ends_its_own_process_costs_the_others_nothing():
    """A new one goes on, with what the locked cells have defined; who waited in the old one begins again."""
    asks = check("x = nine()\n### BEGIN HIDDEN TESTS\nassert x == nine()\n### END HIDDEN TESTS", "hidden")
    setup = locked("def nine():\n    assert square(3) == 9\n    return 9")
    ran = run(setup, SQUARE, asks, check("import os\nos._exit(0)", "exits"), check("assert nine()"))

    assert [ran[name].status for name in ("hidden", "exits", "check")] == ["ok", "died", "ok"]
    assert any("`hidden` waited in a process that had to be ended" in note for note in ran.result.notes)


def test_check_with_a_hidden_part_asks_the_copy_that_was_made_for_it():
    """A fork of it, to begin again from, is rarely needed, and costs more than both parts."""
    task = student("import os\nme = os.getpid()\ndef is_first(): return os.getppid() == me")
    asks = "assert is_first()\n### BEGIN HIDDEN TESTS\nassert is_first()\n### END HIDDEN TESTS"

    assert run(task, check(asks)).points() == 2


def test_checks_that_share_a_copy_do_not_see_what_the_others_change():
    """Neither in the parts that students see, nor in the hidden ones, whichever asks first."""
    task = student("calls = []\ndef count():\n    calls.append(1)\n    return len(calls)")
    late = "pass\n### BEGIN HIDDEN TESTS\nassert count() == 1\n### END HIDDEN TESTS"
    soon = "assert count() == 1\n### BEGIN HIDDEN TESTS\nassert count() == 2\n### END HIDDEN TESTS"
    names = ("a", "b", "c", "d")
    ran = run(
        task, *(check(source, name) for name, source in zip(names, (late, soon, late, soon), strict=True))
    )

    assert {name: ran[name].message for name in names} == dict.fromkeys(names, "")


def test_locked_cell_that_ends_the_checks_process_is_not_run_for_each_check():
    """It costs the checks that need it; they say so."""
    ends = locked("import os\nN = 9\nif end(): os._exit(0)", "ends")
    task = student("import os\nme = os.getpid()\ndef end(): return os.getpid() != me\nN = 8", "end")
    ran = run(task, ends, SQUARE, NINE, check("assert square(3) == N", "n"))

    assert (ran.points("check"), ran.points("n")) == (2, 0)
    assert "the locked cell `ends` failed" in ran["n"].message


def test_huge_message_of_a_check_costs_that_check_alone():
    """It is cut, and other checks that wait for their hidden part go on."""
    task = student("def square(x): return x * x\ndef text(): return 'x' * (30 << 20)")
    hidden = check("square(1)\n### BEGIN HIDDEN TESTS\nassert square(3) == 9\n### END HIDDEN TESTS", "hidden")
    ran = run(task, hidden, check("assert text() == 3, f'got {text()}'", "huge"))

    assert ran.statuses == {"task": "ok", "hidden": "ok", "huge": "failed"}
    assert ran["huge"].message.startswith("AssertionError: got xxx")


FAILS_IN_CHECKS = """
    import os
    me = os.getpid()
    def table():
        if os.getpid() != me: raise RuntimeError("not now")
        return [1]
    def wrong(x): return "wrong"
"""


@pytest.mark.parametrize(
    "source",
    [
        "T = table()\nEXPECTED = 10\ndef expected(x): return EXPECTED",
        "if table():\n    def expected(x): return 10",
        "from helpers.absent import expected",
        "from helpers.absent import *",
    ],
)
def test_student_does_not_define_what_a_locked_cell_was_to(source):
    """It fails beside the checks alone, since it asks the student or for what is not there."""
    ran = run(
        student(FAILS_IN_CHECKS),
        locked(source),
        student("def expected(x): return 'wrong'", "again"),
        check("assert wrong(1) == expected(1)"),
        check("try:\n    assert wrong(1) == expected(1)\nexcept Exception: pass", "catches"),
    )

    assert (ran.points(), ran.points("catches")) == (0, 0)
    assert "the locked cell `setup` failed: " in ran["check"].message


def test_data_that_a_locked_cell_left_half_made_checks_nothing():
    """A loop over no cases would find no fault."""
    half = "CASES += table()\nCASES += [(3, 10)]"
    ran = run(
        student(FAILS_IN_CHECKS), locked("CASES = []", "empty"), locked(half),
        check("for x, y in CASES: assert wrong(x) == y"),
    )  # fmt: skip

    assert ran.points() == 0


def test_locked_cell_that_fails_costs_only_the_checks_that_need_it():
    """A look at a task that is not done yet is no reason to fail the tasks that are."""
    look = locked("print(todo(1))\nshown = todo(2)")
    ran = run(student("def todo(x): raise NotImplementedError", "todo"), look, SQUARE, NINE)

    assert ran.points() == 2


def test_what_a_locked_cell_shows_is_not_drawn_again_beside_the_checks():
    """The student's process has shown it; a figure takes longer than all checks of a small lab."""
    drawn = "class Drawn:\n    times = 0\n    def _repr_html_(self): Drawn.times += 1"
    shows = check(
        "from IPython.display import display\nassert Drawn.times == 0\ndisplay(Drawn())\nDrawn.times"
    )
    ran = run(locked(f"{drawn}\ndisplay(Drawn())\nDrawn()"), shows)

    assert [output.data["text/plain"] for output in ran.outputs("check")][-1] == "1"
    assert len(ran.outputs("setup")) == 2


def test_student_does_not_define_what_the_course_imports():
    """Nor what an earlier check was to define, and did not come to."""
    ran = run(
        student("def reference(x): return 'wrong'\nEXPECTED = 8"),
        student("def f(x): return 'wrong'", "f"),
        check("assert f(1) == reference(1)", "imported"),
        check("assert f(1) == 1\nEXPECTED = 9", "defines"),
        check("assert EXPECTED == 8", "uses"),
        imports="from absent_module import reference",
    )

    assert [ran.points(name) for name in ("imported", "defines", "uses")] == [0, 0, 0]
    assert "the checks cannot import it" in ran["imported"].message


def test_name_that_a_check_reads_before_it_binds_it_is_the_students():
    """``data = sorted(data)`` begins with the student's data, also when it is run a second time."""
    asks = "data = sorted(data)\n### BEGIN HIDDEN TESTS\nassert data == [1, 2]\n### END HIDDEN TESTS"

    assert run(student("data = [2, 1]"), check(asks)).points() == 2


def test_check_that_catches_everything_does_not_pass_by_a_process_that_ended():
    """``except Exception: pass`` expects that the function raises something."""
    catches = "try:\n    square(-1)\nexcept Exception: pass\nelse: assert False"
    ends = run(student("import os\ndef square(x): os._exit(1)"), check(catches))
    raises = run(student("def square(x): raise ValueError"), check(catches))

    assert (ends.points(), raises.points()) == (0, 2)
    assert "its process ended" in ends["check"].message


def test_class_of_a_check_is_not_the_students_to_fill_in():
    """Its ``==`` would compare what the student has put there."""
    close = "class Close:\n    def __init__(self, value): self.value, self.within = value, 0.1\n" \
        "    def __eq__(self, other): return abs(self.value - other) <= self.within\n"  # fmt: skip
    ran = run(
        student("class Close: value, within = 0, 1e308\ndef f(): return Close()"),
        check(close + "assert f() == 3"), check("assert f() == 3", "later"),
    )  # fmt: skip

    assert (ran.points(), ran.points("later")) == (0, 0)


@pytest.mark.parametrize("answer", [5, [], "x", {"name": "", "message": ""}, {"name": 3, "message": "\n"}])
def test_outcome_that_is_none_costs_the_student_alone(answer):
    """The student's process may say anything of its own cells."""
    forge = f"""
        from cnlab.grading.attempt.student import Server
        Server._op_run = lambda self, request: {{"done": {answer!r}}}
    """
    result = run_job(job_of(student(forge), student("1", "more"), check("assert True")))

    assert not result.error
    assert result.cells[1].status in ("failed", "died")


def test_output_of_a_call_and_its_seed_are_as_in_one_process():
    """The ways of ordinary checks."""
    task = student("import random\ndef hello(name): print('hello', name)\ndef draw(): return random.random()")
    prints = """
        import contextlib, io
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            hello("Ada")
        assert text.getvalue() == "hello Ada\\n"
    """
    draws = "import random\nrandom.seed(1)\nx = draw()\nrandom.seed(1)\nassert x == draw()"
    ran = run(task, check(prints, "prints"), check(draws, "draws"))

    assert (ran.points("prints"), ran.points("draws")) == (2, 2)
    assert ran.printed("prints") == ""


def test_checks_at_one_place_share_no_process():
    """Whichever of them has hidden parts, calls, or only looks."""
    task = student("log = []\ndef note(x):\n    log.append(x)\n    return len(log)")
    looks = check("### BEGIN HIDDEN TESTS\nassert log == [] and note(1) == 1\n### END HIDDEN TESTS", "looks")
    calls = check(
        "assert note(1) == 1\n### BEGIN HIDDEN TESTS\nassert note(2) == 2\n### END HIDDEN TESTS", "calls"
    )
    again = check("for x in (1, 2):\n    ### BEGIN HIDDEN TESTS\n    assert note(x) == x", "again")
    last = check("assert log == []\nassert note(1) == 1", "last")
    ran = run(task, looks, calls, again, check("assert [] == log", "name"), last)

    assert [ran[name].message for name in ("looks", "calls", "again", "name", "last")] == [""] * 5


def test_hidden_test_inside_a_block_runs_too():
    """Then the whole check runs a second time."""
    asks = "for x in (1, 2):\n    y = x\n    ### BEGIN HIDDEN TESTS\n    assert square(x) == 5"

    assert run(SQUARE, check(asks)).points() == 0


def test_what_a_check_started_is_ended_and_the_notebooks_own_stays():
    """A server that a cell started serves all checks; a daemon that a call left behind serves none."""
    task = """
        import os, subprocess
        server = subprocess.Popen(["sleep", "1000"])
        def leave():
            subprocess.Popen(["setsid", "sleep", "2000"])
        def seen():
            names = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try: names.append(open(f"/proc/{pid}/cmdline").read().replace("\\0", " ").strip())
                except OSError: pass
            return sorted(name for name in names if name.startswith("sleep"))
    """
    ran = run(
        student(task), check("leave()", "leaves"), check("assert seen() == ['sleep 1000'], seen()", "looks")
    )

    assert ran.statuses == {"task": "ok", "leaves": "ok", "looks": "ok"}


def test_lateness_that_the_machine_may_have_caused_is_tried_again():
    """Once, and the result says so; an endless computation is none of it."""
    waits = run(student("import time\ndef square(x): time.sleep(1000)"), NINE, limits=QUICK).result

    assert waits.attempts == 2
    assert "the cell `check` was late without being busy: it went the same way" in waits.notes[0]


def test_loop_on_a_loaded_machine_is_busy():
    """It gets its share of the processors and no more; to run each loop twice would load the machine more."""
    processors = os.cpu_count()

    assert busy_share(0.5) == busy_share(processors) == 0.25
    assert busy_share(10 * processors) == pytest.approx(0.025)


def test_second_run_that_goes_the_same_way_counts_for_nothing():
    """Who sleeps in a check to be run again gets no second draw in another: it waited twice since."""
    task = student("import time\nprint(time.time())\ndef square(x): time.sleep(1000)")
    ran = run(task, NINE, limits=QUICK)
    waited_s = time.time() - float(ran.printed("task"))

    assert ran.result.attempts == 2
    assert waited_s >= 2 * QUICK["cell_s"] / 2  # who asks is told at half its time


@pytest.mark.parametrize(
    ("limit", "slow", "how", "used"),
    [
        ({"notebook_s": 3.0}, "while True: pass", "timeout", "3 s"),
        (
            {"cpu_s": 0.3}, "import time\nwhile time.process_time() < 0.6: pass", "ok",
            "0.3 s of the processor",
        ),
    ],
)  # fmt: skip
def test_notebook_has_a_time_of_its_own(limit, slow, how, used):
    """A hundred slow cells are too much as well; what was there before them is checked all the same."""
    ran = run(SQUARE, NINE, student(slow, "slow"), student("1", "more"), limits={"cell_s": 60.0} | limit)

    assert ran.statuses == {"square": "ok", "check": "ok", "slow": how, "more": "timeout"}
    assert f"the notebook had used its {used}" in ran["more"].message


def test_memory_that_ran_out_is_an_event_of_its_cell():
    """And nobody tries again what the sandbox has ended."""
    result = run(SQUARE, student("x = bytearray(1 << 30)", "hog"), limits={"memory_bytes": 256 << 20}).result

    assert result.attempts == 1
    assert ("memory", 1) in {(event.kind, event.cell) for event in result.events}


def test_usage_says_what_was_used():
    """For the instructor's report."""
    usage = run(student("sum(range(3_000_000))")).result.usage

    assert usage["cpu_s"] > 0
    assert usage["memory_peak_bytes"] > 1 << 20


def test_limit_that_makes_no_sense_is_said():
    """Before anything runs, and without an exception."""
    result = run_job(job_of(SQUARE, limits={"cell_s": -1}))

    assert "limit cell_s is -1" in result.error


@pytest.mark.as_student
def test_part_that_is_missing_and_not_accepted_stops_the_run():
    """A sandbox with a hole is none."""
    if not (missing := accepted()):
        pytest.skip("this user has every part of the sandbox")
    try:
        result = run_job(dataclasses.replace(job_of(SQUARE), accept=()))
    finally:
        execution.close()

    assert "the sandbox could not be opened" in result.error, missing


@pytest.mark.as_student
def test_unprivileged_instructor_can_grade():
    """Student and tester are then one user to the kernel, but not in one user namespace: no signal passes."""
    kill = student("import os\ndef kill(): os.kill(-1, 9)", "kill")
    kills = check("kill()\nassert square(3) == 9", "kills")  # kill(-1) spares its caller
    try:
        ran = run(SQUARE, NINE, kill, kills)
    finally:
        execution.close()

    assert (ran.points("check"), ran.points("kills")) == (2, 2)


def test_worker_that_is_killed_leaves_no_process():
    """SIGKILL asks nobody; the sandbox notices by itself."""
    command = ("sleep", f"31415.{os.getpid()}")  # nobody else sleeps so long
    task = f"import subprocess\nprint(subprocess.run({list(command)}))"
    program = f"from grading.jobs import run, student\nrun(student({task!r}))"
    tests = str(Path(__file__).parents[2])
    worker = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": tests}, stderr=subprocess.DEVNULL
    )

    def sleeping():
        return [process.pid for process in processes() if process.cmdline == command]

    with worker:
        wait_until(sleeping, timeout_s=60)
        worker.send_signal(signal.SIGKILL)

    assert wait_until(lambda: not sleeping(), timeout_s=20)
