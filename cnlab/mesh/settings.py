"""What does not change while a mesh runs: decided when it starts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cnlab.mesh.addresses import Ports


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What Envoy's resources are made of besides what people want."""

    gateway: str  # its address
    ports: Ports = field(default_factory=Ports)
    has_tracing: bool = True
    has_access_log: bool = True
    is_transparent: bool = False  # packets are redirected, so an instance is where its app is


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """What the control plane's process is started with."""

    address: str
    directory: str  # private; holds the authority's key, and the sockets
    surroundings: Surroundings
    discovery: str = "delta"  # or "sotw", or "files"
    certificate_ttl_s: float = 3600.0

    @property
    def ports(self) -> Ports:
        """Where everything listens."""
        return self.surroundings.ports

    @property
    def xds_socket(self) -> Path:
        """Where sidecars get their configuration and their secrets, and report."""
        return Path(self.directory) / "xds.sock"

    @property
    def api_socket(self) -> Path:
        """Where the mesh says what it wants, and asks."""
        return Path(self.directory) / "api.sock"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the JSON that `dataclasses.asdict` made."""
        data = json.loads(path.read_text())
        surroundings = data.pop("surroundings")
        ports = Ports(**surroundings.pop("ports"))
        return cls(**data, surroundings=Surroundings(ports=ports, **surroundings))
