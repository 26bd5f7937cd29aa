"""Partial credit with a message: parts of a check that are scored each for itself.

A check is one cell, and to nbgrader it is passed or not; but a cell that ends in a number has earned that
many points. `Score` counts them, and prints what the failed parts say::

    score = Score(3)
    with score.part(1):
        assert area(2, 3) == 6, "expected 6 for 2 by 3; look at the docstring"
    with score.part(2):
        assert area(0, 3) == 0, "expected 0 for 0 by 3; look at the edge cases"
    score.earned

The last line must be `earned`. It works in the notebook, under nbgrader's own commands and under
``cnlab grade``.

See: nbgrader's documentation, "Partial credit".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cnlab.errors import InvalidValue

LOST = "lost "
"""How each printed line begins that says which points a check has not given."""


class Score:
    """Counts the points of a check, up to `points`, which are those in the cell's metadata."""

    def __init__(self, points: float) -> None:
        self.points = points
        self._offered = 0.0
        self._earned = 0.0

    @contextlib.contextmanager
    def part(self, points: float, what: str = "") -> Iterator[None]:
        """Give `points` if the block ends without an exception; else print what it says, and go on.

        Raises:
            InvalidValue: the parts have more points than the check.
        """
        self._offered += points
        if points < 0 or self._offered > self.points:
            raise InvalidValue(
                f"parts of {self._offered:g} points in a check of {self.points:g}; make them add up"
            )
        try:
            yield
        except Exception as error:
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            print(f"{LOST}{points:g} of {self.points:g} points: {f'{what}: ' if what else ''}{text}")
        else:
            self._earned += points

    @property
    def earned(self) -> float:
        """What was earned so far: the number that the cell is to end in.

        Raises:
            InvalidValue: the parts have fewer points than the check.
        """
        if self._offered != self.points:
            raise InvalidValue(
                f"parts of {self._offered:g} points in a check of {self.points:g}; make them add up"
            )
        return self._earned
