"""What the mesh shall do, as plain data: the part that people write.

A `Configuration` never changes; each verb returns another one. It goes to the control plane as JSON, and the
control plane makes Envoy's resources of it (`traffic`). Wrong words are refused here, before anything is
sent; words that are Envoy's own (of a retry policy, of outlier detection) are checked against Envoy's
protobuf there.

    Configuration({"reviews": ("v1", "v2")}, "reviews").route("reviews", weights={"v1": 90, "v2": 10})
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from cnlab.errors import InvalidValue
from cnlab.mesh.words import (
    check_duration,
    check_fault,
    check_mapping,
    check_match,
    check_number,
    check_percent,
    check_retries,
    check_service,
    check_text,
    check_words,
)

Json = dict[str, Any]
MODES = ("strict", "permissive", "disable")
PERIODS = ("second", "minute", "hour", "day")
GATEWAY = "ingressgateway"

_RULE_WORDS = {
    "rewrite": ("prefix", "authority"),
    "redirect": ("path", "prefix", "host", "code"),
    "direct_response": ("status", "body"),
}
_CLUSTER_WORDS = (
    "circuit_breakers",
    "outlier_detection",
    "connect_timeout",
    "health_checks",
    "load_balancing",
    "max_requests_per_connection",
    "tls",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """An instance of a service, and where it is."""

    name: str
    service: str
    version: str
    address: str
    is_ready: bool = True  # one that is not has a sidecar, and gets no requests


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a request goes that matches, and how; what is empty is left to Envoy."""

    match: Json = field(default_factory=dict)
    to_service: str = ""  # another service than the one that was asked for
    weights: dict[str, int] = field(default_factory=dict)  # by version; none: all versions, as they come
    timeout: str = ""
    retries: Json = field(default_factory=dict)
    mirror: Json = field(default_factory=dict)
    fault: Json = field(default_factory=dict)
    rewrite: Json = field(default_factory=dict)
    redirect: Json = field(default_factory=dict)
    direct_response: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """All that has been said about one service."""

    rules: tuple[Rule, ...] = ()  # with a match, in the order in which they were given
    default: Rule = field(default_factory=Rule)
    fault: Json = field(default_factory=dict)
    cluster: Json = field(default_factory=dict)
    mtls: str = ""  # "": as the mesh
    rego: str = ""
    rbac: tuple[Json, ...] = ()  # Istio's AuthorizationPolicy manifests
    rate_limit: Json = field(default_factory=dict)
    local_rate_limit: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The whole of it: what there is, and what shall happen."""

    services: dict[str, tuple[str, ...]]  # their versions
    entry: str  # the service that the gateway leads to
    port: int = 9080
    settings: dict[str, Settings] = field(default_factory=dict)
    mtls: str = "permissive"
    external: dict[str, tuple[str, ...]] = field(default_factory=dict)  # endpoints by host
    ingress: tuple[Rule, ...] = ()  # none: all to `entry`
    ingress_hosts: tuple[str, ...] = ("*",)

    # Reading

    def of(self, service: str) -> Settings:
        """Return what has been said about a service."""
        return self.settings.get(service, Settings())

    def mtls_of(self, service: str) -> str:
        """Return the mode in which a service receives."""
        return self.of(service).mtls or self.mtls

    def is_tls_to(self, service: str) -> bool:
        """Say whether sidecars speak TLS to a service."""
        return self.mtls_of(service) != "disable" and self.of(service).cluster.get("tls") != "disable"

    def as_dict(self) -> Json:
        """Return it as JSON's types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Json) -> Configuration:
        """Read what `as_dict` wrote."""
        return cls(
            services={name: tuple(versions) for name, versions in data["services"].items()},
            entry=data["entry"],
            port=data["port"],
            settings={name: _settings(one) for name, one in data["settings"].items()},
            mtls=data["mtls"],
            external={host: tuple(endpoints) for host, endpoints in data["external"].items()},
            ingress=tuple(Rule(**rule) for rule in data["ingress"]),
            ingress_hosts=tuple(data["ingress_hosts"]),
        )

    # The verbs

    def route(self, service: str, *, match: Json | None = None, **words: Any) -> Configuration:
        """Say where requests for `service` go; words that are None keep what was said before."""
        settings = self._known(service)
        match = check_match(service, match or {}, self.services)
        old = next((rule for rule in settings.rules if rule.match == match), Rule(match=match))
        rule = self._rule(service, old if match else settings.default, words)
        if not match:
            return self._with(service, default=rule)
        rules = [rule if one.match == match else one for one in settings.rules]
        return self._with(service, rules=tuple(rules if rule in rules else [*rules, rule]))

    def unroute(self, service: str) -> Configuration:
        """Forget all that `route` said."""
        self._known(service)
        return self._with(service, rules=(), default=Rule())

    def fault(self, service: str, *, delay: Json | None = None, abort: Json | None = None) -> Configuration:
        """Let requests to `service` wait, or fail, before they leave the caller's sidecar."""
        self._known(service)
        given = {word: value for word, value in (("delay", delay), ("abort", abort)) if value is not None}
        if not given:
            raise InvalidValue(f"fault({service}): neither delay nor abort is given")
        return self._with(service, fault={**self.of(service).fault, **check_fault(service, given)})

    def unfault(self, service: str) -> Configuration:
        """Forget all that `fault` said."""
        self._known(service)
        return self._with(service, fault={})

    def cluster(self, service: str, **words: Any) -> Configuration:
        """Say how callers keep connections to `service`; words that are None keep what was said before."""
        settings = self._known(service)
        check_words(f"cluster({service})", words, _CLUSTER_WORDS)
        given = {word: value for word, value in words.items() if value is not None}
        if "connect_timeout" in given:
            check_duration(f"cluster({service})", "connect_timeout", given["connect_timeout"])
        breakers = given.get("circuit_breakers", {})
        check_mapping(f"cluster({service}), circuit_breakers", breakers)
        check_mapping(f"cluster({service}), retry_budget", breakers.get("retry_budget") or {})
        check_mapping(f"cluster({service}), outlier_detection", given.get("outlier_detection", {}))
        if given.get("tls", "disable") not in ("istio_mutual", "disable"):
            raise InvalidValue(f"cluster({service}): tls {given['tls']!r}: istio_mutual or disable")
        return self._with(service, cluster={**settings.cluster, **given})

    def uncluster(self, service: str) -> Configuration:
        """Forget all that `cluster` said."""
        self._known(service)
        return self._with(service, cluster={})

    def with_mtls(self, mode: str | None, service: str | None = None) -> Configuration:
        """Say what sidecars accept: only TLS with a certificate of the mesh, both, or only plain text.

        None means what it was at first: permissive for the mesh, and for a service what the mesh does.
        """
        if mode is not None and mode not in MODES:
            raise InvalidValue(f"mtls: unknown mode {mode!r}; the modes are {', '.join(MODES)}")
        if service is None:
            return replace(self, mtls=mode or "permissive")
        self._known(service)
        return self._with(service, mtls=mode or "")

    def policy(
        self, service: str, *, rego: str | None = None, rbac: Sequence[Json] | None = None
    ) -> Configuration:
        """Let policies decide on each request that reaches `service`; None keeps what was said before."""
        settings = self._known(service)
        if rego is None and rbac is None:
            raise InvalidValue(f"policy({service}): neither rego nor rbac is given")
        check_text(f"policy({service}), rego", rego or "")
        for manifest in rbac or ():
            check_mapping(f"policy({service}), rbac", manifest)
        manifests = settings.rbac if rbac is None else tuple(rbac)
        return self._with(service, rego=settings.rego if rego is None else rego, rbac=manifests)

    def unpolicy(self, service: str) -> Configuration:
        """Forget what `policy` said."""
        self._known(service)
        return self._with(service, rego="", rbac=())

    def rate_limit(
        self, service: str, *, requests: int, per: str, by: str | None = None, local: bool = False
    ) -> Configuration:
        """Let `service` receive so many requests in a period; `local`: each instance, in its sidecar."""
        self._known(service)
        check_number(f"rate_limit({service}), requests", requests, least=1)
        if per not in PERIODS:
            raise InvalidValue(f"rate_limit({service}): per {per!r}; the periods are {', '.join(PERIODS)}")
        limit: Json = {"requests": requests, "per": per}
        if local:
            return self._with(service, local_rate_limit=limit)
        return self._with(service, rate_limit={**limit, "by": by or ""})

    def unlimit(self, service: str) -> Configuration:
        """Forget what `rate_limit` said."""
        self._known(service)
        return self._with(service, rate_limit={}, local_rate_limit={})

    def with_external(self, host: str, endpoints: tuple[str, ...]) -> Configuration:
        """Let services reach `host`, which is not of the mesh, at these ``address:port``."""
        if host in self.services:
            raise InvalidValue(f"external({host}): a service of the mesh has this name")
        for endpoint in endpoints:
            check_text(f"external({host})", endpoint)
            if not re.fullmatch(r"[^:\s]+:\d{1,5}", endpoint):
                raise InvalidValue(f"external({host}): {endpoint!r} is no address:port")
        if not endpoints:
            raise InvalidValue(f"external({host}): no endpoint is given")
        return replace(self, external={**self.external, host: tuple(endpoints)})

    def unexternal(self, host: str) -> Configuration:
        """Forget a host."""
        check_service(host, self.external, kind="host outside")
        return replace(self, external={name: ends for name, ends in self.external.items() if name != host})

    def with_ingress(self, rules: list[Json], hosts: tuple[str, ...] = ("*",)) -> Configuration:
        """Say what the gateway leads where; each rule is the words of `route` and ``service``."""
        made = []
        for rule in rules:
            check_mapping("ingress", rule)
            words = {**rule}
            service = words.pop("service", self.entry)
            self._known(service)
            match = check_match(GATEWAY, words.pop("match", {}), self.services)
            made.append(self._rule(service, Rule(match=match, to_service=service), words))
        return replace(self, ingress=tuple(made), ingress_hosts=tuple(hosts))

    def uningress(self) -> Configuration:
        """Let the gateway lead all to the entry again."""
        return replace(self, ingress=(), ingress_hosts=("*",))

    # What the verbs are made of

    def _known(self, service: str) -> Settings:
        check_service(service, self.services)
        return self.of(service)

    def _with(self, service: str, **changes: Any) -> Configuration:
        return replace(self, settings={**self.settings, service: replace(self.of(service), **changes)})

    def _rule(self, service: str, old: Rule, words: Mapping[str, Any]) -> Rule:
        """Return `old` with the words that are given, each checked."""
        given = {word: value for word, value in words.items() if value is not None}
        known = [one.name for one in fields(Rule) if one.name != "match"]
        check_words(f"route({service})", given, (*known, "to"))
        if "to" in given and "weights" in given:
            raise InvalidValue(f"route({service}): give either to or weights")
        if "to" in given:
            check_text(f"route({service}), to", given["to"])
            given["weights"] = {given.pop("to"): 100}
        target = given.get("to_service", old.to_service) or service
        self._known(target)
        if "weights" in given:
            given["weights"] = self._weights(target, given["weights"])
        elif "to_service" in given:
            given["weights"] = {}
        if "timeout" in given:
            check_duration(f"route({service})", "timeout", given["timeout"])
        if "retries" in given:
            check_retries(f"route({service}), retries", given["retries"])
        for word, parts in _RULE_WORDS.items():
            check_words(f"route({service}), {word}", given.get(word, {}), parts)
        if "mirror" in given:
            given["mirror"] = self._mirror(target, given["mirror"])
        if "fault" in given:
            given["fault"] = check_fault(service, given["fault"])
        return replace(old, **given)

    def _weights(self, service: str, weights: Mapping[str, int]) -> dict[str, int]:
        check_mapping(f"route({service}), weights", weights)
        for version, weight in weights.items():
            self._version(service, version)
            check_number(f"route({service}), weight of {version}", weight)
        if sum(weights.values()) != 100:
            raise InvalidValue(
                f"route({service}): weights {dict(weights)} sum to {sum(weights.values())}, not to 100"
            )
        return dict(weights)

    def _version(self, service: str, version: str) -> None:
        versions = self.services[service]
        if version not in versions:
            raise InvalidValue(f"{service} has no version {version!r}; there are {', '.join(versions)}")

    def _mirror(self, service: str, mirror: Json) -> Json:
        check_words(f"route({service}), mirror", mirror, ("to", "percent", "service"))
        target = mirror.get("service") or service
        self._known(target)
        if mirror.get("to"):
            self._version(target, mirror["to"])
        check_percent(f"route({service}), mirror", mirror.get("percent", 100))
        return {"service": target, "to": mirror.get("to", ""), "percent": mirror.get("percent", 100)}


def _settings(data: Json) -> Settings:
    rules = tuple(Rule(**rule) for rule in data["rules"])
    rest = {"rules": rules, "default": Rule(**data["default"]), "rbac": tuple(data["rbac"])}
    return Settings(**{**data, **rest})
