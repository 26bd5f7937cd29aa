"""Jobs on a Dask cluster: a real scheduler and real workers on loopback, started by Dask's own commands."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import pytest
from grading.problem_set import ANSWERS, NAME, answered, grades, make_course, submit
from student import ROOT

from cnlab import cli
from cnlab.clock import wait_until
from cnlab.grading.attempt.execution import Job, Result
from cnlab.grading.workers import cluster, pool

RUNNERS = "grading.stand_in_runners"
DASK = Path(sys.executable).with_name("dask")

pytestmark = pytest.mark.timeout(120)


class Cluster:
    """A scheduler and its workers; `start_worker` adds one."""

    def __init__(self, directory: Path, *tls: str) -> None:
        self._directory = directory
        self._tls = tls
        self._processes: list[subprocess.Popen[bytes]] = []
        place = directory / "scheduler.json"
        self._start("scheduler", "--port", "0", "--no-show", "--scheduler-file", str(place))
        try:
            wait_until(
                lambda: place.is_file() and place.read_text().rstrip().endswith("}"),
                timeout_s=30,
                what="the scheduler to say where it listens",
            )
        except BaseException:
            self.close()
            raise
        self.address = json.loads(place.read_text())["address"]

    def start_worker(self, *, before: str = "") -> None:
        """Add a worker that takes one job at a time; directories in `before` come first on its path."""
        options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self._directory)]
        self._start("worker", self.address, *options, "--death-timeout", "5", before=before)

    def workers(self) -> list[int]:
        """The processes of the workers that are alive."""
        return [process.pid for process in self._processes[1:] if process.poll() is None]

    def close(self) -> None:
        """End everything, the scheduler last."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def _start(self, kind: str, *arguments: str, before: str = "") -> None:
        path = os.pathsep.join(filter(None, (before, str(ROOT / "tests"))))
        self._processes.append(
            subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    DASK,
                    kind,
                    *arguments,
                    *self._tls,
                    "--no-dashboard",
                    "--host",
                    "127.0.0.1",
                ],
                env=os.environ | {"PYTHONPATH": path},
                cwd=self._directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler that all tests here share."""
    with contextlib.closing(Cluster(tmp_path_factory.mktemp("cluster"))) as running:
        yield running


@pytest.fixture
def two_workers(running: Cluster) -> Cluster:
    """The scheduler with two workers, whatever became of those before."""
    for _ in range(2 - len(running.workers())):
        running.start_worker()
    with distributed.Client(running.address) as client:
        wait_until(lambda: len(client.nthreads()) == 2, timeout_s=40, what="two workers to be there")
    return running


def jobs(number_of_jobs: int, **options: object) -> Iterator[Job]:
    return (Job(f"job-{number}", "{}", (), options=options) for number in range(number_of_jobs))


def run(jobs: Iterator[Job], runner: str, scheduler: str) -> list[Result]:
    return list(pool.run(jobs, workers=1, scheduler=scheduler, runner=f"{RUNNERS}:{runner}"))


def children_of(pids: list[int]) -> list[str]:
    """What any of their threads has started."""
    lists = itertools.chain.from_iterable(Path(f"/proc/{pid}/task").glob("*/children") for pid in pids)
    return [child for path in lists for child in path.read_text().split()]


def test_every_job_is_done_once_in_a_process_of_its_own(two_workers: Cluster) -> None:
    """Dask's own process has threads, off which nothing can be forked."""
    results = run(jobs(20), "echo", two_workers.address)
    assert {result.error for result in results} == {""}
    who = [json.loads(result.notes[0]) for result in results]

    assert sorted(result.key for result in results) == sorted(job.key for job in jobs(20))
    assert {one["parent"] for one in who} <= set(two_workers.workers())
    assert all(one["pid"] not in two_workers.workers() for one in who)


def test_nothing_is_left_on_the_workers(two_workers: Cluster) -> None:
    """The cluster is there for others too."""
    run(jobs(4), "echo", two_workers.address)

    assert children_of(two_workers.workers()) == []


def test_worker_killed_half_way_loses_nothing(two_workers: Cluster, tmp_path: Path) -> None:
    """The scheduler gives what it had to the other."""
    before = two_workers.workers()
    results = run(jobs(8, done=str(tmp_path / "done")), "kill_parent", two_workers.address)

    assert sorted(result.key for result in results) == sorted(job.key for job in jobs(8))
    assert [result.error for result in results] == [""] * 8
    wait_until(lambda: len(two_workers.workers()) < len(before), timeout_s=60)


def test_job_whose_process_died_is_run_again_and_says_so(two_workers: Cluster, tmp_path: Path) -> None:
    """As on one machine."""
    [result] = run(jobs(1, count=str(tmp_path / "count"), deaths=1), "die", two_workers.address)

    assert (result.error, result.attempts) == ("", 2)
    assert "died; it was run again" in result.notes[0]


def test_job_that_kills_two_processes_fails_alone(two_workers: Cluster, tmp_path: Path) -> None:
    """The Dask workers live on."""
    deadly = Job("deadly", "{}", (), options={"count": str(tmp_path / "count"), "deaths": 99})
    results = run(itertools.chain(jobs(2), [deadly]), "die", two_workers.address)

    assert {result.key: result.error for result in results if result.error} == {
        "deadly": "each of the 2 processes that ran it died, the last by signal 9"
    }


def test_class_is_graded_although_a_worker_is_killed_half_way(two_workers: Cluster, tmp_path: Path) -> None:
    """By the command, with real submissions in real sandboxes: the marks are those of one machine."""
    course = make_course(tmp_path / "course")
    wrong = answered(course, ANSWERS | {"cube": "    return x"})
    for number in range(6):
        submit(course, f"student-{number}", wrong if number % 3 else answered(course))
    killer = threading.Thread(target=kill_one, args=(two_workers, course.runs(NAME)))
    killer.start()
    grade = ["grade", "autograde", NAME, "--course", str(course.root)]
    code = cli.main([*grade, "--scheduler", two_workers.address])
    killer.join()
    on_cluster = grades(course)

    assert (code, len(two_workers.workers())) == (0, 1)
    assert cli.main([*grade, "--force"]) == 0
    assert on_cluster == grades(course)
    assert len({row[0] for row in on_cluster}) == 6


def kill_one(cluster: Cluster, journals: Path) -> None:
    """Kill a worker as soon as the first submission is graded."""
    wait_until(lambda: journals.is_dir() and any(journals.iterdir()), timeout_s=60)
    os.kill(cluster.workers()[0], signal.SIGKILL)


def test_leaving_early_ends_what_the_workers_run(two_workers: Cluster, tmp_path: Path) -> None:
    """Ctrl-C in the instructor's terminal reaches the other machines too."""
    pids = tmp_path / "pids"

    def interrupted() -> Iterator[Job]:
        yield from jobs(2, pids=str(pids))
        wait_until(lambda: pids.is_file() and pids.read_text().count("\n") == 4, timeout_s=60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted(), "wait_for_ever", two_workers.address)

    wait_until(lambda: not children_of(two_workers.workers()), timeout_s=60)


def test_worker_with_other_code_is_refused(running: Cluster, tmp_path: Path) -> None:
    """It would give other marks."""
    with contextlib.closing(Cluster(tmp_path)) as other:
        shutil.copytree(ROOT / "cnlab", tmp_path / "cnlab")
        with (tmp_path / "cnlab/grading/workers/pool.py").open("a") as file:
            file.write("# changed\n")
        other.start_worker(before=str(tmp_path))
        with pytest.raises(cluster.ClusterError, match=r"runs cnlab \w+ \(here \w+\): install there"):
            run(jobs(1), "echo", other.address)


def test_scheduler_without_workers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting in silence helps nobody."""
    monkeypatch.setattr(cluster, "CONNECT_S", 1.0)
    with (
        contextlib.closing(Cluster(tmp_path)) as lonely,
        pytest.raises(cluster.ClusterError, match="has no worker: start some by `dask worker tcp://"),
    ):
        run(jobs(1), "echo", lonely.address)


def test_nobody_at_the_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line in place of Dask's many."""
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(cluster.ClusterError, match=r"^connect\(tcp://127\.0\.0\.1:9\): [^<>]+$"):
        run(jobs(1), "echo", "tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["tcp://192.0.2.7:8786", "192.0.2.7:8786", "ws://grader.example:8786"])
def test_plain_text_over_the_network_is_refused(address: str) -> None:
    """Hidden tests travel to the workers, and who reaches a scheduler can run programs there."""
    with pytest.raises(cluster.ClusterError, match="without encryption"):
        run(jobs(1), "echo", address)


def test_word_that_is_no_address_is_named() -> None:
    """It was said to be without encryption."""
    with pytest.raises(cluster.ClusterError, match=r"'nonsense' is no address .* expected tls://HOST:PORT"):
        next(cluster.run(iter(()), "nonsense", runner=""))


def test_cluster_with_certificates_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to more than one machine, by Dask's own settings."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=grader", "-days", "2", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    tls = ["--tls-ca-file", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key)]
    with contextlib.closing(Cluster(tmp_path, "--protocol", "tls", *tls)) as private:
        private.start_worker()
        place = "distributed.comm.tls."
        settings = {"ca-file": certificate, "client.cert": certificate, "client.key": key}
        with dask.config.set({place + name: str(path) for name, path in settings.items()}):
            results = run(jobs(2), "echo", private.address)

    assert private.address.startswith("tls://")
    assert len(results) == 2
