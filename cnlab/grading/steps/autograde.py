"""Grade what was handed in: the trusted side, which alone touches the submissions and the gradebook.

Interface: ``Autograding(course, assignment, ...)`` says in `students` who is to be graded; `run` grades them
and yields an `Outcome` each, in the order in which they are done.

For each submission: read it, mend its notebooks, have workers run them, record what came of it.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal

from cnlab.errors import CnlabError
from cnlab.grading.job import Job, Result
from cnlab.grading.steps import journal
from cnlab.grading.steps.arrivals import RECEIPT
from cnlab.grading.steps.assignment import Assignment, digest_of
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import locked
from cnlab.grading.steps.gradebook import Books
from cnlab.grading.steps.recording import Outcome, Pending, Recorder
from cnlab.grading.steps.repair import Master, repair
from cnlab.grading.steps.submission import InvalidSubmission, Submission, parse_notebook, read_submission

Which = Literal["new", "changed", "all"]
"""``new``: not graded yet, or handed in again; ``changed``: also where checks changed; ``all``."""

_NOT_FOR_CODE = frozenset({"timestamp.txt", "submission_secret.txt", RECEIPT})


class Autograding:
    """A run over the submissions of one assignment."""

    def __init__(
        self,
        course: Course,
        assignment: Assignment,
        *,
        students: Sequence[str] = (),
        which: Which = "new",
        accept: Sequence[str] = (),
    ) -> None:
        self._course = course
        self._accept = tuple(accept)
        self._assignment = assignment
        self._ready: deque[Outcome] = deque()
        self._pending: dict[str, Pending] = {}
        self.outdated: list[str] = []
        """Who keeps marks that were given with other checks, because only new work is graded."""
        self.students = self._selected(students, which)

    def _selected(self, students: Sequence[str], which: Which) -> list[str]:
        submitted = self._course.students(self._assignment.name)
        excluded = set(filter(None, self._course.coursedir.student_id_exclude.split(",")))
        unknown = sorted(set(students) - set(submitted))
        if unknown:
            names = ", ".join(f"`{name}`" for name in unknown)
            raise CnlabError(f"no submission of `{self._assignment.name}` by {names}")
        wanted = [name for name in students or submitted if name not in excluded]
        return [name for name in wanted if which == "all" or self._is_due(name, which)]

    def _is_due(self, student: str, which: Which) -> bool:
        last = journal.read(self._course, self._assignment.name, student)
        if last is None or last.error or not self._course.autograded(student, self._assignment.name).is_dir():
            return True
        if last.submission_sha256 != digest_of(self._read(student).files):
            return True
        if last.source_sha256 == self._assignment.sha256:
            return False
        self.outdated.append(student)
        return which == "changed"

    def _read(self, student: str) -> Submission:
        directory = self._course.submitted(student, self._assignment.name)
        try:
            return read_submission(directory, ignore=self._course.coursedir.ignore)
        except OSError as error:
            return Submission({}, (f"the submission cannot be read: {error.strerror}",))

    def run(self, runner: Callable[[Iterable[Job]], Iterator[Result]]) -> Generator[Outcome]:
        """Grade; `runner` runs jobs in any order, such as `cnlab.grading.workers.pool.run`.

        Raises:
            GradingInProgress: somebody else is at it.
        """
        with locked(self._course.private, f"the course in {self._course.root}"), Books(self._course) as books:
            self._recorder = Recorder(self._course, self._assignment, books, self._accept)
            with _closing(runner(self._jobs())) as results:
                for result in results:
                    yield from self._drained()
                    yield from self._took(result)
            yield from self._drained()
            for pending in self._pending.values():
                yield Outcome(pending.student, error="no worker has sent back what came of it")

    def _drained(self) -> Iterator[Outcome]:
        while self._ready:
            yield self._ready.popleft()

    def _jobs(self) -> Iterator[Job]:
        """Make the jobs of one submission after the other, when they are asked for."""
        for number, student in enumerate(self.students):
            try:
                pending = self._prepared(student)
            except Exception as error:  # whatever is in a submission, the others are graded
                self._ready.append(Outcome(student, error=f"{type(error).__name__}: {error}"))
                continue
            if not pending.notebooks:
                self._ready.append(self._finished(pending))
                continue
            self._pending[str(number)] = pending
            files = self._assignment.files_with(
                {name: data for name, data in pending.submission.files.items() if name not in _NOT_FOR_CODE}
            )
            for name, repaired in pending.notebooks.items():
                yield self._assignment.job(f"{number}/{name}", name, repaired, files, self._accept)

    def _prepared(self, student: str) -> Pending:
        """Read a submission, and mend its notebooks."""
        submission = self._read(student)
        pending = Pending(student, submission, digest_of(submission.files), notes=[*submission.problems])
        for master in self._assignment.masters:
            try:
                cells = parse_notebook(self._notebook(submission, master, pending.notes))
            except InvalidSubmission as error:
                pending.unreadable[master.name] = f"`{master.name}.ipynb` {error}"
            else:
                pending.notebooks[master.name] = repair(master, cells)
                pending.notes += pending.notebooks[master.name].notes
        pending.notes += pending.unreadable.values()
        return pending

    def _notebook(self, submission: Submission, master: Master, notes: list[str]) -> bytes:
        """Return a notebook's bytes, also of one that has another name if it can be no other."""
        name = f"{master.name}.ipynb"
        if name in submission.files:
            return submission.files[name]
        others = [path for path in submission.files if path.endswith(".ipynb")]
        if len(self._assignment.masters) == len(others) == 1:
            notes.append(f"there was no `{name}`; `{others[0]}` was taken for it")
            return submission.files[others[0]]
        raise InvalidSubmission("was not handed in")

    def _took(self, result: Result) -> Iterator[Outcome]:
        number, _, name = result.key.partition("/")
        pending = self._pending.get(number)
        if pending is None or name not in pending.notebooks:
            raise CnlabError(f"a worker has sent what nobody has asked for: {result.key!a}")
        pending.results[name] = result
        if pending.is_done:
            del self._pending[number]
            yield self._finished(pending)

    def _finished(self, pending: Pending) -> Outcome:
        """Record what came of a submission; where not even a failure can be recorded, the others go on."""
        try:
            return self._recorder.finish(pending)
        except CnlabError as error:
            return Outcome(pending.student, error=str(error))
        except Exception as error:
            return Outcome(pending.student, error=f"{type(error).__name__}: {error}")


def _closing(results: Any) -> contextlib.AbstractContextManager[Iterator[Result]]:
    """End a generator with the block; other iterators have nothing to end."""
    return contextlib.closing(results) if hasattr(results, "close") else contextlib.nullcontext(results)
