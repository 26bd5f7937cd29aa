"""What the Docker Engine API says about a container, said of ours: `attrs`, `stats` and `top`.

See: Docker Engine API, "Inspect a container", "Get container stats", "List processes".
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cnlab.containers.container.host_config import Json
from cnlab.linux.processes import read_process

if TYPE_CHECKING:
    from cnlab.containers.container import Container


def attributes(container: "Container", state: Json) -> Json:
    """Return what ``docker inspect`` shows, as far as there is the same here.

    Args:
        container: whose.
        state: what the runtime says of it.
    """
    process = container.config["process"]
    status = container.status
    path, *args = process["args"]
    return {
        "Id": container.id,
        "Name": f"/{container.name}",
        "Created": state.get("created"),
        "Path": path,
        "Args": args,
        "State": {
            "Status": status,
            "Running": status in ("running", "paused"),
            "Paused": status == "paused",
            "Pid": container.pid,
        },
        "Image": container.image.id,
        "Config": {
            "Hostname": container.config.get("hostname", ""),
            "User": container.options.get("user", ""),
            "Env": process["env"],
            "Cmd": process["args"],
            "WorkingDir": process["cwd"],
            "Labels": container.labels,
            "Tty": process.get("terminal", False),
        },
        "Mounts": [
            _mount(mount) for mount in container.config["mounts"] if "rbind" in mount.get("options", ())
        ],
        "NetworkSettings": _network_settings(container),
    }


def _mount(mount: Json) -> Json:
    return {
        "Type": "bind",
        "Source": mount["source"],
        "Destination": mount["destination"],
        "RW": "ro" not in mount["options"],
    }


def _network_settings(container: "Container") -> Json:
    attachment, network = container.attachment, container.options.get("network")
    if attachment is None or network is None:
        return {"IPAddress": "", "Ports": {}, "Networks": {}}
    ports: Json = {}
    for port in attachment.ports:
        host = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        ports.setdefault(f"{port.container_port}/{port.protocol}", []).append(host)
    place = {
        "IPAddress": str(attachment.address.ip),
        "IPPrefixLen": attachment.address.network.prefixlen,
        "Gateway": str(attachment.gateway),
        "MacAddress": attachment.mac,
    }
    return {**place, "Ports": ports, "Networks": {network.name: place}}


def stats(container: "Container", counted: Json) -> Json:
    """Return what ``docker stats`` is made from.

    Args:
        container: whose.
        counted: what ``runc events --stats`` calls ``data``.
    """
    usage, throttling = (counted.get("cpu", {}).get(name, {}) for name in ("usage", "throttling"))
    memory = counted.get("memory", {})
    return {
        "id": container.id,
        "name": f"/{container.name}",
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": usage.get("total", 0),
                "usage_in_kernelmode": usage.get("kernel", 0),
                "usage_in_usermode": usage.get("user", 0),
            },
            "throttling_data": {
                "periods": throttling.get("periods", 0),
                "throttled_periods": throttling.get("throttledPeriods", 0),
                "throttled_time": throttling.get("throttledTime", 0),
            },
        },
        "memory_stats": {**memory.get("usage", {}), "stats": memory.get("raw", {})},
        "pids_stats": counted.get("pids", {}),
    }


def top(pids: Iterable[int]) -> Json:
    """Return what ``docker top`` shows of these processes."""
    rows = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            process = read_process(pid)
            command = " ".join(process.cmdline) or f"[{process.name}]"
            rows.append([str(process.uid), str(process.pid), str(process.ppid), command])
    return {"Titles": ["UID", "PID", "PPID", "CMD"], "Processes": rows}
