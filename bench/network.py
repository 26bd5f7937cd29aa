"""The network of a container: our netlink messages beside ``ip`` commands that do the same; needs root."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface, IPv4Network

from cnlab.containers.network import Network, plumbing
from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink

ROUNDS = 40
PROMISED_S = 0.003
GATEWAY, ADDRESS = IPv4Interface("10.5.0.1/24"), IPv4Interface("10.5.0.2/24")
EVERYWHERE = IPv4Network("0.0.0.0/0")
ON_THE_HOST = """
link add veth0 type veth peer name eth0 netns {pid} address 02:42:0a:05:00:02
link set veth0 master br0 up
"""
HAIRPIN = "bridge link set dev veth0 hairpin on"
IN_THE_CONTAINER = """
link set lo up
link set eth0 up
address add 10.5.0.2/24 dev eth0
route add default via 10.5.0.1
"""


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("network: needs root")
        return
    with NetNs.create() as host, inside(host), Rtnetlink() as ip:
        plumbing.make_bridge(ip, "br0", GATEWAY)
        ours, least = _times_s(lambda container: _by_netlink(ip, container))
        print(f"cable, address, route     netlink {ours * 1e3:5.2f} ms, at least {least * 1e3:.2f}", end="")
        print(f"  {ours / PROMISED_S:.2f} x the promised {PROMISED_S * 1e3:.0f} ms")
        for words, connect in (("seven ip commands", _by_commands), ("three ip -batch", _by_batches)):
            theirs, _ = _times_s(connect)
            print(f"  {words:23} {theirs * 1e3:5.2f} ms, of which netlink takes {ours / theirs:.2f}")
        ip.delete_link("br0")
        with Network("net0", subnet=GATEWAY.network) as net:
            plain, published = _attach_s(net, None), _attach_s(net, {80: None})
            print(
                f"container on a network    {plain * 1e3:5.2f} ms, publishing a port by {net.backend}", end=""
            )
            print(f"  {published * 1e3:5.2f} ms")


def _by_netlink(ip: Rtnetlink, container: int) -> None:
    plumbing.connect(
        ip,
        container,
        bridge="br0",
        host_interface="veth0",
        interface="eth0",
        address=ADDRESS,
        routes=[(EVERYWHERE, GATEWAY.ip)],
    )


def _by_commands(container: int) -> None:
    for line in ON_THE_HOST.format(pid=container).strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(HAIRPIN.split(), check=True)
    for line in IN_THE_CONTAINER.strip().splitlines():
        subprocess.run(["nsenter", f"--net=/proc/{container}/ns/net", "ip", *line.split()], check=True)


def _by_batches(container: int) -> None:
    batch = ["ip", "-batch", "-"]
    subprocess.run(batch, input=ON_THE_HOST.format(pid=container), text=True, check=True)
    subprocess.run(HAIRPIN.split(), check=True)
    enter = ["nsenter", f"--net=/proc/{container}/ns/net"]
    subprocess.run([*enter, *batch], input=IN_THE_CONTAINER, text=True, check=True)


def _times_s(connect: Callable[[int], None]) -> tuple[float, float]:
    """Connect containers that have just been born: the median time and the shortest."""
    times = []
    with _containers() as pids, Rtnetlink() as ip:
        for pid in pids:
            started = time.monotonic()
            connect(pid)
            times.append(time.monotonic() - started)
            ip.delete_link("veth0")
    return statistics.median(times), min(times)


def _attach_s(net: Network, ports: dict[int, None] | None) -> float:
    times = []
    with _containers() as pids:
        for pid in pids:
            started = time.monotonic()
            attachment = net.attach(pid, name=f"c{pid}", ports=ports)
            times.append(time.monotonic() - started)
            net.detach(attachment)
    return statistics.median(times)


@contextlib.contextmanager
def _containers() -> Iterator[list[int]]:
    """All at once: the kernel takes namespaces apart in the background, which would hold up the next."""
    with contextlib.ExitStack() as stack:
        sleep = ["sleep", "600"]
        yield [stack.enter_context(spawn(sleep, new=("net",))).pid for _ in range(ROUNDS)]


if __name__ == "__main__":
    main()
