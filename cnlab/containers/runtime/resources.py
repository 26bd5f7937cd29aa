"""The runtime-spec's ``linux.resources`` as lines for cgroup files; pure.

A `Setting` is (controller, file, line). An amount that is absent, null or 0 is left as it is; -1 takes a
limit away. What version 2 no longer has (``swappiness``, ``disableOOMKiller``, realtime) is refused;
``memory.kernel``, which the spec advises against and kernels ignore, is ignored.

See: runtime-spec, config-linux.md, "Control groups"; the kernel's cgroup-v1 and cgroup-v2 guides.
"""

from __future__ import annotations

from cnlab.errors import InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Resources = dict[str, Any]
    Setting = tuple[str, str, str]

_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps", "rbps"),
    ("throttleWriteBpsDevice", "write_bps", "wbps"),
    ("throttleReadIOPSDevice", "read_iops", "riops"),
    ("throttleWriteIOPSDevice", "write_iops", "wiops"),
)
_KINDS = {"": "a", "a": "a", "b": "b", "c": "c", "u": "c"}
_MAX_PERIOD_US = 1_000_000
_AMOUNTS = {  # and the least that each may be; -1 is no limit
    "memory": {"limit": -1, "swap": -1, "reservation": -1, "kernelTCP": -1},
    "cpu": {"shares": 0, "period": 0, "quota": -1, "burst": 0, "realtimePeriod": 0, "realtimeRuntime": -1},
    "pids": {"limit": -1},
    "blockIO": {"weight": 0, "leafWeight": 0},
}

# What every container may use: a device node may be made, and the devices that the spec itself supplies.
DEFAULT_DEVICES: tuple[Resources, ...] = (
    *({"allow": True, "type": kind, "access": "m"} for kind in "cb"),
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1))
    ),
)


def check(resources: Resources) -> None:
    """Say what no kernel would take, before anything is made.

    Raises:
        InvalidValue: with the place in config.json and what would do.
    """
    for part in ("memory", "cpu", "pids", "blockIO", "network", "rdma", "unified"):
        if not isinstance(resources.get(part) or {}, dict):
            raise InvalidValue(f"linux.resources.{part} is {resources[part]!r}; expected an object")
    for part, keys in _AMOUNTS.items():
        for key, least in keys.items():
            if (amount := _amount(_part(resources, part), key)) < least:
                raise InvalidValue(f"linux.resources.{part}.{key} is {amount}; expected {least} or more")
    memory, cpu = _part(resources, "memory"), _part(resources, "cpu")
    limit, swap = _amount(memory, "limit"), _amount(memory, "swap")
    if 0 < swap < limit:
        raise InvalidValue(
            f"linux.resources.memory.swap is {swap}, memory and swap; expected {limit} or more"
        )
    if (period := _amount(cpu, "period")) > _MAX_PERIOD_US:
        raise InvalidValue(f"linux.resources.cpu.period is {period} us; expected 1000 to {_MAX_PERIOD_US}")
    if not 0 <= int(memory.get("swappiness") or 0) <= 100:
        raise InvalidValue(f"linux.resources.memory.swappiness is {memory['swappiness']}; expected 0 to 100")
    if 0 < (quota := _amount(cpu, "quota")) < (burst := _amount(cpu, "burst")):
        raise InvalidValue(
            f"linux.resources.cpu.burst is {burst} us; expected no more than the quota, {quota}"
        )
    for file, text in _part(resources, "unified").items():
        if "/" in file or not isinstance(text, str):
            raise InvalidValue(f"linux.resources.unified has {file!r}; expected names of files, with texts")
    for rule in devices(resources):
        if rule.get("type", "a") not in _KINDS or not set(rule.get("access") or "rwm") <= set("rwm"):
            raise InvalidValue(
                f"linux.resources.devices has {rule}; expected type a, b or c, access of r, w, m"
            )


def devices(resources: Resources) -> list[Resources]:
    """Return the device rules in their order, with `DEFAULT_DEVICES` after them; none if none is set."""
    rules = list(resources.get("devices") or ())
    return rules and [*rules, *DEFAULT_DEVICES]


def for_v1(resources: Resources) -> list[Setting]:
    """Translate to the files of version 1."""
    check(resources)
    memory, cpu = _part(resources, "memory"), _part(resources, "cpu")
    found = [
        *_when(memory, "memory", limit="memory.limit_in_bytes", swap="memory.memsw.limit_in_bytes"),
        *_when(memory, "memory", reservation="memory.soft_limit_in_bytes"),
        *_when(memory, "memory", kernelTCP="memory.kmem.tcp.limit_in_bytes"),
        *_when(cpu, "cpu", shares="cpu.shares", period="cpu.cfs_period_us", quota="cpu.cfs_quota_us"),
        *_when(cpu, "cpu", realtimePeriod="cpu.rt_period_us", realtimeRuntime="cpu.rt_runtime_us"),
        *_when(cpu, "cpu", burst="cpu.cfs_burst_us"),
        *_idle(cpu),
        *_when(cpu, "cpuset", cpus="cpuset.cpus", mems="cpuset.mems"),
        *_pids(resources),
    ]
    if memory.get("swappiness") is not None:
        found.append(("memory", "memory.swappiness", str(memory["swappiness"])))
    if memory.get("disableOOMKiller"):
        found.append(("memory", "memory.oom_control", "1"))
    if resources.get("unified"):
        raise InvalidValue("linux.resources.unified names files of cgroup v2; this host has version 1")
    return [*found, *_block_io_v1(resources), *_others_v1(resources)]


def for_v2(resources: Resources) -> list[Setting]:
    """Translate to the files of version 2; ``unified`` comes last, and so wins."""
    check(resources)
    return [
        *_memory_v2(_part(resources, "memory")),
        *_cpu_v2(_part(resources, "cpu")),
        *_pids(resources),
        *_block_io_v2(resources),
        *(
            ("hugetlb", f"hugetlb.{page['pageSize']}.max", str(page["limit"]))
            for page in resources.get("hugepageLimits") or ()
        ),
        *_rdma(resources),
        *(
            (file.partition(".")[0], file, line)
            for file, text in _part(resources, "unified").items()
            for line in text.splitlines()
        ),
    ]


def device_line(rule: Resources) -> str:
    """Return a line for ``devices.allow`` or ``devices.deny``: ``c 1:3 rwm``, with ``*`` for any number."""
    kind = _KINDS[rule.get("type") or "a"]
    if kind == "a":
        return "a"
    numbers = ("*" if rule.get(key) in (None, -1) else str(rule[key]) for key in ("major", "minor"))
    return f"{kind} {':'.join(numbers)} {rule.get('access') or 'rwm'}"


def device_lines(rules: list[Resources]) -> list[tuple[bool, list[str]]]:
    """Return the lines of all rules, those that go to the same file one after the other together."""
    found: list[tuple[bool, list[str]]] = []
    for rule in rules:
        is_allowed = bool(rule.get("allow"))
        if not found or found[-1][0] != is_allowed:
            found.append((is_allowed, []))
        found[-1][1].append(device_line(rule))
    return found


def weight_of_shares(shares: int) -> int:
    """Map ``cpu.shares`` (2 to 262144) to ``cpu.weight`` (1 to 10000), linearly, as the other runtimes do."""
    return 1 + (min(max(shares, 2), 262_144) - 2) * 9999 // 262_142


def alternative(file: str, line: str) -> tuple[str, str] | None:
    """Return the (file, line) that says the same on kernels with another I/O scheduler; None if none does."""
    if file.startswith("blkio.bfq."):
        return file.replace(".bfq", "", 1), line
    if file == "io.bfq.weight":  # 10 to 1000 there, 1 to 10000 here
        *device, weight = line.split()
        return "io.weight", " ".join((*(device or ["default"]), str(1 + (int(weight) - 10) * 9999 // 990)))
    return None


def _part(resources: Resources, name: str) -> dict[str, Any]:
    return resources.get(name) or {}


def _amount(part: dict[str, Any], key: str) -> int:
    value = part.get(key) or 0
    if not isinstance(value, int):
        raise InvalidValue(f"linux.resources: {key} is {value!r}; expected a whole number")
    return value


def _when(part: dict[str, Any], controller: str, **files: str) -> list[Setting]:
    return [(controller, file, str(part[key])) for key, file in files.items() if part.get(key)]


def _idle(cpu: dict[str, Any]) -> list[Setting]:
    return [("cpu", "cpu.idle", str(cpu["idle"]))] if cpu.get("idle") is not None else []


def _pids(resources: Resources) -> list[Setting]:
    limit = _amount(_part(resources, "pids"), "limit")
    return [("pids", "pids.max", _or_max(limit))] if limit else []


def _or_max(limit: int) -> str:
    return str(limit) if limit >= 0 else "max"


def _memory_v2(memory: dict[str, Any]) -> list[Setting]:
    for key in ("swappiness", "disableOOMKiller"):
        if memory.get(key) not in (None, False):
            raise InvalidValue(f"linux.resources.memory.{key}: cgroup v2 has no such setting; leave it out")
    limit, swap = _amount(memory, "limit"), _amount(memory, "swap")
    found = []
    if swap > 0:
        if limit <= 0:
            raise InvalidValue("linux.resources.memory.swap counts memory and swap: set memory.limit too")
        found.append(("memory", "memory.swap.max", str(swap - limit)))
    elif swap < 0 or limit < 0:
        found.append(("memory", "memory.swap.max", "max"))
    if limit:
        found.append(("memory", "memory.max", _or_max(limit)))
    if reservation := _amount(memory, "reservation"):
        found.append(("memory", "memory.low", _or_max(reservation)))
    return found


def _cpu_v2(cpu: dict[str, Any]) -> list[Setting]:
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            raise InvalidValue(f"linux.resources.cpu.{key}: cgroup v2 has no such setting; leave it out")
    found = []
    if shares := _amount(cpu, "shares"):
        found.append(("cpu", "cpu.weight", str(weight_of_shares(shares))))
    quota, period = _amount(cpu, "quota"), _amount(cpu, "period")
    if quota:
        found.append(("cpu", "cpu.max", f"{_or_max(quota)} {period or 100_000}"))
    elif period:
        found.append(("cpu", "cpu.max", f"max {period}"))
    return [
        *found,
        *_when(cpu, "cpu", burst="cpu.max.burst"),
        *_idle(cpu),
        *_when(cpu, "cpuset", cpus="cpuset.cpus", mems="cpuset.mems"),
    ]


def _block_io_v1(resources: Resources) -> list[Setting]:
    block_io = _part(resources, "blockIO")
    found = _when(block_io, "blkio", weight="blkio.bfq.weight", leafWeight="blkio.leaf_weight")
    for device in block_io.get("weightDevice") or ():
        found += _when(
            {"weight": device.get("weight") and f"{_number(device)} {device['weight']}"},
            "blkio",
            weight="blkio.bfq.weight_device",
        )
    for key, file, _ in _THROTTLES:
        for device in block_io.get(key) or ():
            found.append(("blkio", f"blkio.throttle.{file}_device", f"{_number(device)} {device['rate']}"))
    return found


def _block_io_v2(resources: Resources) -> list[Setting]:
    block_io = _part(resources, "blockIO")
    found = []
    if weight := _amount(block_io, "weight"):
        found.append(("io", "io.bfq.weight", str(weight)))
    for device in block_io.get("weightDevice") or ():
        if device.get("weight"):
            found.append(("io", "io.bfq.weight", f"{_number(device)} {device['weight']}"))
    for key, _, word in _THROTTLES:
        for device in block_io.get(key) or ():
            found.append(("io", "io.max", f"{_number(device)} {word}={device['rate'] or 'max'}"))
    return found


def _others_v1(resources: Resources) -> list[Setting]:
    network = _part(resources, "network")
    return [
        *(
            ("hugetlb", f"hugetlb.{page['pageSize']}.limit_in_bytes", str(page["limit"]))
            for page in resources.get("hugepageLimits") or ()
        ),
        *_when(network, "net_cls", classID="net_cls.classid"),
        *(
            ("net_prio", "net_prio.ifpriomap", f"{priority['name']} {priority['priority']}")
            for priority in network.get("priorities") or ()
        ),
        *_rdma(resources),
    ]


def _rdma(resources: Resources) -> list[Setting]:
    words = {"hcaHandles": "hca_handle", "hcaObjects": "hca_object"}
    return [
        ("rdma", "rdma.max", " ".join((name, *(f"{words[key]}={limit}" for key, limit in limits.items()))))
        for name, limits in _part(resources, "rdma").items()
    ]


def _number(device: dict[str, Any]) -> str:
    return f"{device['major']}:{device['minor']}"
