"""The last steps of a container's process: from the runtime's power to what ``process`` grants, then execve.

Interface: `Plan` works out in the runtime what the child will do; its methods run in the child, inside the
container, where nothing can be imported any more.

See: runtime-spec, config.md, "Process"; capabilities(7), "Effect of user ID changes on capabilities".
"""

from __future__ import annotations

import errno
import os

from cnlab.containers.runtime import signals
from cnlab.containers.runtime.config import IO_CLASSES, RLIMITS
from cnlab.linux import syscalls
from cnlab.linux.capability_names import NAMES, mask_of, names_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CapabilityMasks:
    """The five sets of ``process.capabilities`` as bit masks, as far as they can be granted.

    Attributes:
        refused: names that cannot be granted, each once.
    """

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted", "refused")

    def __init__(self, wanted: dict[str, list[str]], *, grantable: int) -> None:
        self.refused: list[str] = []
        self.bounding = self._mask(wanted.get("bounding"), grantable)
        self.permitted = self._mask(wanted.get("permitted"), grantable)
        self.effective = self._mask(wanted.get("effective"), self.permitted)
        self.inheritable = self._mask(wanted.get("inheritable"), self.bounding)
        self.ambient = self._mask(wanted.get("ambient"), self.permitted & self.inheritable)

    def _mask(self, names: list[str] | None, grantable: int) -> int:
        known = mask_of(*(name for name in names or () if name in NAMES))
        refused = names_in(known & ~grantable) | {name for name in names or () if name not in NAMES}
        self.refused += sorted(refused - set(self.refused))
        return known & grantable


def grantable_capabilities(*, in_user_namespace: bool) -> int:
    """Return the mask of the capabilities that this process could give to a container.

    Who makes a user namespace has all of them inside.
    """
    if in_user_namespace:
        return (1 << len(NAMES)) - 1
    with open("/proc/self/status") as file:
        fields = dict(line.split(":\t", 1) for line in file if line.startswith("Cap"))
    return int(fields["CapBnd"], 16) & int(fields["CapPrm"], 16)


class Plan:
    """What becomes of one ``process`` object.

    Args:
        process: the object.
        filter_profile: ``linux.seccomp``, if any.
        in_user_namespace: whether the process is in another user namespace than the runtime.
        warn: called with a sentence about what cannot be granted.
    """

    def __init__(
        self,
        process: dict[str, Any],
        *,
        filter_profile: dict[str, Any] | None,
        in_user_namespace: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.process = process
        self.user = process.get("user") or {}
        self.environment = dict(
            variable.split("=", 1) for variable in process.get("env") or () if "=" in variable
        )
        self.capabilities = CapabilityMasks(
            process.get("capabilities") or {},
            grantable=grantable_capabilities(in_user_namespace=in_user_namespace),
        )
        for name in self.capabilities.refused:
            warn(f"capability {name} cannot be granted here; the container does without it")
        self.filter: bytes | None = None
        self.filter_flags = 0
        if filter_profile:
            from cnlab.linux import seccomp

            self.filter = seccomp.compile_profile(filter_profile)
            self.filter_flags = seccomp.filter_flags(filter_profile)
        self.interpreter = _identity("/proc/self/exe")
        self._is_in_directory = False

    # The rest runs in the child.

    def enter_directory(self) -> None:
        """Enter the working directory; where root may not, on a network file system, the user may later."""
        try:
            os.chdir(self.process["cwd"])
            self._is_in_directory = True
        except PermissionError:
            return
        except OSError as error:
            raise OSError(error.errno, f"chdir({self.process['cwd']}): {error.strerror}") from None

    def find_program(self) -> str:
        """Return the path of the program, as execvp(3) would find it.

        Raises:
            FileNotFoundError, PermissionError: there is none, or it is not executable. Docker knows these by
                their words, and chooses the exit code 127 or 126.
        """
        name: str = self.process["args"][0]
        if "/" in name:
            candidates = [name]
        else:
            path = self.environment.get("PATH", _DEFAULT_PATH)
            candidates = [os.path.join(directory or ".", name) for directory in path.split(":")]
        found = [candidate for candidate in candidates if os.path.exists(candidate)]
        for candidate in found:
            if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
                self._refuse_interpreter(candidate)
                return candidate
        if found:
            raise PermissionError(13, f'exec: "{name}": permission denied')
        if "/" in name:
            raise FileNotFoundError(2, f'exec: "{name}": stat {name}: no such file or directory')
        raise FileNotFoundError(2, f'exec: "{name}": executable file not found in $PATH')

    def _refuse_interpreter(self, path: str) -> None:
        """Refuse a program that is the runtime's own interpreter, such as ``/proc/self/exe``.

        Its file would be the host's, within reach of a container that could then write to it.

        See: CVE-2019-5736.
        """
        with open(path, "rb", buffering=0) as program:
            first_line = program.read(256).partition(b"\n")[0]
        interpreter = first_line[2:].split()[:1] if first_line.startswith(b"#!") else []
        if self.interpreter in map(_identity, (path, *map(os.fsdecode, interpreter))):
            raise PermissionError(13, f'exec: "{path}": permission denied: it is the runtime itself')

    def apply_limits(self) -> None:
        """Set resource limits, scheduling and the file mode mask."""
        for limit in self.process.get("rlimits") or ():
            syscalls.prlimit(0, RLIMITS.index(limit["type"]), limit["soft"], limit["hard"])
        if scheduler := self.process.get("scheduler"):
            policy = getattr(os, scheduler["policy"])
            os.sched_setscheduler(0, policy, os.sched_param(scheduler.get("priority", 0)))
            os.setpriority(os.PRIO_PROCESS, 0, scheduler.get("nice", 0))
        if io_priority := self.process.get("ioPriority"):
            syscalls.ioprio_set(IO_CLASSES[io_priority["class"]], io_priority.get("priority", 0))
        if self.user.get("umask") is not None:
            os.umask(self.user["umask"])

    def become_user(self) -> None:
        """Take the user's ids and capabilities, and load the system call filter.

        The filter goes in as late as it can, since it acts on what follows: with no_new_privs as the very
        last, without it while there still is the right to load one.
        """
        masks = self.capabilities
        self._set_label("/proc/self/attr/apparmor/exec", "exec ", "apparmorProfile")
        self._set_label("/proc/self/attr/exec", "", "selinuxLabel")
        _drop_bounding(masks.bounding)
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        _set_ids(self.user)
        _, permitted, _ = syscalls.capget()
        syscalls.capset(permitted, permitted, permitted & masks.inheritable)
        if not self._is_in_directory:
            os.chdir(self.process["cwd"])
        if self.process.get("noNewPrivileges"):
            syscalls.set_no_new_privs()
        else:
            self._load_filter()
        syscalls.capset(masks.effective, masks.permitted, masks.inheritable)
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        for bit in range(masks.ambient.bit_length()):
            if masks.ambient >> bit & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, bit)

    def _set_label(self, path: str, verb: str, name: str) -> None:
        """Ask a security module for a label from the next execve(2) on."""
        if label := self.process.get(name):
            try:
                with open(path, "w") as file:
                    file.write(verb + label)
            except OSError as error:
                raise OSError(error.errno, f"process.{name}: write({path}): {error.strerror}") from None

    def execute(self, program: str) -> NoReturn:
        """Become the program."""
        signals.reset()
        if self.process.get("noNewPrivileges"):
            self._load_filter()
        try:
            os.execve(program, self.process["args"], self.environment)
        except OSError as error:
            raise OSError(error.errno, f"exec {program}: {os.strerror(error.errno or 0).lower()}") from None

    def _load_filter(self) -> None:
        if self.filter is not None:
            from cnlab.linux import seccomp  # which is there: it has compiled the filter

            seccomp.load(self.filter, self.filter_flags)

    def set_home(self) -> None:
        """Set HOME from the container's ``/etc/passwd`` where the environment has none."""
        if self.environment.get("HOME"):
            return
        self.environment["HOME"] = "/"
        try:
            with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
                entries = [line.rstrip("\n").split(":") for line in file]
        except OSError:
            return
        for entry in entries:
            if len(entry) > 5 and entry[2] == str(self.user.get("uid", 0)):
                self.environment["HOME"] = entry[5] or "/"
                return


def leave_keyring(name: str) -> None:
    """Let go of the caller's session keyring: the keys in it are not for the container.

    As runc, it goes on where keyrings are missing, forbidden or used up: what guards a key is its owner.
    """
    try:
        syscalls.join_session_keyring(name)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EDQUOT):
            raise


def set_oom_score(pid: int, score: int) -> None:
    """Set how readily the kernel kills process `pid` when memory is short: -1000 to 1000."""
    path = f"/proc/{pid}/oom_score_adj"
    try:
        with open(path, "r+") as file:
            if int(file.read()) != score:
                file.write(str(score))
    except OSError as error:
        raise OSError(error.errno, f"process.oomScoreAdj: write({path}, {score}): {error.strerror}") from None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _drop_bounding(kept: int) -> None:
    """Take all capabilities but `kept` out of the bounding set, up to the last one that the kernel knows."""
    for bit in range(64):
        if not kept >> bit & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, bit)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return


def _set_ids(user: dict[str, Any]) -> None:
    uid, gid, groups = user.get("uid", 0), user.get("gid", 0), user.get("additionalGids") or []
    try:
        syscalls.set_ids(uid, gid, groups)
    except PermissionError:
        if groups:
            raise
        syscalls.set_ids(uid, gid)  # a user namespace of somebody without rights outside drops no groups
