"""Landlock: what a process has given up it cannot open again, by no way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cnlab.errors import MissingFeature
from cnlab.linux import landlock
from cnlab.linux.landlock import Ruleset

needs_landlock = pytest.mark.needs_landlock


def _confined(ruleset: Ruleset, attempt: Callable[[], object]) -> str:
    """Return what `attempt` answers in a child that is confined to `ruleset`, or the error it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ruleset.restrict_self()
            said = str(attempt())
        except OSError as error:
            said = type(error).__name__
        except BaseException as error:
            said = f"unexpected: {error!r}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@needs_landlock
def test_what_is_not_named_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")

    assert _confined(Ruleset(read_only=["/usr"]), (tmp_path / "secret").read_text) == "PermissionError"


@needs_landlock
def test_read_only_reads_and_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("data")
    ruleset = Ruleset(read_only=[tmp_path])

    assert _confined(ruleset, (tmp_path / "given").read_text) == "data"
    assert _confined(ruleset, lambda: (tmp_path / "given").write_text("x")) == "PermissionError"
    assert _confined(ruleset, lambda: (tmp_path / "new").mkdir()) == "PermissionError"
    assert (tmp_path / "given").read_text() == "data"


@needs_landlock
def test_read_write_gives_all_rights_beneath(tmp_path: Path) -> None:
    assert _confined(Ruleset(read_write=[tmp_path]), lambda: (tmp_path / "new").write_text("x")) == "1"
    assert (tmp_path / "new").read_text() == "x"


@needs_landlock
def test_a_rule_may_name_a_single_file(tmp_path: Path) -> None:
    """User-Mode Linux needs /proc/cpuinfo, and nothing else of /proc."""
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    ruleset = Ruleset(read_only=[tmp_path / "one"])

    assert _confined(ruleset, (tmp_path / "one").read_text) == "1"
    assert _confined(ruleset, (tmp_path / "two").read_text) == "PermissionError"


@needs_landlock
def test_a_path_that_does_not_exist_is_passed_over(tmp_path: Path) -> None:
    ruleset = Ruleset(read_only=[tmp_path / "missing"], read_write=[tmp_path])

    assert _confined(ruleset, lambda: "ran") == "ran"


def test_a_kernel_without_landlock_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence would leave a student's files open to the guest, believed closed."""
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)

    with pytest.raises(MissingFeature, match="landlock: the kernel offers no Landlock"):
        Ruleset().restrict_self()
