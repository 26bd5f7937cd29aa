"""A real Prometheus, started without root in a directory of its own.

    with Prometheus(targets_of(mesh), rules=golden_rules()) as prometheus:
        prometheus.query('sum by (service) (rate(envoy_http_downstream_rq_total[5s]))')
        prometheus.alerts()

It listens on a loopback address of its own, keeps an hour at most, and cannot be changed over HTTP: its
administrative interface stays closed, and it reads what to scrape from files.

See: Prometheus, "Configuration", "HTTP API"; prometheus(1).
"""

import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from cnlab.apps.addresses import EVERYWHERE, reserve
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.errors import MeshError, ProgramEnded
from cnlab.mesh.observability import promtool
from cnlab.mesh.observability.metrics import Sample
from cnlab.mesh.observability.scraper import Target
from cnlab.mesh.observability.series import Series
from cnlab.mesh.process import Process, private_directory

PORT = 9090
_START_TIMEOUT_S = 20.0
_OPTIONS = (
    "--storage.tsdb.retention.time=1h",
    "--storage.tsdb.retention.size=64MB",
    "--query.max-concurrency=4",
    "--query.timeout=10s",
    "--log.level=warn",
)
_SOON = "--scrape.discovery-reload-interval=100ms"  # new targets at once; some versions do not know it
_ENVIRONMENT = {"GOMEMLIMIT": "160MiB", "GOMAXPROCS": "1"}  # see Go, "A Guide to the Go Garbage Collector"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is ``pending`` or ``firing``, with the labels of what it is about."""

    name: str
    state: str
    labels: Mapping[str, str]
    summary: str


def configuration(
    jobs: Iterable[str], *, interval_s: float, targets_file: str, rule_file: str | None = None
) -> dict[str, Any]:
    """Return the content of ``prometheus.yml``: where targets and rules stand, and how often to scrape.

    Targets come from a file that may be rewritten at any time, one for each job (service discovery by file).

    Args:
        jobs: names of the jobs.
        interval_s: time between two scrapes.
        targets_file: pattern of the files' names, with ``{job}`` in it.
        rule_file: a file with rules, if there are any.
    """
    interval = f"{round(interval_s * 1000)}ms"
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [rule_file] if rule_file else [],
        "scrape_configs": [
            {
                "job_name": job,
                "file_sd_configs": [{"files": [targets_file.format(job=job)], "refresh_interval": "1s"}],
            }
            for job in jobs
        ],
    }


def discovered(targets: Iterable[Target]) -> list[dict[str, Any]]:
    """Return the content of a file with targets; path and parameters of the URL become labels.

    See: Prometheus, "Configuration", file_sd_config, and the labels ``__metrics_path__`` and ``__param_…``.
    """
    groups = []
    for target in targets:
        url = urlsplit(target.url)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        where = {"__metrics_path__": url.path} | {
            f"__param_{key}": value for key, value in parameters.items()
        }
        groups.append({"targets": [url.netloc], "labels": {**target.labels, **where}})
    return groups


def to_samples(result: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """Turn the ``result`` of an instant query into samples."""
    samples = []
    for entry in result:
        labels = dict(entry["metric"])
        samples.append(Sample(labels.pop("__name__", ""), labels, float(entry["value"][1])))
    return samples


class Prometheus:
    """Prometheus, scraping `targets` until the end of the block.

    Raises:
        MissingFeature: this machine has no Prometheus.
        MeshError: ``promtool`` refuses the rules; the message has its words.
    """

    def __init__(
        self, targets: Iterable[Target], *, rules: Mapping[str, Any] | None = None, interval_s: float = 0.5
    ) -> None:
        self._targets = list(targets)
        self._rules = rules
        self._interval_s = interval_s
        self._process: Process | None = None
        self._stack = contextlib.ExitStack()
        self.address = ""

    def __enter__(self) -> Self:
        program = promtool.find("prometheus")
        with contextlib.ExitStack() as stack:
            self.directory = stack.enter_context(private_directory("cnlab-prometheus-"))
            network = stack.enter_context(reserve())
            if network.taken([PORT]):
                raise MeshError(f"{EVERYWHERE}:{PORT} is taken, Prometheus needs that port")
            self.address = f"{network.address(1)}:{PORT}"
            self._write()
            stack.callback(self._stop)
            self._start(program)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and remove its directory."""
        self._stack.close()

    def _stop(self) -> None:
        if self._process:
            self._process.stop(timeout_s=5.0)

    def update(self, targets: Iterable[Target]) -> None:
        """Scrape these from now on: Prometheus notices the new file by itself."""
        by_job: dict[str, list[Target]] = {target.job: [] for target in self._targets}
        for target in targets:
            by_job.setdefault(target.job, []).append(target)
        self._targets = [target for found in by_job.values() for target in found]
        for job, found in by_job.items():
            file = self.directory / f"targets-{job}.json"
            file.with_suffix(".new").write_text(json.dumps(discovered(found)))
            file.with_suffix(".new").rename(file)

    def _write(self) -> None:
        import yaml

        rule_file = self.directory / "rules.yml"
        if self._rules:
            rule_file.write_text(yaml.safe_dump(dict(self._rules)))
        self.update(self._targets)
        content = configuration(
            dict.fromkeys(target.job for target in self._targets),
            interval_s=self._interval_s,
            targets_file=str(self.directory / "targets-{job}.json"),
            rule_file=str(rule_file) if self._rules else None,
        )
        self.config_file = self.directory / "prometheus.yml"
        self.config_file.write_text(yaml.safe_dump(content, sort_keys=False))
        promtool.check_config(self.config_file)

    def _start(self, program: str) -> None:
        self._process = Process(
            [
                program,
                f"--config.file={self.config_file}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address={self.address}",
                *_OPTIONS,
                *([_SOON] if _knows(program, _SOON) else []),
            ],
            log=self.directory / "log",
            env={"PATH": "/usr/bin:/bin", **_ENVIRONMENT},
            cwd=self.directory,
        )
        self._process.start()
        wait_until(self._is_ready, timeout_s=_START_TIMEOUT_S, poll_s=0.02, what="Prometheus to be ready")

    def _is_ready(self) -> bool:
        if self._process is None or not self._process.is_running:
            log = self._process.log if self._process else ""
            raise ProgramEnded("prometheus", "ended before it was ready", log)
        try:
            return self._get("/-/ready")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    @property
    def url(self) -> str:
        """Its own page, for a browser."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid if self._process else 0

    @property
    def memory_bytes(self) -> int:
        """Its proportional set size."""
        return self._process.memory_bytes if self._process else 0

    def query(self, text: str, *, at: float | None = None) -> list[Sample]:
        """Return the vector that `text` means now, or at the time `at`.

        Raises:
            InvalidValue: it is no PromQL; the message has Prometheus' words.
        """
        data = self._ask("query", query=text, **({} if at is None else {"time": f"{at:.3f}"}))
        if data["resultType"] == "scalar":
            return [Sample("", {}, float(data["result"][1]))]
        return to_samples(data["result"])

    def query_range(self, text: str, *, start: float, end: float, step_s: float) -> list[Series]:
        """Return what `text` means at `start` and every `step_s` seconds until `end`."""
        data = self._ask(
            "query_range", query=text, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step_s:g}"
        )
        found = []
        for entry in data["result"]:
            labels = dict(entry["metric"])
            name = labels.pop("__name__", "")
            times, values = zip(*((float(at), float(value)) for at, value in entry["values"]), strict=True)
            found.append(Series(name, labels, times, values))
        return found

    def alerts(self) -> list[Alert]:
        """Return the alerts that are pending or firing."""
        return [
            Alert(
                alert["labels"]["alertname"],
                alert["state"],
                {name: value for name, value in alert["labels"].items() if name != "alertname"},
                alert["annotations"].get("summary", ""),
            )
            for alert in self._ask("alerts")["alerts"]
        ]

    def wait(self, rounds: int = 2, *, timeout_s: float = 20.0) -> None:
        """Wait until it has scraped every target `rounds` more times; the first comes after five seconds."""

        def scrapes() -> float:
            counts = [sample.value for sample in self.query("count_over_time(up[1h])")]
            return min(counts, default=0.0) if len(counts) >= len(self._targets) else 0.0

        goal = scrapes() + rounds
        what = f"{rounds} rounds of scraping"
        wait_until(lambda: scrapes() >= goal, timeout_s=timeout_s, poll_s=0.05, what=what)

    def _ask(self, what: str, **parameters: str) -> dict[str, Any]:
        status, body = self._get(f"/api/v1/{what}?{urlencode(parameters)}")
        answer = json.loads(body)
        if answer["status"] != "success":
            error = InvalidValue if status == http.HTTPStatus.BAD_REQUEST else MeshError
            raise error(f"Prometheus: {answer.get('error', status)}")
        data: dict[str, Any] = answer["data"]
        return data

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _knows(program: str, option: str) -> bool:
    known = subprocess.run([program, option, "--version"], capture_output=True, timeout=_START_TIMEOUT_S)
    return known.returncode == 0
