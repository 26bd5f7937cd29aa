"""Process 1 inside the private kernel: builds the root, starts the notebook's Python, relays its sockets.

Interface, by JSON messages over the relay: the host sends ``view`` (what to build the root from), ``kernel``
(what to start: argv, env, cwd and the connection file's content) and ``signal``; the guest sends ``hello``,
``ready``, ``failed`` and ``exit``.

The notebook's Python is forked, not executed anew: what process 1 has imported while it waited is there
already. It sits in the cgroup ``/notebook``, which leaves memory and processes for process 1, so that a
machine that has run out of either can still be interrupted and restarted.
"""

import contextlib
import fcntl
import gc
import importlib
import importlib.util
import json
import os
import resource
import runpy
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    # Run by its path, it has its own directory on sys.path, where it does not belong; and the directory above
    # the package cannot be listed from inside, so that the package must be told where it lies.
    del sys.path[0]
    _package = Path(__file__).resolve().parents[1]
    _spec = importlib.util.spec_from_file_location("cnlab", _package / "__init__.py")
    assert _spec is not None
    sys.modules["cnlab"] = importlib.util.module_from_spec(_spec)

from cnlab.linux import syscalls
from cnlab.machine import relay, rootfs

PORTS = ("shell", "iopub", "stdin", "control", "hb")
JOBS = "jobs"  # the port of a worker, which is not a kernel
PRELOAD = (
    "ipykernel.kernelapp",
    "ipykernel.debugger",
    "IPython.core.debugger",
    "ipywidgets",
    "pydoc",
    "sqlite3",
)
CONNECTION_FILE = Path("/run/cnlab/kernel.json")
CGROUPS = Path("/sys/fs/cgroup")
RESERVED_BYTES = 40 << 20  # for process 1 and the kernel's own needs
MAX_PROCESSES = 200

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_SO_RCVBUFFORCE = 33


class Guest:
    """What process 1 knows: the relay, and the notebook's process once it runs."""

    def __init__(self) -> None:
        self.kernel_pid = 0
        self.relay = relay.Relay(_open_packets(), on_message=self.on_message, connect=_connect)

    def run(self) -> NoReturn:
        """Relay and reap until the host switches this machine off."""
        wake_up, wake_up_writer = os.pipe()
        for end in (wake_up, wake_up_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_up_writer)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own handler would end process 1
        self.relay.watch(wake_up, lambda: self._reap(wake_up))
        self.relay.send_message({"type": "hello"})
        while self.relay.is_open:
            self.relay.run_once()
        _power_off()

    def on_message(self, message: dict[str, Any]) -> None:
        """Do what the host asks for."""
        kind = message.pop("type")
        try:
            if kind == "view":
                rootfs.assemble(rootfs.HostView.from_json(message["view"]), _modules())
                _finish_system()
                importlib.invalidate_caches()
                self.relay.send_message({"type": "ready", "release": os.uname().release})
            elif kind == "preload":
                _preload()
            elif kind == "kernel":
                self.kernel_pid = _start_kernel(**message)
            elif kind == "signal" and self.kernel_pid:
                os.killpg(self.kernel_pid, message["number"])
        except ProcessLookupError:  # the signal came too late
            pass
        except Exception as error:
            self.relay.send_message({"type": "failed", "reason": f"{type(error).__name__}: {error}"})
            traceback.print_exc()

    def _reap(self, wake_up: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake_up, 512)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.kernel_pid:
                    self._report_exit(os.waitstatus_to_exitcode(status))

    def _report_exit(self, code: int) -> None:
        """Tell the host that the notebook's process has ended, once what it wrote is on the host's disk."""
        self.kernel_pid = 0
        killed_for_memory = code == -signal.SIGKILL and _oom_kills() > 0
        os.sync()
        self.relay.send_message({"type": "exit", "code": code, "out_of_memory": killed_for_memory})
        self.relay.flush()


def _open_packets() -> socket.socket:
    """Open the relay's packet socket, then leave its device for a network namespace of our own."""
    name = "vec0"
    with socket.socket() as any_socket:
        _set_up(any_socket, name)
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(relay.ETHERTYPE))
    packets.bind((name, relay.ETHERTYPE))
    packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 * relay.WINDOW)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket() as any_socket:
        _set_up(any_socket, "lo")
    return packets


def _set_up(any_socket: socket.socket, name: str) -> None:
    """Set the network interface `name` up; see netdevice(7), SIOCSIFFLAGS."""
    request = struct.pack("16sh22x", name.encode(), 0)
    flags = struct.unpack_from("16xh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[0]
    fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | _IFF_UP))


def _connect(name: str) -> socket.socket | None:
    """Connect to the notebook's Python at the port `name`, if it listens already.

    It listens on UNIX sockets: whatever becomes of this machine's network, the notebook stays reachable.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(port_path(name))
    except OSError:
        connection.close()
        return None
    return connection


def port_path(name: str) -> str:
    """Return the path of the socket on which the notebook's Python, or a worker, listens in the guest."""
    return f"{CONNECTION_FILE.with_suffix('')}-{(*PORTS, JOBS).index(name) + 1}"


def _modules() -> Path:
    return Path(os.environ["CNLAB_MODULES"])


def _load_module(name: str) -> None:
    """Load the kernel module `name` and what it depends on; for the time before /lib/modules is in place."""
    for line in _modules().joinpath("modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        if Path(path).stem == name:
            for module in (*reversed(needs.split()), path):
                with open(_modules() / module, "rb") as file:
                    syscalls.finit_module(file.fileno())
            return
    raise FileNotFoundError(f"no kernel module {name!r} in {_modules()}")


def _preload() -> None:
    """Import what a kernel imports when it starts, which takes most of that time."""
    os.environ["JPY_PARENT_PID"] = "1"  # ipykernel's word for a parent that does not die
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # no warning about a debugger that nobody started
    for name in PRELOAD:
        importlib.import_module(name)
    gc.freeze()  # so that a collection in the fork does not write to, and copy, what was imported here


def _finish_system() -> None:
    """Mount and set what a Linux system has, once the root is in place."""
    syscalls.mount("sysfs", "/sys", "sysfs")
    syscalls.mount("cgroup2", CGROUPS, "cgroup2")
    for place, kind, options in (
        ("/dev/pts", "devpts", "mode=620,ptmxmode=666"),
        ("/dev/shm", "tmpfs", "mode=1777"),
        ("/dev/mqueue", "mqueue", ""),
        ("/run", "tmpfs", "mode=755"),
    ):
        os.makedirs(place, exist_ok=True)
        syscalls.mount(kind, place, kind, data=options)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        with contextlib.suppress(FileExistsError):
            os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    with contextlib.suppress(FileExistsError):
        os.symlink("/proc/self/fd", "/dev/fd")
    syscalls.sethostname("cnlab")
    CONNECTION_FILE.parent.mkdir(mode=0o700)
    _complete_cpuinfo()
    _prefer_legacy_iptables()
    _make_cgroup(CGROUPS / "notebook")


def _complete_cpuinfo() -> None:
    """End /proc/cpuinfo with the empty line that User-Mode Linux leaves out.

    Without it procps 4.0.2 (Debian 12) takes the file for a broken one, and ``ps aux`` and ``vmstat`` fail.
    """
    original, complete = Path("/proc/cpuinfo"), CONNECTION_FILE.with_name("cpuinfo")
    complete.write_text(original.read_text().rstrip("\n") + "\n\n")
    syscalls.mount(complete, original, flags=syscalls.MS_BIND)
    # A user namespace may mount a /proc only where it already sees one that nothing covers a part of.
    uncovered = CONNECTION_FILE.with_name("proc")
    uncovered.mkdir()
    syscalls.mount("proc", uncovered, "proc")


def _prefer_legacy_iptables() -> None:
    """Let ``iptables`` mean the program that this kernel serves: it has no nftables.

    Which of the two it is, Debian's alternatives say, and nobody where the package was only unpacked.
    """
    legacy = Path("/usr/sbin/xtables-legacy-multi")
    if legacy.exists():
        for name in (
            f"ip{version}tables{tool}" for version in ("", "6") for tool in ("", "-save", "-restore")
        ):
            program = legacy.with_name(name)
            program.unlink(missing_ok=True)
            program.symlink_to(legacy.name)


def _make_cgroup(group: Path) -> None:
    """Make the cgroup of the notebook's process, and keep enough of the machine out of it for process 1."""
    controllers = (CGROUPS / "cgroup.controllers").read_text().split()
    (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    group.mkdir()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (group / "memory.max").write_text(str(total - RESERVED_BYTES))
    (group / "pids.max").write_text(str(MAX_PROCESSES))


def _oom_kills() -> int:
    events = dict(line.split() for line in (CGROUPS / "notebook/memory.events").read_text().splitlines())
    return int(events["oom_kill"])


def _start_kernel(argv: list[str], env: dict[str, str], cwd: str, connection: dict[str, Any]) -> int:
    """Fork the notebook's Python; return its pid, which is its process group too."""
    ports = {f"{name}_port": number for number, name in enumerate(PORTS, start=1)}
    connection |= {"transport": "ipc", "ip": str(CONNECTION_FILE.with_suffix("")), **ports}
    CONNECTION_FILE.write_text(json.dumps(connection))
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_kernel(
            [str(CONNECTION_FILE) if word == "{connection_file}" else word for word in argv], env, cwd
        )
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1 if end.code else 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _become_kernel(argv: list[str], env: dict[str, str], cwd: str) -> None:
    """In the fork: leave everything of process 1 behind and run the kernel's module."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (CGROUPS / "notebook/cgroup.procs").write_text("0")
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if argv[1:2] != ["-m"]:
        os.execvpe(argv[0], argv, os.environ)
    sys.argv = argv[2:]
    sys.path[0] = cwd  # as `python -m` has it
    runpy.run_module(argv[2], run_name="__main__", alter_sys=True)


def _power_off() -> NoReturn:
    os.sync()
    syscalls.reboot(syscalls.LINUX_REBOOT_CMD_POWER_OFF)
    raise SystemExit


def main() -> None:
    """Run as process 1; an error here ends the machine, and its traceback reaches the host by the console."""
    try:
        _load_module("overlay")
        Guest().run()
    except BaseException:
        traceback.print_exc()
        _power_off()


if __name__ == "__main__":
    main()
