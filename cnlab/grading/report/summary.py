"""What the records of a class say, as tables: by student, task and check, and all that is to be looked at."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from cnlab.grading.report.reasons import common_reasons
from cnlab.grading.report.records import Check, ClassRecord, Event, Student, Submission
from cnlab.grading.report.similarity import Pair
from cnlab.grading.report.tables import Cell, Table

HARMLESS = frozenset({"ok", ""})
CUT_SHORT = frozenset({"timeout", "died"})
_HOW_IT_WENT = ("points", "mean %", "median %", "all points", "some", "none", "timed out or died", "median s")
MOST_OF_ONE = 20  # rows about one student: who hands in a thousand oddities must not hide the others


def tables_of(record: ClassRecord, pairs: Sequence[Pair] = ()) -> dict[str, Table]:
    """Return all tables by the name of their file; those where there is nothing to say are empty."""
    return {
        "students": students(record),
        "tasks": tasks(record),
        "checks": checks(record),
        "reasons": reasons(record),
        "late": late(record),
        "events": events(record),
        "repairs": repairs(record),
        "troubles": troubles(record),
        "similar": similar(pairs),
    }


def students(record: ClassRecord) -> Table:
    """A row a student: score, when it came, what the run took, and how many things to look at."""
    headings = (
        *("student", "name", "score", "percent", "penalty", "hours after due", "waits for a person"),
        *("attempts", "seconds", "CPU seconds", "memory MB", "events", "repairs"),
    )
    return Table(headings, tuple(_student_row(record, student) for student in record.students))


def _student_row(record: ClassRecord, student: Student) -> tuple[Cell, ...]:
    name = " ".join(part for part in (student.first_name, student.last_name) if part)
    submission = student.submission
    if submission is None:
        return (student.id, name, *[None] * 11)
    run, score = submission.run, submission.score
    percent = None if score is None or not record.max_score else round(100 * score / record.max_score, 1)
    return (
        student.id,
        name,
        score,
        percent,
        submission.penalty,
        _hours_after_due(record, submission),
        "yes" if submission.needs_person else "",
        run.attempts,
        run.wall_s,
        run.cpu_s,
        None if run.memory_bytes is None else run.memory_bytes / 1e6,
        len(run.events),
        len(run.repairs),
    )


def tasks(record: ClassRecord) -> Table:
    """A row a task, in the notebook's order; answers that wait for a person do not count."""
    found: dict[str, list[Check]] = {}
    for check in record.checks:
        found.setdefault(check.task, []).append(check)
    return Table(
        ("task", *_HOW_IT_WENT), tuple((title, *_how_it_went(record, own)) for title, own in found.items())
    )


def checks(record: ClassRecord) -> Table:
    """A row a check, the hardest first; answers that wait for a person do not count."""
    labels = _labels(record)
    rows = [(labels[_key(check)], check.task, *_how_it_went(record, [check])) for check in record.checks]
    rows.sort(key=lambda row: row[3] if isinstance(row[3], float) else math.inf)
    return Table(("check", "task", *_HOW_IT_WENT), tuple(rows))


def _how_it_went(record: ClassRecord, own: Sequence[Check]) -> tuple[Cell, ...]:
    """Return the columns `_HOW_IT_WENT` for some checks taken together."""
    points = sum(check.points for check in own)
    scores: list[float] = []
    seconds: list[float] = []
    cut = 0
    for _, submission in record.submitted:
        mine = [submission.scores[_key(check)] for check in own if _key(check) in submission.scores]
        if mine and not submission.run.error and not any(score.needs_person for score in mine):
            scores.append(sum(score.points for score in mine))
        ran = [
            submission.run.outcomes[_key(check)] for check in own if _key(check) in submission.run.outcomes
        ]
        cut += any(outcome.status in CUT_SHORT for outcome in ran)
        seconds += filter(None, [sum(outcome.wall_s for outcome in ran)])
    full = sum(score >= points for score in scores)
    none = sum(score <= 0 < points for score in scores)
    return (
        points,
        _percent(statistics.fmean, scores, points),
        _percent(statistics.median, scores, points),
        full,
        len(scores) - full - none,
        none,
        cut,
        statistics.median(seconds) if seconds else None,
    )


def reasons(record: ClassRecord) -> Table:
    """A row a reason why a check failed, the commonest first."""
    labels = _labels(record)
    tasks_by_label = {labels[_key(check)]: check.task for check in record.checks}
    said = (
        (labels.get(key, key[1]), student.id, outcome.reason or outcome.status)
        for student, submission in record.submitted
        for key, outcome in submission.run.outcomes.items()
        if outcome.reason or outcome.status not in HARMLESS
    )
    rows = tuple(
        (
            tasks_by_label.get(reason.check, ""),
            reason.check,
            len(reason.students),
            reason.message,
            ", ".join(reason.students),
        )
        for reason in common_reasons(said)
    )
    return Table(("task", "check", "students", "message", "who"), rows)


def late(record: ClassRecord) -> Table:
    """A row a late submission, the latest first."""
    rows = [
        (student.id, submission.late_s / 3600, submission.penalty)
        for student, submission in record.submitted
        if submission.late_s > 0
    ]
    rows.sort(key=lambda row: -row[1])
    return Table(("student", "hours late", "penalty"), tuple(rows))


def events(record: ClassRecord) -> Table:
    """A row a student and a kind of thing that the sandbox refused or ended, the most frequent first."""
    found: dict[tuple[str, str], list[Event]] = {}
    for student, submission in record.submitted:
        for event in submission.run.events:
            found.setdefault((student.id, event.kind), []).append(event)
    rows = [
        (student, kind, len(alike), _listed(event.cell for event in alike), alike[0].text)
        for (student, kind), alike in found.items()
    ]
    rows.sort(key=lambda row: -row[2])
    return Table(("student", "kind", "times", "cells", "first"), tuple(rows))


def repairs(record: ClassRecord) -> Table:
    """A row a thing that was put right in a submission before it ran."""
    return Table(
        ("student", "repair"), tuple(_per_student(record, lambda submission: submission.run.repairs))
    )


def troubles(record: ClassRecord) -> Table:
    """A row a trouble of the run itself: it was repeated, could not be done, or ran without a part."""

    def texts(submission: Submission) -> list[str]:
        run = submission.run
        error = [f"not run: {run.error}"] if run.error else []
        accepted = [f"ran without {', '.join(run.accepted)}, as accepted"] if run.accepted else []
        repeated = ["was run a second time"] if run.attempts > 1 and not run.notes else []
        return [*error, *run.notes, *repeated, *accepted]

    return Table(("student", "trouble"), tuple(_per_student(record, texts)))


def similar(pairs: Iterable[Pair]) -> Table:
    """A row a pair of submissions that stand out by how alike they are."""
    rows = (
        (
            pair.first,
            pair.second,
            round(100 * pair.score, 1),
            round(100 * pair.usual, 1),
            ", ".join(name or "own cells" for name, score in pair.parts.items() if score >= 0.9),
        )
        for pair in pairs
    )
    return Table(("first", "second", "alike %", "usual %", "most alike in"), tuple(rows))


def _per_student(
    record: ClassRecord, texts: Callable[[Submission], Iterable[str]]
) -> Iterable[tuple[Cell, ...]]:
    for student, submission in record.submitted:
        said = list(texts(submission))
        yield from ((student.id, text) for text in said[:MOST_OF_ONE])
        if len(said) > MOST_OF_ONE:
            yield student.id, f"and {len(said) - MOST_OF_ONE} more of the kind"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name for name in names if name))


def _key(check: Check) -> tuple[str, str]:
    return check.notebook, check.name


def _labels(record: ClassRecord) -> dict[tuple[str, str], str]:
    """Return what to call each check: its name, with its notebook's where two have the same."""
    often = Counter(check.name for check in record.checks)
    return {
        _key(check): check.name if often[check.name] == 1 else f"{check.notebook}/{check.name}"
        for check in record.checks
    }


def _percent(
    average: Callable[[Sequence[float]], float], scores: Sequence[float], points: float
) -> float | None:
    return round(100 * average(scores) / points, 1) if scores and points else None


def _hours_after_due(record: ClassRecord, submission: Submission) -> float | None:
    """Return how long after the due date it came, negative if before; an extension moves that date."""
    if submission.late_s > 0:
        return submission.late_s / 3600
    if record.due is None or submission.at is None:
        return None
    return min(0.0, (submission.at - record.due).total_seconds() / 3600)
