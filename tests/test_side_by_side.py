"""`make test` runs every test once, and hides no failure."""

from __future__ import annotations

from collections import Counter

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
