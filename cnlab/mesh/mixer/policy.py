"""Checks in the path of a request (Mixer's first half): the sidecar asks before it forwards, and waits.

Envoy's filter ``ext_authz`` sends who asks for what; we ask the Rego policy of the service and answer yes or
no. The document that a policy sees as ``input`` has Envoy's words:

    {"source": {"principal": "spiffe://…/sa/reviews", "address": "127.1.2.10"},
     "destination": {"principal": …, "service": "ratings", "address": …},
     "request": {"method": "GET", "path": "/ratings/0?x=1", "host": "ratings", "scheme": "http",
                 "protocol": …, "headers": {"end-user": …}, "id": …, "time": 1766000000.5}}

`source.principal` comes out of the certificate that the caller has shown, so it is empty without mTLS;
headers are the caller's own words. Who cannot be judged is denied: no policy is known, it fails, or takes too
long.

See: Envoy, "External Authorization", and ``envoy.service.auth.v3.Authorization``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2, external_auth_pb2_grpc
from google.rpc import code_pb2

from cnlab.mesh.mixer.rego import RegoPolicy
from cnlab.mesh.mixer.traces import trace_id_of
from cnlab.mesh.mixer.verdict import Verdict
from cnlab.mesh.pilot.resources import Json, extension, typed

FILTER = "envoy.filters.http.ext_authz"
_EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3"
_FORBIDDEN = 403
_PATIENCE_S = 10.0  # an evaluation ends long before, if the machine is not too busy by far
_LATE = Verdict(False, f"no verdict within {_PATIENCE_S:g} s", is_error=True)


@dataclass(frozen=True, slots=True)
class Decision:
    """One check: what was asked, and what came out of it."""

    time: float  # seconds since the epoch
    policy: str  # the service that it guards
    is_allowed: bool
    reason: str
    is_error: bool
    source: str  # principal of the caller, "" without mTLS
    method: str
    path: str
    trace_id: str
    request_id: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """Read what `as_dict` made."""
        return cls(**data)


class Authorizer(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """Answers Envoy's checks by the Rego policy of the service asked for.

    Policies are evaluated in processes of their own: one that takes for ever holds up neither the others nor
    the event loop, which serves configuration too.
    """

    def __init__(self, *, size: int = 1000, now: Callable[[], float] = time.time) -> None:
        """Remember the last `size` decisions."""
        self._policies: dict[str, RegoPolicy] = {}
        self._now = now
        self._decisions: deque[Decision] = deque(maxlen=size)
        self.counts: Counter[tuple[str, str]] = Counter()  # by policy and "allow", "deny" or "error"

    @property
    def policies(self) -> dict[str, str]:
        """The Rego source by service."""
        return {service: policy.source for service, policy in self._policies.items()}

    @property
    def decisions(self) -> list[Decision]:
        """The last decisions, oldest first."""
        return list(self._decisions)

    def set(self, service: str, source: str) -> None:
        """Guard a service by a policy. Where it cannot be used the old one stays.

        Raises:
            InvalidRego: the message says why, and in which line.
        """
        self.replace({**self.policies, service: source})

    def remove(self, service: str) -> None:
        """Forget a policy. Sidecars that still ask for it are denied: first make them ask no more."""
        self.replace({name: source for name, source in self.policies.items() if name != service})

    def replace(self, sources: Mapping[str, str]) -> None:
        """Have these policies and no others; all of them, or no change where one is refused."""
        old = self._policies
        self._policies = {
            service: old[service]
            if service in old and old[service].source == source
            else RegoPolicy(service, source)
            for service, source in sources.items()
        }

    async def decide(self, service: str, document: dict[str, Any]) -> Verdict:
        """Ask the policy of a service."""
        if service not in self._policies:
            return Verdict(False, f"no policy for {service!r} is known here", is_error=True)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.wrap_future(self._policies[service].ask(document))
        except TimeoutError:
            return _LATE

    async def Check(  # noqa: N802 - the service's word
        self, request: external_auth_pb2.CheckRequest, context: grpc.aio.ServicerContext
    ) -> external_auth_pb2.CheckResponse:
        """Answer one check of a sidecar."""
        service = request.attributes.context_extensions.get("service", "")
        document = input_document(request.attributes)
        verdict = await self.decide(service, document)
        self._record(service, document, verdict)
        return _allowed() if verdict.is_allowed else _denied(service, verdict)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve checks on this server."""
        external_auth_pb2_grpc.add_AuthorizationServicer_to_server(self, server)

    def _record(self, service: str, document: dict[str, Any], verdict: Verdict) -> None:
        asked = document["request"]
        word = "error" if verdict.is_error else "allow" if verdict.is_allowed else "deny"
        self.counts[service, word] += 1
        decision = Decision(
            time=self._now(),
            policy=service,
            is_allowed=verdict.is_allowed,
            reason=verdict.reason,
            is_error=verdict.is_error,
            source=document["source"]["principal"],
            method=asked["method"],
            path=asked["path"],
            trace_id=trace_id_of(asked["headers"]),
            request_id=asked["headers"].get("x-request-id", ""),
        )
        self._decisions.append(decision)


def input_document(attributes: attribute_context_pb2.AttributeContext) -> dict[str, Any]:
    """Return what a policy sees as ``input``."""
    http = attributes.request.http
    source, destination = attributes.source, attributes.destination
    return {
        "source": {
            "principal": source.principal,
            "address": source.address.socket_address.address,
        },
        "destination": {
            "principal": destination.principal,
            "service": attributes.context_extensions.get("service", ""),
            "address": destination.address.socket_address.address,
        },
        "request": {
            "method": http.method,
            "path": http.path,
            "host": http.host,
            "scheme": http.scheme,
            "protocol": http.protocol,
            "headers": dict(http.headers),
            "id": http.id,
            "time": attributes.request.time.ToNanoseconds() / 1e9,
        },
    }


def ext_authz_filter(cluster: str, *, timeout: str = "11s") -> Json:
    """Return the HTTP filter that asks the server behind `cluster`; who gets no answer is denied."""
    return extension(
        FILTER,
        f"{_EXT_AUTHZ}.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": "Forbidden"},
        grpc_service={"envoy_grpc": {"cluster_name": cluster}, "timeout": timeout},
    )


def ext_authz_per_route(service: str) -> Json:
    """Return the filter's configuration for the routes of a service: whose policy to ask."""
    return typed(
        f"{_EXT_AUTHZ}.ExtAuthzPerRoute", check_settings={"context_extensions": {"service": service}}
    )


def _allowed() -> external_auth_pb2.CheckResponse:
    response = external_auth_pb2.CheckResponse()
    response.status.code = code_pb2.OK
    response.ok_response.SetInParent()
    return response


def _denied(service: str, verdict: Verdict) -> external_auth_pb2.CheckResponse:
    response = external_auth_pb2.CheckResponse()
    response.status.code = code_pb2.PERMISSION_DENIED
    response.denied_response.status.code = _FORBIDDEN
    response.denied_response.body = f"denied by policy {service!r}: {verdict.reason}\n"
    header = response.denied_response.headers.add().header
    header.key, header.value = "content-type", "text/plain; charset=utf-8"
    return response
