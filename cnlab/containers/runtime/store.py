"""What the runtime remembers of a container from one command to the next: a directory ``ROOT/ID``.

    state.json     pid, bundle, cgroups and so on, as `Record.save` wrote it
    config.json    the configuration as it was at create; what becomes of the bundle's does not matter
    exec.fifo      the container's process waits here for ``start``, which takes it away
    started.fifo   where it tells ``start`` why it could not execute its program
    exit_code      of its process, if its parent has waited for it here

See: runtime-spec, runtime.md, "State".
"""

from __future__ import annotations

import os

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.cgroup_trees import read
from cnlab.containers.runtime.cgroups import Cgroups
from cnlab.containers.runtime.errors import ContainerExists, NoSuchContainer
from cnlab.errors import InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "1.2.1"  # of the runtime specification that states comply with
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_ID_LENGTH_MAX = 1024


def default_root() -> str:
    """Return where containers are remembered unless told otherwise."""
    if os.geteuid() == 0:
        return "/run/cnlab"
    directory = os.environ.get("XDG_RUNTIME_DIR")
    return f"{directory}/cnlab" if directory else f"/tmp/cnlab-{os.geteuid()}"


def check_id(container_id: str) -> None:
    """Raise `InvalidValue` if `container_id` is no name for a directory, or reaches out of the root."""
    is_name = 0 < len(container_id) <= _ID_LENGTH_MAX and container_id not in (".", "..")
    if not is_name or not _ID_CHARACTERS.issuperset(container_id):
        raise InvalidValue(f"invalid container id {container_id!r}: expected letters, digits and any of _+-.")


class Record:
    """One container."""

    def __init__(self, container_id: str, root: str | None) -> None:
        check_id(container_id)
        self.id = container_id
        self.directory = os.path.join(os.path.abspath(root or default_root()), container_id)
        self.bundle = ""
        self.rootfs = ""
        self.created = ""
        self.annotations: dict[str, str] = {}
        self.pid = 0
        self.start_time = 0
        self.is_created = False
        self.cgroups: Cgroups | None = None
        self._config: dict[str, Any] | None = None

    @classmethod
    def make(cls, container_id: str, root: str | None) -> Record:
        """Take the id and make the directory.

        Raises:
            ContainerExists: the id is taken.
        """
        record = cls(container_id, root)
        try:
            os.mkdir(record.directory, 0o711)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(record.directory), 0o711, exist_ok=True)
            return cls.make(container_id, root)
        except FileExistsError:
            raise ContainerExists(container_id) from None
        return record

    @classmethod
    def load(cls, container_id: str, root: str | None) -> Record:
        """Return what is remembered.

        Raises:
            NoSuchContainer: nothing is.
        """
        record = cls(container_id, root)
        try:
            state = documents.read(record.path("state.json"))
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchContainer(container_id) from None
        record.bundle, record.rootfs = state["bundle"], state["rootfs"]
        record.created, record.annotations = state["created"], state["annotations"]
        record.pid, record.start_time = state["pid"], state["startTime"]
        record.is_created = state["isCreated"]
        record.cgroups = Cgroups.from_json(state["cgroups"])
        return record

    def save(self) -> None:
        """Write ``state.json``."""
        assert self.cgroups is not None
        state = {
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "annotations": self.annotations,
            "pid": self.pid,
            "startTime": self.start_time,
            "isCreated": self.is_created,
            "cgroups": self.cgroups.to_json(),
        }
        documents.write(self.path("state.json"), state)

    def path(self, file: str) -> str:
        """Return the path of one of its files."""
        return f"{self.directory}/{file}"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as it was at create."""
        if self._config is None:
            self._config = documents.read(self.path("config.json"))
        return self._config

    def hooks(self, point: str) -> list[dict[str, Any]]:
        """Return the hooks that the configuration has for a point of the lifecycle."""
        return (self.config.get("hooks") or {}).get(point) or []

    def make_fifos(self) -> tuple[int, int]:
        """Make the two fifos and open them for both reading and writing, so that none ever ends for us."""
        fds = []
        for name in ("exec.fifo", "started.fifo"):
            os.mkfifo(self.path(name), 0o600)
            fds.append(os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC))
        return fds[0], fds[1]

    def status(self) -> str:
        """Find out what the container is doing."""
        if not self.is_created:
            return "creating"
        if process_start_time(self.pid) != self.start_time:
            return "stopped"
        if self.cgroups is not None and self.cgroups.is_frozen:
            return "paused"
        return "created" if os.path.exists(self.path("exec.fifo")) else "running"

    def state(self, status: str | None = None) -> dict[str, Any]:
        """Return the state that the specification asks for, and what runc adds."""
        status = status or self.status()
        state = {
            "ociVersion": VERSION,
            "id": self.id,
            "status": status,
            "pid": 0 if status == "stopped" else self.pid,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
        }
        return state | ({"annotations": self.annotations} if self.annotations else {})

    def exit_code(self) -> int | None:
        """Return the exit code that somebody has waited for, if so."""
        try:
            with open(self.path("exit_code")) as file:
                return int(file.read())
        except FileNotFoundError:
            return None

    def remember_exit_code(self, code: int) -> None:
        """Keep it for who asks again: the kernel tells it once."""
        documents.write(self.path("exit_code"), code)

    def remove(self) -> None:
        """Forget the container."""
        for name in os.listdir(self.directory):
            os.unlink(self.path(name))
        os.rmdir(self.directory)


def write_pid_file(path: str, pid: int) -> None:
    """Write `pid` to the file at `path`, so that who watches it never sees half a number."""
    with open(f"{path}.new", "w") as file:
        file.write(str(pid))
    os.rename(f"{path}.new", path)


def process_start_time(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None if it has ended.

    A pid may come to mean another process; pid and start time together do not.

    See: proc_pid_stat(5).
    """
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
