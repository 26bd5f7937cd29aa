"""The control plane as a mesh holds it: a process to start and kill, and a UNIX socket to ask it by HTTP.

See: `control_plane` for what runs there.
"""

import contextlib
import http.client
import json
import sys
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.addresses import check_free
from cnlab.mesh.configuration import GATEWAY, Configuration, Json, Workload
from cnlab.mesh.errors import ControlPlaneDown, NotAccepted, ProgramEnded
from cnlab.mesh.process import Process, python_environment
from cnlab.mesh.settings import ControlPlaneSettings
from cnlab.mesh.unix_socket import UnixConnection, check_path

_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 60.0  # longer than a change and its way back wait for proxies
_RETURN_TIMEOUT_S = 30.0


class RemoteControlPlane:
    """Start, ask, kill and restart the control plane's process."""

    def __init__(self, settings: ControlPlaneSettings, directory: Path) -> None:
        self._settings = settings
        for path in (settings.xds_socket, settings.api_socket):
            check_path(path)
        self._file = directory / "control-plane.json"
        self._file.write_text(json.dumps(asdict(settings)))
        argv = [sys.executable, "-P", "-m", "cnlab.mesh.control_plane.server", str(self._file)]
        self._process = Process(argv, log=directory / "control-plane.log", env=python_environment())
        self._connection: http.client.HTTPConnection | None = None
        self._talking = threading.Lock()  # a widget may ask from a thread of its own
        self._wanted: Json | None = None
        self.versions: dict[str, dict[str, str]] = {}  # by node and type; as known last
        self.nodes: Callable[[], list[str]] = list  # those that will come back after a restart

    def __repr__(self) -> str:
        return f"<control plane {self.url} {f'pid={self.pid}' if self.is_running else 'not running'}>"

    # Its life

    def start(self) -> None:
        """Start it and return at once; see `wait_ready`."""
        check_free(self._settings.address, self._settings.ports.monitoring, "monitoring")
        self._process.start()

    def wait_ready(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until it answers.

        Raises:
            ProgramEnded: it has ended instead, or does not answer in time.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self.is_running or self._answers(), timeout_s=timeout_s)
            if self.is_running:
                return
        happened = "does not answer" if self.is_running else f"ended with code {self._process.returncode}"
        raise ProgramEnded("control plane", happened, self.log)

    def kill(self) -> None:
        """End it by SIGKILL: a crash. Sidecars go on with what they have."""
        self._process.kill()
        self._disconnect()

    def restart(self) -> None:
        """Start it anew, tell it all that was wanted, and wait until nodes that run have come back."""
        self.stop()
        self.start()
        self.wait_ready()
        if self._wanted is not None:
            self.ask("PUT", "/config", self._wanted, timeout_s=0)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._has_settled(self.nodes()), timeout_s=_RETURN_TIMEOUT_S, poll_s=0.05)

    def _has_settled(self, names: list[str]) -> bool:
        nodes = self.status()["nodes"]
        return all(name in nodes and nodes[name]["is_settled"] for name in names)

    def stop(self) -> None:
        """End it and forget the connection."""
        self._process.stop(0.5)
        self._disconnect()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.is_running

    @property
    def url(self) -> str:
        """Where Prometheus finds its metrics; all else goes over a UNIX socket."""
        return f"http://{self._settings.address}:{self._settings.ports.monitoring}"

    @property
    def log(self) -> str:
        """What it has written."""
        return self._process.log

    @property
    def memory_bytes(self) -> int:
        """Its proportional set size."""
        return self._process.memory_bytes

    # Talking to it

    def configure(
        self, configuration: Configuration, workloads: list[Workload], *, timeout_s: float, cause: str
    ) -> tuple[int, list[Json]]:
        """Send all that is wanted; return the version that it got, and who refused it.

        Args:
            configuration: what shall happen.
            workloads: the instances there are.
            timeout_s: how long to wait for the answers of nodes; 0 to wait for none.
            cause: what an error is about.

        Raises:
            InvalidValue: something is wrong in it; nothing has changed.
            NotAccepted: nodes have not answered within `timeout_s`.
            ControlPlaneDown: nobody is there to take it.
        """
        wanted = {
            "configuration": configuration.as_dict(),
            "workloads": [asdict(workload) for workload in workloads],
        }
        answer = self.ask("PUT", "/config", wanted, cause=cause, timeout_s=timeout_s)
        if not answer["refusals"]:
            self._wanted = wanted
        self._remember(answer["nodes"])
        return answer["version"], answer["refusals"]

    def status(self) -> Json:
        """Return who is connected, and what each node has."""
        answer: Json = self.ask("GET", "/status")
        self._remember({name: node["versions"] for name, node in answer["nodes"].items()})
        return answer

    def _remember(self, versions: dict[str, dict[str, str]]) -> None:
        """Keep what was known: after a restart nodes are not sent, and do not answer, what they have."""
        named = {one["name"] for one in self._wanted["workloads"]} | {GATEWAY} if self._wanted else versions
        for node in versions.keys() | self.versions.keys():
            self.versions[node] = self.versions.get(node, {}) | versions.get(node, {})
        self.versions = {node: some for node, some in self.versions.items() if node in named}

    def ask(self, method: str, path: str, body: object = None, *, cause: str = "", **query: Any) -> Any:
        """Ask one question over a connection that stays open.

        Args:
            method: GET, PUT or POST.
            path: what is asked; `api` lists them.
            body: goes as JSON.
            cause: what an error is about, by default the method and path.
            query: goes after the path.

        Raises:
            ControlPlaneDown: nobody answers.
        """
        target = f"{path}?{urllib.parse.urlencode(query)}" if query else path
        socket = self._settings.api_socket
        with self._talking:
            try:
                status, text = self._exchange(method, target, None if body is None else json.dumps(body))
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise ControlPlaneDown(socket, cause or f"{method} {path}", reason) from None
        if status == http.client.OK:
            return json.loads(text) if text.startswith(("{", "[")) else text
        raise _failure(status, text, cause)

    def _exchange(self, method: str, target: str, body: str | None) -> tuple[int, str]:
        """Ask, a second time if the connection is an old one: a server closes those that are long idle."""
        if self._connection is not None:
            try:
                return _talk(self._connection, method, target, body)
            except (ConnectionResetError, BrokenPipeError):
                self._disconnect()
                if method == "POST":  # what may have been done is not done twice
                    raise
        self._connection = UnixConnection(self._settings.api_socket, timeout=_ANSWER_TIMEOUT_S)
        return _talk(self._connection, method, target, body)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answers(self) -> bool:
        try:
            self.status()
        except ControlPlaneDown:
            return False
        return True


def _talk(
    connection: http.client.HTTPConnection, method: str, target: str, body: str | None
) -> tuple[int, str]:
    connection.request(method, target, body)
    response = connection.getresponse()
    return response.status, response.read().decode()


def _failure(status: int, text: str, cause: str) -> Exception:
    try:
        answer = json.loads(text)
        said = answer["error"]
    except (ValueError, KeyError, TypeError):
        answer, said = {}, f"the control plane answered {status}: {' '.join(text.split())[:300]}"
    said = f"{cause}: {said}" if cause else said
    error = NotAccepted(said) if status == http.client.GATEWAY_TIMEOUT else InvalidValue(said)
    for note in answer.get("notes", []):
        error.add_note(note)
    return error
