"""Checks of a notebook that somebody is working in: beside its kernel, not in it.

Interface: ``with LiveNotebook(server, shell, directory) as live:`` copies the kernel's process as it is now;
``live.tester`` is the process of the checks, as in grading: see `processes`. What a check calls runs in a
copy of the copy. So a check that loops, moves or breaks its process does that to nothing that the student
has. There is no sandbox: the student's code runs with the student's rights, as it does in the kernel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, cast

from cnlab.errors import CnlabError
from cnlab.grading import calls
from cnlab.grading.attempt import plain, student
from cnlab.grading.attempt.capture import Streams
from cnlab.grading.attempt.channel import Channel, pair
from cnlab.grading.attempt.forkserver import ForkServer
from cnlab.grading.attempt.processes import Snapshot, TesterProcess, World
from cnlab.linux import syscalls

_FORK_S = 15.0


class LiveNotebook:
    """A copy of the process that this runs in, and a tester beside it. It is a `World` to its tester."""

    def __init__(self, server: ForkServer, shell: Any, directory: Path) -> None:
        self._server = server
        self._shell = shell
        self._directory = directory
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            reading, self.output = os.pipe()
            self._stack.callback(os.close, self.output)
            self.checked = Streams({reading: "stdout"})
            self._stack.callback(self.checked.close)
            self.snapshot = self._copy()
            self.tester = TesterProcess(cast(World, self))
            self._stack.callback(self.tester.close)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _copy(self) -> Snapshot:
        """Fork this process: the copy waits, and is forked again for each check."""
        ours, its = pair()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the kernel's threads stay behind, which is meant
            pid = os.fork()
        if pid == 0:
            ours.close()
            self._live_on(its.detach())
        its.close()
        self._pid = pid
        self._stack.callback(os.waitpid, pid, 0)
        self._stack.callback(os.kill, pid, signal.SIGKILL)
        self._stack.callback(calls.end_descendants, pid)
        channel = Channel(ours)
        self._stack.callback(channel.close)
        return Snapshot(channel, pid)

    def _live_on(self, end: int) -> NoReturn:
        """In the copy: serve, and end with the kernel."""
        try:
            syscalls.set_parent_death_signal(signal.SIGKILL)
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # orphans of what is called stay in our tree
            student.print_to(self.output, self.output)
            student.Server(student.open_channel(end), self._shell.user_ns, self._shell).serve()
        finally:
            os._exit(0)

    # What a tester asks of its world

    def fork_tester(self, fds: Sequence[int]) -> int:
        """Fork a tester that works where the notebook is; return its pidfd."""
        request: dict[str, plain.Json] = {
            "program": "tester",
            "directory": str(self._directory),
            "environment": dict(os.environ),
        }
        return self._server.fork(request, fds)

    def serve(self, snapshot: Snapshot) -> tuple[Channel, int]:
        """Return a fresh copy of the notebook, for one check.

        Raises:
            CnlabError: it cannot be copied.
        """
        ours, its = pair()
        with its:
            fds = [its.fileno(), self.output]
            try:
                answer = snapshot.channel.ask({"op": "fork"}, time.monotonic() + _FORK_S, fds=fds)
            except (OSError, plain.NotPlain) as error:
                ours.close()
                raise CnlabError(f"the notebook's process cannot be copied: {error}") from None
        return Channel(ours), int(answer["pid"])

    def settle(self) -> None:
        """Nothing to remember: no process stays between checks but the copy."""

    def sweep(self, forks: Sequence[int]) -> None:
        """End what the last check has started."""
        calls.end_descendants(self._pid)
        os.kill(self._pid, signal.SIGCONT)
