"""`make test` runs every test once, and hides no failure."""

from __future__ import annotations

from collections import Counter

import pytest
import side_by_side
from side_by_side import ROOT, failures, parts


def test_every_file_is_in_one_part() -> None:
    """A new directory is run because it exists."""
    named = [ROOT / place for part in parts() for place in part]
    files = [file for place in named for file in ([place] if place.is_file() else place.rglob("test_*.py"))]

    assert Counter(ROOT.glob("tests/**/test_*.py")) == Counter(files)


def test_each_failure_is_named_again_at_the_end() -> None:
    """Whoever looks at the last lines sees all of them."""
    said = "FAILED tests/a.py::test_b - assert 1 == 2\n  more of it\nERROR tests/a.py::test_c\n2 failed\n"

    assert ["FAILED tests/a.py::test_b - assert 1 == 2", "ERROR tests/a.py::test_c"] == failures(
        ["a"], 1, said
    )


def test_part_that_breaks_off_has_failed() -> None:
    """A pytest that is killed has no summary."""
    assert ["FAILED tests/labs: exit status -9"] == failures(["tests/labs"], -9, "tests/labs/test_a.py ...")
    assert [] == failures(["tests/labs"], 0, "3 passed")


def test_failure_of_one_part_is_that_of_all(monkeypatch, capsys) -> None:
    """The others run to their end all the same."""
    said = {
        "a": (1, "FAILED a::b - no\n1 failed, 2 passed in 1.00s"),
        "c": (0, "3 passed, 1 skipped in 2.00s"),
    }
    monkeypatch.setattr(side_by_side, "parts", lambda: [["a"], ["c"]])
    monkeypatch.setattr(side_by_side, "run", lambda part: said[part[0]])

    assert 1 == side_by_side.main()
    assert "FAILED a::b - no\nall parts: 1 failed, 5 passed, 1 skipped in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("processors", "gibibytes", "expected"), [(1, 2, 2), (2, 24, 2), (8, 8, 2), (8, 16, 4), (16, 64, 16)]
)
def test_machine_is_kept_busy_and_its_memory_is_enough(processors, gibibytes, expected):
    """A laptop of 8 GiB must not begin to swap, whatever its processors could do."""
    assert side_by_side.at_a_time(processors, gibibytes << 30) == expected


def test_reasons_for_what_was_not_tested_are_summed_up():
    """Skipped is not passed: the end says what, and nobody reads ten reports to learn it."""
    said = "SKIPPED [3] tests/conftest.py:52: no root: uid 7\nSKIPPED [2] tests/a.py:9: no root: uid 7\n"

    assert side_by_side.not_tested(said) == {"no root: uid 7": 5}
