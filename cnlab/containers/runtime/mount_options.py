"""What the options of a mount mean: words of mount(8) to flags of mount(2) and mount_setattr(2).

See: runtime-spec, config.md, "Linux mount options".
"""

from __future__ import annotations

from cnlab.linux import syscalls
from cnlab.linux.syscalls import MS_REC

SET = {
    "bind": syscalls.MS_BIND,
    "dirsync": syscalls.MS_DIRSYNC,
    "iversion": syscalls.MS_I_VERSION,
    "lazytime": syscalls.MS_LAZYTIME,
    "mand": syscalls.MS_MANDLOCK,
    "noatime": syscalls.MS_NOATIME,
    "nodev": syscalls.MS_NODEV,
    "nodiratime": syscalls.MS_NODIRATIME,
    "noexec": syscalls.MS_NOEXEC,
    "nosuid": syscalls.MS_NOSUID,
    "nosymfollow": syscalls.MS_NOSYMFOLLOW,
    "rbind": syscalls.MS_BIND | MS_REC,
    "relatime": syscalls.MS_RELATIME,
    "remount": syscalls.MS_REMOUNT,
    "ro": syscalls.MS_RDONLY,
    "silent": syscalls.MS_SILENT,
    "strictatime": syscalls.MS_STRICTATIME,
    "sync": syscalls.MS_SYNCHRONOUS,
}
CLEAR = {
    "async": syscalls.MS_SYNCHRONOUS,
    "atime": syscalls.MS_NOATIME,
    "defaults": 0,
    "dev": syscalls.MS_NODEV,
    "diratime": syscalls.MS_NODIRATIME,
    "exec": syscalls.MS_NOEXEC,
    "loud": syscalls.MS_SILENT,
    "noiversion": syscalls.MS_I_VERSION,
    "nolazytime": syscalls.MS_LAZYTIME,
    "nomand": syscalls.MS_MANDLOCK,
    "norelatime": syscalls.MS_RELATIME,
    "nostrictatime": syscalls.MS_STRICTATIME,
    "rw": syscalls.MS_RDONLY,
    "suid": syscalls.MS_NOSUID,
    "symfollow": syscalls.MS_NOSYMFOLLOW,
}
PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | MS_REC,
    "rshared": syscalls.MS_SHARED | MS_REC,
    "rslave": syscalls.MS_SLAVE | MS_REC,
    "runbindable": syscalls.MS_UNBINDABLE | MS_REC,
    "shared": syscalls.MS_SHARED,
    "slave": syscalls.MS_SLAVE,
    "unbindable": syscalls.MS_UNBINDABLE,
}
_ATIME = 0x70  # MOUNT_ATTR__ATIME: a field of three values, of which relatime is 0
RECURSIVE = {  # name: (MOUNT_ATTR_... to set, to clear), for the mount and all below it
    "ratime": (0, _ATIME),
    "rdev": (0, 0x4),
    "rdiratime": (0, 0x80),
    "rexec": (0, 0x8),
    "rnoatime": (0x10, _ATIME),
    "rnodev": (0x4, 0),
    "rnodiratime": (0x80, 0),
    "rnoexec": (0x8, 0),
    "rnorelatime": (0x20, _ATIME),
    "rnostrictatime": (0, _ATIME),
    "rnosuid": (0x2, 0),
    "rnosymfollow": (0x200000, 0),
    "rrelatime": (0, _ATIME),
    "rro": (0x1, 0),
    "rrw": (0, 0x1),
    "rstrictatime": (0x20, _ATIME),
    "rsuid": (0, 0x2),
    "rsymfollow": (0, 0x200000),
}
COPY_UP = "tmpcopyup"
NAMES = (*SET, *CLEAR, *PROPAGATION, *RECURSIVE, COPY_UP)


class MountOptions:
    """The options of one mount, sorted by what the kernel wants to know when.

    Attributes:
        flags: for mount(2).
        propagation: one flag word for each further mount(2) that sets the kind of propagation.
        recursive: pairs to set and to clear by mount_setattr(2).
        data: what only the file system itself understands.
        copies_up: whether a tmpfs begins with what it hides.
    """

    __slots__ = ("copies_up", "data", "flags", "propagation", "recursive")

    def __init__(self, options: list[str]) -> None:
        self.flags = 0
        self.propagation: list[int] = []
        self.recursive: list[tuple[int, int]] = []
        self.copies_up = False
        data = []
        for option in options:
            if option in SET:
                self.flags |= SET[option]
            elif option in CLEAR:
                self.flags &= ~CLEAR[option]
            elif option in PROPAGATION:
                self.propagation.append(PROPAGATION[option])
            elif option in RECURSIVE:
                self.recursive.append(RECURSIVE[option])
            elif option == COPY_UP:
                self.copies_up = True
            else:
                data.append(option)
        self.data = ",".join(data)
