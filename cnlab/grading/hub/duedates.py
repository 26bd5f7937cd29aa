"""When work is due: from nbgrader's gradebook, where formgrader sets it, to the students' assignment list.

The desk publishes ``duedates.json`` in the exchange, ``{"lab01-namespaces": "2026-11-29T23:59:00+00:00"}``;
each student's server passes it on; ``grading/hub/share/labextensions/cnlab-duedates`` shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnlab.grading.hub.place import COURSE_ID

FILE = "duedates.json"


def read_due_dates(gradebook: Path) -> dict[str, str]:
    """Return the due date of each assignment that has one, in ISO 8601; the gradebook keeps UTC."""
    if not gradebook.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{gradebook}?mode=ro", uri=True, timeout=1)) as database:
        rows = database.execute(
            "SELECT name, duedate FROM assignment WHERE duedate IS NOT NULL ORDER BY name"
        )
        return {name: datetime.fromisoformat(due).replace(tzinfo=UTC).isoformat() for name, due in rows}


def publish(gradebook: Path, shelf: Path) -> None:
    """Write the file anew if the dates have changed; when the gradebook is busy, the next time."""
    with contextlib.suppress(sqlite3.OperationalError):
        text = json.dumps(read_due_dates(gradebook), indent=1)
        published = shelf / FILE
        if not published.exists() or published.read_text() != text:
            unfinished = shelf / f".{FILE}"
            unfinished.write_text(text)
            unfinished.chmod(0o644)
            unfinished.rename(published)


def _load_jupyter_server_extension(server: Any) -> None:
    """Serve the file at ``cnlab/duedates`` of a user's server."""
    from jupyter_server.base.handlers import APIHandler
    from jupyter_server.utils import url_path_join
    from tornado import web

    published = Path(os.environ.get("CNLAB_EXCHANGE", ""), COURSE_ID, FILE)

    class DueDates(APIHandler):
        """Passes on what the desk has published."""

        @web.authenticated
        def get(self) -> None:
            try:
                self.finish(published.read_text())
            except OSError:
                self.finish("{}")

    address = url_path_join(server.web_app.settings["base_url"], "cnlab", "duedates")
    server.web_app.add_handlers(".*$", [(address, DueDates)])
