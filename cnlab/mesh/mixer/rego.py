"""Policies in Rego, the language of Open Policy Agent: a document goes in, a verdict comes out.

A policy is a module ``package mesh`` with a rule ``allow``. It is asked ``x := data.mesh.allow``, and only
the value ``true`` allows. A rule none of whose bodies holds has no value at all, it is *undefined*: that
denies, like false, like any other value, and like an error. In one point we are stricter than OPA, where a
built-in function that fails makes its expression undefined, so that ``not`` turns the failure into a yes:
here a failure denies.

Each policy is evaluated in a process of its own (`rego_evaluator`): nothing can interrupt an evaluation but
the kernel, which ends the process when it has had the processor for too long. The next question starts
another.

See: Open Policy Agent, "Policy Language".
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

from cnlab.apps.languages import unpacked_libraries
from cnlab.errors import CnlabError, MissingFeature
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.mixer.verdict import TOO_SLOW, InvalidRego, Verdict
from cnlab.mesh.process import python_environment

_WRONG_IN_ITSELF = ("Function not found", "Recursion detected", "Multiple default rules")
"""What the evaluator finds only when it runs, though it is wrong with any input."""
_RESERVED_BYTES = (1 << 38) + (1 << 26)  # 256 GiB for the tables of its allocator (snmalloc), and the library
_LONGEST_LOG = 1 << 16
_MAP_NORESERVE = 0x4000  # mmap.MAP_NORESERVE from Python 3.13 on


class RegoPolicy:
    """A policy that has been read and can be asked, until it is closed or forgotten."""

    def __init__(self, name: str, source: str) -> None:
        """Read it.

        Raises:
            InvalidRego: it does not parse, is of another package, or is wrong whatever the input.
            ProgramEnded: the evaluator did not start.
            MissingFeature: the evaluator cannot run under the limits of this process, or lacks a library.
        """
        require_address_space()
        self.name, self.source = name, source
        evaluator = _Evaluator(name, source)
        self._questions: _Questions = SimpleQueue()
        self._no_more = weakref.finalize(self, self._questions.put, None)
        Thread(target=_answer, args=(evaluator, self._questions), name=f"rego {name}", daemon=True).start()
        trial = self.decide({})
        if trial == TOO_SLOW or trial.reason.startswith(_WRONG_IN_ITSELF):
            self.close()
            raise InvalidRego(f"policy {name!r}: {trial.reason}, whatever the request")

    def ask(self, document: dict[str, Any]) -> Future[Verdict]:
        """Ask for ``data.mesh.allow`` with `document` as ``input``; it may be cancelled before its turn."""
        verdict: Future[Verdict] = Future()
        self._questions.put((verdict, document))
        return verdict

    def decide(self, document: dict[str, Any]) -> Verdict:
        """Ask, and wait for the verdict."""
        return self.ask(document).result()

    def close(self) -> None:
        """End its process when what was asked before has been answered; who forgets the object need not."""
        self._no_more()


_Questions = SimpleQueue[tuple[Future[Verdict], dict[str, Any]] | None]


def _answer(evaluator: _Evaluator, questions: _Questions) -> None:
    with contextlib.closing(evaluator):
        while question := questions.get():
            verdict, document = question
            if verdict.set_running_or_notify_cancel():
                verdict.set_result(evaluator.evaluate(document))


class _Evaluator:
    """The process that evaluates one policy, a line of JSON for each question and each answer.

    It ends when we do, for then nobody can write to it any more.
    """

    def __init__(self, name: str, source: str) -> None:
        self._policy = {"name": name, "source": source}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = self._started()
        except BaseException:
            self._log.close()
            raise

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnlab.mesh.mixer.rego_evaluator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=python_environment() | unpacked_libraries(),
        )
        try:
            refusal = _exchange(process, self._policy)
        except (OSError, EOFError) as error:
            _end(process)
            said = os.pread(self._log.fileno(), _LONGEST_LOG, 0).decode(errors="replace")
            if "libatomic" in said:
                reason = "its evaluator needs the library libatomic.so.1"
                raise MissingFeature("Rego", reason, hint="apt-get install libatomic1") from None
            name = f"policy {self._policy['name']!r}"
            raise ProgramEnded(name, f"its evaluator has ended: {error}", said) from None
        if refusal:
            _end(process)
            raise InvalidRego(refusal)
        return process

    def evaluate(self, document: dict[str, Any]) -> Verdict:
        """Ask for the rule ``allow``; that it takes too long, or that nobody answers, is a verdict too."""
        try:
            if self._process.poll() is not None:
                _end(self._process)
                self._process = self._started()
            return Verdict(*_exchange(self._process, document))
        except (OSError, EOFError, CnlabError) as error:
            _end(self._process)
            if self._process.returncode == -signal.SIGPROF:
                return TOO_SLOW
            return Verdict(False, f"its evaluator has ended: {error}", is_error=True)

    def close(self) -> None:
        """End the process."""
        _end(self._process)
        self._log.close()


def _exchange(process: subprocess.Popen[str], question: dict[str, Any]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        raise EOFError(f"code {process.wait()}")
    return json.loads(line)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(BrokenPipeError), process:  # of a question that it has not read
        process.kill()


def require_address_space() -> None:
    """Find out whether the evaluator can run: where it cannot, its allocator ends its process.

    Raises:
        MissingFeature: a limit of this process, as of ``ulimit -v``, is in the way.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        attempt = mmap.mmap(-1, _RESERVED_BYTES, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:
        raise MissingFeature(
            "Rego",
            "its evaluator reserves 256 GiB of addresses (no memory); see ulimit -v and -d of this process",
        ) from None
    attempt.close()
