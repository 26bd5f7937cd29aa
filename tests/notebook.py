"""A kernel as a front end has it: for tests that look at what a notebook would show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager


@dataclass
class Cell:
    """What one execution sent back."""

    text: str = ""  # stdout and stderr
    error: str = ""  # the exception's name and message
    messages: list[dict[str, Any]] = field(default_factory=list)


class Notebook:
    """A running kernel in the directory `directory`; shut down on leaving the block."""

    def __init__(self, directory: Path | str = ".", *, kernel: str = "cnlab", memory_mib: int = 1024) -> None:
        self.manager = KernelManager(kernel_name=kernel)
        self.manager.config.PrivateKernelProvisioner.memory_mib = memory_mib
        self.directory = str(directory)

    def __enter__(self) -> Notebook:
        self.manager.start_kernel(cwd=self.directory)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=100)
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    @property
    def launcher_pid(self) -> int:
        return self.manager.provisioner.pid

    def run(self, code: str, *, timeout_s: float = 100, stdin: str | None = None) -> Cell:
        """Execute a cell and collect what it sends until it is done."""
        cell = Cell()

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            cell.messages.append(message)
            if message["msg_type"] == "stream":
                cell.text += content["text"]
            elif message["msg_type"] == "execute_result":
                cell.text += content["data"]["text/plain"]
            elif message["msg_type"] == "error":
                cell.error = f"{content['ename']}: {content['evalue']}"

        self.client.execute_interactive(
            code,
            timeout=timeout_s,
            output_hook=collect,
            allow_stdin=stdin is not None,
            stdin_hook=lambda message: self.client.input(stdin or ""),
        )
        return cell

    def restart(self) -> None:
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=100)
