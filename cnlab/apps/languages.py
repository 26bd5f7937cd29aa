"""What it takes to run a program of another language: its interpreter or its compiler, if they work here.

A compiled program is a file in memory, without a name in any directory: nothing of it can be left behind.

See: memfd_create(2).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cnlab import host
from cnlab.apps.application import Language, Program
from cnlab.errors import CnlabError

COMPILE = ("-std=gnu11", "-O1", "-Wall", "-pthread")
NEEDED: dict[Language, str] = {"JavaScript": "node", "C": "gcc"}
_TRIALS: dict[Language, tuple[list[str], str]] = {
    "JavaScript": (["-e", "require('http')"], ""),
    "C": (
        ["-pthread", "-x", "c", "-o", "/dev/null", "-"],
        "#include <pthread.h>\nint main(void) { return 0; }\n",
    ),
}
_TRIAL_S = 20.0
_UNPACKED = Path(sys.prefix, "apt")


class NotCompiled(CnlabError):  # noqa: N818 - reads as the claim it makes
    """A C program has an error; the message is the compiler's first."""


def trouble(language: Language) -> str:
    """Say why no program of a language can run here, "" if one can: found out by trying.

    A privately unpacked Node.js of Debian, for one, looks for parts of itself in /usr/share and gives up.
    """
    if language not in NEEDED:
        return ""
    name = NEEDED[language]
    path = host.find_program(name)
    if path is None:
        return f"no program {name} here"
    options, source = _TRIALS[language]
    try:
        done = subprocess.run(
            [str(path), *options],
            input=source,
            capture_output=True,
            text=True,
            timeout=_TRIAL_S,
            env={**os.environ, **libraries(path)},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not work ({error})"
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
    return f"{path} does not work ({said})" if done.returncode else ""


def choose(program: Program, troubles: dict[Language, str]) -> tuple[Program, str]:
    """Return a program, or its twin where its language does not work here, and what there is to say of that.

    Args:
        program: what should run.
        troubles: what has been found out of the languages so far; added to.
    """
    if program.language not in troubles:
        troubles[program.language] = trouble(program.language)
    reason = troubles[program.language]
    if not reason or program.twin is None:
        return program, ""
    return program.as_twin(), f"{reason}: {program.twin.name} takes the place of {program.source.name}"


def libraries(program: Path) -> dict[str, str]:
    """Return the variable by which a program that was only unpacked finds its libraries."""
    return unpacked_libraries() if program.is_relative_to(_UNPACKED) else {}


def unpacked_libraries() -> dict[str, str]:
    """Return the variable by which programs find libraries that were only unpacked, if there are any."""
    paths = ":".join(str(path) for path in _UNPACKED.glob("usr/lib/*-linux-gnu"))
    return {"LD_LIBRARY_PATH": paths} if paths else {}


def interpreter(program: Program) -> list[str]:
    """Return the command that runs a program that needs no compiler."""
    if program.language == "JavaScript":
        return [str(host.find_program("node")), str(program.source)]
    return [sys.executable, "-E", "-s", "-B", str(program.source)]


def compile_to_memory(source: Path) -> int:
    """Compile a C program and return a descriptor of a file in memory that holds it.

    Raises:
        NotCompiled: it has an error.
    """
    with tempfile.TemporaryDirectory(prefix="cnlab-cc-") as directory:
        target = Path(directory, source.stem)
        compile_program(source, target)
        descriptor = os.memfd_create(source.stem)
        with open(descriptor, "wb", closefd=False) as memory:
            memory.write(target.read_bytes())
    return descriptor


def compile_program(source: Path, target: Path, *options: str) -> None:
    """Compile a C program to `target`, whose directory holds what the compiler needs meanwhile.

    Raises:
        NotCompiled: it has an error.
    """
    compiler = [str(host.find_program("gcc")), *COMPILE, *options, "-o", str(target), str(source)]
    env = {**os.environ, "TMPDIR": str(target.parent)}
    done = subprocess.run(compiler, capture_output=True, text=True, env=env)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise NotCompiled(f"{source.name} does not compile: {lines[0] if lines else 'gcc says nothing'}")
