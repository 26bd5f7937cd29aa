"""The process beside each machine: starts User-Mode Linux, confines it, relays its ports, ends with it.

    python -m cnlab.machine.launcher CONTROL_FD WORK_DIRECTORY MEMORY_MIB MEMORY_DIRECTORY [WITHOUT]

With WITHOUT the machine is caged, but for the parts that it names, joined by commas; see `cage`.

Interface, by lines of JSON over the inherited socket CONTROL_FD: the provisioner sends one ``kernel``
(argv, env, cwd, connection_file); the launcher sends ``booted``, or ``failed`` with the reason. Until
``kernel`` comes the machine is a spare. Who starts a worker instead of a notebook's kernel sends no
connection_file, but with the line a stream socket, which leads to the worker's port. Signals are meant for
the notebook: SIGINT interrupts it, SIGTERM ends it.

Nothing outlives anything here. The socket closes when the provisioner's process dies, however it dies, and
the launcher ends. When linux.uml dies, what ran in the guest would run on, untraced, as a process of the
host: so the launcher ends the whole session that linux.uml leads, and when the launcher itself dies its
guard does. No file is left: the guest's memory is a file without a name.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cnlab.errors import CnlabError, MissingFeature
from cnlab.linux import syscalls
from cnlab.machine import cage, guest, relay, rootfs, uml

_GRACE_S = 2.0  # from SIGTERM to the end of the machine
_CONSOLE_BYTES = 1 << 16  # of what the guest printed, kept to explain a failure
_READ_FILES = ("/proc/cpuinfo", "/dev/random", "/dev/urandom", "/dev/zero")  # what linux.uml itself opens
_WRITTEN_FILES = ("/dev/null", "/dev/ptmx", "/dev/pts")


class Launcher:
    """One machine: User-Mode Linux, the relay to its process 1, and the control socket to the provisioner."""

    def __init__(
        self,
        control: socket.socket,
        work: Path,
        memory_mib: int,
        memory_directory: Path,
        cage_without: Collection[str] | None = None,
    ) -> None:
        self.control = control
        self.control_is_open = True
        self.is_booted = False
        self.is_ending = False
        self.exit_code = 1
        self.deadline: float | None = None
        self._printed = bytearray()
        self._request = bytearray()
        self._jobs: list[socket.socket] = []
        self._kernel: dict[str, Any] | None = None
        self._connection_file: Path | None = None
        self._view = rootfs.host_view(work)
        self._memory_directory = memory_directory
        packets, guest_packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._console, guest_console = os.pipe()
        with guest_packets:
            self._reservation, processor = _reserve_processor()
            self.uml = _start_uml(
                self._view,
                memory_mib,
                memory_directory,
                guest_packets.fileno(),
                guest_console,
                processor,
                cage_without,
            )
        os.close(guest_console)
        self._guard = _start_guard(self.uml.pid)
        self.relay = relay.Relay(packets, on_message=self._on_message)
        self.relay.watch(self._console, self._read_console)
        self.relay.watch(control, self._on_control)
        self._signals, wake_up = socket.socketpair()
        self._watch_signals(wake_up)

    def run(self) -> int:
        """Relay until the machine ends; return the exit code of the notebook's Python."""
        try:
            while self.uml.poll() is None and not self.is_ending and self.relay.is_open:
                self.relay.run_once(self._timeout_s())
        finally:
            self.end()
        if not self.is_booted and self.control_is_open:
            with contextlib.suppress(KeyError):  # it was read to its end before
                while self._read_console():
                    pass
            self._fail(uml.explain(self._printed.decode(errors="replace"), self.uml.returncode))
        return self.exit_code

    def end(self) -> None:
        """Pull the plug: all processes of the machine are in the session that linux.uml leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.uml.pid, signal.SIGKILL)
        self.uml.wait()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._guard, signal.SIGKILL)
            os.waitpid(self._guard, 0)
        remove_memory_directory(self._memory_directory)

    def _timeout_s(self) -> float | None:
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        self.is_ending = left <= 0
        return max(left, 0)

    def _on_message(self, message: dict[str, Any]) -> None:
        """Act on what process 1 says."""
        if message["type"] == "hello":
            self.relay.send_message({"type": "view", "view": self._view.to_json()})
        elif message["type"] == "ready":
            self.is_booted = True
            self._tell({"type": "booted", "release": message["release"]})
            if self._kernel is None:
                self.relay.send_message({"type": "preload"})
            else:
                self._start_kernel()
        elif message["type"] == "exit":
            self.exit_code = message["code"] if message["code"] >= 0 else 128 - message["code"]
            self.is_ending = True
            if message["out_of_memory"]:
                _say("the notebook's Python was killed: its private kernel ran out of memory")
        elif message["type"] == "failed":
            self._fail(f"in the private kernel: {message['reason']}")

    def _on_control(self) -> None:
        """Act on what the provisioner says; its end is ours."""
        received, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 1)
        self._jobs = [*self._jobs, *(socket.socket(fileno=fd) for fd in fds)]
        self._request += received
        if not received:  # the server has died, and cannot remove its file any more
            self.control_is_open = False
            self.is_ending = True
            if self._connection_file is not None:
                self._connection_file.unlink(missing_ok=True)
        elif self._request.endswith(b"\n"):
            request = json.loads(self._request)
            connection = {}
            if file := request.pop("connection_file", None):
                self._connection_file = Path(file)
                connection = json.loads(self._connection_file.read_text())
                self._listen(connection)
            self._kernel = {"type": "kernel", "connection": connection, **request}
            if self.is_booted:
                self._start_kernel()

    def _start_kernel(self) -> None:
        assert self._kernel is not None
        self.relay.send_message(self._kernel)
        for jobs in self._jobs:  # not before the guest can take packets
            self.relay.carry(jobs, guest.JOBS)

    def _listen(self, connection: dict[str, Any]) -> None:
        for name in guest.PORTS:
            listener = socket.create_server((connection["ip"], connection[f"{name}_port"]), reuse_port=False)
            self.relay.listen(listener, name)

    def _watch_signals(self, wake_up: socket.socket) -> None:
        wake_up.setblocking(False)
        signal.set_wakeup_fd(wake_up.detach(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)
        self.relay.watch(self._signals, self._on_signal)

    def _on_signal(self) -> None:
        for number in self._signals.recv(512):
            if number == signal.SIGCHLD:
                self._check_guard()
                continue
            self.relay.send_message({"type": "signal", "number": number})
            if number != signal.SIGINT:
                self.deadline = self.deadline or time.monotonic() + (_GRACE_S if self._kernel else 0)

    def _check_guard(self) -> None:
        """Without its guard a machine could outlive its launcher, so it ends."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self._guard, os.WNOHANG) != (0, 0):
                self.is_ending = True

    def _read_console(self) -> bool:
        """Keep what the guest prints while it starts, pass on what it prints later; False at its end."""
        text = os.read(self._console, 1 << 16)
        if not text:
            self.relay.selector.unregister(self._console)
        elif self.is_booted:
            os.write(sys.stderr.fileno(), text)
        else:
            self._printed = (self._printed + text)[-_CONSOLE_BYTES:]
        return bool(text)

    def _fail(self, reason: str) -> None:
        """Say why there is no machine: to the provisioner while it waits for one, else in the log."""
        self.is_ending = True
        if self.is_booted:
            _say(reason)
        elif self.control_is_open:
            self._tell({"type": "failed", "reason": reason})
            self.control_is_open = False

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the provisioner is gone, and we are about to notice
            self.control.sendall(json.dumps(message).encode() + b"\n")


def _reserve_processor() -> tuple[socket.socket, int]:
    """Choose the processor of the host on which the machine runs, if possible one that no other machine has.

    The guest has one processor, but each of its system calls and page faults is a switch between two
    processes of the host: on the same processor that takes a third of the time. The name of a socket is the
    reservation, which the kernel takes back whenever the launcher ends.
    """
    reservation = socket.socket(socket.AF_UNIX)
    processors = sorted(os.sched_getaffinity(0))
    for processor in processors:
        with contextlib.suppress(OSError):
            reservation.bind(f"\0cnlab-processor-{processor}")
            return reservation, processor
    return reservation, processors[os.getpid() % len(processors)]


def _start_uml(
    view: rootfs.HostView,
    memory_mib: int,
    memory_directory: Path,
    packet_fd: int,
    console_fd: int,
    processor: int,
    cage_without: Collection[str] | None,
) -> "subprocess.Popen[bytes]":
    found = uml.find()
    init = Path(guest.__file__).with_name("init.sh")
    command = uml.command_line(
        found,
        memory_mib=memory_mib,
        packet_fd=packet_fd,
        mtu=relay.MTU,
        init=init,
        environment={"CNLAB_PYTHON": sys.executable, "CNLAB_MODULES": str(found.modules)},
    )
    ruleset = view.ruleset(
        also_read=[found.kernel, found.modules, *map(Path, _READ_FILES)],
        also_write=[memory_directory, *map(Path, _WRITTEN_FILES)],
    )
    launcher_pid = os.getpid()
    needed = [*map(Path, ruleset.read_only), *map(Path, ruleset.read_write)]
    if cage_without is not None:
        for directory in (Path(view.work), memory_directory):
            cage.give(directory, needed)

    def confine() -> None:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != launcher_pid:  # it died before we had asked
            os._exit(1)
        os.sched_setaffinity(0, {processor})
        # of each file that the guest has read, hostfs keeps the host's open; a shell allows 1024
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if cage_without is not None:
            cage.enter(cage_without, needed)
        with contextlib.suppress(MissingFeature):  # an older host: the guest is tidy there, not confined
            ruleset.restrict_self()

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=console_fd,
        stderr=console_fd,
        pass_fds=[packet_fd],
        env={"TMPDIR": str(memory_directory), "PATH": "/usr/bin:/bin"},
        preexec_fn=confine,
        start_new_session=True,
    )


def _start_guard(session: int) -> int:
    """Fork the guard, which kills all of `session` when this process dies; return its pid."""
    reading, _ = os.pipe()  # its other end closes when this process ends
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid
    os.setsid()  # a signal for the launcher's group is not for the guard
    os.dup2(reading, 0)
    os.closerange(1, os.sysconf("SC_OPEN_MAX"))
    os.read(0, 1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    os._exit(0)


def remove_memory_directory(directory: Path) -> None:
    """Remove the directory in which the guest's memory was made; the memory itself has no name in it."""
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()


def _say(sentence: str) -> None:
    print(f"cnlab: {sentence}", file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """Return the error and its hints as one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


def main() -> int:
    """Run one machine; see the module's docstring for the arguments."""
    control_fd, work, memory_mib, memory_directory, *without = sys.argv[1:]
    cage_without = without[0].split(",") if without else None
    control = socket.socket(fileno=int(control_fd))
    try:
        return Launcher(control, Path(work), int(memory_mib), Path(memory_directory), cage_without).run()
    except (CnlabError, OSError) as error:
        with contextlib.suppress(OSError):
            control.sendall(json.dumps({"type": "failed", "reason": describe(error)}).encode() + b"\n")
        remove_memory_directory(Path(memory_directory))
        return 1


if __name__ == "__main__":
    sys.exit(main())
