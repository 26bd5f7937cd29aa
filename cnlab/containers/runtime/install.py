"""The file ``cnlab-runtime``: a few lines that start as fast as Python can.

Python without `site` (``-S``) and without the user's settings (``-I``) starts in half the time, but finds no
packages: so the file says where this one is. Docker wants an absolute path, and the runtime gets no PATH to
find Python by.

See: execve(2), "Interpreter scripts".
"""

from __future__ import annotations

import compileall
import os
import shlex
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_SHEBANG_MAX = 127  # bytes; a longer line is cut off before Linux 5.1
_PROGRAM = """\
import gc, sys
gc.disable()  # it ends before there is anything to collect
sys.path.insert(0, {directory!r})
from cnlab.containers.runtime.command_line import run_as_program
run_as_program()
"""


def command() -> str:
    """Return the path of the command, which is written if it is not there yet."""
    path = Path(sys.prefix) / "bin/cnlab-runtime"
    text = script(sys.executable, str(_PACKAGE.parent))
    if not path.is_file() or path.read_text() != text:
        write(path, text)
    return str(path)


def script(python: str, directory: str) -> str:
    """Return the text of the command: for the interpreter `python`, with the package in `directory`."""
    program = _PROGRAM.format(directory=directory)
    line = f"#!{python} -IS\n"
    if len(line) <= _SHEBANG_MAX and not any(character.isspace() for character in python):
        return line + program
    return f'#!/bin/sh\nexec {shlex.quote(python)} -IS -c {shlex.quote(program)} "$@"\n'


def write(path: Path, text: str) -> None:
    """Write the command to `path`, and compile what it imports: who runs it may not be able to."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.chmod(0o755)
    new.replace(path)
    for directory in (_PACKAGE / "containers/runtime", _PACKAGE / "linux"):
        compileall.compile_dir(directory, quiet=2, maxlevels=0)


if __name__ == "__main__":
    print(command())
