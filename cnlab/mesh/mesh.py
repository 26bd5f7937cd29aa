"""An application in a mesh: a control plane, an ingress gateway, and a sidecar beside each instance.

    with Mesh(bookinfo()) as mesh:
        mesh.get("/productpage").status
        mesh.route("reviews", to="v2", match={"headers": {"end-user": "jason"}})

The mesh holds what is wanted, as the Kubernetes API would, and sends all of it to the control plane whenever
it changes. Everything runs unprivileged on loopback addresses of its own, and ends with the block. An app can
be reached beside its sidecar by whoever knows its port: nothing redirects packets here; see `interception`.
Other users of the machine reach apps too, with all that makes them sick, read metrics, and send requests
through a sidecar as its service. Keys, configuration, logs and traces go over UNIX sockets, not to them.

What it is made of, and its life, is here; what can be said to it in `verbs`, how it is asked in `requests`,
what it tells in `reports`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cnlab import apps
from cnlab.apps.launcher import Launcher, ProcessLauncher
from cnlab.errors import InvalidValue
from cnlab.mesh import addresses
from cnlab.mesh.addresses import Places, Ports
from cnlab.mesh.change import View
from cnlab.mesh.configuration import GATEWAY, Configuration
from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.data_plane.fleet import Fleet
from cnlab.mesh.data_plane.instance import Instance, Order, check_order
from cnlab.mesh.data_plane.proxy import Proxy, find_envoy
from cnlab.mesh.data_plane.scaling import Scaling
from cnlab.mesh.desired import Desired
from cnlab.mesh.errors import MeshError
from cnlab.mesh.process import private_directory, proportional_bytes
from cnlab.mesh.reports import Reports
from cnlab.mesh.requests import Requests
from cnlab.mesh.settings import ControlPlaneSettings, Surroundings
from cnlab.mesh.verbs import Verbs

DISCOVERY = ("delta", "sotw", "files")


class Mesh(Verbs, Requests, Reports):
    """A running mesh; the ``with`` block ends it. ``help(Mesh)`` lists all that it can.

    Args:
        application: what runs in it.
        discovery: how sidecars get their configuration: by ADS over gRPC, either only what differs
            (``delta``) or the state of the world (``sotw``), or by ``files`` that they watch; a file has no
            way back, so `acks` are empty then, and what sidecars refuse is read in their statistics.
        mtls: what sidecars accept: ``permissive``, ``strict`` or ``disable``; the first two let them speak
            TLS among each other.
        tracing: whether sidecars send spans.
        access_log: whether sidecars report each request.
        launcher: what starts the apps; processes, by default.
        ports: where everything listens.
        start_order: which of app and sidecar waits: ``together`` neither, ``app-first``, ``proxy-first``.
        certificate_ttl_s: how long a certificate is valid; a new one comes at half of that.
        transparent: whether instances are pods in which packets are redirected; see `interception`.
    """

    def __init__(
        self,
        application: apps.Application,
        *,
        discovery: str = "delta",
        mtls: str = "permissive",
        tracing: bool = True,
        access_log: bool = True,
        launcher: Launcher | None = None,
        ports: Ports | None = None,
        start_order: Order = "together",
        certificate_ttl_s: float = 3600.0,
        transparent: bool = False,
    ) -> None:
        if discovery not in DISCOVERY:
            raise InvalidValue(f"unknown discovery {discovery!r}; there are {', '.join(DISCOVERY)}")
        check_order(start_order)
        if not isinstance(application, apps.Application):
            raise InvalidValue(f"Mesh: expected an application such as bookinfo(), got {application!r}")
        if not certificate_ttl_s > 0:
            raise InvalidValue(f"Mesh: certificate_ttl_s={certificate_ttl_s:g}: expected more than 0")
        self.application = application
        self.ports = ports or Ports()
        services = {service.name: service.versions for service in application.services}
        self._first = Configuration(services, application.entry, port=self.ports.app).with_mtls(mtls)
        self._discovery, self._order, self._ttl_s = discovery, start_order, certificate_ttl_s
        self._reports = (tracing, access_log, transparent)
        self._launcher = launcher
        self._stack = contextlib.ExitStack()
        self._runs = False

    if not TYPE_CHECKING:  # which would believe that a mesh has any attribute

        def __getattr__(self, name: str) -> Any:
            """Say what to do where Python would name an attribute of ours."""
            if name in ("control_plane", "_desired", "_fleet", "_surroundings"):
                raise MeshError("the mesh does not run yet: with Mesh(…) as mesh: …")
            raise AttributeError(f"a mesh has no {name!r}", name=name, obj=self)

    def __enter__(self) -> Self:
        if self._runs:
            raise MeshError("the mesh runs already")
        find_envoy()
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            instances = [self._fleet.add(copy.service, copy.version) for copy in self.application.instances()]
            self.control_plane.start()
            self._fleet.start(instances, self._order, self._configure_first)
            self._stack = stack.pop_all()
        self._runs = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._runs = False
        self._stack.close()

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Make what processes need, and have it unmade."""
        self._kept_manifests = None
        directory = stack.enter_context(private_directory("cnlab-mesh-"))
        places = stack.enter_context(self._places(directory))
        self._surroundings = Surroundings(places.gateway, self.ports, *self._reports)
        settings = ControlPlaneSettings(
            places.control_plane, str(directory), self._surroundings, self._discovery, self._ttl_s
        )
        self.control_plane = RemoteControlPlane(settings, directory)
        self.control_plane.nodes = self._running_nodes
        launcher = self._launcher or stack.enter_context(ProcessLauncher())
        self._fleet = Fleet(places, settings, launcher, directory)
        view = View(self._services, self._fleet.workloads, self._surroundings)
        self._desired = Desired(
            self._first,
            self.control_plane,
            self._fleet.workloads,
            view,
            self._fleet.wait_for_listeners,
            self._fleet.readers if self._discovery == "files" else None,
        )
        self._scaling = Scaling(self._fleet, self._desired.send, self._order)
        stack.callback(self._stop_all)

    def _places(self, directory: Path) -> contextlib.AbstractContextManager[Places]:
        *_, is_transparent = self._reports
        if not is_transparent:
            return addresses.reserve(self.ports)
        from cnlab.mesh.data_plane.interception import PodNetwork, require_wide_addresses

        require_wide_addresses()
        return PodNetwork(self.services, self.ports, directory)

    def _configure_first(self) -> None:
        self.control_plane.wait_ready()
        self._desired.send("start", wait=False)

    def _stop_all(self) -> None:
        """Ask all to end, then wait for each."""
        proxies = [self.gateway, *self.sidecars.values()]
        for proxy in proxies:
            proxy.end()
        for instance in self.instances:
            if instance.app is not None:
                instance.app.kill()
        for proxy in proxies:
            proxy.stop()
        self.control_plane.kill()

    def _running_nodes(self) -> list[str]:
        nodes = {GATEWAY: self.gateway, **self.sidecars}
        return (
            [name for name, proxy in nodes.items() if proxy.is_running] if self._discovery != "files" else []
        )

    def _services(self) -> Any:
        from cnlab.mesh.pilot.registry import Endpoint, StaticRegistry

        ready = [one for one in self.instances if one.is_ready]
        endpoints = [
            Endpoint(one.service, one.address, self.ports.app, {"version": one.version}) for one in ready
        ]
        return StaticRegistry(endpoints).services()

    # What there is

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services."""
        return self.application.names

    @property
    def instances(self) -> list[Instance]:
        """The instances, each with its app and its sidecar."""
        return list(self._fleet.instances)

    @property
    def sidecars(self) -> dict[str, Proxy]:
        """The sidecars by the names of their instances."""
        return {instance.name: instance.sidecar for instance in self._fleet.instances}

    @property
    def gateway(self) -> Proxy:
        """The proxy through which requests come in."""
        return self._fleet.gateway

    @property
    def timeline(self) -> list[tuple[float, str]]:
        """When each app was ready and each sidecar live, in seconds since the mesh began."""
        return list(self._fleet.timeline)

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than the application says, and why."""
        return tuple(one.app.note for one in self.instances if one.app and one.app.note)

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What all processes take, pages that they share counted in parts."""
        parts = {
            "apps": sum(proportional_bytes(one.pid) for one in self.instances if one.is_running),
            "sidecars": sum(proxy.memory_bytes for proxy in self.sidecars.values()),
            "gateway": self.gateway.memory_bytes,
            "control plane": self.control_plane.memory_bytes,
        }
        return {**parts, "total": sum(parts.values())}

    # Instances

    def scale(self, service: str, version: str, count: int) -> None:
        """Run so many instances of a version."""
        self._scaling.scale(self.application.service(service), version, count)

    def stop_instance(self, name: str) -> None:
        """Stop an instance: first it gets no new requests, then it ends."""
        self._scaling.stop(name)

    def start_instance(self, name: str, order: Order | None = None) -> None:
        """Start an instance that was stopped or has died, at the address that it had."""
        self._scaling.start(name, order)
