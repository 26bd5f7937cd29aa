"""The instances of a mesh: started side by side, stopped without losing a request."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cnlab import apps
from cnlab.apps.launcher import Launcher
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.addresses import Place, Places, check_free
from cnlab.mesh.configuration import GATEWAY, Workload
from cnlab.mesh.data_plane.instance import Instance, Order, proxy
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.data_plane.readers import Readers
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.settings import ControlPlaneSettings

_QUIET_S, _QUIET_TIMEOUT_S = 0.2, 5.0
_WARM_TIMEOUT_S = 20.0


class Fleet:
    """All instances, and the gateway."""

    def __init__(
        self, places: Places, settings: ControlPlaneSettings, launcher: Launcher, directory: Path
    ) -> None:
        self._places, self._settings = places, settings
        self._launcher, self._directory = launcher, directory
        self._born = time.monotonic()
        self.instances: list[Instance] = []
        self.gateway = proxy(GATEWAY, GATEWAY, Place(places.gateway), settings, directory)
        self.timeline: list[tuple[float, str]] = []
        """What happened when, in seconds since the mesh began."""

    def add(self, service: apps.Service, version: str) -> Instance:
        """Give one more instance of a version a name, an address and a sidecar; nothing is started."""
        taken = {instance.name for instance in self.instances}
        copies = (apps.Instance(service, version, index) for index in itertools.count())
        copy = next(one for one in copies if one.name not in taken)
        place = self._places.take(copy.name)
        sidecar = proxy(copy.name, copy.service.name, place, self._settings, self._directory)
        instance = Instance(copy, place, sidecar, self._launcher, self._settings.surroundings)
        self.instances.append(instance)
        return instance

    def remove(self, instances: list[Instance]) -> None:
        """Forget instances that were stopped."""
        self.instances = [one for one in self.instances if one not in instances]
        for instance in instances:
            self._places.release(instance.name)

    def named(self, name: str) -> Instance:
        """Return the instance of this name.

        Raises:
            InvalidValue: there is none; the message lists those there are.
        """
        for instance in self.instances:
            if instance.name == name:
                return instance
        known = ", ".join(instance.name for instance in self.instances)
        raise InvalidValue(f"unknown instance {name!r}; there are {known}")

    def of(self, service: str, version: str = "") -> list[Instance]:
        """Return the instances of a service, or of one version of it."""
        return [one for one in self.instances if one.service == service and version in ("", one.version)]

    def readers(self) -> Readers:
        """Return who watches files now."""
        proxies = {GATEWAY: self.gateway, **{one.name: one.sidecar for one in self.instances}}
        running = {name: proxy for name, proxy in proxies.items() if proxy.is_running}
        return Readers(Path(self._settings.directory) / "xds", running)

    def workloads(self) -> list[Workload]:
        """Return what the control plane is to know."""
        return [instance.workload for instance in self.instances]

    def start(self, instances: list[Instance], order: Order, configure: Callable[[], object]) -> None:
        """Start apps and sidecars of instances side by side, and wait until all serve.

        Args:
            instances: those to start.
            order: which of the two of an instance waits for the other.
            configure: called when processes are on their way, before sidecars are waited for.
        """
        if order != "proxy-first":
            self._start_apps(instances)
        if order == "app-first":
            self._wait_for_apps(instances)
        if self._settings.discovery == "files":
            configure()  # an Envoy that finds no file ends
            self._start_proxies(instances)
        else:
            self._start_proxies(instances)
            configure()
        if order == "proxy-first":
            self._wait_for_sidecars(instances)
            self._start_apps(instances)
        self._wait_for_apps(instances)
        self._wait_for_sidecars(instances)

    def stop(self, instance: Instance) -> None:
        """Stop an instance that is to get no new requests any more, when it has had none for a moment.

        That callers have accepted a change does not mean that their worker threads know it already.
        """
        with contextlib.suppress(TimeoutError, ProgramEnded, OSError):
            quiet = _Quiet(instance.sidecar)
            wait_until(quiet, timeout_s=_QUIET_TIMEOUT_S)
        instance.stop()

    def wait_for_listeners(self) -> None:
        """Wait until no sidecar has a listener that is still warming: its new one is in use then."""
        for instance in self.instances:
            if instance.sidecar.is_running:
                with contextlib.suppress(ProgramEnded, TimeoutError):
                    wait_until(partial(_is_warm, instance.sidecar), timeout_s=_WARM_TIMEOUT_S)

    def _start_apps(self, instances: list[Instance]) -> None:
        for instance in instances:
            instance.start_app()

    def _start_proxies(self, instances: list[Instance]) -> None:
        if not self.gateway.pid:
            check_free(self._places.gateway, self._settings.ports.gateway, "gateway")
            self.gateway.start()
        for instance in instances:
            instance.start_sidecar()

    def _wait_for_apps(self, instances: list[Instance]) -> None:
        for instance in instances:
            if instance.app is not None:
                instance.app.wait_ready()
                self._note(f"{instance.name}: app ready")

    def _wait_for_sidecars(self, instances: list[Instance]) -> None:
        for instance in instances:
            instance.sidecar.wait_until_live()
            self._note(f"{instance.name}: sidecar live")
        if self.gateway.is_running:
            self.gateway.wait_until_live()

    def _note(self, event: str) -> None:
        if event not in (known for _, known in self.timeline):
            self.timeline.append((time.monotonic() - self._born, event))


class _Quiet:
    """True once a sidecar has had no request for a moment."""

    def __init__(self, sidecar: Proxy) -> None:
        self._sidecar = sidecar
        self._total, self._since = -1, 0.0

    def __call__(self) -> bool:
        stats = self._sidecar.stats(r"^http\.inbound\.downstream_rq_(active|total)$")
        total, now = stats.get("http.inbound.downstream_rq_total", 0), time.monotonic()
        if stats.get("http.inbound.downstream_rq_active") or total != self._total:
            self._total, self._since = total, now
        return now - self._since >= _QUIET_S


def _is_warm(sidecar: Proxy) -> bool:
    warming = "listener_manager.total_listeners_warming"
    return not sidecar.stats(f"^{warming}$").get(warming)
