"""The Container Network Interface on the wire: environment and JSON in, JSON out.

A runtime executes a plugin with ``CNI_COMMAND`` and others in the environment and the network configuration
on standard input; the plugin prints a result, or an error and exits with a code that is not 0. Nothing here
touches a network.

See: CNI spec 1.1, https://www.cni.dev/docs/spec/
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from cnlab.errors import CnlabError

Json = dict[str, Any]

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN = 11
NOT_AVAILABLE = 50
KERNEL_REFUSED = 100  # from 100 on, a plugin's own
CHECK_FAILED = 101

_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
}


class CniError(CnlabError):
    """Something the runtime is told: one of the codes above, what is wrong, and what to do about it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def to_json(self, version: str) -> Json:
        """Return what a plugin prints."""
        return {"cniVersion": version, "code": self.code, "msg": str(self), "details": self.details}


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a plugin."""

    command: str
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    config: Json

    @property
    def version(self) -> str:
        """The version of the specification that the configuration speaks, and the result shall speak."""
        return str(self.config.get("cniVersion", "0.1.0"))

    @property
    def network(self) -> str:
        """The name of the network."""
        return str(self.config["name"])

    @property
    def ipam(self) -> Json:
        """The part of the configuration that says where addresses come from."""
        return dict(self.config["ipam"])


def parse_request(environment: Mapping[str, str], text: str) -> Request:
    """Read and check what the runtime says.

    Raises:
        CniError: a variable or a field is missing, or is not what the specification asks for.
    """
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_COMMAND is {command!r}; expected one of {', '.join(COMMANDS)}"
        )
    config = _parse_config(text)
    for name in _NEEDS.get(command, ()):
        if not environment.get(name):
            raise CniError(INVALID_ENVIRONMENT, f"{command} needs {name} in the environment")
    request = Request(
        command=command,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        ifname=environment.get("CNI_IFNAME", ""),
        args=_parse_args(environment.get("CNI_ARGS", "")),
        path=tuple(filter(None, environment.get("CNI_PATH", "").split(":"))),
        config=config,
    )
    _require_names(request)
    if command != "VERSION":
        _require_config(request)
    return request


def _parse_config(text: str) -> Json:
    try:
        config = json.loads(text or "{}")
    except ValueError as error:
        raise CniError(DECODE_FAILURE, f"the configuration on standard input is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "the configuration on standard input is no JSON object")
    return config


def _parse_args(text: str) -> dict[str, str]:
    """Read ``CNI_ARGS``: "IP=10.0.0.7;IgnoreUnknown=1"."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    if bad := [key for key, equals, _ in pairs if not equals]:
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_ARGS: {bad[0]!r} has no value; expected KEY=VALUE;KEY=VALUE"
        )
    return {key: value for key, _, value in pairs}


def _require_names(request: Request) -> None:
    if request.container_id and not _ID.fullmatch(request.container_id):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID {request.container_id!r} has other characters "
            "than letters, digits, '_', '.' and '-', or does not begin with one of the first two",
        )
    name = request.ifname
    if name and (len(name.encode()) > 15 or name in (".", "..") or re.search(r"[/:\s]", name)):
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_IFNAME {name!r} is no name for a link; expected one like eth0"
        )


def _require_config(request: Request) -> None:
    config = request.config
    if request.version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {request.version!r} is not supported",
            f"supported are {', '.join(VERSIONS)}",
        )
    for name, kind in (("name", str), ("type", str)):
        if not isinstance(config.get(name), kind):
            raise CniError(INVALID_CONFIG, f"the configuration has no {name!r}")
    if not _ID.fullmatch(request.network):
        raise CniError(
            INVALID_CONFIG, f"the network's name {request.network!r} has characters that no name has"
        )
    ipam = config.get("ipam")
    if request.command != "STATUS" and not (isinstance(ipam, dict) and isinstance(ipam.get("type"), str)):
        raise CniError(INVALID_CONFIG, "the configuration has no ipam.type: who gives out the addresses?")


@dataclass(frozen=True, slots=True)
class Addresses:
    """What an IPAM plugin returns, as far as we use it."""

    address: IPv4Interface
    gateway: IPv4Address | None
    routes: tuple[tuple[IPv4Network, IPv4Address | None], ...]
    dns: Json

    @classmethod
    def parse(cls, result: Json) -> "Addresses":
        """Read an IPAM plugin's result.

        Raises:
            CniError: it has other than one IPv4 address.
        """
        ips = result.get("ips", [])
        try:
            (ip,) = ips
            gateway = ip.get("gateway")
            return cls(
                IPv4Interface(ip["address"]),
                IPv4Address(gateway) if gateway else None,
                parse_routes(result.get("routes") or ()),
                result.get("dns") or {},
            )
        except (ValueError, KeyError) as error:
            raise CniError(
                UNSUPPORTED_FIELD, f"expected one IPv4 address from IPAM, got {json.dumps(ips)}", str(error)
            ) from None

    def to_json(self, version: str) -> Json:
        """Return it as the ``ips``, ``routes`` and ``dns`` of a result."""
        ip: Json = {"address": str(self.address)}
        if self.gateway is not None:
            ip["gateway"] = str(self.gateway)
        if version.startswith("0."):
            ip["version"] = "4"
        routes = [
            {"dst": str(destination)} | ({} if via is None else {"gw": str(via)})
            for destination, via in self.routes
        ]
        return {"ips": [ip], "routes": routes, "dns": self.dns}


def parse_routes(routes: Sequence[Json]) -> tuple[tuple[IPv4Network, IPv4Address | None], ...]:
    """Read the ``routes`` of a configuration or result; one without ``gw`` goes by the address's gateway."""
    return tuple(
        (IPv4Network(route["dst"]), IPv4Address(route["gw"]) if route.get("gw") else None) for route in routes
    )
