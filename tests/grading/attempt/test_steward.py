"""Which processes a check has started, told from who is whose child."""

from __future__ import annotations

from typing import Any

import pytest

from cnlab.grading.attempt.steward import Steward, strays_of

NOTEBOOK, SERVER, SNAPSHOT, FORK = 2, 3, 4, 5
KEPT = {NOTEBOOK, SERVER, SNAPSHOT}
THERE = {NOTEBOOK: 1, SERVER: NOTEBOOK, SNAPSHOT: NOTEBOOK, FORK: SNAPSHOT}


def test_fork_that_served_a_check_is_ended_with_all_below_it():
    """Whatever it started."""
    assert strays_of(THERE | {6: FORK, 7: 6}, KEPT, {FORK}) == {FORK, 6, 7}


def test_orphan_is_ended():
    """A daemon has left its family: its parent is process 1."""
    assert strays_of(THERE | {6: 1, 7: 6}, KEPT, set()) == {6, 7}


def test_child_of_the_notebooks_own_server_stays():
    """It serves the next check too."""
    assert strays_of(THERE | {6: SERVER, 7: 6}, KEPT, {FORK}) == {FORK}


def test_process_from_outside_stays():
    """A tester that was born into the sandbox has no parent in there; its children are its own."""
    assert strays_of({NOTEBOOK: 1, 8: 0, 9: 8}, KEPT, set()) == set()


class Box:
    """A sandbox in which a fork bomb multiplies `times`, and the killed take a few looks to be gone."""

    def __init__(self, times: int) -> None:
        self.left, self.dying, self.last = times, {6: 3}, 6

    def processes(self) -> dict[int, int]:
        self.dying = {pid: looks - 1 for pid, looks in self.dying.items() if looks}
        if self.left:
            self.left, self.last = self.left - 1, self.last + 1
            self.dying[self.last] = 3
        return THERE | dict.fromkeys(self.dying, 1)

    def end(self, pids: Any) -> None:
        """Nobody is gone at once."""


@pytest.mark.parametrize("times", [0, 100])
def test_next_check_begins_when_what_the_last_one_started_is_gone(times):
    """A process that was killed holds its ports and files until its end, which a busy machine puts off."""
    steward: Any = Steward(None, box := Box(times), None)  # type: ignore[arg-type]
    steward._kept = {*KEPT, FORK}

    steward._op_sweep({"ends": [], "snapshots": [SNAPSHOT]})

    assert (box.left, box.dying) == (0, {})
