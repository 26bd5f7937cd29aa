"""Where images are pushed to and pulled from: a server and a client of the OCI distribution-spec."""

from cnlab.containers.registry.client import Client
from cnlab.containers.registry.errors import RegistryError, TlsError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.server import Registry
from cnlab.containers.registry.transfer import Transfer, pull, push
from cnlab.containers.registry.upload import Upload

__all__ = [
    "Client",
    "Exchange",
    "Registry",
    "RegistryError",
    "TlsError",
    "Transfer",
    "Upload",
    "pull",
    "push",
]
