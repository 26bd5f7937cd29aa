"""A host and its neighbours, for tests of networks: namespaces, and servers that say who called.

All of it lives in this process and is gone with it; no packet reaches the machine's own network.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from cnlab.containers.network import nat
from cnlab.linux.netns import NetNs, NetNsTarget, inside
from cnlab.linux.rtnetlink import Rtnetlink

OUTSIDE = "192.0.2.2"
HOST_OUTSIDE = "192.0.2.1"


@contextlib.contextmanager
def host() -> Iterator[NetNs]:
    """Be on a machine of one's own, with nothing but a loopback, that does not forward yet."""
    with NetNs.create() as namespace, inside(namespace), Rtnetlink() as ip:
        ip.set_link("lo", up=True)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        yield namespace


@contextlib.contextmanager
def world_outside() -> Iterator[NetNs]:
    """Another machine on a wire to this one; it knows a way to all of 10.0.0.0/8 through it."""
    with NetNs.create() as outside, Rtnetlink() as ip, Rtnetlink(outside) as there:
        ip.add_veth("wan0", peer="eth0", peer_netns=outside, up=True)
        ip.add_address("wan0", f"{HOST_OUTSIDE}/24")
        there.set_link("eth0", up=True)
        there.add_address("eth0", f"{OUTSIDE}/24")
        there.add_route("10.0.0.0/8", via=HOST_OUTSIDE)
        yield outside
        ip.delete_link("wan0")


@contextlib.contextmanager
def serving(where: NetNsTarget, text: str, *, port: int = 80, address: str = "0.0.0.0") -> Iterator[None]:
    """Answer whoever connects to a port in a namespace with `text` and the address of the caller."""
    with inside(where):
        listening = socket.create_server((address, port))
    with listening:
        thread = threading.Thread(target=_answer_all, args=(listening, text), daemon=True)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answer_all(listening: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # the end
        while True:
            connection, (client, _) = listening.accept()
            with connection:
                connection.sendall(f"{text} for {client}".encode())


def ask(address: str, port: int = 80, *, start: NetNsTarget | None = None, timeout_s: float = 5) -> str:
    """Connect, from the namespace `start` or from here, and return what the server says.

    Raises:
        OSError: nobody answers.
    """
    with contextlib.ExitStack() as stack:
        if start is not None:
            stack.enter_context(inside(start))
        connection = stack.enter_context(socket.create_connection((address, port), timeout=timeout_s))
        return connection.makefile().read()


def answers(address: str, port: int = 80, *, start: NetNsTarget | None = None) -> bool:
    """Whether a server can be reached; a packet that is dropped takes a while to be missed."""
    try:
        return bool(ask(address, port, start=start, timeout_s=0.3))
    except OSError:
        return False


def packet_rules() -> str:
    """Everything that is done to packets here; nft lists the rules of iptables, too."""
    listing = ["nft", "list", "ruleset"] if nat.has_nftables() else ["iptables-save"]
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    return "\n".join(
        line for line in said.splitlines() if "cnlab" in line or " -j " in line or "dport" in line
    )
