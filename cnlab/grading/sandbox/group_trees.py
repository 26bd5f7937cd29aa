"""Where a sandbox's control groups may be made: in which tree, below which group.

See: cgroups(7), "Cgroups v2 delegation".
"""

import contextlib
import functools
import os
from pathlib import Path

from cnlab.errors import MissingFeature
from cnlab.linux import cgroup_tree, cgroups_v1

CONTROLLERS = ("memory", "pids", "cpu")


def legacy_parent(controller: str) -> Path:
    """Return the version 1 group to make ours in."""
    return _legacy_parent(controller, _membership())


def unified_parent(wanted: tuple[str, ...]) -> Path | None:
    """Return the version 2 group to make ours in; None where version 1 has the controllers.

    Root takes the root of the tree. Others need a group that was delegated to them.

    Raises:
        MissingFeature: none was.
    """
    return _unified_parent(wanted, os.geteuid(), _membership())


def _membership() -> str:
    """Return what the answers depend on; they are remembered, for the many sandboxes of one grader."""
    return Path("/proc/self/cgroup").read_text()


@functools.cache
def _legacy_parent(controller: str, membership: str) -> Path:
    return cgroups_v1.own_group(controller)


@functools.cache
def _unified_parent(wanted: tuple[str, ...], user: int, membership: str) -> Path | None:
    try:
        root = cgroup_tree.root_of_cgroup2()
    except MissingFeature:
        return None
    if not set(wanted) <= set(cgroup_tree.controllers(root)):
        return None
    if os.access(root / "cgroup.subtree_control", os.W_OK):
        parent = root
    else:
        own = cgroup_tree.cgroup_of()
        above = [own, *own.parents]
        candidates = [path for path in above[: above.index(root)] if _is_ours(path)]
        if not candidates:
            raise MissingFeature(
                "cgroup2",
                f"{own} is not delegated to user id {os.geteuid()}",
                hint="start it by `systemd-run --user --scope -p Delegate=yes`, or as root",
            )
        parent = candidates[-1]
        if (parent / "cgroup.procs").read_text():
            _move_down(parent)
    cgroup_tree.enable_controllers(parent)
    cgroup_tree.require_controllers(parent, (f"{controller}." for controller in wanted))
    return parent


def _is_ours(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path / "cgroup.subtree_control", os.W_OK)


def _move_down(parent: Path) -> None:
    """Move the processes of a delegated group into a leaf: only then may its children have controllers."""
    leaf = parent / "cnlab-grader"
    leaf.mkdir(exist_ok=True)
    for pid in (parent / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            cgroup_tree.write(leaf / "cgroup.procs", pid)


def parents() -> list[Path]:
    """Return the groups in which ours may have been made."""
    found: list[Path] = []
    with contextlib.suppress(MissingFeature, OSError):
        root = cgroup_tree.root_of_cgroup2()
        own = cgroup_tree.cgroup_of()
        found += [root, own, *(path for path in own.parents if path.is_relative_to(root))]
    for controller in (*CONTROLLERS, "cpuacct"):
        with contextlib.suppress(MissingFeature, OSError):
            found.append(legacy_parent(controller))
    return list(dict.fromkeys(found))
