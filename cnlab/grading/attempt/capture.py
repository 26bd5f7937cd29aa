"""What a cell prints and displays, on its way into the notebook: limited in size, and nothing active in it.

Interface: `Capture` collects the outputs of one cell in nbformat's form. `Streams` are the pipes that a
process prints to. `follow` waits for the end of a cell and collects meanwhile.

A page that shows the notebook to the instructor must not run what a student made: of a display only text,
LaTeX and real pictures pass.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import time
from collections.abc import Mapping
from typing import Any

from cnlab.errors import CnlabError
from cnlab.grading.attempt import plain
from cnlab.grading.attempt.channel import Channel

Output = dict[str, Any]

MAX_OUTPUT_BYTES = 4 << 20
"""What one display may bring along."""

_MAX_OUTPUTS = 500
_FLOOD_BYTES = 64 << 20  # dropped so far; who prints on and on is stopped before its time is up
_CHUNK = 1 << 16
_BASE64 = re.compile(r"[A-Za-z0-9+/\n]+={0,2}\n?")

PICTURES = frozenset({"image/png", "image/jpeg"})
TEXTS = frozenset({"text/plain", "text/latex"})
"""What pages show as it is: the one in <img>, where no script runs, the other as text. They show no GIF."""


class OutputFlood(CnlabError):  # noqa: N818 - reads as what has happened
    """A cell does not stop printing."""


class Capture:
    """The outputs of one cell, in the order in which they came, up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.outputs: list[Output] = []
        self.dropped = 0
        self._left = limit

    def print(self, name: str, text: str) -> None:
        """Take in what was printed to the stream `name`."""
        text = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
        taken = self._take(text)
        if not taken:
            return
        last = self._streams().get(name)
        if last is None:
            self.outputs.append({"output_type": "stream", "name": name, "text": taken})
        else:
            last["text"] += taken

    def _streams(self) -> dict[str, Output]:
        """The streams since the last display, to which text is added."""
        found: dict[str, Output] = {}
        for output in reversed(self.outputs):
            if output["output_type"] != "stream":
                break
            found[output["name"]] = output
        return found

    def display(self, data: plain.Json) -> None:
        """Take in an output that a process says to have displayed."""
        if type(data) is not dict:
            return
        if data.get("output_type") == "clear_output":
            self.outputs.clear()
            return
        kind = "execute_result" if data.get("output_type") == "execute_result" else "display_data"
        shown = harmless(data.get("data"))
        size = sum(map(len, shown.values()))
        if not shown or len(self.outputs) >= _MAX_OUTPUTS or size > self._left:
            self.dropped += size or 1
            return
        self._left -= size
        if kind == "execute_result":
            shown.setdefault("text/plain", "(no text)")  # nbgrader reads it
        output: Output = {"output_type": kind, "data": shown, "metadata": {}}
        self.outputs.append(output | ({"execution_count": None} if kind == "execute_result" else {}))

    def fail(self, name: str, message: str, traceback: list[str] | None = None) -> None:
        """Add an error, as nbformat has it."""
        lines = [_clean(line) for line in traceback or [f"{name}: {message}"]]
        self.outputs.append(
            {"output_type": "error", "ename": _clean(name), "evalue": _clean(message), "traceback": lines}
        )

    def _take(self, text: str) -> str:
        taken = text[: max(0, self._left)]
        self._left -= len(taken)
        if len(taken) < len(text):
            if not self.dropped:
                taken += "\n[more output was left out]\n"
            self.dropped += len(text) - len(taken)
        return taken if len(self.outputs) < _MAX_OUTPUTS else ""


def harmless(data: plain.Json) -> dict[str, str]:
    """Return what of a display passes: no page, script or drawing that a browser would run."""
    if type(data) is not dict:
        return {}
    texts = {name: _joined(value) for name, value in data.items() if name in TEXTS | PICTURES}
    return {
        name: _clean(text)
        for name, text in texts.items()
        if text and (name not in PICTURES or _BASE64.fullmatch(text))
    }


def _joined(value: plain.Json) -> str:
    return value if type(value) is str else ""


def _clean(text: str) -> str:
    """Replace what is no character: half a surrogate pair cannot be written to a file."""
    return text.encode("utf-8", "backslashreplace").decode()


class Streams:
    """The reading ends of pipes, by the name of the stream that each is."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = dict(names)
        self._decoders = {fd: codecs.getincrementaldecoder("utf-8")("replace") for fd in names}
        for fd in names:
            os.set_blocking(fd, False)

    def __iter__(self) -> Any:
        return iter(self._names)

    def drain(self, capture: Capture | None) -> None:
        """Read what is there; without a `capture` it is lost."""
        for fd, name in self._names.items():
            while (data := _read(fd)) and (capture is None or capture.dropped < _FLOOD_BYTES):
                text = self._decoders[fd].decode(data)
                if capture is not None:
                    capture.print(name, text)

    def close(self) -> None:
        """Close the pipes."""
        for fd in self._names:
            os.close(fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return b""


def follow(
    channel: Channel, streams: Streams, capture: Capture, *, deadline: float, ended_fd: int
) -> dict[str, Any]:
    """Wait until the process at `channel` says that its cell is done, and return what it says.

    Raises:
        TimeoutError: it has not until `deadline`.
        OutputFlood: it prints on and on.
        ConnectionError: its process has ended; `ended_fd` is then readable.
        NotPlain: it says what is no answer.
    """
    poll = select.poll()
    for fd in (channel.fileno(), ended_fd, *streams):
        poll.register(fd, select.POLLIN)
    channel.socket.settimeout(5)
    while True:
        left_s = deadline - time.monotonic()
        ready = {fd for fd, _ in poll.poll(max(0.0, left_s) * 1000)}
        streams.drain(capture)
        if channel.fileno() in ready:
            channel.fill()
            streams.drain(capture)
        for message in channel.pending(1):
            if type(message) is not dict:
                raise plain.NotPlain("an answer that is no object")
            if "output" not in message:
                return message
            capture.display(message["output"])
            channel.send({"displayed": True})
        if capture.dropped >= _FLOOD_BYTES:
            raise OutputFlood(f"more than {_FLOOD_BYTES >> 20} MiB of output")
        if ended_fd in ready and channel.fileno() not in ready:
            raise ConnectionResetError("its process has ended")
        if left_s <= 0:
            raise TimeoutError("the cell's time is up")
