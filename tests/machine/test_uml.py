"""Finding User-Mode Linux, and the words for when it cannot be had."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from cnlab import host
from cnlab.errors import MachineError
from cnlab.machine import uml


def test_another_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    with pytest.raises(MachineError, match="x86-64 processors only, this one is aarch64"):
        uml.find()


def test_a_missing_uml_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_program", lambda name: None)

    with pytest.raises(MachineError, match="not installed") as caught:
        uml.find()
    assert "user-mode-linux" in caught.value.__notes__[0]


def test_each_directory_that_cannot_hold_the_memory_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's /dev/shm is noexec and small, a laptop's disk is full: the person must learn which it was."""
    missing, noexec = str(tmp_path / "missing"), str(tmp_path / "noexec")
    real = os.statvfs
    flagged = os.statvfs_result((4096, 4096, 1 << 30, 1 << 30, 1 << 30, 0, 0, 0, os.ST_NOEXEC, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: flagged if path == noexec else real(path))

    with pytest.raises(MachineError) as caught:
        uml.find_memory_directory(1 << 60, [missing, noexec, str(tmp_path)])
    assert f"{missing}: No such file or directory" in str(caught.value)
    assert f"{noexec} is mounted noexec" in str(caught.value)
    assert f"{tmp_path} has " in str(caught.value)


def test_the_first_directory_with_room_is_taken(tmp_path: Path) -> None:
    assert uml.find_memory_directory(1 << 20, ["/proc/1/fd/0", str(tmp_path)]) == tmp_path


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        ("Checking that ptrace can change system call numbers...ptrace: Operation not permitted", "ptrace"),
        ("ptrace setoptions failed: No space left", "ptrace"),
        ("Failed to mmap physical memory", "memory"),
        (
            "Traceback\nModuleNotFoundError: No module named 'x'\nKernel panic - not syncing: init",
            "No module named 'x'",
        ),
        ("", "status 1"),
    ],
)
def test_last_words_become_a_sentence(console: str, reason: str) -> None:
    assert reason in uml.explain(console, 1)


@pytest.mark.needs_uml
def test_modules_belong_to_the_kernel() -> None:
    """The overlay module is what the guest's root is made with."""
    found = uml.find()

    assert os.access(found.kernel, os.X_OK)
    assert "overlay.ko" in found.modules.joinpath("modules.dep").read_text()
