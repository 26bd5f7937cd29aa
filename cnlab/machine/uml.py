"""User-Mode Linux: a Linux kernel that is an ordinary process of an ordinary user.

Interface: `find` says whether this host has it, `command_line` builds its arguments, `explain` turns its last
words into a sentence for the person who wanted a notebook.

See: the kernel's "UML HowTo", Documentation/virt/uml/user_mode_linux_howto_v2.rst.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cnlab import host
from cnlab.errors import MachineError

INSTALL_HINT = "install the Debian package user-mode-linux, or run `make lab`, which unpacks it without root"

# Start-up code of drivers that the guest does not use. The first four measure processors or search for memory
# and cost up to a second. The others start helper processes that would outlive a killed kernel, or leave
# files on the host.
_UNUSED_INITCALLS = (
    "raid6_select_algo",
    "calibrate_xor_blocks",
    "init_zswap",
    "strp_dev_init",
    "ubd_driver_init",
    "ubd_init",
    "rng_init",
    "make_umid_init",
    "mconsole_init",
)


@dataclass(frozen=True, slots=True)
class UserModeLinux:
    """A User-Mode Linux found on this host: the kernel's program and the directory of its modules."""

    kernel: Path
    modules: Path


def find() -> UserModeLinux:
    """Find User-Mode Linux on this host.

    Raises:
        MachineError: another processor than x86-64, or not installed.
    """
    if platform.machine() != "x86_64":
        raise MachineError(
            f"User-Mode Linux runs on x86-64 processors only, this one is {platform.machine()}"
        )
    kernel = host.find_program("linux.uml")
    if kernel is None:
        raise _with_hint(MachineError("linux.uml (User-Mode Linux) is not installed"), INSTALL_HINT)
    directory = kernel.resolve().parents[1] / "lib/uml/modules"
    releases = sorted(directory.iterdir()) if directory.is_dir() else []
    if not releases:
        raise _with_hint(
            MachineError(f"no kernel modules in {directory}, which belong to {kernel}"), INSTALL_HINT
        )
    return UserModeLinux(kernel, releases[-1])


def find_memory_directory(needed_bytes: int, candidates: Iterable[str] | None = None) -> Path:
    """Choose where the guest's memory lives: a directory whose file system may hold code and has room.

    Raises:
        MachineError: none of the candidates will do; the message says why for each.
    """
    refused = []
    for name in candidates or ("/dev/shm", os.environ.get("TMPDIR", "/tmp"), "/var/tmp"):
        try:
            room = os.statvfs(name)
        except OSError as refusal:
            refused.append(f"{name}: {refusal.strerror}")
            continue
        free_bytes = room.f_bavail * room.f_frsize
        if room.f_flag & os.ST_NOEXEC:
            refused.append(f"{name} is mounted noexec")
        elif not os.access(name, os.W_OK | os.X_OK):
            refused.append(f"{name} is not writable")
        elif free_bytes < needed_bytes:
            refused.append(f"{name} has {free_bytes >> 20} MiB free of the {needed_bytes >> 20} MiB needed")
        else:
            return Path(name)
    error = MachineError(f"no room for the memory of the private kernel: {'; '.join(refused)}")
    raise _with_hint(error, "free some space, or point TMPDIR to a directory with room")


def command_line(
    uml: UserModeLinux, *, memory_mib: int, packet_fd: int, mtu: int, init: Path, environment: dict[str, str]
) -> list[str]:
    """Build the arguments of linux.uml: the host's ``/`` as a read-only root, one network device, no disk.

    Args:
        uml: what `find` found.
        memory_mib: what the guest believes to have.
        packet_fd: an inherited datagram socket, one Ethernet frame a datagram.
        mtu: of that device, bytes.
        init: what the kernel starts as process 1.
        environment: for process 1; values must not hold double quotes.
    """
    return [
        str(uml.kernel),
        f"mem={memory_mib}M",
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            "loglevel=3",
            "noreboot",
            "panic=-1",
            "random.trust_cpu=on",
        ),
        f"vec0:transport=fd,fd={packet_fd},vec=1,mtu={mtu}",
        "initcall_blacklist=" + ",".join(_UNUSED_INITCALLS),
        "pty.legacy_count=0",
        f'init="{init}"',
        *(f'{name}="{value}"' for name, value in environment.items()),
    ]


_REASONS = (
    (
        "ptrace",
        "this host does not let a process trace its children (ptrace), which User-Mode Linux is built on",
    ),
    ("No space left", "the host ran out of space for the memory of the private kernel"),
    ("Cannot allocate memory", "the host refused the memory for the private kernel"),
    ("Failed to mmap", "the host refused the memory for the private kernel"),
    ("No working init found", "the private kernel could not run its first program"),
)


def explain(console: str, status: int) -> str:
    """Say why User-Mode Linux ended before the guest answered, from what it printed and its exit status."""
    complaints = [line for line in console.splitlines() if not line.rstrip().endswith("OK")]
    for words, reason in _REASONS:
        if any(words in line for line in complaints):  # its checks name what they check also when all is well
            return reason
    before_panic = console.partition("Kernel panic")[0]
    lines = [line.strip() for line in before_panic.splitlines() if line.strip()]
    last = f"; its last words: {lines[-1]}" if lines else ""
    return f"User-Mode Linux ended with status {status} before the guest answered{last}"


def _with_hint(error: MachineError, hint: str) -> MachineError:
    error.add_note(f"Hint: {hint}")
    return error
