"""The evaluator of one policy: rego-cpp by its Python binding ``regopy``, in a process that `rego` starts.

    {"name": "ratings", "source": "package mesh …"}   ->   "", or why it cannot be used
    {"request": {"method": "GET", …}, …}              ->   [true, "allow is true", false], and so on

Before each evaluation it asks the kernel for SIGPROF when that has had the processor for `LIMIT_S`. Nobody
catches it, so it ends the process.

See: setitimer(2) on ``ITIMER_PROF``; signal(7).
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import Any

from regopy import Interpreter, RegoError
from regopy.rego_shared import LogLevel, NodeKind, rego_node_value

from cnlab.mesh.mixer.verdict import LIMIT_S, PACKAGE, InvalidRego, Verdict

# x := …, because regopy answers "undefined" where a bare query's value is false
QUERY = f"x := data.{PACKAGE}.allow"
_PACKAGE_LINE = re.compile(r"^[ \t]*package[ \t]+(\S+)", re.MULTILINE)
_PARSER_ERROR = re.compile(r"\(error \d+:[^|]*\|(\d+)\|\d+\s+\(errormsg \d+:([^\n]*?)\)\n")
_EVALUATOR_ERROR = re.compile(r"\(errormsg \d+:([^\n]*?)\)\n")


def read(name: str, source: str) -> Interpreter:
    """Return an interpreter that knows a policy.

    Raises:
        InvalidRego: it does not parse, or is of another package.
    """
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
    return interpreter


def evaluate(interpreter: Interpreter, document: dict[str, Any]) -> Verdict:
    """Ask for the rule ``allow`` with `document` as ``input``; a failure is a verdict too."""
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


def main() -> None:
    """Read a policy and answer questions about it, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the notebook is not for us
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the evaluator prints is no answer
    policy = json.loads(sys.stdin.readline())
    try:
        interpreter = read(**policy)
    except InvalidRego as error:
        print(json.dumps(str(error)), file=answers, flush=True)
        return
    print(json.dumps(""), file=answers, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        verdict = evaluate(interpreter, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([verdict.is_allowed, verdict.reason, verdict.is_error]), file=answers, flush=True)


if __name__ == "__main__":
    main()
