"""Rego as Open Policy Agent defines it, decided by a kept evaluator; what is not a plain yes is a no."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnlab.errors import InvalidValue, MissingFeature
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.mixer import rego
from cnlab.mesh.mixer.rego import RegoPolicy
from cnlab.mesh.mixer.verdict import TOO_SLOW, InvalidRego, Verdict

FOR_EVER = "some a in numbers.range(1, 10000)\n\tsome b in numbers.range(1, 10000)\n\ta + b == 0"
JASON = {"request": {"method": "GET", "headers": {"end-user": "jason"}}, "numbers": [1, 2], "zero": 0}

# what `opa eval` says of data.mesh.allow, and what a mesh makes of it
SEMANTICS = {
    "true": ("allow := true", True, "allow is true"),
    "false": ("allow := false", False, "allow is false"),
    "no body holds": ('allow if input.request.method == "PUT"', False, "allow is undefined"),
    "one body of two holds": ('allow if input.zero == 1\nallow if input.request.method == "GET"', True, ""),
    "default where nothing holds": ("default allow := false\nallow if input.zero == 1", False, "false"),
    "default beside what holds": ("default allow := false\nallow if input.zero == 0", True, "true"),
    "generous default": ("default allow := true", True, "true"),
    "no such rule": ("other := true", False, "allow is undefined"),
    "missing key of the input": ("allow if input.request.body.user", False, "undefined"),
    "not of what is missing": ("allow if not input.request.body", True, "true"),
    "header with a dash": ('allow if input.request.headers["end-user"] == "jason"', True, "true"),
    "partial rule": ("allow contains x if some x in input.numbers", False, "not true"),
    "partial rule without elements": ("allow contains x if some x in input.nothing", False, "not true"),
    "a text": ('allow := "yes"', False, "'yes', not true"),
    "null": ("allow := null", False, "not true"),
    "a document": ('allow := {"allowed": true}', False, "not true"),
    "else": ("allow if input.zero == 1\nelse := true", True, "true"),
    "every": ("import rego.v1\nallow if {\n\tevery x in input.numbers { x > 0 }\n}", True, "true"),
    "function": ("double(x) := 2 * x\nallow if double(input.numbers[0]) == 2", True, "true"),
    "writing of Rego before version 1": ("default allow = false\nallow { input.zero == 0 }", True, "true"),
}

ERRORS = {
    "two values": ("allow := true if input.zero == 0\nallow := false if input.zero == 0", "multiple outputs"),
    "built-in function that fails": ('allow if to_number("x") == 1', "invalid syntax"),
    "a failure under not": ("broken := 1 / input.zero\nallow if not broken", ""),
    "no network from a policy": (
        'allow if http.send({"method": "get", "url": "http://127.0.0.1/"}).status_code == 200',
        "not supported",
    ),
}

REFUSED = {
    "a body that breaks off": (
        "package mesh\n\nallow if {\n\tinput.zero ==\n}\n",
        "line 4: Invalid boolean operator",
    ),
    "an open brace": ("package mesh\nallow if {\n\tinput.zero == 0\n", "line 2: this is unclosed"),
    "a value that is missing": ("package mesh\nallow :=\n", "line 2: Invalid assignment operator: allow :="),
    "no package": ("module mesh\nallow := true", "line 1: Invalid literal: module mesh"),
    "nothing": ("", "line 1: Invalid file"),
    "another package": ("package ratings\nallow := true", "its package is ratings; write 'package mesh'"),
    "letters of two bytes before": ("package mesh\n# ÄÖÜß\nallow if 1 ==\n", "line 3:"),
    "an unknown function": ("package mesh\nallow if is_friend(1)", "Function not found: is_friend"),
    "a rule that asks itself": ("package mesh\nallow if allow", "Recursion detected"),
    "two defaults": ("package mesh\ndefault allow := true\ndefault allow := false", "Multiple default rules"),
}


def verdicts_of(source, *documents):
    """Ask a policy one question after the other."""
    with contextlib.closing(RegoPolicy("ratings", source)) as policy:
        return [policy.decide(document) for document in documents]


@pytest.mark.parametrize("case", SEMANTICS)
def test_only_true_allows(case):
    """A value that is not there, not true or not even a boolean must never let a request through."""
    rules, is_allowed, words = SEMANTICS[case]
    verdict = verdicts_of(f"package mesh\n{rules}", JASON)[0]

    assert (is_allowed, False) == (verdict.is_allowed, verdict.is_error)
    assert words in verdict.reason


@pytest.mark.parametrize("case", ERRORS)
def test_error_in_evaluation_denies_and_is_reported(case):
    """OPA drops failures of built-in functions, and ``not`` of a failure allows there."""
    rules, words = ERRORS[case]
    verdict = verdicts_of(f"package mesh\n{rules}", JASON)[0]

    assert (False, True) == (verdict.is_allowed, verdict.is_error)
    assert words in verdict.reason


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_never_work_is_refused_with_line_and_words(case, capfd):
    """Who wrote it learns of it now, in one line, and not from a request that is denied later."""
    source, words = REFUSED[case]
    with pytest.raises(InvalidRego) as refusal:
        RegoPolicy("ratings", source)

    assert "policy 'ratings'" in str(refusal.value)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", ""), "the evaluator wrote to our standard output"


def test_policy_that_takes_for_ever_is_refused():
    """No request could ever wait for it. What counts is the processor's time, not that others had it."""
    with pytest.raises(
        InvalidRego,
        match=r"policy 'ratings': no verdict within 0\.4 s of processor time, whatever the request",
    ):
        RegoPolicy("ratings", f"package mesh\nallow if {{\n\t{FOR_EVER}\n}}")


def test_evaluation_that_takes_for_ever_is_ended_and_the_next_question_is_answered():
    """A policy that loops for some requests must not cost a processor, nor deny all others."""
    source = f"package mesh\nallow if input.fine\nallow if {{\n\tinput.bad\n\t{FOR_EVER}\n}}"

    assert [TOO_SLOW, Verdict(True, "allow is true")] == verdicts_of(source, {"bad": True}, {"fine": True})


def test_evaluator_that_was_killed_denies_once(monkeypatch):
    """Somebody else's doing, such as that of a machine without memory: it is said, and is over."""
    monkeypatch.setattr(rego, "_exchange", exchange_with_the_dead)

    assert [
        Verdict(False, "its evaluator has ended: code -9", is_error=True),
        Verdict(True, "allow is true"),
    ] == verdicts_of("package mesh\nallow := true", {"kill": True}, {})


def test_evaluator_that_cannot_start_says_why(monkeypatch, tmp_path):
    """Its last words are in the error."""
    (tmp_path / "regopy.py").write_text("raise ImportError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    expected = r"^policy 'ratings': its evaluator has ended: code 1: ImportError: no such thing$"
    with pytest.raises(ProgramEnded, match=expected):
        RegoPolicy("ratings", "package mesh\nallow := true")


def test_library_that_a_bare_system_lacks_is_named(monkeypatch, tmp_path):
    """It comes with gcc, so nobody who writes programs misses it."""
    (tmp_path / "regopy.py").write_text("raise OSError('libatomic.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(MissingFeature, match=r"needs the library libatomic\.so\.1") as caught:
        RegoPolicy("ratings", "package mesh\nallow := true")
    assert "apt-get install libatomic1" in caught.value.__notes__[0]


def test_evaluator_that_ends_between_two_questions_is_started_again():
    """Nobody need notice, and no pipe of the old one stays open."""
    with contextlib.closing(RegoPolicy("ratings", "package mesh\nallow := true")) as policy:
        pids = {
            int(pid)
            for file in Path("/proc/self/task").glob("*/children")
            for pid in file.read_text().split()
        }
        for pid in pids:
            if b"rego_evaluator" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        assert policy.decide({}).is_allowed


def exchange_with_the_dead(process, question, exchange=rego._exchange):
    """Kill the evaluator before it gets a question that says so."""
    if "kill" in question:
        process.kill()
        raise EOFError(f"code {process.wait()}")
    return exchange(process, question)


def test_refusal_is_a_wrong_argument():
    """Callers catch what is wrong with their arguments by one name."""
    with pytest.raises(InvalidValue):
        RegoPolicy("ratings", "package mesh\nallow :=")


def test_policy_is_asked_again_and_again():
    """Each request has its own document; nothing of the last one may stay."""
    documents = [*({"request": {"method": method}} for method in ("GET", "PUT", "GET")), {}]
    verdicts = verdicts_of('package mesh\nallow if input.request.method == "GET"', *documents)

    assert [True, False, True, False] == [verdict.is_allowed for verdict in verdicts]


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_process_with_a_limit_does_without_policies_and_says_why(limit):
    """The evaluator's allocator would abort it: a control plane under ``ulimit -v`` could not even start."""
    program = (
        f"import resource; resource.setrlimit(resource.{limit}, (2 << 30, 2 << 30))\n"
        "from cnlab.errors import MissingFeature\n"
        "from cnlab.mesh.mixer.policy import Authorizer\n"
        "try: Authorizer().set('ratings', 'package mesh\\nallow := true')\n"
        "except MissingFeature as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (0, "") == (ended.returncode, ended.stderr)
    assert ended.stdout.startswith("Rego: its evaluator reserves 256 GiB of addresses")
