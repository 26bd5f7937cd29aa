"""The pages that an instructor opens in nbgrader's formgrader, and what is active in them.

Run as ``python formgrader.py STUDENT...`` in the course's directory, it starts a server, asks for the
pages and writes a JSON object: student to page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

from grading.attacks.assignment import NAME

from cnlab.clock import wait_until

PORT = 47020
URL = f"http://127.0.0.1:{PORT}"
MARK = "pwned-by-student"


class ActiveContent(HTMLParser):
    """Collects what a browser would run or follow of what has our mark."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Look for handlers, and for addresses that are scripts."""
        self._inside = tag
        for name, value in attributes:
            text = "".join((value or "").split()).lower()
            is_script = name.startswith("on") or text.startswith("javascript:") or name == "srcdoc"
            if MARK in text and (is_script or tag in ("base", "meta", "iframe", "object", "embed", "form")):
                self.found.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag: str) -> None:
        """Leave the element."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Look at scripts and styles."""
        if self._inside in ("script", "style") and MARK in data:
            self.found.append(f"<{self._inside}>{data[:200]}")


def active_content(page: str) -> list[str]:
    """What of the student's would run in a page."""
    parser = ActiveContent()
    parser.feed(page)
    parser.close()
    return parser.found


def main(students: list[str]) -> None:
    """Start a server, fetch a page for each student and end it."""
    server = subprocess.Popen(
        ["jupyter", "server", "--no-browser", "--allow-root", f"--port={PORT}", "--ip=127.0.0.1",
         "--IdentityProvider.token=t", f"--ServerApp.root_dir={Path.home()}", "--ServerApp.log_level=40"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(_is_up, timeout_s=60, what="the server to answer")
        print(json.dumps({student: _page(_ids()[student]) for student in students}))
    finally:
        server.terminate()
        server.wait()


def _get(path: str) -> bytes:
    request = urllib.request.Request(f"{URL}{path}", headers={"Authorization": "token t"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def _is_up() -> bool:
    try:
        return bool(_get("/api"))
    except OSError:
        return False


def _ids() -> dict[str, str]:
    rows = json.loads(_get(f"/formgrader/api/submitted_notebooks/{NAME}/{NAME}"))
    return {row["student"]: row["id"] for row in rows}


def _page(submission: str) -> str:
    return _get(f"/formgrader/submissions/{submission}/").decode(errors="replace")


if __name__ == "__main__":
    os.environ.pop("JUPYTERHUB_API_TOKEN", None)
    main(sys.argv[1:])
