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
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from cnlab.errors import CnlabError
from cnlab.grading.attempt.checking import Attempt, Cell, cells_of
from cnlab.grading.attempt.forkserver import PRELOAD, ForkServer, ServerGone
from cnlab.grading.attempt.processes import SandboxFailed, World
from cnlab.grading.job import CellResult, Job, Result
from cnlab.grading.limits import Event

__all__ = ["CellResult", "Event", "Job", "Result", "close", "run_job"]

_servers: dict[
    tuple[int, tuple[str, ...]], ForkServer
] = {}  # by the process that has made it, and its modules
_lock = threading.Lock()  # a cluster's worker may have several threads


def run_job(job: Job) -> Result:
    """Run a submission and say how it went; never raises for anything that a student did.

    What may have gone wrong by the machine's fault is run once more, in a fresh sandbox; if it then
    goes otherwise, that counts.
    """
    if job.machine == "cnlab":
        from cnlab.grading.workers import machine

        return machine.run_in_machine(job)
    begun = time.monotonic()
    result, doubts = _attempt(job)
    if doubts:
        again, _ = _attempt(job, is_careful=True)
        is_same = _same(result, again) and not result.error  # then no second guess counts
        outcome = "it went the same way" if is_same else "this time it went otherwise"
        notes = (f"run again in a fresh sandbox, since {'; '.join(doubts)}: {outcome}",)
        result = dataclasses.replace(result if is_same else again, attempts=2, notes=notes)
    return dataclasses.replace(result, wall_s=round(time.monotonic() - begun, 4))


def _same(one: Result, other: Result) -> bool:
    return [cell.status for cell in one.cells] == [cell.status for cell in other.cells]


def close() -> None:
    """End the servers that this process keeps warm."""
    for key in list(_servers):
        server = _servers.pop(key)
        if key[0] == os.getpid():
            server.close()
    machine = sys.modules.get("cnlab.grading.workers.machine")
    if machine is not None:
        machine.close()


def _attempt(job: Job, *, is_careful: bool = False) -> tuple[Result, list[str]]:
    """Run a job in one sandbox; return also why that may not be the last word."""
    notebook = json.loads(job.notebook)
    cells = cells_of(notebook, job.roles)
    world: World | None = None
    error = ""
    try:
        with World(_server(job), job) as world:
            Attempt(job, cells, world, is_careful=is_careful).run()
    except (ServerGone, SandboxFailed, OSError) as failure:
        error = str(failure)
        close()
    except CnlabError as failure:  # a limit or a file's name that makes no sense, a part that is missing
        return Result(job.key, job.notebook, error=str(failure)), []
    except Exception as failure:  # a fault of ours must cost one submission, not the run
        error = f"{type(failure).__name__}: {failure}"[:500]
        close()
    events = tuple(world.events) if world else ()
    usage = world.usage if world else {}
    results = tuple(cell.result for cell in cells)
    doubts = [doubt for cell in cells if (doubt := cell.doubt({event.cell for event in events}))]
    result = Result(job.key, _filled_in(notebook, cells), results, events, usage, error=error)
    return result, [error, *doubts] if error else doubts


def _server(job: Job) -> ForkServer:
    preload = job.options.get("preload")
    modules = tuple(map(str, preload)) if isinstance(preload, (list, tuple)) else PRELOAD
    key = os.getpid(), modules
    with _lock:
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
