"""What a proxy or a gRPC client is started with: who it is, and where the control plane listens.

See: https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/bootstrap; gRFC A27 for gRPC's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnlab.errors import InvalidValue
from cnlab.mesh.pilot import resources
from cnlab.mesh.pilot.resources import ADS, Json, Where, file_source, grpc_cluster

API_TYPES = {"delta": "DELTA_GRPC", "sotw": "GRPC"}
"""The two variants of ADS: only what changed, or the state of the world."""
CONTROL_PLANE = "xds-grpc"
_METRICS = "prometheus_stats"
_BACK_OFF = {"base_interval": "0.1s", "max_interval": "1s"}


def bootstrap(
    node: str,
    cluster: str,
    *,
    admin: Where,
    control_plane: Where,
    discovery: str = "delta",
    **fields: Any,
) -> Json:
    """Return the bootstrap of an Envoy that gets everything by one aggregated stream.

    It looks for a lost control plane again within a second; Envoy's own patience is up to 30.
    """
    if discovery not in API_TYPES:
        raise InvalidValue(f"discovery {discovery!r} is none of {', '.join(API_TYPES)}")
    stream = {
        "api_type": API_TYPES[discovery],
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [
            {"envoy_grpc": {"cluster_name": CONTROL_PLANE, "retry_policy": {"retry_back_off": _BACK_OFF}}}
        ],
    }
    return {
        "node": {"id": node, "cluster": cluster},
        "admin": {"address": resources.address(admin)},
        "dynamic_resources": {"ads_config": stream, "cds_config": ADS, "lds_config": ADS},
        "static_resources": {"clusters": [grpc_cluster(CONTROL_PLANE, control_plane)]},
        **fields,
    }


def file_bootstrap(node: str, cluster: str, *, admin: Where, directory: Path, **fields: Any) -> Json:
    """Return the bootstrap of an Envoy that watches the files that `files.write` makes in `directory`."""
    return {
        "node": {"id": node, "cluster": cluster},
        "admin": {"address": resources.address(admin)},
        "dynamic_resources": {
            "cds_config": file_source(directory / "cds.json"),
            "lds_config": file_source(directory / "lds.json"),
        },
        **fields,
    }


def with_metrics(made: Json, admin: Where, address: str, port: int) -> Json:
    """Return a bootstrap that gives scrapers the metrics of the admin interface at a port, and no more of it.

    See: port 15090 in Istio's "Ports used by Istio".
    """
    hosts = [
        resources.virtual_host(_METRICS, ["*"], [resources.route(_METRICS, {"path": "/stats/prometheus"})])
    ]
    routes = resources.route_configuration(_METRICS, hosts)
    manager = resources.http_connection_manager("stats", routes)
    listener = resources.listener("metrics", address, port, [{"filters": [manager]}])
    static = made["static_resources"]
    clusters = [*static["clusters"], resources.static_cluster(_METRICS, [admin])]
    return {**made, "static_resources": {**static, "listeners": [listener], "clusters": clusters}}


def grpc_bootstrap(node: str, control_plane: tuple[str, int]) -> Json:
    """Return what GRPC_XDS_BOOTSTRAP names, as JSON: for a client that is its own sidecar."""
    return {
        "xds_servers": [
            {
                "server_uri": f"{control_plane[0]}:{control_plane[1]}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": node},
    }
