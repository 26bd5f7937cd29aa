"""``create``: from a bundle to a container that only lacks its program.

Interface: `create`. What the container's own process does meanwhile is `init`.

See: runtime-spec, runtime.md, "Create" and "Lifecycle".
"""

from __future__ import annotations

import os
import time

from cnlab.containers.runtime import birth, hooks
from cnlab.containers.runtime.birth import Channel
from cnlab.containers.runtime.cgroups import Cgroups
from cnlab.containers.runtime.config import load
from cnlab.containers.runtime.errors import InvalidConfig, warn
from cnlab.containers.runtime.init import Init
from cnlab.containers.runtime.namespaces import Namespaces, write_id_maps
from cnlab.containers.runtime.process import Plan, set_oom_score
from cnlab.containers.runtime.signals import SIGKILL
from cnlab.containers.runtime.store import Record, process_start_time, write_pid_file
from cnlab.containers.runtime.waiting import Process
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def create(
    container_id: str,
    bundle: str,
    *,
    stdio: Sequence[int] = (0, 1, 2),
    console_socket: str | int | None = None,
    pid_file: str | None = None,
    preserve_fds: int = 0,
    new_keyring: bool = True,
    die_with_parent: bool = False,
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> dict[str, Any]:
    """Make the container of `bundle`, so that only its program is missing, and return its state.

    Args:
        container_id: its id, unique below `root`.
        bundle: directory with ``config.json``.
        stdio: descriptors that become its standard streams.
        console_socket: Unix socket, as a path or connected, where its terminal is waited for.
        pid_file: where to write its pid.
        preserve_fds: how many descriptors from 3 on its program is to have.
        new_keyring: whether it has a session keyring of its own.
        die_with_parent: whether the kernel kills it when the calling thread ends.
        root: state directory.
        warn: called with a sentence about what cannot be granted.

    Raises:
        InvalidConfig: the bundle is not as the specification asks.
        ContainerExists: the id is taken.
        HookFailed: a hook did not do its work.
        OSError: the kernel refused. Whatever is raised, nothing is left.
    """
    bundle = os.path.abspath(bundle)
    config = load(bundle)
    record = Record.make(container_id, root)
    creation = _Creation(record, config, bundle, warn)
    try:
        creation.prepare(console_socket)
        creation.bear(
            stdio=stdio,
            preserved=range(3, 3 + preserve_fds),
            keyring=f"_ses.{container_id}" if new_keyring else None,
            dies_with_parent=die_with_parent,
        )
        creation.finish(pid_file)
    except BaseException:
        creation.undo()
        raise
    finally:
        creation.close()
    return record.state("created")


class _Creation:
    """One `create`: what it has made so far."""

    def __init__(
        self, record: Record, config: dict[str, Any], bundle: str, warn: Callable[[str], None]
    ) -> None:
        self.record = record
        self.config = config
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.hooks: dict[str, Any] = config.get("hooks") or {}
        self.warn = warn
        self.spaces: Namespaces | None = None
        self.fifos: tuple[int, ...] = ()
        self.console: int | None = None
        self.channel: Channel | None = None
        self.process: Process | None = None
        record.bundle = bundle
        record.rootfs = os.path.realpath(os.path.join(bundle, config["root"]["path"]))
        record.created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record.annotations = config.get("annotations") or {}

    def prepare(self, console_socket: str | int | None) -> None:
        """Make what can be made before there is a process."""
        record = self.record
        if not os.path.isdir(record.rootfs):
            raise InvalidConfig(f"root.path: {record.rootfs} is no directory")
        has_terminal = bool((self.config.get("process") or {}).get("terminal"))
        if has_terminal and console_socket is None:
            raise InvalidConfig("process.terminal: needs a console socket")
        if not has_terminal and console_socket is not None:
            raise InvalidConfig("process.terminal: is false, so nothing comes to the console socket")
        _copy(os.path.join(record.bundle, "config.json"), record.path("config.json"))
        self.spaces = Namespaces(self.linux)
        self.fifos = record.make_fifos()
        if console_socket is not None:
            from cnlab.containers.runtime import terminal

            self.console = terminal.connect(console_socket)
        resources = self.linux.get("resources") or {}
        record.cgroups = Cgroups.create(self.linux.get("cgroupsPath") or None, record.id, resources)
        record.save()  # lest nobody could take the groups away if we are killed

    def bear(
        self, *, stdio: Sequence[int], preserved: Sequence[int], keyring: str | None, dies_with_parent: bool
    ) -> None:
        """Clone the container's process and lead it to where it waits for ``start``."""
        assert self.spaces is not None
        assert self.record.cgroups is not None
        init = Init(
            self.config,
            bundle=self.record.bundle,
            rootfs_path=self.record.rootfs,
            plan=self._plan(self.spaces),
            spaces=self.spaces,
            cgroups=self.record.cgroups,
            state=self.record.state("creating"),
            fifos=(self.fifos[0], self.fifos[1]),
            console=self.console,
            stdio=stdio,
            preserved=preserved,
            keyring=keyring,
            dies_with_parent=dies_with_parent,
        )
        channel = birth.again_if_hung(lambda: self._clone(init, self.spaces, self.record.cgroups))
        state = self.record.state("creating")
        hooks.run(self.hooks.get("prestart") or [], state)
        hooks.run(self.hooks.get("createRuntime") or [], state)
        channel.go()
        channel.hear("ready")

    def _clone(self, init: Init, spaces: Namespaces | None, cgroups: Cgroups | None) -> Channel:
        """Clone the process and let it mount its file system; up to here nothing is seen outside of it."""
        assert spaces is not None
        assert cgroups is not None
        self._end_process()
        self.channel = Channel()
        self.process = Process(*birth.bear(init.live, self.channel, spaces, cgroups))
        self.record.pid = self.process.pid
        if spaces.new & syscalls.CLONE_NEWUSER:
            write_id_maps(self.record.pid, self.linux)
        self.channel.go()
        self.record.start_time = process_start_time(self.record.pid) or 0
        if (score := (self.config.get("process") or {}).get("oomScoreAdj")) is not None:
            set_oom_score(self.record.pid, score)
        self.channel.hear("mounted")
        return self.channel

    def _plan(self, spaces: Namespaces) -> Plan | None:
        if self.config.get("process") is None:
            return None
        return Plan(
            self.config["process"],
            filter_profile=self.linux.get("seccomp"),
            in_user_namespace=spaces.has_user,
            warn=self.warn,
        )

    def finish(self, pid_file: str | None) -> None:
        """Write down that it is there."""
        assert self.process is not None
        self.record.is_created = True
        self.record.save()
        if pid_file is not None:
            write_pid_file(pid_file, self.record.pid)
        self.process.release()

    def _end_process(self) -> None:
        if self.process is not None:
            self.process.close()
        if self.channel is not None:
            self.channel.close()

    def undo(self) -> None:
        """Take away what has been made; then the specification still asks for the poststop hooks."""
        self._end_process()
        if self.record.cgroups is not None:
            self.record.cgroups.signal_all(SIGKILL)
            self.record.cgroups.remove()
        self.record.remove()
        if self.process is not None:
            hooks.run_each(self.hooks.get("poststop") or [], self.record.state("stopped"), self.warn)

    def close(self) -> None:
        """Let go of what only the creation needed."""
        if self.channel is not None:
            self.channel.close()
        if self.spaces is not None:
            self.spaces.close()
        for fd in (*self.fifos, self.console):
            if fd is not None:
                os.close(fd)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read())
