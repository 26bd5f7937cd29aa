"""A CNI plugin, ``cnlab-cni``: a bridge, a cable to each container, masquerading and published ports.

A runtime such as podman, CRI-O or a kubelet executes it; `ADD` is `plumbing.connect` between an address
from IPAM and a result to print. Configuration, in the words of the reference plugins ``bridge`` and
``host-local``::

    {
      "cniVersion": "1.1.0", "name": "demo", "type": "cnlab-cni",
      "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "mtu": 1500,
      "capabilities": {"portMappings": true},
      "ipam": {"type": "cnlab-cni", "subnet": "10.88.0.0/16"}
    }

An ``ipam.type`` other than our own is another executable in ``CNI_PATH``, such as ``host-local``. What was
made for a container is written down in ``/run/cnlab-cni/NETWORK``, for DEL and GC.

See: CNI spec 1.1, https://www.cni.dev/docs/spec/; `cni_protocol` for what goes in and out.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from cnlab.containers.network import cni_ipam, ipam, nat, plumbing
from cnlab.containers.network import cni_protocol as protocol
from cnlab.containers.network.cni_protocol import CniError, Json, Request
from cnlab.containers.network.ports import ANY, PortMapping
from cnlab.errors import CnlabError
from cnlab.linux.netns import NetNs
from cnlab.linux.rtnetlink import Rtnetlink

_EVERYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's link in a network: the key that DEL and GC find again what ADD made by."""

    network: str
    container_id: str
    ifname: str

    @property
    def key(self) -> str:
        """A short name that no other attachment has."""
        text = f"{self.network}/{self.container_id}/{self.ifname}"
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def host_interface(self) -> str:
        """What the cable's end at the bridge is called."""
        return f"veth{self.key}"


def add(request: Request) -> Json:
    """Connect a container: an address from IPAM, a cable, rules for packets."""
    attachment = _attachment(request)
    bridge, mtu = _bridge(request), int(request.config.get("mtu") or 1500)
    with _namespace(request) as there, Rtnetlink(there) as container, Rtnetlink() as host:
        if request.ifname in (link.name for link in container.links()):
            raise CniError(protocol.INVALID_ENVIRONMENT, f"the container has a link {request.ifname} already")
        with _undone_if_it_fails(request, attachment):
            lease = cni_ipam.add(request)
            gateway = lease.gateway or ipam.gateway_of(lease.address.network)
            own = IPv4Interface((gateway, lease.address.network.prefixlen))
            _ensure_bridge(request, host, own, mtu)
            plumbing.connect(
                host,
                there,
                bridge=bridge,
                host_interface=attachment.host_interface,
                interface=request.ifname,
                address=lease.address,
                routes=[(destination, via or gateway) for destination, via in lease.routes],
                mtu=mtu,
            )
            _apply_rules(request, attachment, lease.address)
        links = [host.link(bridge), host.link(attachment.host_interface), container.link(request.ifname)]
    interfaces = [{"name": link.name, "mac": link.mac} for link in links]
    interfaces[-1]["sandbox"] = request.netns
    return _result(request, interfaces, lease.to_json(request.version))


def delete(request: Request) -> None:
    """Undo `add`; what is gone already, or was never made, is no error."""
    _tear_down(request, _attachment(request))


def check(request: Request) -> None:
    """Find out whether all is still as `add` left it."""
    previous = request.config.get("prevResult")
    if not isinstance(previous, dict):
        raise CniError(protocol.INVALID_CONFIG, "CHECK needs the prevResult of ADD in the configuration")
    expected = _expected_addresses(previous, request)
    with _namespace(request) as there, Rtnetlink(there) as container, Rtnetlink() as host:
        _expect(
            host.link(_attachment(request).host_interface).master == host.link(_bridge(request)).index,
            f"the cable is not plugged into the bridge {_bridge(request)}",
        )
        link = container.link(request.ifname)
        _expect(link.is_up, f"{request.ifname} is down")
        present = {str(address.interface) for address in container.addresses(link.index)}
        _expect(expected <= present, f"{request.ifname} lacks {', '.join(sorted(expected - present))}")
        wanted = {destination for destination, _ in protocol.parse_routes(previous.get("routes") or ())}
        _expect(wanted <= {route.destination for route in container.routes()}, "a route is missing")


def collect_garbage(request: Request) -> None:
    """Undo `add` for all containers of this network that the runtime no longer knows."""
    listed = request.config.get("cni.dev/valid-attachments") or []
    valid = {(one["containerID"], one["ifname"]) for one in listed}
    failures = []
    for attachment in _recorded(request):
        if (attachment.container_id, attachment.ifname) not in valid:
            try:
                _tear_down(request, attachment)
            except (OSError, CnlabError) as error:  # go on with the others, as the specification asks
                failures.append(str(error))
    if leases := cni_ipam.leases_of(request):
        leases.release(lambda *owner: owner not in valid)
    if failures:
        raise CniError(protocol.IO_FAILURE, "some attachments could not be removed", "; ".join(failures))


def status(request: Request) -> None:
    """Find out whether `add` could do its work now."""
    try:
        nat.backend()
        with NetNs.create():
            pass
    except (OSError, CnlabError) as error:
        raise CniError(protocol.NOT_AVAILABLE, "no container can be connected now", str(error)) from None


def version(request: Request) -> Json:
    """Say which versions of the specification we speak."""
    spoken = request.config.get("cniVersion") or protocol.VERSIONS[-1]
    return {"cniVersion": spoken, "supportedVersions": list(protocol.VERSIONS)}


COMMANDS: dict[str, Callable[[Request], Json | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect_garbage,
    "STATUS": status,
    "VERSION": version,
}


def main() -> int:
    """Do what the environment and standard input say; print a result or an error."""
    spoken = protocol.VERSIONS[-1]
    try:
        request = protocol.parse_request(os.environ, sys.stdin.read())
        spoken = request.version
        answer = COMMANDS[request.command](request)
    except CniError as error:
        failure = error
    except ipam.AddressesExhausted as error:
        failure = CniError(protocol.TRY_AGAIN, str(error))
    except OSError as error:
        failure = CniError(protocol.KERNEL_REFUSED, error.strerror or str(error))
    except CnlabError as error:
        failure = CniError(protocol.INVALID_CONFIG, str(error))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        failure = CniError(protocol.INVALID_CONFIG, "a field of the configuration is malformed", repr(error))
    else:
        if answer is not None:
            print(json.dumps(answer))
        return 0
    print(json.dumps(failure.to_json(spoken)))
    return 1


# What the commands are made of


def _attachment(request: Request) -> Attachment:
    return Attachment(request.network, request.container_id, request.ifname)


def _bridge(request: Request) -> str:
    return str(request.config.get("bridge") or "cni0")


def _namespace(request: Request) -> NetNs:
    try:
        there = NetNs.open(request.netns)
    except OSError as error:
        raise CniError(
            protocol.UNKNOWN_CONTAINER, f"no network namespace at {request.netns!r}", str(error)
        ) from None
    with NetNs.current() as here:
        if there.inode == here.inode:
            there.close()
            raise CniError(protocol.INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns!r} is the host's own")
    return there


def _ensure_bridge(request: Request, host: Rtnetlink, address: IPv4Interface, mtu: int) -> None:
    """Make the bridge, or complete the one that is there; one plugin at a time."""
    name = _bridge(request)
    with _locked(_state_directory(request)):
        if name not in (link.name for link in host.links()):
            plumbing.make_bridge(host, name, address, mtu=mtu)
        elif host.link(name).kind != "bridge":
            raise CniError(protocol.INVALID_CONFIG, f"there is a link {name!r}, and it is no bridge")
        else:
            with contextlib.suppress(FileExistsError):
                host.add_address(name, address)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _apply_rules(request: Request, attachment: Attachment, address: IPv4Interface) -> None:
    backend = nat.backend()
    _record(request, attachment).write_text(
        json.dumps({"containerID": attachment.container_id, "ifname": attachment.ifname, "backend": backend})
    )
    published = tuple(nat.Published(mapping, address.ip) for mapping in _port_mappings(request))
    _rules(request, attachment, address.network, published).apply(backend)


def _rules(
    request: Request,
    attachment: Attachment,
    subnet: IPv4Network = _EVERYWHERE,
    published: tuple[nat.Published, ...] = (),
) -> nat.Rules:
    masquerade = bool(request.config.get("ipMasq"))
    return nat.Rules(
        attachment.key, _bridge(request), subnet, published, masquerade=masquerade, isolate=False
    )


def _port_mappings(request: Request) -> Iterator[PortMapping]:
    for one in request.config.get("runtimeConfig", {}).get("portMappings") or ():
        yield PortMapping(
            one["containerPort"], one["hostPort"], one.get("protocol") or "tcp", one.get("hostIP") or ANY
        )


def _result(request: Request, interfaces: list[Json], leased: Json) -> Json:
    """Return the result: the one of the plugins before us, if any, and what we have added to it."""
    result = {"interfaces": [], "ips": [], "routes": []} | (request.config.get("prevResult") or {})
    leased["ips"][0]["interface"] = len(result["interfaces"]) + len(interfaces) - 1
    return {
        "cniVersion": request.version,
        "interfaces": result["interfaces"] + interfaces,
        "ips": result["ips"] + leased["ips"],
        "routes": result["routes"] + leased["routes"],
        "dns": leased["dns"] or request.config.get("dns") or result.get("dns") or {},
    }


def _expected_addresses(previous: Json, request: Request) -> set[str]:
    interfaces = previous.get("interfaces") or []
    ours = [
        number
        for number, interface in enumerate(interfaces)
        if interface.get("sandbox") == request.netns and interface["name"] == request.ifname
    ]
    return {ip["address"] for ip in previous.get("ips") or () if ip.get("interface") in ours}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CniError(protocol.CHECK_FAILED, otherwise)


@contextlib.contextmanager
def _undone_if_it_fails(request: Request, attachment: Attachment) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, CnlabError):  # the first error is the one to tell
            _tear_down(request, attachment)
        raise


def _tear_down(request: Request, attachment: Attachment) -> None:
    """Undo `add`, the address last: nobody shall get it while something still leads there."""
    with Rtnetlink() as host:
        plumbing.disconnect(host, attachment.host_interface)
    record = _record(request, attachment)
    backend = json.loads(record.read_text())["backend"] if record.exists() else nat.backend()
    _rules(request, attachment).remove(backend)
    cni_ipam.delete(request, attachment.container_id, attachment.ifname)
    record.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        record.parent.rmdir()


def _record(request: Request, attachment: Attachment) -> Path:
    directory = _state_directory(request) / request.network
    directory.mkdir(exist_ok=True)
    return directory / attachment.key


def _state_directory(request: Request) -> Path:
    directory = Path(request.config.get("stateDir") or "/run/cnlab-cni")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _recorded(request: Request) -> list[Attachment]:
    directory = _record(request, _attachment(request)).parent
    records = [json.loads(path.read_text()) for path in sorted(directory.iterdir())]
    return [Attachment(request.network, record["containerID"], record["ifname"]) for record in records]


if __name__ == "__main__":
    sys.exit(main())
