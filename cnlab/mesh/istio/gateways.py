"""Gateway and ServiceEntry: the ways into the mesh and out of it.

See: Istio, "Gateway", "Service Entry".
"""

from cnlab.errors import InvalidValue
from cnlab.mesh.istio.names import Json, Known, Objects, Subject, needed, of_kind
from cnlab.mesh.istio.plan import Call
from cnlab.mesh.istio.traffic import MESH, rules_of


def ingress(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate Gateways and the VirtualServices that are bound to them, for the one ingress gateway."""
    gateways = {
        where.partition("/")[2]: _hosts(where, spec, known) for where, spec in of_kind(objects, "Gateway")
    }
    rules: list[Json] = []
    hosts: set[str] = set()
    for where, spec in of_kind(objects, "VirtualService"):
        names = [name.rpartition("/")[2] for name in spec.get("gateways", []) if name != MESH]
        for name in names:
            if name not in gateways:
                raise InvalidValue(f"{where}: spec.gateways: there is no Gateway {name!r}; apply it first")
            wanted = needed(spec, "hosts", f"{where}: spec")
            hosts |= set(gateways[name]) if "*" in wanted else set(wanted)
        if names:
            rules += [rule for _, rule in rules_of(where, spec, objects, known)]
    if not rules:
        return {}
    origin = ", ".join(f"Gateway/{name}" for name in gateways)
    words = {"rules": rules, "hosts": tuple(sorted(hosts))}
    return {("ingress", ""): [Call("ingress", (), words, origin)]}


def _hosts(where: str, spec: Json, known: Known) -> list[str]:
    hosts = []
    for number, server in enumerate(needed(spec, "servers", f"{where}: spec")):
        path = f"{where}: spec.servers[{number}]"
        port = needed(needed(server, "port", path), "number", f"{path}.port")
        if port != known.gateway_port:
            raise InvalidValue(
                f"{path}.port.number: the gateway listens on {known.gateway_port}, not on {port}"
            )
        hosts += [host.rpartition("/")[2] for host in needed(server, "hosts", path)]
    return hosts


def externals(objects: Objects, known: Known) -> dict[Subject, list[Call]]:
    """Translate ServiceEntries: hosts that are not of the mesh, with their endpoints."""
    found: dict[Subject, list[Call]] = {}
    for where, spec in of_kind(objects, "ServiceEntry"):
        ports = needed(spec, "ports", f"{where}: spec")
        if len(ports) != 1:
            raise InvalidValue(f"{where}: spec.ports: one port is supported, not {len(ports)}")
        endpoints = []
        for number, endpoint in enumerate(needed(spec, "endpoints", f"{where}: spec")):
            address = needed(endpoint, "address", f"{where}: spec.endpoints[{number}]")
            usual = ports[0].get("targetPort", needed(ports[0], "number", f"{where}: spec.ports[0]"))
            endpoints.append(f"{address}:{endpoint.get('ports', {}).get(ports[0].get('name'), usual)}")
        for host in needed(spec, "hosts", f"{where}: spec"):
            if host in known.services:
                raise InvalidValue(f"{where}: spec.hosts: {host} is a service of the mesh")
            found["external", host] = [Call("external", (host,), {"endpoints": endpoints}, where)]
    return found
