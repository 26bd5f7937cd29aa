"""A user's server, and all that comes of it, in a control group of its own.

JupyterHub's `LocalProcessSpawner` knows ``mem_limit`` and ``cpu_limit`` and enforces neither; and when it
stops a server it ends one process, not what a student has started beside it. A control group does both.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable
from typing import Any

from jupyterhub.spawner import LocalProcessSpawner
from traitlets import Integer, Unicode
from traitlets import Set as SetOf

from cnlab.errors import MissingFeature
from cnlab.grading.hub.sign_in import refuse_system_account
from cnlab.linux.cgroup_tree import require_controllers
from cnlab.linux.cgroups import Cgroup
from cnlab.linux.cgroups_v1 import CgroupV1

_PERIOD_US = 100_000


class GroupSpawner(LocalProcessSpawner):  # type: ignore[misc]
    """Starts a user's server as that user, in a group with ``mem_limit``, ``cpu_limit`` and ``pids_limit``.

    A hub that is not root's serves one user, who could lift every limit: there is no group then. A root's hub
    that can make no group starts no server. Who grades may make groups below the own one: the sandboxes of
    submissions need them.
    """

    pids_limit = Integer(512, help="Processes and threads a user may have.").tag(config=True)
    unlimited_users = SetOf(Unicode(), help="Users without limits, who grade.").tag(config=True)

    async def start(self) -> Any:
        """Make the group, without what an earlier hub may have left of it, and start the server in it."""
        if os.geteuid() == 0:
            refuse_system_account(self.user.name)
            await asyncio.to_thread(self._end_group)
            group = self._group()
            group.__enter__()
            if self.user.name in self.unlimited_users:
                delegate(group, pwd.getpwnam(self.user.name).pw_uid)
        return await super().start()

    async def poll(self) -> int | None:
        """Return None while the server runs; one that has ended by itself takes what it has started along.

        The hub stops only what runs, and a user may end the own server, from its menu or by a signal.
        """
        had_server = bool(self.pid)
        status: int | None = await super().poll()
        if had_server and status is not None and os.geteuid() == 0:
            await asyncio.to_thread(self._end_group)
        return status

    async def stop(self, now: bool = False) -> None:
        """Stop the server, then all that the user's server has started and left."""
        await super().stop(now)
        if os.geteuid() == 0:
            await asyncio.to_thread(self._end_group)

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        """Return what the new process does first: join the group while it is root, then become the user."""
        if os.geteuid():
            return lambda: None
        become_user = super().make_preexec_fn(name)
        group = self._group()

        def prepare() -> None:
            group.add(os.getpid())
            become_user()

        return prepare

    def _end_group(self) -> None:
        self._group().__exit__(None, None, None)

    def _group(self) -> Cgroup | CgroupV1:
        """Return the user's group, made or not: its name is all that a restarted hub must know."""
        name = f"cnlab-hub-{pwd.getpwnam(self.user.name).pw_uid}"
        if self.user.name in self.unlimited_users:
            return group_of(name, {"cpu_max": "max", "memory_max": "max", "pids_max": "max"})
        limits: dict[str, Any] = {"pids_max": self.pids_limit}
        limits |= {"memory_max": self.mem_limit} if self.mem_limit else {}
        limits |= {"cpu_max": (int(self.cpu_limit * _PERIOD_US), _PERIOD_US)} if self.cpu_limit else {}
        return group_of(name, limits)


def group_of(name: str, limits: dict[str, Any]) -> Cgroup | CgroupV1:
    """Return a control group, not yet made, of the version whose controllers this machine offers."""
    try:
        group = Cgroup(name, **limits)
        require_controllers(group.path.parent, [f"{key.replace('_', '.')}" for key in limits])
        return group
    except MissingFeature:
        return CgroupV1(name, **limits, also=["cpuacct"])


def delegate(group: Cgroup | CgroupV1, uid: int) -> None:
    """Let a user make groups below this one and move the own processes there; its limits stay root's.

    See: cgroups(7), "Delegation".
    """
    paths = [group.path] if isinstance(group, Cgroup) else group.paths.values()
    for path in paths:
        os.chown(path, uid, -1)
        for file in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"):
            if (path / file).exists():
                os.chown(path / file, uid, -1)
