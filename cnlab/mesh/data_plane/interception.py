"""Transparent interception: apps use plain names and ports, and the kernel leads them to their sidecars.

    with Mesh(bookinfo(), transparent=True) as mesh: ...

Each instance is a pod: a network namespace on a container network of ours. There iptables turns what the app
sends to its sidecar's outbound port, and what comes for the app to the inbound port; the sidecar's own
packets are told by the group that it runs as, and left alone. The sidecar learns from the kernel where a
connection was going (``SO_ORIGINAL_DST``). Names are in ``/etc/hosts``: the address of a service belongs to
nobody, for no packet ever gets there.

Needs root, and a kernel with the usual 47 bits of address space: Envoy's memory allocator asks for them. The
private kernel has 39; the redirection itself works there, and `original_destination` shows it.

See: "ISTIO_REDIRECT" and the other chains of istio-iptables; iptables-extensions(8) on owner and REDIRECT.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Self

from cnlab import host
from cnlab.apps.launcher import ProcessLauncher
from cnlab.containers.network import Network
from cnlab.errors import CnlabError, MissingFeature
from cnlab.linux.namespaces import spawn
from cnlab.mesh.addresses import Place, Ports

GROUP = 1337
"""The group that sidecars run as; Istio's number."""
SERVICES = IPv4Network("10.96.0.0/16")
"""Addresses of services, as a Kubernetes cluster has them."""
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h


def rules(ports: Ports, *, group: int = GROUP) -> str:
    """Return what ``iptables-restore`` loads into a pod; the names of chains are Istio's."""
    own = ",".join(map(str, ports.of_sidecar.values()))
    return f"""*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp -m multiport --dports {own} -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {ports.inbound}
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m owner --gid-owner {group} -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.0/8 -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {ports.outbound}
COMMIT
"""


def hosts(services: Iterable[str]) -> str:
    """Return ``/etc/hosts`` of a pod: each service has an address, which leads nowhere."""
    lines = [f"{address}\t{name}" for name, address in zip(services, SERVICES.hosts(), strict=False)]
    return "\n".join(["127.0.0.1\tlocalhost", *lines, ""])


class PodNetwork:
    """Pods on a container network; the control plane and the gateway are on the host, at the bridge.

    Raises:
        MissingFeature: on entering, this is not root.
    """

    def __init__(self, services: Sequence[str], ports: Ports, directory: Path) -> None:
        self._ports = ports
        self._hosts = directory / "hosts"
        self._services = services
        self._stack = contextlib.ExitStack()
        self._pods: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> Self:
        host.require("root", "netns")
        self._hosts.write_text(hosts(self._services))
        self._network = self._stack.enter_context(Network(f"mesh{secrets.token_hex(3)}"))
        return self

    def __exit__(self, *exc: object) -> None:
        with self._stack:
            for name in list(self._pods):
                self.release(name)

    @property
    def control_plane(self) -> str:
        """Address of the control plane."""
        return str(self._network.gateway)

    @property
    def gateway(self) -> str:
        """Address of the ingress gateway."""
        return str(self._network.gateway)

    def take(self, name: str) -> Place:
        """Make a pod."""
        with contextlib.ExitStack() as stack:
            pause = stack.enter_context(spawn(["sleep", "infinity"], new=("net", "mnt")))
            attachment = self._network.attach(pause, name=name)
            stack.callback(self._network.detach, attachment)
            enter = (_program("nsenter"), f"--target={pause.pid}", "--net")
            _run([*enter, _program("iptables-restore")], rules(self._ports))
            in_pod = (*enter, "--mount")
            _run([*in_pod, _program("mount"), "--bind", str(self._hosts), "/etc/hosts"])
            launcher = stack.enter_context(ProcessLauncher(enter=in_pod))
            self._pods[name] = stack.pop_all()
        return Place(str(attachment.address.ip), (*enter, *as_sidecar()), launcher, is_here=False)

    def release(self, name: str) -> None:
        """End a pod."""
        self._pods.pop(name).close()


def as_sidecar(group: int = GROUP) -> tuple[str, ...]:
    """Return the command that makes a program one whose packets are left alone.

    It asks again to die with us: the kernel forgets that when a process changes its group.
    """
    change = ("--regid", str(group), "--clear-groups", "--pdeathsig", "KILL", "--")
    return (_program("setpriv"), *change)


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """Return where a redirected connection was going."""
    answer = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)  # a struct sockaddr_in
    port, address = struct.unpack_from("!2xH4s", answer)
    return socket.inet_ntoa(address), port


def require_wide_addresses() -> None:
    """Find out whether a process may have addresses of more than 39 bits; Envoy's allocator relies on it.

    Raises:
        MissingFeature: User-Mode Linux before 6.14 has page tables of three levels only.
    """
    begins = (int(line.partition("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines())
    if not any(1 << 39 <= address < 1 << 63 for address in begins):
        raise MissingFeature(
            "envoy",
            "its memory allocator needs addresses of 47 bits, this kernel has 39",
            hint="choose the ordinary Python kernel; apps then find their sidecars by explicit ports",
        )


def _program(name: str) -> str:
    found = host.find_program(name)
    if found is None:
        raise MissingFeature(name, "no such program", hint="install iptables and util-linux")
    return str(found)


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CnlabError(f"{Path(command[-1]).name}: {done.stderr.strip()}")
