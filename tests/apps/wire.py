"""Start single services and speak to them byte by byte."""

from __future__ import annotations

import socket

from cnlab.apps import bookinfo
from cnlab.apps.addresses import reserve
from cnlab.apps.deployment import place
from cnlab.apps.launcher import Launcher, Running

RATINGS, DETAILS, REVIEWS = "ratings", "details", "reviews"
"""One service of each language: C, JavaScript, Python."""


def start(launcher: Launcher, service: str, **environment: str) -> Running:
    """Start one instance of a service, without peers, and wait until it serves."""
    application = bookinfo(4)
    instance = application.service(service).instances()[0]
    with reserve() as network:
        listen = place(application, network)[instance]
        started = launcher.start(instance, instance.environment(listen=listen, peers={}) | environment)
        started.wait_ready()
    return started


def connect(address: str) -> socket.socket:
    """Open a connection to ``host:port``."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_response(connection: socket.socket) -> tuple[int, str]:
    """Read one response of a known length and return its status and its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {received!r}")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(names.get(b"content-length", b"0")):
        body += connection.recv(65536)
    return int(head.split()[1]), head.decode().lower()
