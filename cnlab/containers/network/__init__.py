"""Networks of containers: a bridge, cables, addresses, names, a way out and in; the same as a CNI plugin."""

from cnlab.containers.network.network import Attachment, Network

__all__ = ["Attachment", "Network"]
