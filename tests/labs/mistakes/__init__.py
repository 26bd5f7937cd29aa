"""Mistakes to plant: each is a change to one solution of a lab, and loses the points of one check."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """What a student writes instead of the solution of `task`, or changes in it.

    `loses` is the check that notices, and `says` a part of what it tells the student.
    """

    task: str
    loses: str
    says: str
    changes: dict[str, str] = field(default_factory=dict)  # right code to wrong code
    instead: str | None = None
    is_alone: bool = False  # makes no sense beside another mistake in the same solution

    def applied_to(self, solution: str) -> str:
        """Return the student's code."""
        if self.instead is not None:
            return textwrap.dedent(self.instead).strip("\n")
        for right, wrong in self.changes.items():
            assert solution.count(right) == 1, f"{right!r} is not once in the solution of {self.task}"
            solution = solution.replace(right, wrong)
        return solution


def shared_out(mistakes: dict[str, Mistake], students: int = 3) -> list[dict[str, Mistake]]:
    """Share the mistakes out to a few students, evenly: every run of a lab boots a machine.

    Two mistakes in one solution go to one student only where both are small changes to it.
    """
    shares: list[dict[str, Mistake]] = [{} for _ in range(students)]
    for name, mistake in mistakes.items():
        fitting = [share for share in shares if all(_go_together(mistake, other) for other in share.values())]
        min(fitting, key=len)[name] = mistake
    return shares


def _go_together(one: Mistake, other: Mistake) -> bool:
    return one.task != other.task or not any(mistake.instead or mistake.is_alone for mistake in (one, other))
