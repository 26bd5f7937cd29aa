"""What students share a process image with knows nothing of anybody."""

from __future__ import annotations

import os

import pytest
from grading.jobs import check, run, student

from cnlab.grading.attempt import execution
from cnlab.grading.attempt.forkserver import clean_environment

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]

LOOK = """
def look(words):
    "Search all memory of this process for words; in two halves, so as not to find the searching itself."
    found = set()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            bounds, rights = line.split()[:2]
            low, high = (int(bound, 16) for bound in bounds.split("-"))
            try:
                memory.seek(low)
                data = memory.read(high - low) if rights.startswith("rw") else b""
            except (OSError, OverflowError):
                continue
            for first, second in words:
                at = data.find(first)
                while at >= 0:
                    if data[at + len(first):][:len(second)] == second:
                        found.add(second)
                    at = data.find(first, at + 1)
    return sorted(found)

words = [(b"canary-of-", b"another"), (b"canary-of-", b"hidden"), (b"def lo", b"ok(words)")]
"""
CANARY = "canary-of-another"


@pytest.fixture(autouse=True)
def _server_ends():
    yield
    execution.close()


def test_student_finds_nothing_of_another_submission_or_of_the_checks(monkeypatch):
    """Neither in memory nor in the environment: the process it is forked from never had it."""
    monkeypatch.setenv("SECRET_TOKEN", CANARY)
    secret = check("assert True\n### BEGIN HIDDEN TESTS\nassert 'canary-of-hidden'", "hidden")
    run(student(f"text = {CANARY!r}"), secret, files={"data.txt": CANARY.encode()})
    ran = run(
        student(LOOK),
        student("print(look(words))", "looks"),
        student("import os; print(dict(os.environ))", "environ"),
        secret,
    )

    assert ran.printed("looks") == "[b'ok(words)']\n"
    assert "SECRET" not in ran.printed("environ")
    assert CANARY not in str(ran.result)


def test_program_of_a_check_takes_no_code_from_the_student():
    """A check may start Python, where the student's files lie: none of them is a module there."""
    plants = (
        "import os, sys\n"
        "text = 'print(\"planted\")'\n"
        "packages = os.path.expanduser('~/.local/lib/python%d.%d/site-packages' % sys.version_info[:2])\n"
        "places = ['json.py', 'sitecustomize.py', f'{packages}/usercustomize.py']\n"
        "for place in places:\n"
        "    os.makedirs(os.path.dirname(place) or '.', exist_ok=True)\n"
        "    open(place, 'w').write(text)\n"
        "ok = os.path.exists('json.py')"
    )
    starts = (
        "import subprocess, sys\n"
        "for python in (sys.executable, sys._base_executable):\n"
        "    for how in (['-c', 'import json'], ['-m', 'json.tool', '--help']):\n"
        "        done = subprocess.run([python, *how], capture_output=True, text=True)\n"
        "        assert (done.returncode, 'planted' in done.stdout) == (0, False), done\n"
        "assert ok"
    )

    ran = run(student(plants), check(starts))

    assert ran.statuses == {"task": "ok", "check": "ok"}, ran.result.cells


def test_environment_of_the_server_is_its_own():
    """A student reads it in ``/proc/self/environ``."""
    assert set(clean_environment()) & {"HOME", "USER", "PYTHONPATH", "SSH_AUTH_SOCK"} == set()
    assert clean_environment()["PATH"] == os.environ["PATH"]


def test_every_submission_begins_afresh():
    """No module, name or file of the last one is there."""
    mark = student(
        "import builtins, json, numpy\nbuiltins.mark = json.mark = numpy.mark = 1\nopen('/tmp/m', 'w')"
    )
    looks = "import builtins, json, numpy, os\nassert not any(hasattr(m, 'mark') for m in (builtins, numpy))"
    run(mark)

    assert run(student(f"{looks}\nassert os.listdir('/tmp') == []")).statuses == {"task": "ok"}
