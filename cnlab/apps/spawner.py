"""Start programs that end with us, also if we are killed.

The kernel sends a child its death signal when the *thread* that forked it ends. Who asks for a program may be
a thread that passes, such as that of a widget's button: so a thread of its own forks here, and stays.

See: PR_SET_PDEATHSIG in prctl(2), setpriv(1).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from cnlab import host
from cnlab.errors import MissingFeature


class Spawner:
    """A thread that starts programs; they are killed when it is closed."""

    def __init__(self, name: str = "spawner") -> None:
        self._name = name
        self._thread: ThreadPoolExecutor | None = None

    def start(
        self,
        argv: Sequence[str],
        *,
        log: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program.

        Args:
            argv: its command line.
            log: gets its standard output and error.
            env: its environment, by default ours.
            cwd: its working directory, by default ours.
            descriptors: which of ours it gets.

        Raises:
            MissingFeature: there is no setpriv(1) here.
        """
        setpriv = host.find_program("setpriv")
        if setpriv is None:
            raise MissingFeature("setpriv", "no such program", hint="install the Debian package util-linux")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return self._thread.submit(
            subprocess.Popen,
            [str(setpriv), "--pdeathsig", "KILL", "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=cwd,
            pass_fds=descriptors,
            start_new_session=True,  # an interrupt of the notebook is not for it
        ).result()

    def close(self) -> None:
        """End the thread; a program may be started again later."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
