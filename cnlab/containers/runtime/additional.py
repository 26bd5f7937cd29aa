"""``exec``: one more process in a running container.

See: setns(2) with a pidfd; runc-exec(8).
"""

from __future__ import annotations

import os

from cnlab.containers.runtime import birth
from cnlab.containers.runtime.birth import Channel
from cnlab.containers.runtime.config import affinity, check_process
from cnlab.containers.runtime.errors import WrongStatus, warn
from cnlab.containers.runtime.namespaces import NamespacesOf
from cnlab.containers.runtime.process import Plan, set_oom_score
from cnlab.containers.runtime.store import Record, write_pid_file
from cnlab.containers.runtime.waiting import Process
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from cnlab.containers.runtime.cgroups import Cgroups


def exec_(
    container_id: str,
    process: dict[str, Any] | Sequence[str],
    *,
    stdio: Sequence[int] = (0, 1, 2),
    console_socket: str | int | None = None,
    pid_file: str | None = None,
    preserve_fds: int = 0,
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> Process:
    """Start one more process in the namespaces and cgroups of a container; return it when its program runs.

    Args:
        container_id: the container.
        process: a ``process`` object; what it leaves out is taken from the container's own. Or a command.
        stdio: descriptors that become its standard streams.
        console_socket: Unix socket, as a path or connected, where its terminal is waited for.
        pid_file: where to write its pid.
        preserve_fds: how many descriptors from 3 on its program is to have.
        root: state directory.
        warn: called with a sentence about what cannot be granted.

    Raises:
        WrongStatus: the container is stopped or paused.
        OSError: the kernel refused, or there is no such program in the container.
    """
    record = Record.load(container_id, root)
    status = record.status()
    if status not in ("created", "running"):
        raise WrongStatus(f"cannot exec in a {status} container: {container_id!r}")
    config = record.config
    wanted = process_object(process, config.get("process") or {})
    check_process(wanted)
    newcomer = _Newcomer(record, wanted, stdio, preserve_fds, console_socket)
    try:
        started = newcomer.start((config.get("linux") or {}).get("seccomp"), warn)
    finally:
        newcomer.close()
    if pid_file is not None:
        write_pid_file(pid_file, started.pid)
    return started


def process_object(process: dict[str, Any] | Sequence[str], own: dict[str, Any]) -> dict[str, Any]:
    """Return a whole ``process`` object: `own` is the container's, whose args and terminal are not taken."""
    inherited = {
        name: value for name, value in own.items() if name not in ("args", "terminal", "consoleSize")
    }
    return inherited | (process if isinstance(process, dict) else {"args": list(process)})


class _Newcomer:
    """A process on its way into the container."""

    def __init__(
        self,
        record: Record,
        process: dict[str, Any],
        stdio: Sequence[int],
        preserve_fds: int,
        console_socket: str | int | None,
    ) -> None:
        self.record = record
        self.process = process
        self.stdio = stdio
        self.preserved = range(3, 3 + preserve_fds)
        self.channel: Channel | None = None
        self.console: int | None = None
        if console_socket is not None:
            from cnlab.containers.runtime import terminal

            self.console = terminal.connect(console_socket)
        self.init_fd = syscalls.pidfd_open(record.pid)
        self.root = os.open(f"/proc/{record.pid}/root", os.O_PATH | os.O_CLOEXEC)
        self.plan: Plan | None = None
        self.spaces = NamespacesOf(record.pid, self.init_fd)

    def close(self) -> None:
        """Let go of what only the start needed."""
        if self.channel is not None:
            self.channel.close()
        for fd in (self.console, self.init_fd, self.root):
            if fd is not None:
                os.close(fd)

    def start(self, filter_profile: dict[str, Any] | None, warn: Callable[[str], None]) -> Process:
        """Clone it, put it into the cgroups, and lead it to its program."""
        cgroups = self.record.cgroups
        assert cgroups is not None
        self.plan = Plan(
            self.process,
            filter_profile=filter_profile,
            in_user_namespace=self.spaces.has_user,
            warn=warn,
        )
        return birth.again_if_hung(lambda: self._clone(cgroups))

    def _clone(self, cgroups: Cgroups) -> Process:
        channel = self.channel = Channel()
        process: Process | None = None
        try:
            process = self._bear(channel, cgroups)
            if (score := self.process.get("oomScoreAdj")) is not None:
                set_oom_score(process.pid, score)
            channel.go()
            channel.hear_nothing()
        except BaseException:
            channel.close()
            if process is not None:
                process.close()
            raise
        return process

    def _bear(self, channel: Channel, cgroups: Cgroups) -> Process:
        """Clone it on the CPUs where it is to be until it is in the container's cgroups."""
        cpus = affinity(self.process, "initial")
        own = os.sched_getaffinity(0) if cpus else set()
        _run_on(cpus, "initial")
        try:
            return Process(*birth.bear(self._live, channel, self.spaces, cgroups))
        finally:
            _run_on(own, "initial")

    def _live(self, channel: Channel) -> NoReturn:
        assert self.plan is not None
        console = () if self.console is None else (self.console,)
        birth.forget_caller(self.stdio, {*channel.ends(), *self.preserved, *console, self.root})
        channel.wait_for_go()
        _run_on(affinity(self.process, "final"), "final")
        if self.spaces.has_user:
            syscalls.set_ids(0, 0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        if not self.spaces.has_mount:
            os.chdir(self.root)
            os.chroot(".")
        os.close(self.root)
        if self.console is not None:
            from cnlab.containers.runtime import terminal  # which is there: the runtime has used it

            terminal.open_and_send(self.console, self.process, is_init=False)
        self.plan.apply_limits()
        self.plan.set_home()
        self.plan.enter_directory()
        program = self.plan.find_program()
        self.plan.become_user()
        self.plan.execute(program)


def _run_on(cpus: set[int], when: str) -> None:
    """Keep the calling thread to these CPUs; none means no change."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        where = f"process.execCPUAffinity.{when}: sched_setaffinity({sorted(cpus)})"
        raise OSError(error.errno, f"{where}: {error.strerror}") from None
