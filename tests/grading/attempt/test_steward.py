"""Which processes a check has started, told from who is whose child."""

from __future__ import annotations

from cnlab.grading.attempt.steward import strays_of

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
