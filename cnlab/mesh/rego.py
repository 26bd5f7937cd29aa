"""Policies in Rego, the language of Open Policy Agent: a document goes in, a verdict comes out.

A policy is a module ``package mesh`` with a rule ``allow``. It is asked ``x := data.mesh.allow``, and only
the value ``true`` allows. A rule none of whose bodies holds has no value at all, it is *undefined*: that
denies, like false, like any other value, and like an error. In one point we are stricter than OPA, where a
built-in function that fails makes its expression undefined, so that ``not`` turns the failure into a yes:
here a failure denies.

See: Open Policy Agent, "Policy Language"; the evaluator is rego-cpp, by its Python binding ``regopy``.
"""

from __future__ import annotations

import re
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

from regopy import Interpreter, RegoError
from regopy.rego_shared import LogLevel, NodeKind, rego_node_value

from cnlab.errors import InvalidValue

PACKAGE = "mesh"
# x := …, because regopy answers "undefined" where a bare query's value is false
QUERY = f"x := data.{PACKAGE}.allow"
_PACKAGE_LINE = re.compile(r"^[ \t]*package[ \t]+(\S+)", re.MULTILINE)
_PARSER_ERROR = re.compile(r"\(error \d+:[^|]*\|(\d+)\|\d+\s+\(errormsg \d+:([^\n]*?)\)\n")
_EVALUATOR_ERROR = re.compile(r"\(errormsg \d+:([^\n]*?)\)\n")
TIMEOUT_S = 0.4
"""Shorter than a sidecar waits for us."""
_WRONG_IN_ITSELF = ("Function not found", "Recursion detected", "Multiple default rules")
"""What the evaluator finds only when it runs, though it is wrong with any input."""


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
        """
        self.name, self.source = name, source
        interpreter = Interpreter()
        interpreter.log_level = LogLevel.NONE  # else it writes to the process's standard output
        interpreter.strict_built_in_errors = True
        try:
            interpreter.add_module(name, source)
        except RegoError as error:
            raise _not_parsed(name, source, str(error)) from None
        package = _PACKAGE_LINE.search(source)
        if package is None or package.group(1) != PACKAGE:
            found = package.group(1) if package else "none"
            raise InvalidRego(f"policy {name!r}: its package is {found}; write 'package {PACKAGE}'")
        self._questions: _Questions = SimpleQueue()
        weakref.finalize(self, self._questions.put, None)
        Thread(target=_answer, args=(interpreter, self._questions), name=f"rego {name}", daemon=True).start()
        trial = self.decide({})
        if trial is TOO_SLOW or trial.reason.startswith(_WRONG_IN_ITSELF):
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
    while question := questions.get():
        verdict, document = question
        if verdict.set_running_or_notify_cancel():
            verdict.set_result(_evaluate(interpreter, document))


def _evaluate(interpreter: Interpreter, document: dict[str, Any]) -> Verdict:
    try:
        interpreter.set_input(document)
        output = interpreter.query(QUERY)
    except (RegoError, TypeError, ValueError) as error:  # ValueError: regopy takes some errors for JSON
        words = _EVALUATOR_ERROR.search(getattr(error, "doc", "") or str(error))
        return Verdict(False, words.group(1) if words else " ".join(str(error).split()), is_error=True)
    if not output.ok():
        return Verdict(False, _words_of(output.node()) or "evaluation failed", is_error=True)
    bindings = output.results[0].bindings if output.results else {}
    if "x" not in bindings:
        return Verdict(False, "allow is undefined")
    value = bindings["x"]
    if isinstance(value, bool):
        return Verdict(value, f"allow is {str(value).lower()}")
    return Verdict(False, f"allow is {type(value).__name__} {value!r}, not true")


def _not_parsed(name: str, source: str, output: str) -> InvalidRego:
    """Turn the parser's tree of errors into one line; it counts bytes, people count lines."""
    match = _PARSER_ERROR.search(output)
    if match is None:
        return InvalidRego(f"policy {name!r}: {' '.join(output.split())[:200]}")
    before = source.encode()[: int(match.group(1))]
    number = before.count(b"\n") + 1
    line = source.splitlines()[number - 1].strip() if source.strip() else ""
    return InvalidRego(f"policy {name!r}, line {number}: {match.group(2)}: {line}")


def _words_of(node: Any) -> str:
    """Find the message in the tree that stands for an error."""
    if node.kind == NodeKind.ErrorMessage:
        return str(rego_node_value(node._impl))  # Node.value has only values of Rego
    return next(filter(None, (_words_of(node.at(index)) for index in range(len(node)))), "")
