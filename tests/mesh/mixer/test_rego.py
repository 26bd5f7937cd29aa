"""Rego as Open Policy Agent defines it, decided by a kept evaluator; what is not a plain yes is a no."""

import subprocess
import sys

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.mixer.rego import InvalidRego, RegoPolicy

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


@pytest.mark.parametrize("case", SEMANTICS)
def test_only_true_allows(case):
    """A value that is not there, not true or not even a boolean must never let a request through."""
    rules, is_allowed, words = SEMANTICS[case]
    verdict = RegoPolicy("ratings", f"package mesh\n{rules}").decide(JASON)

    assert (is_allowed, False) == (verdict.is_allowed, verdict.is_error)
    assert words in verdict.reason


@pytest.mark.parametrize("case", ERRORS)
def test_error_in_evaluation_denies_and_is_reported(case):
    """OPA drops failures of built-in functions, and ``not`` of a failure allows there."""
    rules, words = ERRORS[case]
    verdict = RegoPolicy("ratings", f"package mesh\n{rules}").decide(JASON)

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
    """No request could ever wait for it, and nobody can stop what was begun: that is said too."""
    pairs = "some a in numbers.range(1, 1000)\n\tsome b in numbers.range(1, 1000)"
    with pytest.raises(
        InvalidRego,
        match=r"policy 'ratings': no verdict within 0\.4 s, whatever the request; .*control_plane\.restart",
    ):
        RegoPolicy("ratings", f"package mesh\nallow if {{\n\t{pairs}\n\ta + b == 0\n}}")


def test_refusal_is_a_wrong_argument():
    """Callers catch what is wrong with their arguments by one name."""
    with pytest.raises(InvalidValue):
        RegoPolicy("ratings", "package mesh\nallow :=")


def test_policy_is_asked_again_and_again():
    """Each request has its own document; nothing of the last one may stay."""
    policy = RegoPolicy("ratings", 'package mesh\nallow if input.request.method == "GET"')
    verdicts = [policy.decide({"request": {"method": method}}).is_allowed for method in ("GET", "PUT", "GET")]

    assert [True, False, True] == verdicts
    assert not policy.decide({}).is_allowed


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
