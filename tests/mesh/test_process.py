"""One process of the mesh: whom its signals reach."""

import os

from cnlab.clock import wait_until
from cnlab.mesh.process import Process, proportional_bytes


def test_process_that_has_ended_is_sent_no_signal(monkeypatch, tmp_path):
    """Its number may be that of another process by now, and of another's group."""
    signalled = []
    process = Process(["true"], log=tmp_path / "true.log")
    process.start()
    wait_until(lambda: not process.is_running, timeout_s=30, what="true to end")
    monkeypatch.setattr(os, "killpg", lambda *words: signalled.append(words))

    process.kill()

    assert [] == signalled
    assert 0 == process.returncode


def test_killed_process_takes_what_it_started_along(tmp_path):
    """A shell between us and a program must not leave the program behind."""
    process = Process(["sh", "-c", "sleep 1000 & echo $!; wait"], log=tmp_path / "shell.log")
    process.start()
    wait_until(lambda: process.log.strip(), timeout_s=30, what="the shell to start it")
    started = int(process.log)

    process.kill()

    wait_until(lambda: has_ended(started), timeout_s=30, what=f"process {started} to end")
    assert -9 == process.returncode


def test_memory_of_a_process_holds_what_it_started(tmp_path):
    """The control plane's evaluators are a part of what a policy costs."""
    process = Process(["sh", "-c", "sleep 1000 & echo; wait"], log=tmp_path / "shell.log")
    process.start()
    try:
        wait_until(lambda: process.log, timeout_s=30, what="the shell to start it")

        assert process.memory_bytes > proportional_bytes(process.pid)
    finally:
        process.kill()


def has_ended(pid):
    """Whether the process is gone, or only its exit code is left for somebody to read."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
