"""Run Python as root inside a private kernel, on behalf of a test that runs elsewhere.

As a script this file is the student's side: it starts the kernel in the working directory, executes what
standard input says, and prints what the cell prints."""

from __future__ import annotations

import sys
from typing import Any

from student import Student


def in_private_kernel(student: Student, code: str, *, timeout_s: float = 110) -> str:
    """Return what `code` prints when the student runs it as a cell of a notebook at home.

    Raises:
        AssertionError: the cell ended with an error; the message is its traceback.
    """
    done = student.run([sys.executable, __file__], input=code, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _execute(code: str) -> int:
    from jupyter_client.manager import KernelManager

    errors = []

    def show(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            print(content["text"], end="", file=getattr(sys, content["name"]), flush=True)
        elif message["msg_type"] == "error":
            errors.append(content)
            print("\n".join(content["traceback"]), file=sys.stderr)

    manager = KernelManager(kernel_name="cnlab")
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=100)
        client.execute_interactive(code, output_hook=show)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(_execute(sys.stdin.read()))
