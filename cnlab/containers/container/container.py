r"""Containers from Python: an image, a bundle, our runtime and a network, in the words of the Docker SDK.

Interface::

    with Container(image, ["httpd", "-f"], mem_limit="64m", network=net, ports={"80/tcp": 8080}) as web:
        web.exec_run("ls /").output
    run(image, "echo hello") == b"hello\n"

No daemon: the container is a child of this Python, and goes with the block, or with the thread that entered
it. What a method returns has the shape that the Docker SDK gives it.

Needs root, on a machine of one's own or in the private kernel. See: `host_config.Options` for all options.
"""

import atexit
import contextlib
import functools
import os
import secrets
import signal as signals
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, Unpack

from cnlab import host
from cnlab.containers import bundle, runtime
from cnlab.containers.container import host_config, inspection
from cnlab.containers.container.endpoint import Endpoint
from cnlab.containers.container.host_config import Json, Options
from cnlab.containers.container.output import Output
from cnlab.containers.images.diff import upper_changes
from cnlab.containers.images.image import Image, new_image, unpack
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import Snapshot, SnapshotStore, temporary_store
from cnlab.containers.network import Attachment
from cnlab.errors import CnlabError, InvalidValue, MissingFeature
from cnlab.linux import cgroups

_KILL_TIMEOUT_S = 10.0
_KINDS = {"modify": 0, "add": 1, "delete": 2}  # what the Docker Engine API calls a change
_by_name: dict[str, "Container"] = {}  # those that exist now


class ContainerError(CnlabError):
    """A container's command ended with another status than 0."""

    def __init__(self, name: str, exit_status: int, stderr: bytes) -> None:
        super().__init__(f"container {name}: its command ended with status {exit_status}")
        self.exit_status = exit_status
        self.stderr = stderr
        if stderr:
            self.add_note(stderr.decode(errors="replace").rstrip())


class ExecResult(NamedTuple):
    """What `Container.exec_run` returns."""

    exit_code: int
    output: bytes


class Container:
    """A container that exists within its ``with`` block.

    Args:
        image: what it is made from.
        command: program and arguments; text is split as a shell would. By default the image's.
        start: whether entering the block starts it too.
        store: where layers are unpacked; by default a store that all containers of this Python share.
        options: `host_config.Options`.

    Raises:
        InvalidValue: an option that no container can have.
        MissingFeature: on entering, this needs root.
        OSError: on entering, the kernel refused, or there is no such program in the image.
    """

    def __init__(
        self,
        image: Image,
        command: str | Sequence[str] | None = None,
        *,
        start: bool = True,
        store: SnapshotStore | None = None,
        **options: Unpack[Options],
    ) -> None:
        host_config.require_known(options)
        self.image = image
        self.options = options
        self.id = secrets.token_hex(32)
        self.name = options.get("name") or self.short_id
        self.snapshot: Snapshot | None = None  # None with `id_map`: then it has a copy of the files
        self.config: Json = {}  # config.json, once the block is entered
        self._arguments = host_config.arguments(image.config, command, options)
        self._starts = start
        self._store = store
        self._life = contextlib.ExitStack()
        self._outputs: list[Output] = []

    def __repr__(self) -> str:
        return f"<Container {self.name}>"

    def __enter__(self) -> Self:
        host.require("root")
        if self.name in _by_name:
            raise InvalidValue(f"there is a container {self.name!r} already: choose another name")
        with contextlib.ExitStack() as stack:
            self.bundle = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cnlab-container-")))
            self.rootfs = self._root_file_system(stack)
            self._write_bundle()
            stack.callback(self._end)
            self._create()
            _by_name[self.name] = self
            stack.callback(_by_name.pop, self.name)
            if self._starts:
                self.start()
            self._life = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._life.close()

    @property
    def short_id(self) -> str:
        """The first twelve digits of `id`: its host name, unless it was given one."""
        return self.id[:12]

    @property
    def status(self) -> str:
        """One of created, running, paused, exited."""
        status = str(runtime.state(self.id)["status"])
        return "exited" if status == "stopped" else status

    @property
    def pid(self) -> int:
        """The number of its process 1 here; 0 when it does not run."""
        state = runtime.state(self.id)
        return 0 if state["status"] == "stopped" else int(state["pid"])

    @property
    def attachment(self) -> Attachment | None:
        """Its place in `network`, while it has one."""
        return self._endpoint.attachment

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels and its own."""
        image = (self.image.config.get("config") or {}).get("Labels") or {}
        return {**image, **(self.options.get("labels") or {})}

    @property
    def attrs(self) -> Json:
        """What ``docker inspect`` would show, as far as there is the same here."""
        return inspection.attributes(self, runtime.state(self.id))

    @property
    def cgroup(self) -> Path:
        """The directory of its control group, version 2; more than Docker tells."""
        return cgroups.cgroup_of(self.pid)

    def reload(self) -> None:
        """Do nothing: unlike the Docker SDK's, this object always looks at what is."""

    def start(self) -> None:
        """Start its command; once it has ended, start it anew with the same files."""
        if self.status == "exited":
            self._end()
            self._create()
        runtime.start(self.id)

    def wait(self, *, timeout: float | None = None) -> Json:
        """Wait until its command has ended and return ``{"StatusCode": 0}``, a signal's number added to 128.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        code = runtime.wait(self.id, timeout_s=timeout)
        self._outputs[-1].close()
        return {"StatusCode": exit_status(code)}

    def kill(self, signal: int | str = "SIGKILL") -> None:
        """Send a signal to its process 1; SIGKILL is waited for, unless the container is paused."""
        runtime.kill(self.id, signal)
        if signal in (signals.SIGKILL, "SIGKILL", "KILL") and self.status != "paused":
            self.wait(timeout=_KILL_TIMEOUT_S)

    def stop(self, *, timeout: float = 10) -> None:
        """Ask it to end by its stop signal, and kill it after `timeout` seconds."""
        image = self.image.config.get("config") or {}
        self.kill(self.options.get("stop_signal") or image.get("StopSignal") or signals.SIGTERM)
        try:
            self.wait(timeout=timeout)
        except TimeoutError:
            self.kill()

    def restart(self, *, timeout: float = 10) -> None:
        """Stop it and start its command anew with the same files."""
        if self.status != "exited":
            self.stop(timeout=timeout)
        self.start()

    def pause(self) -> None:
        """Freeze all its processes."""
        runtime.pause(self.id)

    def unpause(self) -> None:
        """Let them go on."""
        runtime.resume(self.id)

    def update(self, **limits: Unpack[Options]) -> None:
        """Change limits while it runs: mem_limit, memswap_limit, nano_cpus, cpu_shares, pids_limit."""
        host_config.require_known(limits)
        resources = host_config.resources(limits)
        if not resources:
            raise InvalidValue(f"update({', '.join(limits)}): expected limits such as mem_limit='64m'")
        runtime.update(self.id, resources)

    def exec_run(
        self,
        cmd: str | Sequence[str],
        *,
        environment: Mapping[str, str] | Sequence[str] = (),
        workdir: str | None = None,
        user: str | int | None = None,
        tty: bool = False,
        privileged: bool = False,
    ) -> ExecResult:
        """Run another command in it to its end.

        Raises:
            OSError: there is no such program in it.
        """
        process = host_config.exec_process(
            self.config["process"],
            host_config.words(cmd),
            environment=environment,
            cwd=workdir,
            user=None if user is None else bundle.resolve_user(str(user), self.rootfs),
            tty=tty,
            privileged=privileged,
        )
        with tempfile.TemporaryDirectory(dir=self.bundle) as directory:
            output = Output(Path(directory, "console") if tty else None)
            with (
                contextlib.closing(output),
                output.given() as ends,
                runtime.exec(self.id, process, **ends) as run,
            ):
                output.begin()
                code = run.wait()
        return ExecResult(exit_status(code), output.read())

    def logs(self, *, stdout: bool = True, stderr: bool = True, tail: int | None = None) -> bytes:
        """Return what it has said so far, or the last `tail` lines of it."""
        said = b"".join(output.read(stdout=stdout, stderr=stderr) for output in self._outputs)
        return said if tail is None else b"".join(said.splitlines(keepends=True)[-tail:])

    def follow(self) -> Iterator[bytes]:
        """Give what it says piece by piece until it ends: the Docker SDK's ``logs(stream=True)``."""
        return self._outputs[-1].follow()

    def resize(self, height: int, width: int) -> None:
        """Change the size of its terminal."""
        self._outputs[-1].resize(height, width)

    def stats(self, *, stream: bool = False) -> Json:
        """Return what its control group counts now; there is no stream of it here."""
        if stream:
            raise InvalidValue(
                "stats(stream=True): there is no stream; call stats() again when you want to know"
            )
        return inspection.stats(self, runtime.stats(self.id))

    def top(self) -> Json:
        """Return its processes, with the numbers that they have here."""
        return inspection.top(runtime.ps(self.id))

    def diff(self) -> list[Json]:
        """Return what it has changed in its files: 0 is modified, 1 added, 2 deleted."""
        snapshot = self._require_snapshot("diff")
        assert snapshot.upper is not None, "a container's snapshot is writable"
        changes = upper_changes(snapshot.upper, lowers=snapshot.lowers)
        return [{"Path": f"/{change.path}", "Kind": _KINDS[change.kind]} for change in changes]

    def commit(self, layout: Layout, *, name: str = "") -> Image:
        """Make an image of its image and what it has changed; the Docker SDK's, but into a layout."""
        layer = self._require_snapshot("commit").commit(layout)
        base = self.image
        return new_image(
            layout,
            layers=[*base.layers, layer],
            config=base.config.get("config") or {},
            platform=base.platform,
            history=[*base.history, {"created_by": " ".join(self._arguments)}],
            name=name,
        )

    def remove(self, *, force: bool = False) -> None:
        """Remove it before the block ends; a running one only by `force`."""
        if not force and self.status in ("running", "paused"):
            raise InvalidValue(
                f"container {self.name} is {self.status}: stop it before, or remove(force=True)"
            )
        self._life.close()

    def _root_file_system(self, stack: contextlib.ExitStack) -> Path:
        if id_map := self.options.get("id_map"):
            self.bundle.chmod(0o711)  # its root, who is nobody here, must get to its files
            rootfs = unpack(self.image, self.bundle / "rootfs", uid_map=id_map, gid_map=id_map)
            for root in (ids.outside for ids in id_map if ids.inside == 0):
                os.chown(rootfs, root, root)
            return rootfs
        self.snapshot = stack.enter_context((self._store or _shared_store()).mounted(self.image))
        return self.snapshot.rootfs

    def _write_bundle(self) -> None:
        mode = self.options.get("network_mode", "")
        joined = find(mode.removeprefix("container:"))._endpoint if mode.startswith("container:") else None
        hostname = self.options.get("hostname") or self.short_id
        self._endpoint: Endpoint = Endpoint(self.name, hostname, self.bundle, self.options, joined)
        self.config = host_config.config(
            self.image.config,
            self._arguments,
            self.options,
            container_id=self.id,
            rootfs=self.rootfs,
            files={**self._endpoint.files, **self._init_program()},
            pid_of=lambda name: find(name).pid,
        )
        bundle.write_bundle(self.bundle, self.config)

    def _init_program(self) -> dict[str, Path]:
        if not self.options.get("init"):
            return {}
        program = host.find_program("docker-init")
        if program is None:
            raise MissingFeature("docker-init", "no such program here", hint="it belongs to Docker Engine")
        return {host_config.INIT: program}

    def _create(self) -> None:
        output = Output(self.bundle / "console" if self.options.get("tty") else None)
        self._outputs.append(output)
        with output.given() as ends:
            runtime.create(self.id, str(self.bundle), die_with_parent=True, **ends)
        output.begin()
        self._endpoint.attach(self.pid)

    def _end(self) -> None:
        try:
            self._endpoint.detach()
        finally:
            runtime.delete(self.id, force=True)
            self._outputs[-1].close()

    def _require_snapshot(self, what: str) -> Snapshot:
        if self.snapshot is None:
            raise InvalidValue(f"{what}: a container with an id_map has a copy of its files, and no layers")
        return self.snapshot


def run(image: Image, command: str | Sequence[str] | None = None, **options: Unpack[Options]) -> bytes:
    """Run a command in a container of its own to its end and return what it wrote to standard output.

    Raises:
        ContainerError: it ended with another status than 0; what it wrote to standard error is a note of it.
    """
    with Container(image, command, **options) as container:
        status = container.wait()["StatusCode"]
        if status:
            raise ContainerError(container.name, status, container.logs(stdout=False))
        return container.logs(stderr=False)


def find(name: str) -> Container:
    """Return the container of that name, id or beginning of an id."""
    for container in _by_name.values():
        if name == container.name or (len(name) >= 4 and container.id.startswith(name)):
            return container
    raise InvalidValue(f"no container {name!r} here; there are {', '.join(_by_name) or 'none'}")


def exit_status(code: int) -> int:
    """Return the status as a shell has it: a signal's number is added to 128."""
    return code if code >= 0 else 128 - code


@functools.cache
def _shared_store() -> SnapshotStore:
    """Return the store of this Python, made when it is first wanted."""
    life = contextlib.ExitStack()
    atexit.register(life.close)
    return life.enter_context(temporary_store())
