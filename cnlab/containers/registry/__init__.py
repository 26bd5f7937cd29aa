"""Where images are pushed to and pulled from: a server and a client of the OCI distribution-spec."""

from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.server import Exchange, Registry

__all__ = ["Exchange", "Registry", "RegistryError"]
