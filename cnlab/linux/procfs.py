"""Files of ``/proc/PID``: read while the process may end at any moment."""

import errno
import os


def read(pid: int | str, file: str, *, errors: str = "replace") -> str:
    """Return the text of ``/proc/PID/FILE``; `errors` says what becomes of bytes that are no UTF-8.

    Raises:
        ProcessLookupError: there is no such process (any more).
    """
    path = f"/proc/{pid}/{file}"
    try:
        return _read(path).decode(errors=errors)
    except (FileNotFoundError, ProcessLookupError):
        reason = f"read({path}): no process {pid}; it may have ended"
        raise ProcessLookupError(errno.ESRCH, reason) from None


def _read(path: str) -> bytes:
    """Read a file with few system calls: on a private kernel each costs as much as a page of Python."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
