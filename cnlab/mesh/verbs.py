"""What can be said to a mesh, in the field's words: each verb is a change of what is wanted.

What a verb checks, and what it leaves as it was, is in `configuration`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cnlab import apps
from cnlab.mesh.addresses import Ports
from cnlab.mesh.change import Change
from cnlab.mesh.configuration import GATEWAY, Configuration, Json
from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.desired import Desired
from cnlab.mesh.words import check_service

if TYPE_CHECKING:
    from cnlab.mesh.istio import Manifests, Plan


class Verbs:
    """The part of a `Mesh` that changes what is wanted."""

    application: apps.Application
    control_plane: RemoteControlPlane
    ports: Ports
    _desired: Desired
    _kept_manifests: Manifests | None = None

    @property
    def configuration(self) -> Configuration:
        """All that is wanted, as plain data."""
        return self._desired.configuration

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
        if service is not None:
            check_service(service, (*self.configuration.services, GATEWAY))
        query = {"service": service} if service else {}
        renewed: list[str] = self.control_plane.ask("POST", "/rotate", cause="rotate_certificates", **query)
        return renewed

    # The edge of the mesh

    def external(self, host: str, endpoints: Sequence[str]) -> Change:
        """Let services reach a host outside of the mesh, at these ``address:port``."""
        if isinstance(endpoints, str):  # one, not its letters
            endpoints = [endpoints]
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
                services=self.configuration.services,
                entry=self.application.entry,
                port=self.ports.app,
                gateway_port=self.ports.gateway,
            )
        return self._kept_manifests
