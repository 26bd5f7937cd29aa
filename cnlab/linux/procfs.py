"""Files of ``/proc/PID``: read while the process may end at any moment."""

import errno
from pathlib import Path


def read(pid: int | str, file: str, *, errors: str = "replace") -> str:
    """Return the text of ``/proc/PID/FILE``; `errors` says what becomes of bytes that are no UTF-8.

    Raises:
        ProcessLookupError: there is no such process (any more).
    """
    path = Path(f"/proc/{pid}/{file}")
    try:
        return path.read_text(errors=errors)
    except (FileNotFoundError, ProcessLookupError):
        reason = f"read({path}): no process {pid}; it may have ended"
        raise ProcessLookupError(errno.ESRCH, reason) from None
