"""What a container's groups have used, in the shape of ``runc events --stats``.

See: the kernel's cgroup-v1 and cgroup-v2 guides for the files; amounts are bytes and nanoseconds.
"""

from __future__ import annotations

from cnlab.containers.runtime.cgroup_trees import read
from cnlab.errors import MissingFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnlab.containers.runtime.cgroups import Cgroups

_NO_LIMIT = 2**64 - 1
_V1_NO_LIMIT = 0x7FFF_FFFF_FFFF_F000  # the largest page-aligned number, version 1's "max"


def stats(groups: Cgroups) -> dict[str, Any]:
    """Read them all; what has no controller here is 0."""
    if not groups.directories:
        raise MissingFeature("cgroup", "the container has no control group, so nobody counted what it used")
    return _stats_v1(groups) if groups.version == 1 else _stats_v2(groups.directories[0])


def _stats_v1(groups: Cgroups) -> dict[str, Any]:
    def text(controller: str, file: str) -> str:
        try:
            return _text(groups.directory_of(controller), file)
        except MissingFeature:
            return ""

    memory = _keyed(text("memory", "memory.stat"))
    times = text("cpuacct", "cpuacct.usage_percpu").split()
    return {
        "cpu": {
            "usage": {
                "total": _number(text("cpuacct", "cpuacct.usage")),
                "percpu": [int(time) for time in times],
                "kernel": _number(text("cpuacct", "cpuacct.usage_sys")),
                "user": _number(text("cpuacct", "cpuacct.usage_user")),
            },
            "throttling": _throttling(_keyed(text("cpu", "cpu.stat")), "throttled_time", 1),
        },
        "memory": {
            "cache": memory.get("cache", 0),
            "usage": _usage_v1(text, "memory.{}"),
            "swap": _usage_v1(text, "memory.memsw.{}"),
            "kernel": _usage_v1(text, "memory.kmem.{}"),
            "raw": memory,
        },
        "pids": {
            "current": _number(text("pids", "pids.current")),
            "limit": _limit(text("pids", "pids.max"), unlimited=0),
        },
        "blkio": {
            "ioServiceBytesRecursive": _operations(
                text("blkio", "blkio.throttle.io_service_bytes_recursive")
            ),
            "ioServicedRecursive": _operations(text("blkio", "blkio.throttle.io_serviced_recursive")),
        },
    }


def _usage_v1(text: Any, pattern: str) -> dict[str, int]:
    usage, most, failures, limit = (
        _number(text("memory", pattern.format(file)))
        for file in ("usage_in_bytes", "max_usage_in_bytes", "failcnt", "limit_in_bytes")
    )
    return {
        "usage": usage,
        "max": most,
        "failcnt": failures,
        "limit": _NO_LIMIT if limit >= _V1_NO_LIMIT else limit,
    }


def _stats_v2(directory: str) -> dict[str, Any]:
    def text(file: str) -> str:
        return _text(directory, file)

    cpu, memory, events = (_keyed(text(file)) for file in ("cpu.stat", "memory.stat", "memory.events"))
    return {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * 1000,
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": _throttling(cpu, "throttled_usec", 1000),
        },
        "memory": {
            "cache": memory.get("file", 0),
            "usage": {
                "usage": _number(text("memory.current")),
                "max": _number(text("memory.peak")),
                "failcnt": events.get("max", 0),
                "limit": _limit(text("memory.max"), unlimited=_NO_LIMIT),
            },
            "swap": {
                "usage": _number(text("memory.swap.current")),
                "limit": _limit(text("memory.swap.max"), unlimited=_NO_LIMIT),
            },
            "raw": memory,
        },
        "pids": {
            "current": _number(text("pids.current")),
            "limit": _limit(text("pids.max"), unlimited=0),
        },
        "blkio": {"ioServiceBytesRecursive": _io_stat(text("io.stat"))},
    }


def _throttling(stat: dict[str, int], key: str, unit_ns: int) -> dict[str, int]:
    return {
        "periods": stat.get("nr_periods", 0),
        "throttledPeriods": stat.get("nr_throttled", 0),
        "throttledTime": stat.get(key, 0) * unit_ns,
    }


def _operations(table: str) -> list[dict[str, Any]]:
    """Read ``8:0 Read 4096`` and so on; the last line, a total, has no device."""
    rows = (line.split() for line in table.splitlines())
    return [_entry(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def _io_stat(table: str) -> list[dict[str, Any]]:
    """Read ``8:0 rbytes=4096 wbytes=0 …``."""
    words = {"rbytes": "Read", "wbytes": "Write"}
    found = []
    for line in table.splitlines():
        device, *pairs = line.split()
        values = dict(pair.split("=") for pair in pairs)
        found += [_entry(device, words[key], value) for key, value in values.items() if key in words]
    return found


def _entry(device: str, operation: str, value: str) -> dict[str, Any]:
    major, minor = device.split(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}


def _text(directory: str, file: str) -> str:
    try:
        return read(f"{directory}/{file}")
    except FileNotFoundError:
        return ""


def _number(text: str) -> int:
    return int(text or 0)


def _limit(text: str, *, unlimited: int) -> int:
    return unlimited if text in ("", "max\n") else int(text)


def _keyed(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}
