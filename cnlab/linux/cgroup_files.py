"""What the files of a cgroup say, as values: pure functions, which never touch a file.

See: the kernel's cgroup v2 guide, "Interface Files" and "Format".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from cnlab.errors import InvalidValue

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_IO_KEYS = ("rbps", "wbps", "riops", "wiops")

Size = int | str


def parse_size(size: Size) -> int | None:
    """Return a number of bytes: from ``"64M"``, ``"1.5G"``, ``4096``; ``"max"``, no limit, is None."""
    if size == "max":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(size), re.IGNORECASE)
    if match is None:
        raise InvalidValue(
            f"{size!r} is no size; expected bytes, or a number and K, M, G or T like '64M', or 'max'"
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True, slots=True)
class CpuMax:
    """The ``cpu.max`` file: at most `quota_us` of CPU time in every `period_us`; None is ``max``.

    See: "cpu.max" in the kernel's cgroup v2 guide.
    """

    quota_us: int | None
    period_us: int = 100_000

    def __post_init__(self) -> None:
        if self.quota_us is not None and self.quota_us < 1000:
            raise InvalidValue(f"cpu.max: a quota of {self.quota_us} us; expected 1000 or more, or None")
        if not 1000 <= self.period_us <= 1_000_000:
            raise InvalidValue(f"cpu.max: a period of {self.period_us} us; expected 1000 to 1000000")

    def __str__(self) -> str:
        return f"{'max' if self.quota_us is None else self.quota_us} {self.period_us}"

    @property
    def cpus(self) -> float:
        """How many CPUs that is: 0.2 for 20 ms in every 100 ms; infinity without a limit."""
        return float("inf") if self.quota_us is None else self.quota_us / self.period_us


CpuMaxLike = CpuMax | tuple[int | None, int] | str


def parse_cpu_max(text: str) -> CpuMax:
    """Read the text of ``cpu.max``, such as ``20000 100000``; the period may be left out."""
    quota, *period = text.split() or [""]
    if not re.fullmatch(r"max|\d+", quota) or len(period) > 1 or not all(map(str.isdigit, period)):
        raise InvalidValue(f"{text!r} is no cpu.max; expected microseconds like '20000 100000', or 'max'")
    return CpuMax(None if quota == "max" else int(quota), *map(int, period))


def parse_flat_keyed(text: str) -> dict[str, int]:
    """Read lines of ``KEY VALUE``, as in ``cpu.stat`` and ``memory.events``."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def parse_nested_keyed(text: str) -> dict[str, dict[str, int | None]]:
    """Read lines of ``KEY SUB=VALUE SUB=VALUE``, as in ``io.stat`` and ``io.max``; ``max`` is None."""
    found = {}
    for line in text.splitlines():
        key, *pairs = line.split()
        found[key] = {sub: _number(value) for sub, _, value in (pair.partition("=") for pair in pairs)}
    return found


def _number(text: str) -> int | None:
    return None if text == "max" else int(text)


class _Keyed:
    """A record made of a flat keyed file: unknown keys are left out, those that the kernel lacks are 0."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of the file."""
        values: dict[str, Any] = parse_flat_keyed(text)
        return cls(**{field.name: values.get(field.name, 0) for field in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class CpuStat(_Keyed):
    """The ``cpu.stat`` file. The last three are 0 without the cpu controller."""

    usage_usec: int
    user_usec: int
    system_usec: int
    nr_periods: int  # periods of cpu.max in which the group wanted to run
    nr_throttled: int  # of these, the ones in which it used up its quota
    throttled_usec: int  # how long it was held back


@dataclass(frozen=True, slots=True)
class MemoryEvents(_Keyed):
    """The ``memory.events`` file: how often each limit was met, counting descendants."""

    low: int
    high: int
    max: int
    oom: int
    oom_kill: int  # processes killed
    oom_group_kill: int  # groups killed as a whole, by memory.oom.group


@dataclass(frozen=True, slots=True)
class PidsEvents(_Keyed):
    """The ``pids.events`` file."""

    max: int  # forks refused by pids.max


@dataclass(frozen=True, slots=True)
class CgroupEvents(_Keyed):
    """The ``cgroup.events`` file, of 0 and 1."""

    populated: int  # a live process is in it or below
    frozen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a group. None leaves a file as it is, ``"max"`` takes a limit away."""

    cpu_max: CpuMaxLike | None = None
    cpu_weight: int | None = None
    memory_max: Size | None = None
    memory_high: Size | None = None
    memory_low: Size | None = None
    memory_swap_max: Size | None = None
    pids_max: int | str | None = None
    io_max: Mapping[str, Mapping[str, int | str]] | None = None
    oom_group: bool | None = None

    def lines(self) -> list[tuple[str, str]]:
        """Return what to write, as pairs of file name and line.

        Raises:
            InvalidValue: a value that the kernel would refuse, or take for something else.
        """
        found = [] if self.cpu_max is None else [("cpu.max", str(_cpu_max(self.cpu_max)))]
        if self.cpu_weight is not None:
            found.append(("cpu.weight", _ranged("cpu_weight", self.cpu_weight, 1, 10_000)))
        for name in ("memory_max", "memory_high", "memory_low", "memory_swap_max"):
            size = getattr(self, name)
            if size is not None:
                found.append((name.replace("_", "."), _size_line(name, size)))
        if self.oom_group is not None:
            found.append(("memory.oom.group", str(int(self.oom_group))))
        if self.pids_max is not None:
            is_max = self.pids_max == "max"
            found.append(("pids.max", "max" if is_max else _ranged("pids_max", self.pids_max, 0, 2**22)))
        found += [("io.max", _io_line(device, limits)) for device, limits in (self.io_max or {}).items()]
        return found


def _cpu_max(value: CpuMaxLike) -> CpuMax:
    match value:
        case CpuMax():
            return value
        case str():
            return parse_cpu_max(value)
        case (None | int(), int()):
            return CpuMax(*value)
    raise InvalidValue(f"cpu_max={value!r}; expected (quota_us, period_us) like (20_000, 100_000), or 'max'")


def _size_line(name: str, size: Size) -> str:
    try:
        size_bytes = parse_size(size)
    except InvalidValue as error:
        raise InvalidValue(f"{name}: {error}") from None
    return "max" if size_bytes is None else str(size_bytes)


def _ranged(name: str, value: int | str, low: int, high: int) -> str:
    if not isinstance(value, int) or not low <= value <= high:
        raise InvalidValue(f"{name}={value!r}; expected a number from {low} to {high}")
    return str(value)


def _io_line(device: str, limits: Mapping[str, int | str]) -> str:
    if not re.fullmatch(r"\d+:\d+", device):
        raise InvalidValue(
            f"io_max: {device!r} is no device; expected MAJOR:MINOR like '8:0', as lsblk shows"
        )
    for key, value in limits.items():
        if key not in _IO_KEYS or (value != "max" and (not isinstance(value, int) or value < 1)):
            raise InvalidValue(
                f"io_max: {key}={value!r}; expected {', '.join(_IO_KEYS)}, each a number or 'max'"
            )
    return " ".join([device, *(f"{key}={value}" for key, value in limits.items())])
