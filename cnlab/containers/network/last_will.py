"""What is to be undone if this process dies before it could do so itself.

A `with` block undoes what it made even after an exception, but not after SIGKILL; and bridges and NAT rules
belong to nobody whose end would remove them. So a shell waits at the other end of a pipe: if the pipe
closes without a word, it runs the will.
"""

import subprocess
from types import TracebackType
from typing import Self


class LastWill:
    """Run the shell `script` if this process ends within the block; leaving the block revokes it."""

    def __init__(self, script: str) -> None:
        self._script = script

    def __enter__(self) -> Self:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r word && exit\n{self._script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",  # where it keeps nothing busy
            start_new_session=True,  # what kills our process group must not kill it
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shell.communicate(b"revoked\n")
