"""An application in a mesh: a control plane, an ingress gateway, and a sidecar beside each instance.

    with Mesh(bookinfo()) as mesh:
        mesh.get("/productpage").status
        mesh.route("reviews", to="v2", match={"headers": {"end-user": "jason"}})

The mesh holds what is wanted, as the Kubernetes API would, and sends all of it to the control plane whenever
it changes. Everything runs unprivileged on loopback addresses of its own, and ends with the block. An app can
be reached beside its sidecar by whoever knows its port: nothing redirects packets here; see `interception`.
Other users of the machine reach apps too, with all that makes them sick, read metrics, and send requests
through a sidecar as its service. Keys, configuration, logs and traces go over UNIX sockets, not to them.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from cnlab import apps
from cnlab.apps.deployment import Response, count, exchange
from cnlab.apps.launcher import Launcher, ProcessLauncher
from cnlab.errors import InvalidValue
from cnlab.mesh import addresses
from cnlab.mesh.addresses import Places, Ports
from cnlab.mesh.change import Change, View
from cnlab.mesh.configuration import GATEWAY, Configuration, Json
from cnlab.mesh.control_plane import reports
from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.data_plane.fleet import Fleet
from cnlab.mesh.data_plane.instance import ORDERS, Instance, Order
from cnlab.mesh.data_plane.proxy import Proxy, find_envoy
from cnlab.mesh.data_plane.scaling import Scaling
from cnlab.mesh.desired import Desired
from cnlab.mesh.errors import ControlPlaneDown, ProgramEnded
from cnlab.mesh.process import private_directory, proportional_bytes
from cnlab.mesh.settings import ControlPlaneSettings, Surroundings

if TYPE_CHECKING:
    from cnlab.mesh.istio import Manifests, Plan
    from cnlab.mesh.load import Load
    from cnlab.mesh.mixer.telemetry import Record
    from cnlab.mesh.mixer.traces import Trace
    from cnlab.mesh.observability.metrics import Edge, Signals
    from cnlab.mesh.pilot.subscription import Ack

DISCOVERY = ("delta", "sotw", "files")
OUTSIDE = "outside"


class Mesh:
    """A running mesh; the ``with`` block ends it.

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
        if start_order not in ORDERS:
            raise InvalidValue(f"unknown start_order {start_order!r}; there are {', '.join(ORDERS)}")
        self.application = application
        self.ports = ports or Ports()
        services = {service.name: service.versions for service in application.services}
        self._first = Configuration(services, application.entry, port=self.ports.app).with_mtls(mtls)
        self._discovery, self._order, self._ttl_s = discovery, start_order, certificate_ttl_s
        self._reports = (tracing, access_log, transparent)
        self._launcher = launcher
        self._kept_manifests: Manifests | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        find_envoy()
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            instances = [self._fleet.add(copy.service, copy.version) for copy in self.application.instances()]
            self.control_plane.start()
            self._fleet.start(instances, self._order, self._configure_first)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Make what processes need, and have it unmade."""
        directory = stack.enter_context(private_directory("cnlab-mesh-"))
        places = stack.enter_context(self._places(directory))
        self._gateway_address = places.gateway
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
    def configuration(self) -> Configuration:
        """All that is wanted, as plain data."""
        return self._desired.configuration

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
    def url(self) -> str:
        """Where the application answers: the ingress gateway."""
        return f"http://{self._gateway_address}:{self.ports.gateway}"

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

    # Requests

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
        address, host = self._way(to, from_)
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

        address, host = self._way(to, from_)
        return load(f"http://{address}{path}", headers={"host": host, **(headers or {})}, **how)

    def _way(self, to: str, from_: str) -> tuple[str, str]:
        """Return where a request is to be sent, and the host that it names."""
        gateway = self.url.removeprefix("http://")
        host = to or (self.application.entry if from_ else gateway)
        if not from_:
            _require(self.gateway)
            return gateway, host
        if from_ == OUTSIDE:
            target = self._some_instance(host)
            is_redirected = self._surroundings.is_transparent
            return f"{target.address}:{self.ports.app if is_redirected else self.ports.inbound}", host
        source = self._some_instance(from_)
        _require(source.sidecar)
        return f"{source.address}:{self.ports.outbound}", host

    def _some_instance(self, name: str) -> Instance:
        found = self._fleet.of(name)
        return found[0] if found else self._fleet.named(name)

    # Routes and clusters

    def route(
        self,
        service: str,
        *,
        match: Json | None = None,
        to: str | None = None,
        weights: Mapping[str, int] | None = None,
        to_service: str | None = None,
        timeout: str | None = None,
        retries: Json | None = None,
        mirror: Json | None = None,
        fault: Json | None = None,
        rewrite: Json | None = None,
        redirect: Json | None = None,
        direct_response: Json | None = None,
        wait: bool = True,
    ) -> Change:
        """Say where requests for `service` go, and how.

        Without `match` this is the service's default; what is not given stays as it was. With `match` it is a
        rule that goes before the default, after those that came earlier.

        Args:
            service: the one that is asked for.
            match: ``prefix``, ``path`` or ``safe_regex``; ``method``; ``headers``; ``source``, a service.
            to: the version that gets all.
            weights: what share of them each version gets, in percent.
            to_service: another service that gets them.
            timeout: for the whole request with all its retries, such as "0.5s".
            retries: Envoy's RetryPolicy: ``num_retries``, ``retry_on``, ``per_try_timeout``, …
            mirror: ``to`` a version, ``percent``: gets copies, and its answers are dropped.
            fault: as for `fault`, for this rule alone.
            rewrite: ``prefix`` or ``authority``.
            redirect: ``path``, ``prefix`` or ``host``, and ``code``.
            direct_response: ``status`` and ``body``.
            wait: whether to wait until all sidecars have accepted it.
        """
        words = {
            "to": to,
            "weights": weights,
            "to_service": to_service,
            "timeout": timeout,
            "retries": retries,
            "mirror": mirror,
            "fault": fault,
            "rewrite": rewrite,
            "redirect": redirect,
            "direct_response": direct_response,
        }
        after = self.configuration.route(service, match=match, **words)
        return self._change(f"route({service})", after, service, wait=wait)

    def unroute(self, service: str) -> Change:
        """Forget all that `route` said of a service."""
        return self._change(f"unroute({service})", self.configuration.unroute(service), service)

    def fault(self, service: str, *, delay: Json | None = None, abort: Json | None = None) -> Change:
        """Let requests for a service wait (``fixed_delay``) or fail (``http_status``), by ``percentage``."""
        after = self.configuration.fault(service, delay=delay, abort=abort)
        return self._change(f"fault({service})", after, service)

    def unfault(self, service: str) -> Change:
        """Forget all that `fault` said of a service."""
        return self._change(f"unfault({service})", self.configuration.unfault(service), service)

    def cluster(
        self,
        service: str,
        *,
        circuit_breakers: Json | None = None,
        outlier_detection: Json | None = None,
        connect_timeout: str | None = None,
        health_checks: Sequence[Json] | None = None,
        load_balancing: str | None = None,
        max_requests_per_connection: int | None = None,
        tls: str | None = None,
        wait: bool = True,
    ) -> Change:
        """Say how callers reach a service; what is not given stays as it was.

        Args:
            service: the one that is called.
            circuit_breakers: Envoy's Thresholds: ``max_connections``, ``max_pending_requests``,
                ``max_requests``, ``max_retries``, ``retry_budget``.
            outlier_detection: Envoy's OutlierDetection: ``consecutive_5xx``, ``interval``, …
            connect_timeout: such as "1s".
            health_checks: Envoy's HealthCheck, a list.
            load_balancing: ``ROUND_ROBIN``, ``LEAST_REQUEST``, ``RANDOM``.
            max_requests_per_connection: after so many a connection is closed.
            tls: ``istio_mutual``, or ``disable``: callers speak plain text to it.
            wait: whether to wait until all sidecars have accepted it.
        """
        words = {
            "circuit_breakers": circuit_breakers,
            "outlier_detection": outlier_detection,
            "connect_timeout": connect_timeout,
            "health_checks": health_checks,
            "load_balancing": load_balancing,
            "max_requests_per_connection": max_requests_per_connection,
            "tls": tls,
        }
        after = self.configuration.cluster(service, **words)
        return self._change(f"cluster({service})", after, service, wait=wait)

    def uncluster(self, service: str) -> Change:
        """Forget all that `cluster` said of a service."""
        return self._change(f"uncluster({service})", self.configuration.uncluster(service), service)

    # Who may do what

    def mtls(self, mode: str | None, service: str | None = None) -> Change:
        """Say what sidecars accept, of all services or of one: ``strict``, ``permissive`` or ``disable``."""
        after = self.configuration.with_mtls(mode, service)
        return self._change(f"mtls({mode})", after, service or "")

    def policy(self, service: str, rego: str | None = None, *, rbac: Sequence[Json] | None = None) -> Change:
        """Let policies decide on requests to a service: Rego, or Istio's AuthorizationPolicy as dicts."""
        after = self.configuration.policy(service, rego=rego, rbac=rbac)
        return self._change(f"policy({service})", after, service)

    def unpolicy(self, service: str) -> Change:
        """Let everything through again."""
        return self._change(f"unpolicy({service})", self.configuration.unpolicy(service), service)

    def rate_limit(
        self, service: str, *, requests: int, per: str = "second", by: str | None = None
    ) -> Change:
        """Let a service get so many requests: in all, of each ``source``, or by the value of a header."""
        after = self.configuration.rate_limit(service, requests=requests, per=per, by=by)
        return self._change(f"rate_limit({service})", after, service)

    def local_rate_limit(self, service: str, *, requests: int, per: str = "second") -> Change:
        """Let each instance of a service get so many requests; its sidecar counts, and asks nobody."""
        after = self.configuration.rate_limit(service, requests=requests, per=per, local=True)
        return self._change(f"local_rate_limit({service})", after, service)

    def unlimit(self, service: str) -> Change:
        """Forget the limits of a service."""
        return self._change(f"unlimit({service})", self.configuration.unlimit(service), service)

    def rotate_certificates(self, service: str | None = None) -> list[str]:
        """Give all services, or one, new certificates now; return which."""
        query = {"service": service} if service else {}
        renewed: list[str] = self.control_plane.ask("POST", "/rotate", cause="rotate_certificates", **query)
        return renewed

    # The edge of the mesh

    def external(self, host: str, endpoints: Sequence[str]) -> Change:
        """Let services reach a host outside of the mesh, at these ``address:port``."""
        return self._change(
            f"external({host})", self.configuration.with_external(host, tuple(endpoints)), host
        )

    def unexternal(self, host: str) -> Change:
        """Forget a host outside."""
        return self._change(f"unexternal({host})", self.configuration.unexternal(host), host)

    def ingress(self, rules: Sequence[Json], hosts: Sequence[str] = ("*",)) -> Change:
        """Say what the gateway leads where: each rule is the words of `route`, and ``service``."""
        return self._change("ingress", self.configuration.with_ingress(list(rules), tuple(hosts)), "ingress")

    def uningress(self) -> Change:
        """Let the gateway lead all to the application's entry."""
        return self._change("uningress", self.configuration.uningress(), "ingress")

    # Several at once

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """Send all changes of the block together, at its end."""
        with self._desired.collect():
            yield

    def _change(self, cause: str, after: Configuration, service: str, *, wait: bool = True) -> Change:
        return self._desired.change(cause, after, service=service, wait=wait)

    def apply(self, text: str) -> Plan:
        """Take Istio's manifests (YAML) as ``kubectl apply`` would; return what they were translated into."""
        return self._take_over(*self._manifests.apply(text))

    def delete(self, text: str) -> Plan:
        """Undo what manifests of these kinds and names have said."""
        return self._take_over(*self._manifests.delete(text))

    def _take_over(self, manifests: Manifests, plan: Plan) -> Plan:
        with self.changes():
            plan.run(self)
        self._kept_manifests = manifests
        return plan

    @property
    def _manifests(self) -> Manifests:
        if self._kept_manifests is None:
            from cnlab.mesh.istio import Manifests

            self._kept_manifests = Manifests(
                services=self._first.services,
                entry=self.application.entry,
                port=self.ports.app,
                gateway_port=self.ports.gateway,
            )
        return self._kept_manifests

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

    # Sickness at will, which the apps themselves have

    def fail(self, service: str, *, rate: float = 1.0, status: int = 503) -> None:
        """Let a share of an app's answers fail; with status 0 it closes the connection instead."""
        self._tell(service, "/_fail?" + urlencode({"rate": rate, "status": status}))

    def slow(self, service: str, *, seconds: float) -> None:
        """Let an app think so long before each answer."""
        self._tell(service, "/_slow?" + urlencode({"seconds": seconds}))

    def heal(self, *services: str) -> None:
        """Make services, or all of them, well again, and let them count from 0."""
        for service in services or self.services:
            self._tell(service, "/_reset")

    def counts(self) -> Counter[str]:
        """Return how many requests the apps of each service have received."""
        received: Counter[str] = Counter()
        for instance in self.instances:
            if instance.app is not None and instance.is_running:
                received[instance.service] += count(instance.app)["requests"]
        return received

    def _tell(self, service: str, path: str) -> None:
        targets = self._fleet.of(service) or [self._fleet.named(service)]
        for instance in targets:
            exchange(f"{instance.address}:{self.ports.app}", "POST", path)

    # What the control plane knows

    @property
    def acks(self) -> list[Ack]:
        """What sidecars have answered: ACKs and NACKs, oldest first."""
        return reports.acks(self.control_plane)

    @property
    def nacks(self) -> list[Ack]:
        """The refusals among them."""
        return [one for one in self.acks if one.error]

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """What each node has accepted last, by type; what was known last, if the control plane is gone."""
        with contextlib.suppress(ControlPlaneDown):
            self.control_plane.status()
        return self.control_plane.versions

    def access_log(self, since: float = 0) -> list[Record]:
        """Return the requests that sidecars have reported since a time in seconds since the epoch."""
        return reports.access_log(self.control_plane, since)

    def traces(self) -> list[Trace]:
        """Return the traces that are remembered, oldest first."""
        return reports.traces(self.control_plane)

    def golden_signals(self, window_s: float | None = None) -> dict[str, Signals]:
        """Return traffic, errors, latency and saturation of each service, as sidecars have reported.

        Args:
            window_s: how far to look back; without it, as far as the access log goes. Saturation is of now.
        """
        from cnlab.mesh.mixer import telemetry

        records = self._records_of_last(window_s)
        return telemetry.golden_signals(records, window_s=window_s, saturation=self._in_flight())

    def edges(self, window_s: float | None = None) -> list[Edge]:
        """Return who has called whom, how often, and with what success; `window_s` as above."""
        from cnlab.mesh.mixer import telemetry

        return telemetry.edges(self._records_of_last(window_s), window_s=window_s)

    def _records_of_last(self, window_s: float | None) -> list[Record]:
        return self.access_log(since=0 if window_s is None else time.time() - window_s)

    def _in_flight(self) -> Counter[str]:
        """Return how many requests each service has received and not answered, as its sidecars count."""
        waiting: Counter[str] = Counter()
        for instance in self.instances:
            with contextlib.suppress(ProgramEnded, OSError, HTTPException):  # it is not there to be asked
                stats = instance.sidecar.stats(r"^http\.inbound\.downstream_rq_active$")
                waiting[instance.service] += sum(stats.values())
        return waiting


def _require(proxy: Proxy) -> None:
    """Say that a proxy is dead before a connection to it says only that it was refused."""
    if not proxy.is_running:
        raise proxy.ended("its proxy does not run")
