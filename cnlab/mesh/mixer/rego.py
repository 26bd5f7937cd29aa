"""Policies in Rego, the language of Open Policy Agent: a document goes in, a verdict comes out.

A policy is a module ``package mesh`` with a rule ``allow``. It is asked ``x := data.mesh.allow``, and only
the value ``true`` allows. A rule none of whose bodies holds has no value at all, it is *undefined*: that
denies, like false, like any other value, and like an error. In one point we are stricter than OPA, where a
built-in function that fails makes its expression undefined, so that ``not`` turns the failure into a yes:
here a failure denies.

The evaluator (`rego_evaluator`) is loaded with the first policy, for it needs very much address space.

See: Open Policy Agent, "Policy Language".
"""

from __future__ import annotations

import mmap
import sys
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from cnlab.errors import InvalidValue, MissingFeature

if TYPE_CHECKING:
    from regopy import Interpreter

PACKAGE = "mesh"
TIMEOUT_S = 0.4
"""Shorter than a sidecar waits for us."""
_WRONG_IN_ITSELF = ("Function not found", "Recursion detected", "Multiple default rules")
"""What the evaluator finds only when it runs, though it is wrong with any input."""
_RESERVED_BYTES = (1 << 38) + (1 << 26)  # 256 GiB for the tables of its allocator (snmalloc), and the library
_MAP_NORESERVE = 0x4000  # mmap.MAP_NORESERVE from Python 3.13 on


class InvalidRego(InvalidValue):
    """A policy that cannot be used; the message says which, in which line, and what the parser says."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a policy, and how it came about."""

    is_allowed: bool
    reason: str
    is_error: bool = False


TOO_SLOW = Verdict(False, f"no verdict within {TIMEOUT_S:g} s", is_error=True)


class RegoPolicy:
    """A policy that has been read and can be asked.

    It is evaluated in a thread of its own, which ends with the object: an evaluation that takes for ever
    cannot be stopped, only left behind.
    """

    def __init__(self, name: str, source: str) -> None:
        """Read it.

        Raises:
            InvalidRego: it does not parse, is of another package, or is wrong whatever the input.
            MissingFeature: the evaluator cannot run in this process.
        """
        require_address_space()
        from cnlab.mesh.mixer.rego_evaluator import read

        self.name, self.source = name, source
        interpreter = read(name, source)
        self._questions: _Questions = SimpleQueue()
        weakref.finalize(self, self._questions.put, None)
        Thread(target=_answer, args=(interpreter, self._questions), name=f"rego {name}", daemon=True).start()
        trial = self.decide({})
        if trial is TOO_SLOW:
            goes_on = "what was begun takes a processor until mesh.control_plane.restart()"
            raise InvalidRego(f"policy {name!r}: {trial.reason}, whatever the request; {goes_on}")
        if trial.reason.startswith(_WRONG_IN_ITSELF):
            raise InvalidRego(f"policy {name!r}: {trial.reason}, whatever the request")

    def ask(self, document: dict[str, Any]) -> Future[Verdict]:
        """Ask for ``data.mesh.allow`` with `document` as ``input``; it may be cancelled before its turn."""
        verdict: Future[Verdict] = Future()
        self._questions.put((verdict, document))
        return verdict

    def decide(self, document: dict[str, Any]) -> Verdict:
        """Ask, and wait for the verdict a little while."""
        verdict = self.ask(document)
        try:
            return verdict.result(TIMEOUT_S)
        except TimeoutError:
            verdict.cancel()
            return TOO_SLOW


_Questions = SimpleQueue[tuple[Future[Verdict], dict[str, Any]] | None]


def _answer(interpreter: Interpreter, questions: _Questions) -> None:
    from cnlab.mesh.mixer.rego_evaluator import evaluate

    while question := questions.get():
        verdict, document = question
        if verdict.set_running_or_notify_cancel():
            verdict.set_result(evaluate(interpreter, document))


def require_address_space() -> None:
    """Find out whether the evaluator can be loaded: where it cannot, its allocator ends the whole process.

    Raises:
        MissingFeature: a limit of this process, as of ``ulimit -v``, is in the way.
    """
    if "regopy" in sys.modules:
        return
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        attempt = mmap.mmap(-1, _RESERVED_BYTES, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:
        raise MissingFeature(
            "Rego",
            "its evaluator reserves 256 GiB of addresses (no memory); see ulimit -v and -d of this process",
        ) from None
    attempt.close()
