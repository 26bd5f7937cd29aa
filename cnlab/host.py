"""What this machine allows, found out by trying.

`require("userns", "cgroup2")` at the top of a notebook says no early and exactly. A probe tries the thing
itself, in a child process where it could leave a trace, because version numbers and configuration files do
not tell what a container, a security module or an administrator forbids.
"""

import contextlib
import ctypes
import os
import platform
import shutil
import socket
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnlab.errors import InvalidValue, MissingFeature

CGROUP2_CONTROLLERS = ("cpu", "memory", "pids")
_CAP_SYS_ADMIN = 21
_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1
_PTRACE_TRACEME = 0
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_CLONE_NEWUSER, _CLONE_NEWNS = 0x1000_0000, 0x2_0000
_CLONE = {
    "cgroupns": 0x0200_0000,
    "ipcns": 0x0800_0000,
    "mntns": _CLONE_NEWNS,
    "netns": 0x4000_0000,
    "pidns": 0x2000_0000,
    "timens": 0x80,
    "utsns": 0x0400_0000,
}
_IN_PRIVATE_KERNEL = "choose the kernel 'Cloud Native Lab', which brings a Linux of its own"


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a notebook may need: whether it is here, how we know, and how to get it."""

    name: str
    is_available: bool
    detail: str
    hint: str = ""


class _Missing(Exception):  # noqa: N818
    """Raised by a probe: why not."""


def probe(name: str) -> Feature:
    """Find out about one of `FEATURES`."""
    if name not in FEATURES:
        raise InvalidValue(f"unknown feature {name!r}; the names are {', '.join(FEATURES)}")
    find_out, hint = FEATURES[name]
    try:
        return Feature(name, True, find_out())
    except (_Missing, OSError) as error:
        note = os.environ.get("CNLAB_MACHINE_NOTE", "")
        return Feature(name, False, str(error), "; ".join(filter(None, (hint, note))))


def features() -> tuple[Feature, ...]:
    """Find out about all of `FEATURES`."""
    return tuple(probe(name) for name in FEATURES)


def require(*names: str) -> None:
    """Go on only where this machine has all the features named.

    Raises:
        MissingFeature: the first that is not here; the others that are not are in its notes.
    """
    missing = [feature for feature in map(probe, names) if not feature.is_available]
    if missing:
        first, *others = missing
        error = MissingFeature(first.name, first.detail, hint=first.hint)
        for other in others:
            error.add_note(f"Missing too: {other.name}: {other.detail}")
        raise error


def find_program(name: str) -> Path | None:
    """Return the path of a program: from PATH, from the ``sbin`` that a user's PATH lacks, or from ours.

    Without root, the set-up unpacks system packages into ``apt`` below ``sys.prefix``; what pip brings lies
    in ``bin`` there, which is on the PATH of those only who have activated the environment.
    """
    found = shutil.which(name, path=search_path())
    return Path(found) if found else None


def search_path() -> str:
    """Return the PATH with which a program finds those that `find_program` finds."""
    own = Path(sys.prefix) / "apt"
    directories = [
        *os.get_exec_path(),
        *("/usr/local/sbin", "/usr/sbin", "/sbin"),
        *(str(own / part) for part in ("usr/local/bin", "usr/bin", "usr/sbin", "bin", "sbin")),
        str(Path(sys.prefix) / "bin"),
    ]
    return os.pathsep.join(dict.fromkeys(directories))


def is_private_kernel(cpuinfo: str | None = None) -> bool:
    """Say whether this is User-Mode Linux itself, which names its processor so in /proc/cpuinfo."""
    return "User Mode Linux" in (Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo)


def is_ours_to_change() -> bool:
    """Say whether this machine is made to be thrown away: a private kernel, or one that root has given up."""
    by_choice = os.environ.get("CNLAB_MACHINE") == "host"
    return is_private_kernel() or (by_choice and probe("root").is_available)


def uml_modules_dir() -> Path | None:
    """Return the directory that holds User-Mode Linux' modules, one directory a kernel release."""
    candidates = (root / "usr/lib/uml/modules" for root in (Path("/"), Path(sys.prefix) / "apt"))
    return next((path for path in candidates if path.is_dir()), None)


def cgroup2_root() -> Path | None:
    """Return where the cgroup v2 tree is mounted: on hybrid hosts not ``/sys/fs/cgroup``, a tmpfs there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[fields.index("-", 6) + 1] == "cgroup2":
            return Path(fields[4])
    return None


def _in_child(attempt: Callable[[], object]) -> None:
    """Call `attempt` in a forked child and raise its `OSError` here."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forking with threads; this child only calls libc and ends
        warnings.simplefilter("ignore", DeprecationWarning)
        reading, writing = os.pipe()
        pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except OSError as error:
            os.write(writing, f"{error.errno} {error.strerror}".encode())
        except BaseException as error:
            os.write(writing, f"0 {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as report:
        errno, _, reason = report.read().partition(" ")
    _, status = os.waitpid(pid, 0)
    if errno:
        raise OSError(int(errno), reason)
    if status:
        raise _Missing(f"the child that tried it was ended by signal {os.WTERMSIG(status)}")


def _call(name: str, described: str, *arguments: object) -> int:
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{described}: {os.strerror(ctypes.get_errno())}")
    return result


def _is_root() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    return os.geteuid() == 0 and bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def _root() -> str:
    if not _is_root():
        raise _Missing(f"user id {os.geteuid()}, without CAP_SYS_ADMIN")
    return "user id 0 with CAP_SYS_ADMIN"


def _userns() -> str:
    def attempt() -> None:
        _call("unshare", "unshare(CLONE_NEWUSER)", _CLONE_NEWUSER)
        # some security modules let the namespace be made and then take every capability in it
        _call("unshare", "unshare(CLONE_NEWUTS) in a new user namespace", _CLONE["utsns"])

    _in_child(attempt)
    return "unshare(CLONE_NEWUSER) works"


def _namespace(feature: str) -> Callable[[], str]:
    kind = feature.removesuffix("ns")

    def find_out() -> str:
        if not os.path.lexists(f"/proc/self/ns/{kind}"):
            raise _Missing(f"/proc/self/ns has no {kind!r}: this kernel is built without it")
        flags = _CLONE[feature] | (0 if _is_root() else _CLONE_NEWUSER)
        _in_child(lambda: _call("unshare", f"unshare({kind})", flags))
        return f"a new {kind} namespace could be made"

    return find_out


def _cgroup2() -> str:
    root = cgroup2_root()
    if root is None:
        raise _Missing("no cgroup2 file system is mounted")
    offered = (root / "cgroup.controllers").read_text().split()
    lacking = [name for name in CGROUP2_CONTROLLERS if name not in offered]
    if lacking:
        raise _Missing(f"{root} offers {' '.join(offered) or 'no controller'}, not {' '.join(lacking)}")
    if not os.access(root, os.W_OK) or not os.access(root / "cgroup.subtree_control", os.W_OK):
        raise _Missing(f"{root} may not be written by user id {os.geteuid()}")
    return f"{root} offers {' '.join(offered)}"


def _overlay() -> str:
    def attempt() -> None:
        _call("unshare", "unshare(CLONE_NEWNS)", _CLONE_NEWNS | (0 if _is_root() else _CLONE_NEWUSER))
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", "/tmp", "tmpfs")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"/tmp/{name}")
        data = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
        _mount("overlay", "/tmp/merged", "overlay", 0, data)

    _in_child(attempt)
    return "an overlay could be mounted"


def _mount(source: str, target: str, fs_type: str | None, flags: int = 0, data: str = "") -> None:
    encoded = fs_type.encode() if fs_type else None
    call = f"mount({fs_type or 'private'} {target})"
    _call("mount", call, source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), data.encode())


def _landlock() -> str:
    version = _call(
        "syscall",
        "landlock_create_ruleset()",
        _SYS_LANDLOCK_CREATE_RULESET,
        None,
        ctypes.c_size_t(0),
        _LANDLOCK_CREATE_RULESET_VERSION,
    )
    return f"Landlock ABI {version}"


def _ptrace() -> str:
    _in_child(lambda: _call("ptrace", "ptrace(PTRACE_TRACEME)", _PTRACE_TRACEME, 0, None, None))
    return "ptrace(PTRACE_TRACEME) works"


def _uml() -> str:
    if platform.machine() != "x86_64":
        raise _Missing(f"User-Mode Linux runs on x86-64, this is {platform.machine()}")
    program = find_program("linux.uml")
    if program is None:
        raise _Missing("no program linux.uml")
    _ptrace()
    return str(program)


def _docker() -> str:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        return f"DOCKER_HOST is {address}"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as daemon:
        daemon.settimeout(2)
        try:
            daemon.connect(address.removeprefix("unix://"))
        except OSError as error:
            if is_ours_to_change() and find_program("dockerd"):
                return f"{find_program('dockerd')} can be started here"
            raise _Missing(f"no daemon answers at {address}: {error.strerror or error}") from None
    return f"a daemon answers at {address}"


FEATURES: dict[str, tuple[Callable[[], str], str]] = {
    "root": (_root, _IN_PRIVATE_KERNEL),
    "userns": (_userns, f"see sysctl user.max_user_namespaces; or {_IN_PRIVATE_KERNEL}"),
    **{name: (_namespace(name), _IN_PRIVATE_KERNEL) for name in _CLONE},
    "timens": (_namespace("timens"), "needs Linux 5.6 or later, built with time namespaces"),
    "cgroup2": (_cgroup2, _IN_PRIVATE_KERNEL),
    "overlay": (_overlay, _IN_PRIVATE_KERNEL),
    "landlock": (_landlock, "needs Linux 5.13 or later, with landlock in its lsm= list"),
    "ptrace": (_ptrace, "a container's seccomp profile or sysctl kernel.yama.ptrace_scope forbids it"),
    "uml": (_uml, "install the Debian package user-mode-linux"),
    "docker": (_docker, f"{_IN_PRIVATE_KERNEL} and starts Docker Engine there"),
}
