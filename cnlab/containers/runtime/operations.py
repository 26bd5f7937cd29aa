"""The operations of the runtime specification, and those that runc adds: each is one function.

See: runtime-spec, runtime.md, "Operations" and "Lifecycle".
"""

from __future__ import annotations

import os
import time

from cnlab.containers.runtime import birth, hooks, signals, terminal
from cnlab.containers.runtime.birth import Channel
from cnlab.containers.runtime.cgroups import Cgroups
from cnlab.containers.runtime.config import load
from cnlab.containers.runtime.errors import InvalidConfig, NoSuchContainer, WrongStatus
from cnlab.containers.runtime.init import Init
from cnlab.containers.runtime.namespaces import Namespaces, write_id_maps
from cnlab.containers.runtime.process import Plan
from cnlab.containers.runtime.store import Record, default_root, process_start_time
from cnlab.containers.runtime.waiting import Process, exit_code, has_ended
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_KILL_TIMEOUT_S = 10.0


def warn(message: str) -> None:
    """Say what could not be done as asked; the default of `create`."""
    import warnings

    warnings.warn(message, stacklevel=3)


def create(
    container_id: str,
    bundle: str,
    *,
    stdio: Sequence[int] = (0, 1, 2),
    console_socket: str | int | None = None,
    pid_file: str | None = None,
    preserve_fds: int = 0,
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
        creation.bear(stdio, range(3, 3 + preserve_fds), die_with_parent)
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
        self.channel = Channel()
        self.spaces: Namespaces | None = None
        self.fifos: tuple[int, ...] = ()
        self.console: int | None = None
        self.pidfd = -1
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
        if has_terminal != (console_socket is not None):
            raise InvalidConfig(
                "process.terminal: needs a console socket"
                if has_terminal
                else "process.terminal: is false, so there is no terminal for the console socket"
            )
        _copy(os.path.join(record.bundle, "config.json"), record.path("config.json"))
        self.spaces = Namespaces(self.linux)
        self.fifos = record.make_fifos()
        if console_socket is not None:
            self.console = terminal.connect(console_socket)
        resources = self.linux.get("resources") or {}
        record.cgroups = Cgroups.create(self.linux.get("cgroupsPath") or None, record.id, resources)

    def bear(self, stdio: Sequence[int], preserved: Sequence[int], dies_with_parent: bool) -> None:
        """Clone the container's process and lead it to where it waits for ``start``."""
        record, spaces = self.record, self.spaces
        assert spaces is not None
        assert record.cgroups is not None
        init = Init(
            self.config,
            bundle=record.bundle,
            rootfs_path=record.rootfs,
            plan=self._plan(spaces),
            spaces=spaces,
            cgroups=record.cgroups,
            state=record.state("creating"),
            fifos=(self.fifos[0], self.fifos[1]),
            console=self.console,
            stdio=stdio,
            preserved=preserved,
            dies_with_parent=dies_with_parent,
        )
        birth_fd = record.cgroups.birth_fd()
        try:
            record.pid, self.pidfd = birth.bear(
                init.live, self.channel, spaces, birth_fd=birth_fd, enter_cgroup=record.cgroups.enter
            )
        finally:
            if birth_fd is not None:
                os.close(birth_fd)
        record.start_time = process_start_time(record.pid) or 0
        record.save()
        if spaces.new & syscalls.CLONE_NEWUSER:
            write_id_maps(record.pid, self.linux)
        self._set_oom_score()
        self.channel.go()
        self.channel.hear("mounted")
        state = record.state("creating")
        hooks.run(self.hooks.get("prestart") or [], state)
        hooks.run(self.hooks.get("createRuntime") or [], state)
        self.channel.go()
        self.channel.hear("ready")

    def _plan(self, spaces: Namespaces) -> Plan | None:
        if self.config.get("process") is None:
            return None
        return Plan(
            self.config["process"],
            filter_profile=self.linux.get("seccomp"),
            in_user_namespace=spaces.has_user,
            warn=self.warn,
        )

    def _set_oom_score(self) -> None:
        score = (self.config.get("process") or {}).get("oomScoreAdj")
        if score is not None:
            set_oom_score(self.record.pid, score)

    def finish(self, pid_file: str | None) -> None:
        """Write down that it is there."""
        self.record.is_created = True
        self.record.save()
        if pid_file is not None:
            write_pid_file(pid_file, self.record.pid)

    def undo(self) -> None:
        """Take away what has been made; then the specification still asks for the poststop hooks."""
        record = self.record
        if self.pidfd >= 0:
            kill_and_reap(record.pid, self.pidfd)
        if record.cgroups is not None:
            record.cgroups.signal_all(signals.SIGKILL)
            record.cgroups.remove()
        record.remove()
        if self.pidfd >= 0:
            _run_poststop(record, self.hooks, self.warn)

    def close(self) -> None:
        """Let go of what only the creation needed."""
        self.channel.close()
        if self.spaces is not None:
            self.spaces.close()
        for fd in (*self.fifos, self.console, self.pidfd):
            if fd is not None and fd >= 0:
                os.close(fd)


def start(container_id: str, *, root: str | None = None, warn: Callable[[str], None] = warn) -> None:
    """Let the container execute its program, and return when it does.

    Raises:
        WrongStatus: it is not in status ``created``, or has no ``process``.
        OSError: the kernel does not execute the program.
        HookFailed: a startContainer or poststart hook did not do its work; the container is stopped.
    """
    record = Record.load(container_id, root)
    status = record.status()
    if status != "created":
        raise WrongStatus(f"cannot start a container in the {status} state: {container_id!r}")
    config = record.config()
    if config.get("process") is None:
        raise WrongStatus(f"cannot start container {container_id!r}: its config.json has no process")
    _let_go(record)
    try:
        hooks.run((config.get("hooks") or {}).get("poststart") or [], record.state("running"))
    except BaseException:
        kill(container_id, signals.SIGKILL, root=root)
        raise


def _let_go(record: Record) -> None:
    """Write to the fifo where the process waits, then listen until it has executed its program."""
    told = os.open(record.path("started.fifo"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = os.open(record.path("exec.fifo"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.unlink(record.path("exec.fifo"))  # only one can do this, and so start it
            os.write(waiting, b"\n")
        finally:
            os.close(waiting)
        os.set_blocking(told, True)
        text = os.read(told, 65536)
    except FileNotFoundError:
        raise WrongStatus(f"cannot start container {record.id!r}: somebody else is starting it") from None
    finally:
        os.close(told)
    if text:
        raise birth.error_in(text)


def state(container_id: str, *, root: str | None = None) -> dict[str, Any]:
    """Return the state of a container, as the specification wants it."""
    return Record.load(container_id, root).state()


def kill(
    container_id: str, signal: int | str = "TERM", *, all: bool = False, root: str | None = None
) -> None:
    """Send a signal, by number or name, to the container's process, or with `all` to all its processes.

    Raises:
        WrongStatus: its process has ended.
    """
    number = signals.number_of(signal)
    record = Record.load(container_id, root)
    assert record.cgroups is not None
    if all:
        record.cgroups.signal_all(number)
        return
    if record.status() in ("stopped", "creating"):
        raise WrongStatus(f"container not running: {container_id!r}")
    pidfd = syscalls.pidfd_open(record.pid)
    try:
        if process_start_time(record.pid) == record.start_time:  # so the pidfd means the right process
            syscalls.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def wait(container_id: str, *, timeout_s: float | None = None, root: str | None = None) -> int:
    """Wait for the end of the container's process; return its exit code, or minus the number of a signal.

    Only the process that has created the container can learn it; it is remembered until `delete`.

    Raises:
        TimeoutError: it still runs after `timeout_s`.
        ChildProcessError: it is no child of ours.
    """
    record = Record.load(container_id, root)
    code = record.exit_code()
    if code is not None:
        return code
    pidfd = syscalls.pidfd_open(record.pid)
    try:
        if not has_ended(pidfd, timeout_s):
            raise TimeoutError(f"container {container_id!r} still runs after {timeout_s:g} s")
        code = exit_code(pidfd)
    finally:
        os.close(pidfd)
    record.remember_exit_code(code)
    return code


def run(
    container_id: str,
    bundle: str,
    *,
    stdio: Sequence[int] = (0, 1, 2),
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> int:
    """Create a container, start it, wait for its end, delete it, and return its exit code."""
    create(container_id, bundle, stdio=stdio, root=root, warn=warn)
    try:
        start(container_id, root=root, warn=warn)
        return wait(container_id, root=root)
    finally:
        delete(container_id, force=True, root=root, warn=warn)


def delete(
    container_id: str,
    *,
    force: bool = False,
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> None:
    """Take away what `create` made of a container that is stopped; with `force`, stop it first.

    Raises:
        NoSuchContainer: it does not exist, without `force`.
        WrongStatus: it is not stopped, without `force`.
    """
    try:
        record = Record.load(container_id, root)
    except NoSuchContainer:
        if not force:
            raise
        _remove_half_made(Record(container_id, root))
        return
    status = record.status()
    if status != "stopped" and not force:
        raise WrongStatus(f"cannot delete container {container_id!r} that is not stopped: {status}")
    config = record.config()
    assert record.cgroups is not None
    if process_start_time(record.pid) == record.start_time:
        _kill(record)
    record.cgroups.signal_all(signals.SIGKILL)
    reap(record.pid)
    record.cgroups.remove()
    record.remove()
    _run_poststop(record, config.get("hooks") or {}, warn)


def _kill(record: Record) -> None:
    try:
        pidfd = syscalls.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        assert record.cgroups is not None
        syscalls.pidfd_send_signal(pidfd, signals.SIGKILL)
        if record.cgroups.is_frozen:  # a frozen process does not die
            record.cgroups.thaw()
        has_ended(pidfd, _KILL_TIMEOUT_S)
    finally:
        os.close(pidfd)


def _remove_half_made(record: Record) -> None:
    """Remove the directory of a container whose runtime was killed before it had a process."""
    if os.path.isdir(record.directory):
        record.remove()


def _run_poststop(record: Record, all_hooks: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Run each poststop hook; what fails is only warned of, and the others still run."""
    for hook in all_hooks.get("poststop") or []:
        try:
            hooks.run([hook], record.state("stopped"))
        except Exception as error:
            warn(f"poststop: {error}")


def pause(container_id: str, *, root: str | None = None) -> None:
    """Stop all processes of the container, until `resume`."""
    record = Record.load(container_id, root)
    status = record.status()
    if status not in ("created", "running"):
        raise WrongStatus(f"cannot pause a container in the {status} state: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.freeze()


def resume(container_id: str, *, root: str | None = None) -> None:
    """Let the processes of a paused container go on."""
    record = Record.load(container_id, root)
    status = record.status()
    if status != "paused":
        raise WrongStatus(f"cannot resume a container in the {status} state: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.thaw()


def update(container_id: str, resources: dict[str, Any], *, root: str | None = None) -> None:
    """Change the limits in `resources`, as in ``linux.resources``; the others stay."""
    record = Record.load(container_id, root)
    if record.status() == "stopped":
        raise WrongStatus(f"container not running: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.apply(resources)


def ps(container_id: str, *, root: str | None = None) -> list[int]:
    """Return the pids of the container's processes, as this process's pid namespace numbers them."""
    record = Record.load(container_id, root)
    assert record.cgroups is not None
    return record.cgroups.pids()


def stats(container_id: str, *, root: str | None = None) -> dict[str, Any]:
    """Return what the container uses, as ``runc events --stats`` tells it."""
    record = Record.load(container_id, root)
    if record.status() == "stopped":
        raise WrongStatus(f"container not running: {container_id!r}")
    assert record.cgroups is not None
    return record.cgroups.stats()


def containers(*, root: str | None = None) -> list[dict[str, Any]]:
    """Return the states of all containers below `root`, by id."""
    states = []
    try:
        names = sorted(os.listdir(root or default_root()))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            states.append(state(name, root=root))
        except NoSuchContainer:  # it is just being made, or just gone
            continue
    return states


def set_oom_score(pid: int, score: int) -> None:
    """Set how readily the kernel kills process `pid` when memory is short: -1000 to 1000."""
    path = f"/proc/{pid}/oom_score_adj"
    try:
        with open(path, "r+") as file:
            if int(file.read()) != score:
                file.write(str(score))
    except OSError as error:
        raise OSError(error.errno, f"process.oomScoreAdj: write({path}, {score}): {error.strerror}") from None


def write_pid_file(path: str, pid: int) -> None:
    """Write `pid` to the file at `path`, so that who watches it never sees half a number."""
    with open(f"{path}.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{path}.new", path)


def kill_and_reap(pid: int, pidfd: int) -> None:
    """Kill a child and wait for it."""
    Process(pid, os.dup(pidfd)).close()


def reap(pid: int) -> None:
    """Take the exit code of `pid` if it is a child of ours that has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read())
