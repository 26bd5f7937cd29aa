"""One process of the mesh: it dies with us, writes into a log, and says what memory it takes.

See: `cnlab.apps.spawner`; proc_pid_smaps(5) on Pss.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cnlab.apps.spawner import Spawner
from cnlab.containers.network.last_will import LastWill
from cnlab.linux import procfs


class Process:
    """A program that runs until `stop`, `kill`, or our own end; it can be started again."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = list(argv)
        self.log_file = log
        self._env = env
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None
        self._spawner = Spawner(log.stem)

    def start(self) -> None:
        """Execute it. Its standard output and error go to the log."""
        with open(self.log_file, "ab") as log:
            self._popen = self._spawner.start(self.argv, log=log, env=self._env, cwd=self._cwd)

    @property
    def pid(self) -> int:
        """Its number; 0 before it was started."""
        return self._popen.pid if self._popen else 0

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal's number if one ended it; None while it runs."""
        return self._popen.poll() if self._popen else None

    @property
    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def memory_bytes(self) -> int:
        """The memory of it and of what it started, pages that they share counted in parts."""
        return sum(map(proportional_bytes, (self.pid, *_children(self.pid)))) if self.is_running else 0

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would: it tidies up nothing."""
        if self._popen is None:
            return
        if self.is_running:  # the number of one that has been waited for may be another's by now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.kill()
            self._popen.wait()
        self._spawner.close()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ask it to end by SIGTERM, and kill it when it does not."""
        if self._popen is not None and self.is_running:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        self.kill()

    def end(self) -> None:
        """Send SIGTERM and do not wait; `stop` later."""
        if self._popen is not None and self.is_running:
            self._popen.terminate()


def python_environment() -> dict[str, str]:
    """Return our environment, in which another Python finds this package too."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": paths}


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, file.read_text().split())
    return found


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, pages that it shares counted in parts; 0 when it has ended."""
    try:
        lines = procfs.read(pid, "smaps_rollup").splitlines()
    except (ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


@contextlib.contextmanager
def private_directory(prefix: str) -> Iterator[Path]:
    """Make a directory that nobody else may look into, and remove it in the end, also if we are killed."""
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory,
        LastWill(f"sleep 0.2; rm -rf -- {shlex.quote(directory)}"),
    ):
        yield Path(directory)
