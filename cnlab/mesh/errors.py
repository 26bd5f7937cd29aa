"""What can go wrong in a mesh.

    CnlabError
    └── MeshError
        ├── Rejected          a proxy refused a resource (NACK); what it had goes on serving
        ├── NotAccepted       a proxy has not answered in time, neither ACK nor NACK
        ├── PortTaken         something else listens where the mesh must
        ├── ProgramEnded      a proxy, an app or the control plane has ended, or did not start
        └── ControlPlaneDown  the control plane does not answer; traffic goes on without it

A wrong argument is an `InvalidValue`, found before anything is sent.
"""

import re
from pathlib import Path

from cnlab.errors import CnlabError

_CONSTRAINT = re.compile(r"Proto constraint validation failed \((.*)\)")


class MeshError(CnlabError):
    """Base of all errors of the mesh."""


class Rejected(MeshError):  # noqa: N818 - reads as the claim it makes
    """A proxy refused what it was sent.

    Attributes:
        node: whose proxy it is.
        type_name: of the resources, such as "RDS".
        words: all that Envoy said; a dump of the whole resource may be among it.
        reason: what of that says why, in one line.
        cause: the call of ours that it comes from.
        resource: the names of all resources that were sent together; only `words` may tell which one it was.
    """

    def __init__(self, node: str, type_name: str, words: str, *, cause: str = "", resource: str = "") -> None:
        reason = _reason(words)
        super().__init__(f"{cause or type_name}: Envoy of {node} refused the {type_name} update: {reason}")
        self.node = node
        self.type_name = type_name
        self.words = words
        self.reason = reason
        self.cause = cause
        self.resource = resource
        self.add_note("Hint: the configuration before it is still serving; this change has been taken back")


def _reason(words: str) -> str:
    """Leave out the dump of the resource, and of a chain of messages all but the innermost."""
    after_dump = words.rpartition("\n}\n: ")[2]
    broken = _CONSTRAINT.findall(after_dump)
    chain = broken[-1] if broken else after_dump
    return " ".join(chain.rpartition(" | caused by ")[2].split())


class NotAccepted(MeshError):  # noqa: N818
    """Proxies have answered neither ACK nor NACK in time; the message names them."""


class PortTaken(MeshError):  # noqa: N818
    """Something else listens at `address`:`port`, or at that port of every address."""

    def __init__(self, address: str, port: int, word: str) -> None:
        super().__init__(f"{address}:{port} is taken, the mesh needs it as {word!r}")
        self.address = address
        self.port = port
        self.word = word
        self.add_note(
            f"Hint: ss -ltnp 'sport = :{port}' shows who listens; or choose another: "
            f"Mesh(…, ports=Ports({word}={port + 1}))"
        )


class ProgramEnded(MeshError):  # noqa: N818
    """A process of the mesh has ended when it should run; the end of its log says why."""

    def __init__(self, name: str, happened: str, log: str = "") -> None:
        last = [" ".join(line.split()) for line in log.splitlines() if line.strip()][-1:]
        super().__init__(f"{name}: {happened}" + "".join(f": {line[:400]}" for line in last))
        self.name = name
        self.log = log


class ControlPlaneDown(MeshError):  # noqa: N818
    """Nobody answers at the control plane's socket; sidecars go on with what they have."""

    def __init__(self, path: Path, doing: str, reason: str) -> None:
        super().__init__(f"{doing}: the control plane at unix:{path} does not answer ({reason})")
        self.path = path
        self.add_note(
            "Hint: traffic goes on as it was configured; restart it by mesh.control_plane.restart()"
        )
