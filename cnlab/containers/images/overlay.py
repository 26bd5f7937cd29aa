"""What overlayfs writes into an upper directory to say that something below it is gone.

A *whiteout* is a character device 0/0 in the place of a file. A directory is *opaque*, so that nothing of the
same name below shows through, if it has an extended attribute: ``trusted.overlay.opaque``, which only real
root may write, or ``user.overlay.opaque`` on a mount with the option ``userxattr``.

See: the kernel's overlayfs guide, "whiteouts and opaque directories".
"""

import errno
import os
import stat

OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque")
XATTR_PREFIXES = ("trusted.overlay.", "user.overlay.")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file with that status hides a lower one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str) -> bool:
    """Whether a directory hides all that lower ones of its name hold."""
    return any(name in OPAQUE_XATTRS for name in xattr_names(directory))


def xattr_names(path: str) -> list[str]:
    """Return the names of the extended attributes of a file; a file system without them has none."""
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []
