"""Who tries all doors of a mesh, and prints those that opened: one line for each, with what was asked there.

    python stranger.py 127.1.2. /tmp/cnlab-mesh-abc PORT...     these ports are left out

Which doors there are, TCP ports and UNIX sockets, the kernel tells everybody.
"""

import contextlib
import http.client
import socket
import sys
import threading
from pathlib import Path

import grpc
from envoy.service.discovery.v3 import discovery_pb2 as pb

from cnlab.mesh.pilot.resources import SDS
from cnlab.mesh.unix_socket import UnixConnection

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
QUESTIONS = (
    *(("GET", f"/{name}") for name in ("status", "acks", "accesslog", "traces", "decisions", "metrics")),
    *(("GET", f"/{name}") for name in ("stats/prometheus", "config_dump", "server_info")),
    *(("PUT", "/config"), ("POST", "/rotate?service=ratings")),
)
NOT_THERE = (404, 405)


def ports(network):
    """Yield where somebody listens on these addresses."""
    files = Path("/proc/net/tcp"), Path("/proc/net/tcp6")  # gRPC listens at ::ffff:127.1.2.1
    for line in (line for file in files for line in file.read_text().splitlines()[1:]):
        _, local, _, state, *_ = line.split()
        address, port = local.split(":")
        numbers = socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1])
        if state == "0A" and numbers.startswith(network):
            yield numbers, int(port, 16)


def sockets(directory):
    """Return the UNIX sockets below this directory."""
    paths = {Path(line.split()[-1]) for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    return sorted(path for path in paths if path.is_relative_to(directory))


def answers(connection, method, path):
    """Whether somebody there knows this path."""
    with contextlib.closing(connection):
        try:
            connection.request(method, path, "{}" if method == "PUT" else None)
            return connection.getresponse().status not in NOT_THERE
        except (OSError, http.client.HTTPException):
            return False


def gives_key(target):
    """Whether a gRPC server there sends the private key of a sidecar."""
    request = pb.DiscoveryRequest(type_url=SDS, resource_names=["default"])
    request.node.id = "ratings-v1-0"
    done = threading.Event()

    def requests():
        yield request
        done.wait(20)

    with grpc.insecure_channel(target) as channel:
        method = channel.stream_stream(
            ADS, pb.DiscoveryRequest.SerializeToString, pb.DiscoveryResponse.FromString
        )
        try:
            return b"PRIVATE KEY" in next(method(requests(), timeout=20)).SerializeToString()
        except grpc.RpcError:
            return False
        finally:
            done.set()


def main(network, directory, *left_out):
    """Try everything everywhere."""
    for address, port in sorted(set(ports(network))):
        if str(port) not in left_out:
            report(f"{address}:{port}", lambda: http.client.HTTPConnection(address, port, timeout=20))  # noqa: B023
    for path in sockets(directory):
        report(f"unix:{path}", lambda: UnixConnection(path, timeout=20))  # noqa: B023


def report(target, connect):
    """Print what opened behind one door."""
    opened = [f"{method} {path}" for method, path in QUESTIONS if answers(connect(), method, path)]
    if not opened and gives_key(target):  # who speaks HTTP/1 is no gRPC server
        opened = ["SDS"]
    print(*(f"{target} {question}\n" for question in opened), sep="", end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
