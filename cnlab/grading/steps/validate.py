"""See whether the instructor's own solution passes all checks when it is graded as a student's is.

That is to be known before students get the assignment, so the command asks of a release on trial.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from cnlab.errors import CnlabError
from cnlab.grading.job import Job, Result
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.gradebook import marks_of
from cnlab.grading.steps.outputs import finished_notebook
from cnlab.grading.steps.repair import repair
from cnlab.grading.steps.submission import parse_notebook


def validate(
    course: Course,
    assignment: Assignment,
    accept: Sequence[str],
    runner: Callable[[Iterable[Job]], Iterator[Result]],
) -> list[str]:
    """Grade the solution and return in a line each what it loses.

    Raises:
        CnlabError: it cannot be read, or nothing could be run.
    """
    source = course.source(assignment.name)
    repaired = {
        master.name: repair(master, parse_notebook((source / f"{master.name}.ipynb").read_bytes()))
        for master in assignment.masters
    }
    jobs = [assignment.job(name, name, found, assignment.files, accept) for name, found in repaired.items()]
    failures = []
    for result in runner(jobs):
        if result.error:
            raise CnlabError(f"`{result.key}` could not be run: {result.error}")
        messages = {cell.grade_id: cell.message for cell in result.cells}
        marks = marks_of(finished_notebook(repaired[result.key], result, course.config))
        failures += [
            f"`{score.grade_id}`: {score.score:g} of {score.points:g} points; {messages[score.grade_id]}"
            for score in marks.scores.values()
            if score.score is not None and score.score < score.points
        ]
    return failures
