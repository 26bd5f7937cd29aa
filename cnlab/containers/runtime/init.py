"""The life of a container's first process, from its birth to its program.

Interface: `Init` is made in the runtime, with all that it will need; `Init.live` is called in the child. The
steps and their order are the specification's lifecycle, with the runtime's part in `creation.create`:

    runtime                                 this process, in the new namespaces
    ----------------------------------      -----------------------------------------------------
    cgroup, id maps             --go-->     host name, mounts, devices
    hooks: prestart,          <--mounted--
           createRuntime        --go-->     hooks: createContainer; pivot_root; terminal; restrictions
    status: created            <--ready--   waits at exec.fifo
    start: writes to exec.fifo  ------->    hooks: startContainer; user, capabilities, seccomp; execve

See: runtime-spec, runtime.md, "Lifecycle".
"""

from __future__ import annotations

import os

from cnlab.containers.runtime import birth, devices, hooks, namespaces, process, rootfs
from cnlab.containers.runtime.config import PERSONALITIES
from cnlab.containers.runtime.signals import SIGKILL
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    from cnlab.containers.runtime.birth import Channel
    from cnlab.containers.runtime.cgroups import Cgroups
    from cnlab.containers.runtime.process import Plan


class Init:
    """What the first process of a container knows.

    Args:
        config: the container's configuration.
        bundle: its directory.
        rootfs_path: the container's root, as a real path.
        plan: of its ``process``; None if it has none.
        spaces: its namespaces.
        cgroups: its cgroups.
        state: what its hooks are told, without the pid.
        fifos: descriptors of ``exec.fifo`` and ``started.fifo``.
        console: socket that waits for its terminal, if it has one.
        stdio: its standard streams.
        preserved: further descriptors that its program is to have.
        keyring: name of its own session keyring, if it is to have one.
        dies_with_parent: whether the kernel kills it when the thread that created it ends.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        bundle: str,
        rootfs_path: str,
        plan: Plan | None,
        spaces: namespaces.Namespaces,
        cgroups: Cgroups,
        state: dict[str, Any],
        fifos: tuple[int, int],
        console: int | None,
        stdio: Sequence[int],
        preserved: Iterable[int],
        keyring: str | None,
        dies_with_parent: bool,
    ) -> None:
        self.config = config
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.hooks: dict[str, Any] = config.get("hooks") or {}
        self.rootfs = rootfs.Rootfs(rootfs_path, bundle)
        self.plan = plan
        self.spaces = spaces
        self.cgroups = cgroups
        self.state = state
        self.fifos = fifos
        self.console = console
        self.stdio = stdio
        self.preserved = tuple(preserved)
        self.keyring = keyring
        self.dies_with_parent = dies_with_parent

    def live(self, channel: Channel) -> NoReturn:
        """Go through all steps; what goes wrong is told to the runtime and ends the process."""
        keep = {*channel.ends(), *self.fifos, *self.preserved}
        birth.forget_caller(self.stdio, keep | ({self.console} if self.console is not None else set()))
        channel.wait_for_go()
        self._settle_in()
        if self._has_mount_namespace:
            self._mount()
        channel.tell(step="mounted")
        channel.wait_for_go()
        hooks.run(self.hooks.get("createContainer") or [], self._state("creating"))
        self._change_root()
        if self.console is not None and self.plan is not None:
            from cnlab.containers.runtime import terminal  # which is there: the runtime has used it

            terminal.open_and_send(self.console, self.plan.process, is_init=True)
        self._restrict()
        program = self._prepare_process()
        channel.tell(step="ready")
        channel.hang_up()
        self._wait_for_start(program)

    @property
    def _has_mount_namespace(self) -> bool:
        return bool(self.spaces.new & syscalls.CLONE_NEWNS)

    def _state(self, status: str) -> dict[str, Any]:
        return self.state | {"status": status, "pid": os.getpid()}

    def _settle_in(self) -> None:
        """Become root of a new user namespace; make the namespaces one's own."""
        if self.spaces.has_user:
            syscalls.set_ids(0, 0)
        if self.keyring is not None:
            process.leave_keyring(self.keyring)
        # Others in the container must not reach the host by way of this process's /proc entries.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        if self.dies_with_parent:
            syscalls.set_parent_death_signal(SIGKILL)
        if self.spaces.new & syscalls.CLONE_NEWCGROUP:
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        if self.spaces.new & syscalls.CLONE_NEWNET:
            namespaces.bring_up_loopback()
        if name := self.config.get("hostname"):
            syscalls.sethostname(name)
        if name := self.config.get("domainname"):
            syscalls.setdomainname(name)
        domain = (self.linux.get("personality") or {}).get("domain")
        if domain:
            syscalls.personality(PERSONALITIES[domain])

    def _mount(self) -> None:
        mounts = self.config.get("mounts") or []
        self.rootfs.bind(self.linux.get("rootfsPropagation") or None)
        has_cgroup_namespace = bool(self.spaces.new & syscalls.CLONE_NEWCGROUP)
        for entry in mounts:
            self.rootfs.mount(entry, self.cgroups, has_cgroup_namespace=has_cgroup_namespace)
        if not any(_is_dev(entry) and "bind" in str(entry.get("options")) for entry in mounts):
            devices.make_all(self.rootfs, self.linux.get("devices") or [], by_bind_mount=self.spaces.has_user)
        if self.plan is not None:
            os.close(self.rootfs.make_directory(self.plan.process["cwd"]))

    def _change_root(self) -> None:
        if self._has_mount_namespace:
            self.rootfs.pivot()
        else:
            os.chroot(self.rootfs.path)
            os.chdir("/")

    def _restrict(self) -> None:
        for name, value in (self.linux.get("sysctl") or {}).items():
            _write_sysctl(name, value)
        if not self._has_mount_namespace:
            return
        rootfs.restrict(self.linux.get("maskedPaths") or [], self.linux.get("readonlyPaths") or [])
        mounts = self.config.get("mounts") or []
        rootfs.finish(
            propagation=self.linux.get("rootfsPropagation") or None,
            readonly=bool(self.config["root"].get("readonly")),
            readonly_dev=any(_is_dev(entry) and "ro" in (entry.get("options") or []) for entry in mounts),
        )

    def _prepare_process(self) -> str:
        """Do what of ``process`` may be done before start, and find its program while one can still tell."""
        if self.plan is None:
            return ""
        self.plan.apply_limits()
        self.plan.set_home()
        self.plan.enter_directory()
        return self.plan.find_program()

    def _wait_for_start(self, program: str) -> NoReturn:
        """Wait for ``start`` at one fifo; tell what goes wrong by the other, which execve(2) closes."""
        started, failed = self.fifos
        os.read(started, 1)
        try:
            hooks.run(self.hooks.get("startContainer") or [], self._state("created"))
            assert self.plan is not None, "start refuses a container without process"
            self.plan.become_user()
            if self.dies_with_parent:  # a change of user id has forgotten it
                syscalls.set_parent_death_signal(SIGKILL)
            self.plan.execute(program)
        except BaseException as error:
            birth.tell_error(failed, error)
        os._exit(1)


def _is_dev(entry: dict[str, Any]) -> bool:
    return bool(entry["destination"].rstrip("/") == "/dev")


def _write_sysctl(name: str, value: str) -> None:
    path = "/proc/sys/" + name.replace(".", "/")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"linux.sysctl: write({path}, {value!r}): {error.strerror}") from None
