"""Quotas: how many requests a service takes from each caller in a stretch of time.

Two places to count. A sidecar alone has a token bucket of its own (`local_ratelimit`): quick, but three
instances let through three times as much. Or all sidecars ask one server (`RateLimiter`): one count for all,
one more message in the path of each request. The server counts in fixed windows, as Envoy's reference
implementation does: the minute from 12:00 and not the minute until now, so that twice the quota may pass
around a window's edge.

See: Envoy, "Global rate limiting", "Local rate limit" and ``envoy.service.ratelimit.v3``; the response
headers are those of draft-polli-ratelimit-headers-03, as Envoy has them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc
from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

from cnlab.errors import InvalidValue
from cnlab.mesh.pilot.resources import Json, extension, typed

FILTER = "envoy.filters.http.ratelimit"
LOCAL_FILTER = "envoy.filters.http.local_ratelimit"
DOMAIN = "mesh"
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 24 * 3600}
SOURCE = "source"
CALLERS = 100_000
"""So many callers are counted; beyond, the one that has been silent longest is forgotten."""
_FILTERS = "envoy.extensions.filters.http"
_EXPRESSION = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"
_PEER = "connection.uri_san_peer_certificate"  # in CEL, with the attributes that Envoy knows
_OK, _OVER_LIMIT = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
_ALWAYS = {"numerator": 100, "denominator": "HUNDRED"}


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests per unit of time: for each caller (`by` "source"), value of a header, or in all."""

    requests: int
    per: str = "second"
    by: str = SOURCE

    def __post_init__(self) -> None:
        if self.requests < 0:
            raise InvalidValue(f"rate limit: {self.requests} requests; it must not be negative")
        if self.per not in UNITS:
            raise InvalidValue(f"rate limit: per {self.per!r}; the units are {', '.join(UNITS)}")


class RateLimiter(rls_pb2_grpc.RateLimitServiceServicer):  # type: ignore[misc]
    """Counts requests by their descriptors, in fixed windows, and says when it is enough."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._limits: dict[str, Limit] = {}
        self._now = now
        self._windows: dict[tuple[str, str], tuple[int, int]] = {}  # service, caller: window, hits in it
        self.counts: Counter[tuple[str, str]] = Counter()  # by service and "OK" or "OVER_LIMIT"

    @property
    def limits(self) -> dict[str, Limit]:
        """The limit by service."""
        return dict(self._limits)

    def set(self, service: str, limit: Limit) -> None:
        """Limit a service; what was counted stays."""
        self.replace({**self._limits, service: limit})

    def remove(self, service: str) -> None:
        """Limit a service no more."""
        self.replace({name: limit for name, limit in self._limits.items() if name != service})

    def replace(self, limits: Mapping[str, Limit]) -> None:
        """Have these limits and no others."""
        changed = {name for name in self._limits if limits.get(name) != self._limits[name]}
        self._limits = dict(limits)
        self._windows = {key: hits for key, hits in self._windows.items() if key[0] not in changed}

    def hit(self, service: str, caller: str, hits: int = 1) -> rls_pb2.RateLimitResponse.DescriptorStatus:
        """Count `hits` of a caller; say whether they are still within the limit, and what is left of it."""
        limit = self._limits.get(service)
        if limit is None:
            return rls_pb2.RateLimitResponse.DescriptorStatus(code=_OK)
        unit_s, now = UNITS[limit.per], self._now()
        window = int(now // unit_s)
        since, counted = self._windows.pop((service, caller), (window, 0))
        total = (counted if since == window else 0) + hits
        while len(self._windows) >= CALLERS:  # who writes headers may invent callers
            del self._windows[next(iter(self._windows))]
        self._windows[service, caller] = (window, total)
        status = rls_pb2.RateLimitResponse.DescriptorStatus(
            code=_OK if total <= limit.requests else _OVER_LIMIT,
            limit_remaining=max(0, limit.requests - total),
        )
        status.current_limit.requests_per_unit = limit.requests
        status.current_limit.unit = rls_pb2.RateLimitResponse.RateLimit.Unit.Value(limit.per.upper())
        status.duration_until_reset.FromNanoseconds(int(((window + 1) * unit_s - now) * 1e9))
        return status

    async def ShouldRateLimit(  # noqa: N802 - the service's word
        self, request: rls_pb2.RateLimitRequest, context: grpc.aio.ServicerContext
    ) -> rls_pb2.RateLimitResponse:
        """Answer one question of a sidecar; any descriptor over its limit decides."""
        response = rls_pb2.RateLimitResponse(overall_code=_OK)
        for descriptor in request.descriptors:
            entries = {entry.key: entry.value for entry in descriptor.entries}
            service, caller = entries.get("service", ""), entries.get("caller", "")
            status = self.hit(service, caller, request.hits_addend or 1)
            self.counts[service, "OK" if status.code == _OK else "OVER_LIMIT"] += 1
            response.statuses.append(status)
            if status.code == _OVER_LIMIT:
                response.overall_code = _OVER_LIMIT
        return response

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve rate limits on this server."""
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(self, server)


def ratelimit_filter(cluster: str, *, timeout: str = "0.5s", deny_on_failure: bool = False) -> Json:
    """Return the HTTP filter that asks the server behind `cluster`, for routes that have `rate_limits`.

    Without an answer requests pass, as is Envoy's default: a quota protects from too much, and is no lock.
    """
    return extension(
        FILTER,
        f"{_FILTERS}.ratelimit.v3.RateLimit",
        domain=DOMAIN,
        timeout=timeout,
        failure_mode_deny=deny_on_failure,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        rate_limit_service={
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
        },
    )


def rate_limits(service: str, limit: Limit) -> list[Json]:
    """Return a route's ``rate_limits``: the descriptor that a request is counted by.

    A caller is told by the SPIFFE ID in its certificate, so all callers without mTLS are one. Requests that
    lack the header are one caller as well: Envoy alone would not count them at all.
    """
    actions: list[Json] = [{"generic_key": {"descriptor_key": "service", "descriptor_value": service}}]
    if limit.by:
        actions.append(_caller(limit.by))
    return [{"actions": actions}]


def local_ratelimit_filter() -> Json:
    """Return the HTTP filter of a sidecar's own token bucket; it limits nothing until a route says so."""
    return extension(
        LOCAL_FILTER, f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit", stat_prefix="local_ratelimit"
    )


def local_ratelimit(requests: int, per: str = "second") -> Json:
    """Return its configuration for a route: a bucket of so many tokens, filled up once per unit of time."""
    limit = Limit(requests, per)
    if not limit.requests:
        raise InvalidValue("local rate limit: 0 requests; a bucket holds one token at least")
    return typed(
        f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="local_ratelimit",
        token_bucket={
            "max_tokens": limit.requests,
            "tokens_per_fill": limit.requests,
            "fill_interval": f"{UNITS[limit.per]}s",
        },
        filter_enabled={"default_value": _ALWAYS},
        filter_enforced={"default_value": _ALWAYS},
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
    )


def _caller(by: str) -> Json:
    """Who asks: by what the caller's certificate says, or by what a header of the request says."""
    if by == SOURCE:
        text = {"descriptor_key": "caller", "text": _PEER, "skip_if_error": True}
        return {"extension": extension("envoy.rate_limit_descriptors.expr", _EXPRESSION, **text)}
    return {"request_headers": {"header_name": by, "descriptor_key": "caller", "skip_if_absent": True}}
