"""The namespaces of a container: which are made, which are entered, and how a process comes to be in them.

See: runtime-spec, config-linux.md, "Namespaces"; namespaces(7).
"""

from __future__ import annotations

import _socket  # `socket` itself takes longer to import than all of this
import fcntl
import os

from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = {  # the specification's names; /proc/PID/ns calls two of them mnt and net
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "ipc": syscalls.CLONE_NEWIPC,
    "mount": syscalls.CLONE_NEWNS,
    "network": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "time": syscalls.CLONE_NEWTIME,
    "user": syscalls.CLONE_NEWUSER,
    "uts": syscalls.CLONE_NEWUTS,
}
_FILES = {kind: {"mount": "mnt", "network": "net"}.get(kind, kind) for kind in FLAGS}
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class Namespaces:
    """The plan for one container.

    Attributes:
        new: ``CLONE_NEW…`` flags of those to make.
        joined: descriptors of those to enter, each with its flag; a user namespace last, since who has
            entered it has no more rights over the others.
        time_offsets: of a new time namespace, as ``/proc/PID/timens_offsets`` wants them.
    """

    __slots__ = ("joined", "new", "time_offsets")

    def __init__(self, linux: dict[str, Any]) -> None:
        wanted = {item["type"]: item.get("path") for item in linux.get("namespaces") or ()}
        self.new = sum(FLAGS[kind] for kind, path in wanted.items() if not path)
        paths = [(path, FLAGS[kind]) for kind, path in wanted.items() if path]
        self.joined: list[tuple[int, int]] = []
        try:
            for path, flag in sorted(paths, key=lambda pair: pair[1] == syscalls.CLONE_NEWUSER):
                self.joined.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), flag))
        except OSError:
            self.close()
            raise
        self.time_offsets = "".join(
            f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
            for clock, offset in (linux.get("timeOffsets") or {}).items()
        )

    def close(self) -> None:
        """Let go of the namespaces to enter."""
        while self.joined:
            os.close(self.joined.pop()[0])

    @property
    def has_user(self) -> bool:
        """Whether the container is in another user namespace than the runtime."""
        return bool(self.new & syscalls.CLONE_NEWUSER) or any(
            flag == syscalls.CLONE_NEWUSER for _, flag in self.joined
        )

    @property
    def at_birth(self) -> int:
        """Flags of those that clone3(2) makes.

        A cgroup namespace is rooted where its maker is: it is made later, by the child in its cgroup.
        """
        return self.new & ~syscalls.CLONE_NEWCGROUP & ~(syscalls.CLONE_NEWTIME if self.needs_a_stage else 0)

    @property
    def needs_a_stage(self) -> bool:
        """Whether a process in between must enter, or set the clocks, before the container's is born."""
        return bool(self.joined or self.time_offsets)

    def enter(self) -> None:
        """Enter those to enter; then a new time namespace waits, with its clocks set, for the next child."""
        for fd, flag in self.joined:
            syscalls.setns(fd, flag)
        if self.needs_a_stage and self.new & syscalls.CLONE_NEWTIME:
            syscalls.unshare(syscalls.CLONE_NEWTIME)
            if self.time_offsets:
                _write("/proc/self/timens_offsets", self.time_offsets)


class NamespacesOf:
    """The namespaces of a running process, for one more process to be born in."""

    at_birth = 0
    needs_a_stage = True

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pidfd = pidfd
        self._flags = 0
        for kind, flag in FLAGS.items():
            try:
                theirs = os.readlink(f"/proc/{pid}/ns/{_FILES[kind]}")
            except FileNotFoundError:  # this kernel has no such kind
                continue
            if theirs != os.readlink(f"/proc/self/ns/{_FILES[kind]}"):
                self._flags |= flag

    @property
    def has_user(self) -> bool:
        """Whether its user namespace is not ours."""
        return bool(self._flags & syscalls.CLONE_NEWUSER)

    @property
    def has_mount(self) -> bool:
        """Whether its mount namespace is not ours."""
        return bool(self._flags & syscalls.CLONE_NEWNS)

    def enter(self) -> None:
        """Enter all of them at once."""
        if self._flags:
            syscalls.setns(self._pidfd, self._flags)


def bring_up_loopback() -> None:
    """Set ``lo`` of a new network namespace up, with its addresses; see netdevice(7)."""
    request = b"lo".ljust(16, b"\0") + _IFF_UP.to_bytes(2, "little") + bytes(14)
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
    try:
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, request)
    finally:
        control.close()


def write_id_maps(pid: int, linux: dict[str, Any]) -> None:
    """Write the maps of the new user namespace of `pid`, in the words of the specification.

    Who is not root may map one id, its own, and must give up setgroups(2) there; see user_namespaces(7). For
    more there are the set-user-ID programs newuidmap(1) and newgidmap(1).
    """
    is_root = os.geteuid() == 0
    gids, uids = linux.get("gidMappings") or (), linux.get("uidMappings") or ()
    if not is_root and [mapping["size"] for mapping in gids] == [1]:
        _write(f"/proc/{pid}/setgroups", "deny")
    for file, program, mappings in (("gid_map", "newgidmap", gids), ("uid_map", "newuidmap", uids)):
        lines = [(m["containerID"], m["hostID"], m["size"]) for m in mappings]
        if is_root or [size for _, _, size in lines] == [1]:
            _write(
                f"/proc/{pid}/{file}",
                "".join(f"{inside} {outside} {size}\n" for inside, outside, size in lines),
            )
        elif lines:
            _run(program, str(pid), *(str(number) for line in lines for number in line))


def _run(program: str, *arguments: str) -> None:
    child = os.posix_spawnp(program, [program, *arguments], os.environ)
    _, status = os.waitpid(child, 0)
    if status:
        raise PermissionError(
            1, f"{program}({' '.join(arguments)}): exit code {os.waitstatus_to_exitcode(status)}"
        )


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())  # in one write: the kernel takes no second one
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"write({path}, {text!r}): {error.strerror}") from None
