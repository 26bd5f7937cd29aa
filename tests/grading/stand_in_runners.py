"""What a worker does in the tests of the pool in place of a submission: quick, stuck, or deadly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

from cnlab.grading.attempt.execution import Job, Result


def echo(job: Job) -> Result:
    """Give the notebook back, and say who did."""
    who = {"pid": os.getpid(), "session": os.getsid(0), "parent": os.getppid()}
    return Result(job.key, job.notebook, notes=(json.dumps(who),))


def mistake(job: Job) -> Result:
    """Answer for another job, as one that is out of step does, or one that wants to."""
    return dataclasses.replace(echo(job), key="job-1" if job.key == "job-0" else "job-0")


def die(job: Job) -> Result:
    """Die as often as the job says; a file beside counts."""
    count = Path(str(job.options.get("count", os.devnull)))
    deaths = len(count.read_bytes()) if count.is_file() else 0
    if deaths < int(str(job.options.get("deaths", 0))):
        count.write_bytes(b"+" * (deaths + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return dataclasses.replace(echo(job), notes=())


def kill_parent(job: Job) -> Result:
    """Kill the Dask worker that this one belongs to, once; a file beside remembers."""
    done = Path(str(job.options["done"]))
    if not done.exists():
        done.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        _stay()
    return echo(job)


def wait_for_ever(job: Job) -> Result:
    """Say in a file who runs here, and in a child of its own, and stay."""
    child = os.fork()
    if child == 0:
        _stay()
    try:
        with open(str(job.options["pids"]), "a") as file:
            file.write(f"{os.getpid()}\n{child}\n")
        _stay()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def break_down(job: Job) -> Result:
    """Fail as no `run_job` should."""
    raise RuntimeError(f"{job.key} is more than it can bear")


def _stay() -> None:
    while True:
        signal.pause()
