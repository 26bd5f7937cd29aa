"""Run many jobs at a time: in worker processes here, or on the workers of a Dask cluster.

Interface: ``with closing(run(jobs, workers=2)) as results: for result in results: …``. Results come in the
order in which they are done. Jobs are taken from their iterable only as workers become free, so a class of
hundreds is never in memory at once. Leaving the loop early, by Ctrl-C too, ends everything that was started.

A job whose worker dies is run once more, in a new worker; if that dies too, its result says so in `error`.
"""

from __future__ import annotations

import contextlib
import itertools
import select
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from cnlab.errors import InvalidValue
from cnlab.grading.attempt.execution import Job, Result
from cnlab.grading.workers.worker import ATTEMPTS, RUN_JOB, Worker, after_deaths, failed


def run(
    jobs: Iterable[Job], *, workers: int, scheduler: str | None = None, runner: str = RUN_JOB
) -> Iterator[Result]:
    """Run `jobs` and yield their results as they are done.

    Args:
        jobs: taken lazily: about three for each worker are in memory.
        workers: how many run at a time on this machine; with a scheduler, the cluster's threads decide.
        scheduler: the address of a Dask scheduler, such as ``tls://10.0.0.5:8786``; see `cluster`.
        runner: what a worker does with a job, as ``module:function``.

    Raises:
        InvalidValue: fewer than one worker.
        ClusterError: the scheduler cannot be used, or its last worker has gone.
    """
    if workers < 1:
        raise InvalidValue(f"{workers} workers: expected 1 or more")
    if scheduler is not None:
        from cnlab.grading.workers import cluster  # distributed takes half a second to import

        return cluster.run(jobs, scheduler, runner=runner)
    return _run_here(jobs, workers, runner)


def _run_here(jobs: Iterable[Job], count: int, runner: str) -> Iterator[Result]:
    with contextlib.closing(_Pool(jobs, count, runner)) as pool:
        yield from pool.results()


class _Pool:
    """Worker processes and the jobs that wait for them.

    A worker that is busy gets its next job ahead of time, so that it need not wait for the parent, which
    writes to the gradebook meanwhile. The last jobs are kept back for whoever is free first.
    """

    def __init__(self, jobs: Iterable[Job], count: int, runner: str) -> None:
        self._jobs = iter(jobs)
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[str] = Counter()
        self._count = count
        self._runner = runner
        self._workers: list[Worker] = []

    def results(self) -> Iterator[Result]:
        """Yield each result; over when all jobs are done."""
        self._feed()
        while busy := [worker for worker in self._workers if worker.given]:
            for worker in _ready(busy):
                result = worker.take()
                if result is None:
                    result = self._bury(worker)
                self._feed()
                if result is not None:
                    yield after_deaths(result, self._deaths[result.key])

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.terminate()  # all at once, and only then wait for each
        for worker in self._workers:
            worker.close()

    def _feed(self) -> None:
        """Give jobs to all who can take one."""
        while self._fill() and (worker := self._taker()):
            worker.give(self._waiting.popleft())

    def _fill(self) -> bool:
        """Have a job waiting for each worker while there are so many; say whether there is one."""
        self._waiting.extend(itertools.islice(self._jobs, max(0, self._count - len(self._waiting))))
        return bool(self._waiting)

    def _taker(self) -> Worker | None:
        """Return a worker that is idle, or else new, or else busy with one job if many wait."""
        waiting_lines = {len(worker.given): worker for worker in self._workers}
        if 0 not in waiting_lines and len(self._workers) < self._count:
            self._workers.append(Worker(self._runner))
            return self._workers[-1]
        return waiting_lines.get(0) or (waiting_lines.get(1) if len(self._waiting) >= self._count else None)

    def _bury(self, worker: Worker) -> Result | None:
        """Take a dead worker's jobs back; return the result of the one that has now cost too many."""
        self._workers.remove(worker)
        code = worker.close()
        suspect = worker.given[0]
        self._deaths[suspect.key] += 1
        if self._deaths[suspect.key] >= ATTEMPTS:
            worker.given.popleft()
        self._waiting.extendleft(reversed(worker.given))
        return failed(suspect, code) if self._deaths[suspect.key] >= ATTEMPTS else None


def _ready(workers: Sequence[Worker]) -> list[Worker]:
    """Wait until some have a result or are dead, and return those."""
    poll = select.poll()
    for worker in workers:
        poll.register(worker.socket, select.POLLIN)
        poll.register(worker.pidfd, select.POLLIN)  # its servers may hold the socket open
    ready = {fd for fd, _ in poll.poll()}
    return [worker for worker in workers if ready & {worker.socket.fileno(), worker.pidfd}]
