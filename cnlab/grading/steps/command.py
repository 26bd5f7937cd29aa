"""The command ``cnlab grade``: the steps of nbgrader, done our way.

Interface: `add_arguments` for the parser, `main` for what it parsed. Each step is a function that says what
it did in a few lines on stdout, and what needs a person's eye on stderr; it returns the exit code: 0 all
well, 1 something could not be done.
"""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnlab.errors import CnlabError

if TYPE_CHECKING:
    from cnlab.grading.job import Job, Result
    from cnlab.grading.steps.assignment import Assignment
    from cnlab.grading.steps.autograde import Autograding
    from cnlab.grading.steps.course import Course
    from cnlab.grading.steps.recording import Outcome

Options = argparse.Namespace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the steps and their options."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, (_, summary, declare) in STEPS.items():
        step = steps.add_parser(name, help=summary, description=summary)
        step.add_argument("--course", type=Path, metavar="DIR", help="where nbgrader_config.py is")
        declare(step)


def main(options: Options) -> int:
    """Do a step and return its exit code."""
    step, _, _ = STEPS[options.step]
    try:
        from cnlab.grading.steps.course import Course

        course = Course.load(options.course)
        if options.step not in ("release", "validate"):  # which make one
            course.require_gradebook()
        return step(course, options)
    except (CnlabError, OSError) as error:
        _warn(f"cnlab grade {options.step}: {error}")
        for note in getattr(error, "__notes__", ()):
            _warn(f"  {note}")
    except KeyboardInterrupt:
        _warn(f"cnlab grade {options.step}: interrupted; the same command goes on where it stopped")
    return 1


def _release(course: "Course", options: Options) -> int:
    from cnlab.grading.steps.release import release

    for line in release(course, options.assignment, to_exchange=options.exchange):
        print(line)
    return 0


def _collect(course: "Course", options: Options) -> int:
    from cnlab.grading.steps.collect import collect

    done = collect(course, options.assignment, students=options.student, before_due=options.before_due)
    print(f"collected {_count(done.new)}, {len(done.updated)} updated, {len(done.unchanged)} unchanged")
    for line in done.refused:
        _warn(f"refused: {line}")
    return 0


def _autograde(course: "Course", options: Options) -> int:
    from cnlab.grading.steps.assignment import Assignment
    from cnlab.grading.steps.autograde import Autograding
    from cnlab.grading.workers import pool

    assignment = Assignment.load(course, options.assignment)
    if not course.students(assignment.name):
        raise CnlabError(
            f"nobody has handed in `{assignment.name}`: collect it, or see whether {course.root} is right"
        )
    run = Autograding(
        course,
        assignment,
        students=options.student,
        which="all" if options.force else "changed" if options.only_changed else "new",
        accept=_accepted(assignment, options.accept, is_here=options.scheduler is None),
    )
    return _show(run, lambda jobs: pool.run(jobs, workers=options.jobs, scheduler=options.scheduler))


def _accepted(assignment: "Assignment", accept: Sequence[str], *, is_here: bool) -> Sequence[str]:
    """Return which missing parts of the sandbox are accepted; a cluster's machines look for themselves.

    Raises:
        CnlabError: this host lacks others.
    """
    from cnlab.grading import sandbox
    from cnlab.grading.workers import machine

    if not is_here:
        return tuple(accept)
    if assignment.machine == "host":
        return sandbox.require_parts(accept)
    return machine.require_parts(accept)


def _show(run: "Autograding", runner: "Callable[[Iterable[Job]], Iterator[Result]]") -> int:
    """Grade with a progress bar, and say what came out."""
    from cnlab.grading.steps.progress import progress

    failed: list[Outcome] = []
    graded: list[Outcome] = []
    with progress(len(run.students), "submissions") as advance, contextlib.closing(run.run(runner)) as done:
        for outcome in done:
            advance(outcome.student)
            (failed if outcome.error else graded).append(outcome)
    print(f"graded {len(graded)} of {_count(run.students)}")
    if run.outdated:
        print(f"{len(run.outdated)} were graded with other checks: --only-changed grades these as well")
    for outcome in sorted(graded, key=lambda outcome: outcome.student):
        if outcome.notes:
            print(f"{outcome.student}: {'; '.join(_in_brief(outcome.notes))}")
    for outcome in failed:
        _warn(f"{outcome.student} has no marks: {outcome.error}")
    return 1 if failed else 0


def _in_brief(notes: Iterable[str]) -> Iterator[str]:
    """Say once what is true of several cells; the report has each."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"`[^`]*`", "", note), []).append(note)
    for first, *others in kinds.values():
        yield f"{first} (and {len(others)} more such)" if others else first


def _feedback(course: "Course", options: Options) -> int:
    from cnlab.grading.steps.feedback import (
        Pages,
        send_feedback,
        waiting_for_a_person,
        write_feedback,
    )
    from cnlab.grading.steps.progress import progress

    graded = course.students(options.assignment, "autograded")
    if not graded:
        raise CnlabError(f"nothing of `{options.assignment}` has been graded in {course.root}")
    students = options.student or graded
    pages = write_feedback(
        course,
        options.assignment,
        students=students,
        show_messages=options.show_hidden_messages,
        force=options.force,
    )
    written: list[Pages] = []
    failed: list[Pages] = []
    with progress(len(students), "students") as advance:
        for page in pages:
            advance(page.student)
            (failed if page.error else written if page.is_new else []).append(page)
    print(f"wrote feedback for {len(written)} of {_count(students, 'student')}")
    for page in failed:
        _warn(f"{page.student} has no new page: {page.error}")
    if waiting := set(waiting_for_a_person(course, options.assignment)).intersection(students):
        _warn(f"an answer of {_count(waiting, 'student')} waits for a person, and counts 0 points so far")
    if options.release:
        send_feedback(course, options.assignment)
        print("put it into the exchange")
    return 1 if failed else 0


def _report(course: "Course", options: Options) -> int:
    from cnlab.grading.report import write_report

    directory = options.to or course.root / "reports" / options.assignment
    print(write_report(course, options.assignment, directory))
    return 0


def _export(course: "Course", options: Options) -> int:
    from cnlab.grading.report.export import write_exports

    done = write_exports(
        course,
        options.assignment,
        options.to or course.root / "exports",
        identities=options.identities,
        missing_as_zero=options.missing_as_zero,
    )
    for path in done.paths:
        print(path)
    for note in done.notes:
        _warn(note)
    return 0


def _validate(course: "Course", options: Options) -> int:
    from cnlab.grading.steps.assignment import Assignment
    from cnlab.grading.steps.release import released_on_trial
    from cnlab.grading.steps.validate import validate
    from cnlab.grading.workers import pool

    with released_on_trial(course, options.assignment) as trial:
        assignment = Assignment.load(trial, options.assignment)
        accepted = _accepted(assignment, options.accept, is_here=True)
        failures = validate(trial, assignment, accepted, lambda jobs: pool.run(jobs, workers=1))
    for failure in failures:
        _warn(failure)
    if not failures:
        print(f"the solution of `{options.assignment}` passes all its checks")
    return 1 if failures else 0


def _for_one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assignment", metavar="ASSIGNMENT", help="such as lab01-namespaces")


def _for_students(parser: argparse.ArgumentParser) -> None:
    _for_one(parser)
    parser.add_argument(
        "--student", action="append", default=[], metavar="ID", help="only this one; may be given again"
    )


def _for_release(parser: argparse.ArgumentParser) -> None:
    _for_one(parser)
    parser.add_argument(
        "--exchange",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="put it where students fetch it; by default if there is an exchange",
    )


def _for_collect(parser: argparse.ArgumentParser) -> None:
    _for_students(parser)
    parser.add_argument(
        "--before-due", action="store_true", help="prefer what came before the due date to what came later"
    )


def _for_sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept",
        type=lambda text: [part for part in text.split(",") if part],
        default=[],
        metavar="PART,...",
        help="grade although this host lacks these parts of the sandbox",
    )


def _for_autograde(parser: argparse.ArgumentParser) -> None:
    _for_students(parser)
    _for_sandbox(parser)
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="submissions at a time"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="run them on the cluster of this Dask scheduler"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--only-changed",
        action="store_true",
        help="grade what is new, and again what was graded with other checks, files or limits, and no more",
    )
    again.add_argument("--force", action="store_true", help="grade all again")
    parser.epilog = "Without an option: only what is new, that is, not graded yet or handed in again."


def _for_feedback(parser: argparse.ArgumentParser) -> None:
    _for_students(parser)
    parser.add_argument("--force", action="store_true", help="write also what has not changed")
    parser.add_argument(
        "--show-hidden-messages",
        action="store_true",
        help="show what hidden checks said when they failed; never their source",
    )
    parser.add_argument("--release", action="store_true", help="put it where students fetch it")


def _for_report(parser: argparse.ArgumentParser) -> None:
    _for_one(parser)
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write; default: COURSE/reports")


def _for_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assignment", nargs="+", metavar="ASSIGNMENT", help="a column each")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where to write; default: COURSE/exports")
    parser.add_argument("--identities", type=Path, metavar="FILE", help="CSV: who is who in the LMS")
    parser.add_argument("--missing-as-zero", action="store_true", help="0 for who handed in nothing")


def _for_validate(parser: argparse.ArgumentParser) -> None:
    _for_one(parser)
    _for_sandbox(parser)


Step = Callable[["Course", Options], int]
STEPS: dict[str, tuple[Step, str, Callable[[argparse.ArgumentParser], None]]] = {
    "release": (_release, "make the students' version of an assignment", _for_release),
    "validate": (_validate, "see whether your own solution passes all checks", _for_validate),
    "collect": (_collect, "take what students have handed in", _for_collect),
    "autograde": (_autograde, "run what was handed in, in a sandbox, and give points", _for_autograde),
    "feedback": (_feedback, "write each student's pages", _for_feedback),
    "report": (_report, "show how the class did, and what was odd", _for_report),
    "export": (_export, "write grades as Canvas and Moodle import them", _for_export),
}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _count(things: Iterable[object], name: str = "submission") -> str:
    number = len(list(things))
    return f"{number} {name}{'' if number == 1 else 's'}"


def _warn(text: str) -> None:
    print(text, file=sys.stderr)
