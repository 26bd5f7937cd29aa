"""A service mesh: Pilot, Auth and Mixer in Python, Envoy as the data plane.

    with Mesh(bookinfo()) as mesh:
        mesh.get("/productpage")
        mesh.route("reviews", weights={"v1": 90, "v2": 10})

The control plane never touches a packet; sidecars touch every one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnlab.mesh.addresses import Ports
    from cnlab.mesh.data_plane.proxy import Proxy
    from cnlab.mesh.errors import MeshError, Rejected
    from cnlab.mesh.mesh import Mesh

__all__ = ["Mesh", "MeshError", "Ports", "Proxy", "Rejected"]
_HOMES = {
    "Mesh": "mesh",
    "MeshError": "errors",
    "Ports": "addresses",
    "Proxy": "data_plane.proxy",
    "Rejected": "errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: gRPC and protobuf are not for those who draw."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
