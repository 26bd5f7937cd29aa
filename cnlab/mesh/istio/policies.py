"""PeerAuthentication and AuthorizationPolicy: who may speak to whom.

An AuthorizationPolicy goes to Envoy's own RBAC filter, see `cnlab.mesh.mixer.rbac`; here it is only found out
which services it selects.

See: Istio, "PeerAuthentication", "Authorization Policy".
"""

from cnlab.errors import InvalidValue
from cnlab.mesh.istio.names import Json, Known, Objects, Subject, of_kind, selected
from cnlab.mesh.istio.plan import Call


def mtls(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate PeerAuthentications: of the whole mesh, or of the services that they select."""
    found: dict[Subject, list[Call]] = {}
    for where, spec in of_kind(objects, "PeerAuthentication"):
        mode = spec.get("mtls", {}).get("mode", "UNSET")
        service = selected(spec, known, where)
        if mode == "UNSET":
            continue
        if ("mtls", service) in found:
            raise InvalidValue(f"{where}: {service or 'the mesh'} has a PeerAuthentication already")
        options = {"service": service} if service else {}
        found["mtls", service] = [Call("mtls", (mode.lower(),), options, where)]
    return found


def authorization(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate AuthorizationPolicies: each service gets those that select it, and those that select all."""
    chosen: dict[str, list[tuple[str, Json]]] = {}
    for (kind, name), manifest in objects.items():
        if kind == "AuthorizationPolicy":
            _check(manifest)
            service = selected(manifest.get("spec") or {}, known, f"{kind}/{name}")
            for one in [service] if service else known.services:
                chosen.setdefault(one, []).append((f"{kind}/{name}", manifest))
    return {
        ("policy", service): [
            Call(
                "policy",
                (service,),
                {"rbac": [manifest for _, manifest in all_of_it]},
                ", ".join(origin for origin, _ in all_of_it),
            )
        ]
        for service, all_of_it in chosen.items()
    }


def _check(manifest: Json) -> None:
    from cnlab.mesh.mixer import rbac

    rbac.check(manifest)
