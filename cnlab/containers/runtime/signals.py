"""Signals by number: names, what a process of a container starts with, and taking those that come to us.

See: signal(7); execve(2), "Effect on process attributes".
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` without its enumerations, which take long to make
import os

from cnlab.errors import InvalidValue

SIGKILL, SIGPIPE, SIGCHLD, SIGSTOP, SIGURG, SIGXFSZ, SIGWINCH = 9, 13, 17, 19, 23, 25, 28
IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)
_LAST_STANDARD = 31


def number_of(signal: int | str) -> int:
    """Return the number of a signal: of 9, ``"9"``, ``"KILL"`` and ``"SIGKILL"`` it is 9."""
    text = str(signal).upper().removeprefix("SIG")
    number = text if text.isdecimal() else getattr(_signal, f"SIG{text}", None)
    if number is None or text.startswith("_"):
        raise InvalidValue(f"unknown signal {signal!r}; expected a number or a name like 'TERM'")
    return int(number)


def pidfd_open(pid: int) -> int:
    """Return a descriptor that means process `pid` and no other; without ctypes, which takes long to load."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise OSError(error.errno, f"pidfd_open({pid}): {error.strerror}") from None


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send signal `number` to the process behind `pidfd`."""
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except OSError as error:
        raise OSError(error.errno, f"pidfd_send_signal({pidfd}, {number}): {error.strerror}") from None


def reset() -> None:
    """Ignore and block nothing: execve(2) would keep what the interpreter or the caller ignores or blocks."""
    for number in range(1, _LAST_STANDARD + 1):
        if number not in (SIGKILL, SIGSTOP) and _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def take_all(wakeup: int) -> None:
    """Have the number of each signal that comes written to the descriptor `wakeup`; nothing else happens."""
    _signal.set_wakeup_fd(wakeup)
    for number in _signal.valid_signals():
        if number not in (SIGKILL, SIGSTOP, SIGPIPE, SIGURG):
            _signal.signal(number, lambda *_: None)


def take_no_more() -> None:
    """Write no numbers any more."""
    _signal.set_wakeup_fd(-1)
