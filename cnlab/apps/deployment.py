"""The application without a mesh: each instance at an address of its own, each told where its peers are.

with Deployment(bookinfo(4)) as shop:
    shop.get("/productpage").status
    shop.fail("ratings", rate=0.5)
    shop.counts()
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlencode

from cnlab.apps.addresses import EVERYWHERE, LoopbackNetwork, reserve
from cnlab.apps.application import Application, Client, Instance, Program
from cnlab.apps.launcher import Launcher, ProcessLauncher, Running
from cnlab.errors import CnlabError, InvalidValue

_FIRST_HOST = 10
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: header names are in lower case, `body` is text."""

    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        """Return the body as the JSON value that it is."""
        return json.loads(self.body)

    @property
    def served_by(self) -> str:
        """Who answered, such as ``reviews-v2``."""
        return self.headers.get("x-served-by", "")


@dataclass(frozen=True, slots=True)
class Edge:
    """Requests of one service to another; `errors` were answered with a status from 500, or not at all."""

    source: str
    destination: str
    requests: int
    errors: int


class Deployment:
    """A running application; the ``with`` block ends it."""

    def __init__(
        self, application: Application, *, client: Client = "library", launcher: Launcher | None = None
    ) -> None:
        self.application = application
        self.client = client
        self._given = launcher
        self._launcher: Launcher
        self._stack = contextlib.ExitStack()
        self._places: dict[Instance, str] = {}
        self._running: dict[Instance, Running] = {}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start all instances and return when all serve; for those who have no block, such as a notebook."""
        with contextlib.ExitStack() as stack:
            self._launcher = self._given or stack.enter_context(ProcessLauncher())
            self._places = place(self.application, stack.enter_context(_network(self.application)))
            stack.callback(self._stop_all)
            for instance in self._places:
                self._running[instance] = self._start(instance)
            for running in self._running.values():
                running.wait_ready()
            self._stack = stack.pop_all()
        return self

    def stop(self) -> None:
        """End all instances, each after the requests that it has in flight."""
        self._stack.close()

    def roll(self, service: str, program: Program) -> None:
        """Replace the program of a service, one instance after the other, while the others serve."""
        changed = replace(self.application.service(service), program=program)
        self.application = self.application.replacing(changed)
        for old in [instance for instance in self._running if instance.service.name == service]:
            new = replace(old, service=changed)
            self._running[old].stop()
            self._places = {new if it == old else it: where for it, where in self._places.items()}
            running = self._start(new)
            self._running = {
                new if it == old else it: running if it == old else other
                for it, other in self._running.items()
            }
            running.wait_ready()

    def _start(self, instance: Instance) -> Running:
        peers = {
            name: [where for other, where in self._places.items() if other.service.name == name]
            for name in instance.service.calls
        }
        environment = instance.environment(listen=self._places[instance], peers=peers, client=self.client)
        return self._launcher.start(instance, environment)

    def _stop_all(self) -> None:
        for running in self._running.values():
            running.stop()

    @property
    def instances(self) -> tuple[Running, ...]:
        """All that runs."""
        return tuple(self._running.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than the application says, and why."""
        return tuple(running.note for running in self.instances if running.note)

    @property
    def url(self) -> str:
        """Where the application answers."""
        return self.url_of(self.application.entry)

    def url_of(self, service: str) -> str:
        """Return where the first instance of a service answers."""
        return f"http://{self._instances_of(service)[0].address}"

    def get(self, path: str, *, to: str = "", headers: Mapping[str, str] | None = None) -> Response:
        """Ask the application, or the first instance of another service."""
        return self._ask("GET", path, to, headers)

    def post(self, path: str, *, to: str = "", headers: Mapping[str, str] | None = None) -> Response:
        """Ask for something to be done."""
        return self._ask("POST", path, to, headers)

    def fail(
        self, service: str, *, rate: float = 1.0, status: int = 503, retry_after: int | None = None
    ) -> None:
        """Let a share of a service's answers fail; with status 0 it closes the connection instead."""
        self.tell(service, failing(rate=rate, status=status, retry_after=retry_after))

    def slow(self, service: str, *, seconds: float) -> None:
        """Let a service think so long before each answer."""
        self.tell(service, thinking(seconds=seconds))

    def tell(self, service: str, path: str) -> None:
        """Turn a knob of all instances of a service: ``/_forget`` makes it pass no header on."""
        for running in self._instances_of(service):
            exchange(running.address, "POST", path)

    def heal(self, *services: str) -> None:
        """Make services, or all of them, well again, and let them count from 0."""
        for service in services or self.application.names:
            self.tell(service, "/_reset")

    def counts(self, service: str = "") -> Counter[str]:
        """Return how many requests each service has had, or those of one service by who sent them."""
        if service:
            callers: Counter[str] = Counter()
            for running in self._instances_of(service):
                callers.update(count(running)["by"])
            return callers
        return Counter(
            {
                name: sum(count(running)["requests"] for running in self._instances_of(name))
                for name in self.application.names
            }
        )

    def edges(self) -> list[Edge]:
        """Return who has called whom of our services, how often, and how often in vain."""
        edges = []
        for called in self.application.names:
            requests, errors = Counter[str](), Counter[str]()
            for running in self._instances_of(called):
                counted = count(running)
                requests.update(counted["by"])
                errors.update(counted["failed"])
            for caller in self.application.names:
                sent = [agent for agent in requests if agent.startswith(f"{caller}/")]
                if sent:
                    totals = (sum(each[agent] for agent in sent) for each in (requests, errors))
                    edges.append(Edge(caller, called, *totals))
        return edges

    def counts_by_instance(self, service: str) -> dict[str, dict[str, int]]:
        """Return how many requests each instance of a service has had, by who sent them."""
        return {running.name: count(running)["by"] for running in self._instances_of(service)}

    def _instances_of(self, service: str) -> list[Running]:
        self.application.service(service)
        return [running for instance, running in self._running.items() if instance.service.name == service]

    def _ask(self, method: str, path: str, to: str, headers: Mapping[str, str] | None) -> Response:
        service = to or self.application.entry
        return exchange(
            self._instances_of(service)[0].address, method, path, {"host": service, **(headers or {})}
        )


@contextlib.contextmanager
def _network(application: Application) -> Iterator[LoopbackNetwork]:
    with reserve() as network:
        port = network.taken({service.port for service in application.services})
        if port is not None:
            error = CnlabError(f"{EVERYWHERE}:{port} is taken, {application.name} needs that port")
            error.add_note(f"Hint: ss -ltnp 'sport = :{port}' shows who listens on all addresses; end that")
            raise error
        yield network


def place(application: Application, network: LoopbackNetwork) -> dict[Instance, str]:
    """Return an address for each instance."""
    return {
        instance: f"{network.address(host)}:{instance.service.port}"
        for host, instance in enumerate(application.instances(), start=_FIRST_HOST)
    }


def failing(*, rate: float, status: int, retry_after: int | None = None) -> str:
    """Return the knob by which a share of an app's answers fails.

    Raises:
        InvalidValue: there is no such share, or no such status.
    """
    if not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise InvalidValue(f"fail: rate {rate!r} is not from 0 to 1")
    if not isinstance(status, int) or not (status == 0 or 200 <= status <= 599):
        raise InvalidValue(f"fail: status {status!r} is neither 0 nor one from 200 to 599")
    more = {} if retry_after is None else {"retry_after": retry_after}
    return "/_fail?" + urlencode({"rate": rate, "status": status, **more})


def thinking(*, seconds: float) -> str:
    """Return the knob by which an app thinks so long before each answer.

    Raises:
        InvalidValue: that is no length of time.
    """
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise InvalidValue(f"slow: {seconds!r} seconds; 0 or more")
    return "/_slow?" + urlencode({"seconds": seconds})


def count(running: Running) -> dict[str, Any]:
    """Return an instance's counts: ``{"requests": 3, "by": {"cart/v1": 3}, "failed": {}}``."""
    counted: dict[str, Any] = exchange(running.address, "GET", "/_count").json()
    return counted


def exchange(address: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Send one request over a connection of its own."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): text for name, text in response.getheaders()}
        return Response(response.status, names, response.read().decode())
