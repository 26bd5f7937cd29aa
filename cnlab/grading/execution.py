"""Run one submission: the student's cells in a sandbox, the checks in a clean process beside it.

Interface: `run_job` takes a `Job` and gives a `Result`, in whatever process it is called; `close` ends the
servers that it keeps warm. Both are plain data: they name no path and can go to another machine as JSON.
A `Job` holds hidden tests, so it never goes where the student's code can read.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from cnlab.errors import CnlabError
from cnlab.grading.checking import Attempt, Cell, cells_of
from cnlab.grading.forkserver import PRELOAD, ForkServer
from cnlab.grading.job import CellResult, Job, Result
from cnlab.grading.limits import Event
from cnlab.grading.processes import World

__all__ = ["CellResult", "Event", "Job", "Result", "close", "run_job"]

_servers: dict[
    tuple[int, tuple[str, ...]], ForkServer
] = {}  # by the process that has made it, and its modules


def run_job(job: Job) -> Result:
    """Run a submission and say how it went; never raises for anything that a student did."""
    if job.machine == "cnlab":
        from cnlab.grading import machine

        return machine.run_in_machine(job)
    begun = time.monotonic()
    notes: list[str] = []
    for attempt in (1, 2):
        result = _attempt(job)
        result = dataclasses.replace(
            result, attempts=attempt, notes=tuple(notes), wall_s=round(time.monotonic() - begun, 4)
        )
        doubt = _doubt(result)
        if not doubt:
            break
        notes.append(f"run again in a fresh sandbox: {doubt}")
    return result


def close() -> None:
    """End the servers that this process keeps warm."""
    import sys

    for key in list(_servers):
        server = _servers.pop(key)
        if key[0] == os.getpid():
            server.close()
    machine = sys.modules.get("cnlab.grading.machine")
    if machine is not None:
        machine.close()


def _attempt(job: Job) -> Result:
    notebook = json.loads(job.notebook)
    cells = cells_of(notebook, job.roles)
    preload = job.options.get("preload")
    modules = tuple(map(str, preload)) if isinstance(preload, (list, tuple)) else PRELOAD
    world: World | None = None
    error = ""
    try:
        with World(_server(modules), job) as world:
            Attempt(job, cells, world).run()
    except (CnlabError, OSError) as failure:
        error = str(failure)
    events = tuple(world.events) if world else ()
    usage = world.usage if world else {}
    return Result(
        job.key, _filled_in(notebook, cells), tuple(cell.result for cell in cells), events, usage, error=error
    )


def _server(modules: tuple[str, ...]) -> ForkServer:
    key = os.getpid(), modules
    if key not in _servers:
        if not _servers:
            atexit.register(close)
        _servers[key] = ForkServer(modules)
    return _servers[key]


def _filled_in(notebook: dict[str, Any], cells: Sequence[Cell]) -> str:
    """Return the notebook with the outputs of its cells."""
    for count, cell in enumerate(cells, start=1):
        for output in cell.outputs:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
        notebook["cells"][cell.index] |= {"outputs": cell.outputs, "execution_count": count}
    return json.dumps(notebook)


def _doubt(result: Result) -> str:
    """Say what went wrong that may not be the submission's fault; nothing if all is clear."""
    if result.error:
        return result.error
    return ""
