"""Where the CNI plugin's addresses come from: its own leases, or another plugin's.

An IPAM plugin is executed like the plugin that needs it, with the same environment and input; its result is
only the addresses, routes and name servers.

See: CNI spec 1.1, section 4 "Plugin Delegation".
"""

import json
import os
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cnlab.containers.network import cni_protocol as protocol
from cnlab.containers.network import ipam
from cnlab.containers.network.cni_protocol import Addresses, CniError, Json, Request

_EVERYWHERE = IPv4Network("0.0.0.0/0")


def leases_of(request: Request) -> ipam.LeaseDirectory | None:
    """Return our own store of leases; None if the configuration delegates that."""
    wanted = request.ipam
    if wanted["type"] != request.config["type"]:
        return None
    first = wanted if "subnet" in wanted else wanted.get("ranges", [[{}]])[0][0]
    if "subnet" not in first:
        raise CniError(protocol.INVALID_CONFIG, "ipam has no subnet")
    subnet = ipam.parse_subnet(first["subnet"])
    gateway = IPv4Address(first.get("gateway") or ipam.gateway_of(subnet))
    directory = Path(wanted.get("dataDir") or "/var/lib/cni/networks") / request.network
    return ipam.LeaseDirectory(directory, subnet, gateway)


def add(request: Request) -> Addresses:
    """Get an address for a container, and the routes that go with it."""
    leases = leases_of(request)
    if leases is None:
        found = Addresses.parse(_delegate(request, "ADD", request.container_id, request.ifname))
    else:
        address = leases.allocate(request.container_id, request.ifname, request.args.get("IP"))
        routes = protocol.parse_routes(request.ipam.get("routes") or ())
        found = Addresses(address, leases.gateway, routes, {})
    if request.config.get("isDefaultGateway") and _EVERYWHERE not in dict(found.routes):
        found = Addresses(found.address, found.gateway, (*found.routes, (_EVERYWHERE, None)), found.dns)
    return found


def delete(request: Request, container_id: str, ifname: str) -> None:
    """Give a container's address back; does nothing if it has none."""
    leases = leases_of(request)
    if leases is None:
        _delegate(request, "DEL", container_id, ifname)
    else:
        leases.release(lambda *owner: owner == (container_id, ifname))


def _delegate(request: Request, command: str, container_id: str, ifname: str) -> Json:
    """Execute the IPAM plugin with our own environment and input; see the specification, section 4."""
    name = request.ipam["type"]
    program = shutil.which(name, path=os.pathsep.join(request.path))
    if program is None or "/" in name:
        raise CniError(protocol.INVALID_CONFIG, f"no plugin {name!r} in CNI_PATH {':'.join(request.path)!r}")
    environment = os.environ | {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_IFNAME": ifname,
    }
    done = subprocess.run(
        [program], input=json.dumps(request.config), env=environment, text=True, capture_output=True
    )
    try:
        answer = json.loads(done.stdout or "{}")
    except ValueError:
        answer = {"msg": done.stdout}
    if done.returncode != 0:
        reason = answer.get("msg") or done.stderr
        raise CniError(
            answer.get("code") or protocol.IO_FAILURE, f"{name}: {reason}", answer.get("details", "")
        )
    return dict(answer)
