"""Limits: `resources` written into the files of a container's control groups.

See: runtime-spec, config-linux.md, "Control groups"; the kernel's cgroup-v1 and cgroup-v2 guides.
"""

from __future__ import annotations

import errno
import os

from cnlab.containers.runtime import resources as oci
from cnlab.containers.runtime.cgroup_trees import read, write
from cnlab.errors import InvalidValue, MissingFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnlab.containers.runtime.cgroups import Cgroups

_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")


def apply(groups: Cgroups, resources: dict[str, Any]) -> None:
    """Set limits, now or while the container runs; what is left out stays.

    Raises:
        MissingFeature: a limit whose controller is not there.
    """
    _refuse_below_usage(groups, resources.get("memory") or {})
    settings = oci.for_v1(resources) if groups.version == 1 else oci.for_v2(resources)
    postponed = []
    for setting in settings:
        try:
            _set(groups, *setting)
        except OSError as error:
            # memory may not exceed memory with swap, which comes next and may be about to grow
            if error.errno != errno.EINVAL or setting[1] != "memory.limit_in_bytes":
                raise
            postponed.append(setting)
    for setting in postponed:
        _set(groups, *setting)
    if groups.directories and (rules := oci.devices(resources)):
        _allow_devices(groups, rules)


def _refuse_below_usage(groups: Cgroups, memory: dict[str, Any]) -> None:
    """Refuse a limit below what is used, if asked to; version 2 would kill instead, version 1 refuses itself.

    Raises:
        InvalidValue: the limit is too low.
    """
    limit = memory.get("limit") or 0
    if groups.version == 1 or not memory.get("checkBeforeUpdate") or limit <= 0:
        return
    used = int(read(f"{groups.directory_of('memory')}/memory.current"))
    if limit < used:
        raise InvalidValue(
            f"linux.resources.memory.limit is {limit}; the container uses {used} bytes already"
        )


def _set(groups: Cgroups, controller: str, file: str, line: str) -> None:
    directory = groups.directory_of(controller)
    try:
        write(f"{directory}/{file}", line)
    except FileNotFoundError:
        if alternative := oci.alternative(file, line):
            return _set(groups, controller, *alternative)
        if file in _SWAP and line in ("-1", "0", "max"):
            return None  # without swap accounting there is nothing to take away
        offered = " ".join(sorted({name.split(".")[0] for name in os.listdir(directory)} - {"cgroup"}))
        reason = f"{directory} has no {file}; its controllers are: {offered or 'none'}"
        raise MissingFeature("cgroup", reason, hint="leave the limit out, or see cgroups(7)") from None


def _allow_devices(groups: Cgroups, rules: list[dict[str, Any]]) -> None:
    if groups.version == 1:
        directory = groups.directory_of("devices")
        for is_allowed, lines in oci.device_lines(rules):
            write(f"{directory}/devices.{'allow' if is_allowed else 'deny'}", *lines)
        return
    from cnlab.containers.runtime import device_filter

    try:
        device_filter.attach(groups.directories[0], rules)
    except PermissionError:
        if not _is_rootless():
            raise


def _is_rootless() -> bool:
    """Tell whether the kernel keeps the caller from devices anyway: it opens no node that he has made."""
    return os.geteuid() != 0 or read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]
