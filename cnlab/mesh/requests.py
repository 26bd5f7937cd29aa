"""What is asked of a mesh to see what it does: requests, one or many, and apps that are sick at will."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cnlab import apps
from cnlab.apps.deployment import Response, count, exchange, failing, thinking
from cnlab.errors import InvalidValue
from cnlab.mesh.addresses import Ports
from cnlab.mesh.data_plane.fleet import Fleet
from cnlab.mesh.data_plane.instance import Instance
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.settings import Surroundings

if TYPE_CHECKING:
    from cnlab.mesh.load import Load, Running

OUTSIDE = "outside"


class Requests:
    """The part of a `Mesh` that sends requests."""

    application: apps.Application
    ports: Ports
    _fleet: Fleet
    _surroundings: Surroundings

    @property
    def url(self) -> str:
        """Where the application answers: the ingress gateway."""
        return f"http://{self._surroundings.gateway}:{self.ports.gateway}"

    def get(
        self, path: str, *, to: str = "", from_: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request from outside through the gateway, or from a service through its sidecar.

        Args:
            path: what to ask for.
            to: the service asked, by default the application's entry.
            from_: a service or an instance whose sidecar sends it; or ``outside``: somebody without a sidecar
                sends it, straight to an instance of the mesh.
            headers: further headers.
        """
        address, host = self._way(path, to, from_)
        return exchange(address, "GET", path, {"host": host, **(headers or {})})

    def load(
        self,
        path: str = "/",
        *,
        to: str = "",
        from_: str = "",
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Load:
        """Send many requests the same way; `how` takes the words of `cnlab.mesh.load.load`."""
        from cnlab.mesh.load import load

        address, host = self._way(path, to, from_)
        return load(f"http://{address}{path}", headers={"host": host, **(headers or {})}, **how)

    @contextlib.contextmanager
    def loading(
        self,
        path: str = "/",
        *,
        to: str = "",
        from_: str = "",
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Iterator[Running]:
        """Send requests the same way for as long as the block; `how` as in `cnlab.mesh.load.loading`."""
        from cnlab.mesh.load import loading

        address, host = self._way(path, to, from_)
        with loading(f"http://{address}{path}", headers={"host": host, **(headers or {})}, **how) as running:
            yield running

    def _way(self, path: str, to: str, from_: str) -> tuple[str, str]:
        """Return where a request is to be sent, and the host that it names."""
        if not path.startswith("/"):
            raise InvalidValue(f"get({path!r}): a path begins with /")
        gateway = self.url.removeprefix("http://")
        host = to or (self.application.entry if from_ else gateway)
        if not from_:
            _require(self._fleet.gateway)
            return gateway, host
        if from_ == OUTSIDE:
            target = self._named(host)[0]
            is_redirected = self._surroundings.is_transparent
            return f"{target.address}:{self.ports.app if is_redirected else self.ports.inbound}", host
        source = self._named(from_)[0]
        _require(source.sidecar)
        return f"{source.address}:{self.ports.outbound}", host

    # Sickness at will, which the apps themselves have

    def fail(self, service: str, *, rate: float = 1.0, status: int = 503) -> None:
        """Let a share of an app's answers fail; with status 0 it closes the connection instead."""
        self._tell(service, failing(rate=rate, status=status))

    def slow(self, service: str, *, seconds: float) -> None:
        """Let an app think so long before each answer."""
        self._tell(service, thinking(seconds=seconds))

    def heal(self, *services: str) -> None:
        """Make services, or all of them, well again, and let them count from 0."""
        for service in services or self.application.names:
            for instance in self._named(service):
                if instance.is_running:  # one that comes back is well
                    self._turn(instance, "/_reset")

    def counts(self) -> Counter[str]:
        """Return how many requests the apps of each service have received."""
        received: Counter[str] = Counter()
        for instance in self._fleet.instances:
            if instance.app is not None and instance.is_running:
                received[instance.service] += count(instance.app)["requests"]
        return received

    def _tell(self, service: str, knob: str) -> None:
        for instance in self._named(service):
            if not instance.is_running:
                raise ProgramEnded(instance.name, "its app does not run")
            self._turn(instance, knob)

    def _turn(self, instance: Instance, knob: str) -> None:
        exchange(f"{instance.address}:{self.ports.app}", "POST", knob)

    def _named(self, name: str) -> list[Instance]:
        """Return the instances of a service, or the one of this name."""
        return self._fleet.of(name) or [self._fleet.named(name)]


def _require(proxy: Proxy) -> None:
    """Say that a proxy is dead before a connection to it says only that it was refused."""
    if not proxy.is_running:
        raise proxy.ended("its proxy does not run")
