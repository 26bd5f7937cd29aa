"""A warm process that forks: it has imported what notebooks import, and never held anything of anybody.

Interface: ``with ForkServer(preload) as server:``; `fork_steward` opens a sandbox with a student's
process in it, `fork_tester` makes the process of the checks. Both are children of a process in which no
student's code ever ran, that was given no notebook, no hidden test and no environment of ours: what a
student reads in its own memory is Python, the preloaded modules, and its own submission.

As a script this file is that process: ``python -P -m cnlab.grading.attempt.forkserver FD MODULE…``
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

from cnlab.errors import CnlabError
from cnlab.grading.attempt import plain
from cnlab.grading.attempt.channel import Channel, pair
from cnlab.linux import syscalls

PRELOAD = ("numpy", "matplotlib.pyplot")
"""What most notebooks import first."""

_START_S = 120.0  # a first import on a busy machine builds matplotlib's font list
_FORK_S = 60.0
_TESTER_BYTES = 2 << 30  # what a student's function returns is data there, and may be much
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_BACKEND = "module://matplotlib_inline.backend_inline"


class ServerGone(CnlabError):  # noqa: N818 - reads as what has happened
    """The fork server has ended, or does not answer."""


class ForkServer:
    """The warm process, as the worker sees it."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._lock = threading.Lock()
        ours, its = pair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cnlab.grading.attempt.forkserver", str(its.fileno()), *preload],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=clean_environment(),
                cwd="/",
                start_new_session=True,
            )
        self._channel = Channel(ours, takes_fds=True)
        self._channel.socket.settimeout(_FORK_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it. What it has forked ends when its own worker wants no more, or is gone."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def fork(self, request: Mapping[str, plain.Json], fds: Sequence[int]) -> int:
        """Fork a process that does what `request` says; return its pidfd.

        Raises:
            ServerGone: it cannot.
        """
        with self._lock:  # a cluster's worker may have several threads
            try:
                self._channel.send(dict(request), fds)
                answer = self._channel.receive(time.monotonic() + _START_S)
            except (OSError, plain.NotPlain) as error:
                raise ServerGone(f"the fork server does not answer: {error}") from None
            if "error" in answer:
                raise ServerGone(f"the fork server cannot fork: {answer['error']}")
            [pidfd] = self._channel.take_fds()
            return pidfd


def clean_environment() -> dict[str, str]:
    """Return what the warm process needs of the environment: a student can read all of it."""
    environment = {name: "1" for name in _THREADS} | {"MPLBACKEND": _BACKEND, "LANG": "C.UTF-8"}
    environment["PATH"] = os.environ.get("PATH", os.defpath)
    return environment


# In the warm process


def main(fd: int, modules: Sequence[str]) -> None:
    """Import, warm up, then fork on request until the worker is gone."""
    from cnlab.grading import sandbox
    from cnlab.grading.attempt.shell import make_shell, warm_up

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's business
    os.set_inheritable(fd, False)
    channel = Channel(socket.socket(fileno=fd), takes_fds=True)
    with tempfile.TemporaryDirectory(prefix="cnlab-warm-") as place:
        os.environ |= {"HOME": place, "MPLCONFIGDIR": place}  # what matplotlib writes goes with it
        shell = make_shell()
        for name in ("cnlab.grading.attempt.steward", "cnlab.grading.attempt.tester", *modules):
            importlib.import_module(name)
        warm_up(shell)
        for flavour in ("plain", "root"):
            sandbox.warm_up(flavour)
        del os.environ["HOME"], os.environ["MPLCONFIGDIR"]
    assert threading.active_count() == 1, f"a preloaded module started {threading.enumerate()[1:]}"
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children are reaped by the kernel
    with contextlib.suppress(ConnectionError):
        while True:
            _fork_one(channel, channel.receive(), shell)


def _fork_one(channel: Channel, request: dict[str, Any], shell: Any) -> None:
    fds = channel.take_fds()
    program = _PROGRAMS[request["program"]]
    try:
        pid, pidfd = _fork(request)
    except (OSError, CnlabError) as error:
        channel.send({"error": str(error)})
        for fd in fds:
            os.close(fd)
        return
    if pid == 0:
        _become(program, channel, request, fds, shell)
    for fd in fds:
        os.close(fd)
    channel.send({"pid": pid}, [pidfd])
    os.close(pidfd)


def _fork(request: Mapping[str, Any]) -> tuple[int, int]:
    """Fork; return the child's pid and pidfd, and (0, -1) in the child."""
    if "reference" not in request:  # a container where `check` is called may refuse clone3
        pid = os.fork()
        return pid, os.pidfd_open(pid) if pid else -1
    from cnlab.grading import sandbox

    return sandbox.fork_tester(request["reference"])


def _become(
    program: Callable[[Mapping[str, Any], Sequence[int], Any], None],
    channel: Channel,
    request: Mapping[str, Any],
    fds: Sequence[int],
    shell: Any,
) -> NoReturn:
    """In the child: run the program with nothing of the server's but its memory."""
    status = 1
    try:
        channel.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        program(request, fds, shell)
        status = 0
    except ConnectionError:
        pass  # the worker is gone, and with it whom to tell
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _steward(request: Mapping[str, Any], fds: Sequence[int], shell: Any) -> None:
    from cnlab.grading.attempt import steward, student

    control, end, stdout, stderr = fds
    environment = dict(os.environ)

    def program() -> None:
        # the sandbox has set what a login sets
        student.live(shell, end, stdout, stderr, environment | dict(os.environ) | request["environment"])

    channel = Channel(socket.socket(fileno=control))
    steward.live(channel.receive(), channel, program, [end, stdout, stderr])


def _tester(request: Mapping[str, Any], fds: Sequence[int], shell: Any) -> None:
    from cnlab.grading import sandbox
    from cnlab.grading.attempt import tester

    end, output = fds
    environment = dict(os.environ)
    resource.setrlimit(resource.RLIMIT_DATA, (_TESTER_BYTES, _TESTER_BYTES))
    if "reference" in request:
        sandbox.join(request["reference"])
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(request["directory"])
    syscalls.set_parent_death_signal(signal.SIGKILL)  # which a change of rights takes back
    environment |= dict(os.environ) | request["environment"]
    tester.live(shell, end, output, environment, request.get("paths", [sandbox.HOME]))


_PROGRAMS = {"steward": _steward, "tester": _tester}

if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
