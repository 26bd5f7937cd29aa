"""Manifests that have been applied, as Kubernetes' API would keep them, and what a new one changes.

    manifests = Manifests(services={"reviews": ("v1", "v2", "v3")}, entry="productpage")
    manifests, plan = manifests.apply(yaml_text)
    plan.run(mesh)

What holds is what the manifests say together, whatever the order in which they came: applying one again
changes nothing, and applying another of the same kind and name replaces it.

See: Kubernetes, "Declarative Management of Kubernetes Objects".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnlab.errors import InvalidValue
from cnlab.mesh.istio import gateways, policies, traffic
from cnlab.mesh.istio.names import Known, Subject
from cnlab.mesh.istio.plan import Call, Plan
from cnlab.mesh.istio.subset import check

_UNDO: dict[str, Callable[[str], Call]] = {
    "route": lambda service: Call("unroute", (service,)),
    "cluster": lambda service: Call("uncluster", (service,)),
    "policy": lambda service: Call("policy", (service,), {"rbac": []}),
    "mtls": lambda service: Call("mtls", (None,), {"service": service} if service else {}),
    "external": lambda host: Call("unexternal", (host,)),
    "ingress": lambda _: Call("uningress"),
}
_BEGINS_ANEW = ("route", "cluster")  # what is said of these is added to what was said before


@dataclass(frozen=True, slots=True)
class Manifests:
    """The manifests that hold. It never changes; `apply` and `delete` return another one, and a plan."""

    services: Mapping[str, tuple[str, ...]]  # their versions
    entry: str
    port: int = 9080
    gateway_port: int = 8080
    objects: Mapping[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def apply(self, text: str) -> tuple["Manifests", Plan]:
        """Add the manifests in a YAML text, or replace those of the same kind and name.

        Raises:
            InvalidValue: one is not in the subset that is supported, or does not fit what there is. The
                message names kind, name and field; nothing has changed.
        """
        new = {check(document): document for document in load(text)}
        return self._become({**self.objects, **new})

    def delete(self, text: str) -> tuple["Manifests", Plan]:
        """Remove the manifests of the kinds and names in a YAML text."""
        gone = {check(document) for document in load(text)}
        for kind, name in gone:
            if (kind, name) not in self.objects:
                raise InvalidValue(f"{kind}/{name}: not found")
        return self._become({key: value for key, value in self.objects.items() if key not in gone})

    def calls(self) -> dict[Subject, list[Call]]:
        """Return all that the manifests come to, by what it is about."""
        known = Known(self.services, self.entry, self.port, self.gateway_port)
        found: dict[Subject, list[Call]] = {}
        for translate in (gateways.externals, traffic.clusters, traffic.routes, gateways.ingress):
            found |= translate(self.objects, known)
        return found | policies.mtls(self.objects, known) | policies.authorization(self.objects, known)

    def _become(self, objects: Mapping[tuple[str, str], dict[str, Any]]) -> tuple["Manifests", Plan]:
        other = replace(self, objects=objects)
        return other, Plan(tuple(_difference(self.calls(), other.calls())))


def load(text: str) -> list[Any]:
    """Return the documents of a YAML text.

    Raises:
        InvalidValue: it is no YAML, or there is no document in it.
    """
    import yaml

    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidValue(f"the manifest is no YAML: {' '.join(str(error).split())}") from None
    if not documents:
        raise InvalidValue("the manifest is empty")
    return documents


def _difference(old: dict[Subject, list[Call]], new: dict[Subject, list[Call]]) -> list[Call]:
    calls = [_UNDO[verb](about) for verb, about in old if (verb, about) not in new]
    for (verb, about), wanted in new.items():
        if wanted != old.get((verb, about)):
            calls += [_UNDO[verb](about)] if verb in _BEGINS_ANEW else []
            calls += wanted
    return calls
