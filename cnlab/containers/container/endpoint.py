"""A container's end of its network: its place there, and the two files that tell its programs about it.

The files are mounted over the image's own. Their content is known when the container is attached, which is
after it was created and before its program starts.

See: hosts(5), resolv.conf(5).
"""

from pathlib import Path

from cnlab.containers.container.host_config import Options
from cnlab.containers.network import Attachment

_LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
_HOSTS, _RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"


class Endpoint:
    """The end of one container.

    Args:
        name: the container's name, by which others find it.
        hostname: what it calls itself.
        directory: where its files are made.
        options: of which ``network``, ``ports`` and ``network_mode`` count.
        joined: the end of the container whose network namespace it shares.
    """

    def __init__(
        self, name: str, hostname: str, directory: Path, options: Options, joined: "Endpoint | None" = None
    ) -> None:
        self.name = name
        self.hostname = hostname
        self.network = options.get("network")
        self.attachment: Attachment | None = None
        self._ports = options.get("ports")
        own = {_HOSTS: directory / "hosts", _RESOLV_CONF: directory / "resolv.conf"}
        self.files: dict[str, Path] = own if joined is None else joined.files
        if joined is None and options.get("network_mode") == "host":
            self._write(*(_content(Path(place)) for place in self.files))
        elif joined is None:
            self._write(_LOOPBACK, "")

    def attach(self, pid: int) -> None:
        """Connect the created container whose process 1 is `pid`."""
        if self.network is not None:
            self.attachment = self.network.attach(pid, name=self.name, ports=self._ports)
            self._write(self.network.hosts_file(self.attachment, self.hostname), self.network.resolv_conf)

    def detach(self) -> None:
        """Disconnect it."""
        if self.network is not None and self.attachment is not None:
            self.network.detach(self.attachment)
            self.attachment = None

    def _write(self, hosts: str, resolv_conf: str) -> None:
        self.files[_HOSTS].write_text(hosts)
        self.files[_RESOLV_CONF].write_text(resolv_conf)


def _content(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
