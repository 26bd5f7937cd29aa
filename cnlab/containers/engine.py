"""Docker Engine for a notebook: the host's where we may use it, else one of our own in the private kernel.

Interface::

    with docker_engine(runtime="cnlab") as client:  # a client of the `docker` package
        load_image(client, layout, "busybox:latest")
        client.containers.run("busybox", ["echo", "hello"], runtime="cnlab", remove=True)

An engine of our own is containerd and dockerd, children of the notebook's Python in a cgroup of theirs. It
starts with the first block, serves the later ones too, and ends with the notebook's Python. Beside runc it
knows crun and, as ``cnlab``, the runtime of this course.

See: dockerd(8); Docker Engine API.
"""

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Self

import docker
from docker import DockerClient
from docker.errors import DockerException, NotFound
from docker.models.images import Image as DockerImage

from cnlab import host
from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.containers.images import archive
from cnlab.containers.images.image import open_image
from cnlab.containers.images.layout import Layout
from cnlab.errors import CnlabError, MissingFeature
from cnlab.linux import syscalls
from cnlab.linux.cgroups import Cgroup, root_of_cgroup2
from cnlab.linux.children import Child
from cnlab.linux.mounts import read_mountinfo, tmpfs
from cnlab.linux.rtnetlink import Rtnetlink

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_SETTINGS = Path("/etc/docker")

_CONTAINERD_CONFIG = """\
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
"""


class EngineError(CnlabError):
    """Docker Engine did not start, or ended when it should not have."""


class Engine:
    """containerd and dockerd of our own, for as long as the ``with`` block.

    They use the usual places, so that the programs of this machine find them, and change its network: start
    them where `host.is_ours_to_change`.

    Args:
        runtimes: what ``--runtime`` of ``docker run`` may name beside runc: name to path of the program.
    """

    data = Path("/var/lib/docker")
    run = Path("/run/cnlab-engine")
    socket = Path("/run/docker.sock")

    def __init__(self, *, runtimes: Mapping[str, str] | None = None) -> None:
        self.runtimes = known_runtimes() if runtimes is None else runtimes
        self._stack = contextlib.ExitStack()
        self._daemons: list[Child] = []

    @property
    def address(self) -> str:
        """What DOCKER_HOST would say."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """What the two daemons have said so far."""
        return (self.run / "log").read_text()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove, [place for place in self._places() if not place.exists()])
            self.data.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(parents=True, exist_ok=True)
            if _SETTINGS.is_dir():  # the host's, not to be read by everybody
                stack.enter_context(tmpfs(_SETTINGS))
            group = stack.enter_context(Cgroup("engine"))  # with it goes all that the daemons have started
            self._start_containerd(stack, group)
            self._start_dockerd(stack, group)
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def client(self) -> DockerClient:
        """Return a new client of this engine; the caller closes it."""
        return DockerClient(base_url=self.address, timeout=_START_TIMEOUT_S)

    @property
    def is_running(self) -> bool:
        """Whether both daemons are alive."""
        return bool(self._daemons) and all(daemon.poll() is None for daemon in self._daemons)

    def _start_containerd(self, stack: contextlib.ExitStack, group: Cgroup) -> None:
        """Start containerd ourselves: dockerd would ask it in vain at once, and again only after a second."""
        config, socket = self.run / "containerd.toml", self.run / "containerd.sock"
        config.write_text(_CONTAINERD_CONFIG)
        places = [f"--root={self.data}/containerd", f"--state={self.run}/containerd", f"--address={socket}"]
        self._start(stack, group, ["containerd", f"--config={config}", *places])
        self._wait_for(socket.exists)

    def _start_dockerd(self, stack: contextlib.ExitStack, group: Cgroup) -> None:
        places = [f"--data-root={self.data}", f"--exec-root={self.run}/docker", f"--pidfile={self.run}/pid"]
        places += [f"--host={self.address}", f"--containerd={self.run}/containerd.sock", "--group=root"]
        runtimes = [f"--add-runtime={name}={path}" for name, path in self.runtimes.items()]
        options = ["--storage-driver=overlay2", "--ip6tables=false", "--shutdown-timeout=1"]
        self._start(stack, group, ["dockerd", *places, *options, *runtimes])
        self._wait_for(lambda: self.socket.exists() and _answers(self.client))

    def _start(self, stack: contextlib.ExitStack, group: Cgroup, command: list[str]) -> None:
        program = host.find_program(command[0])
        if program is None:
            raise MissingFeature("docker", f"no program {command[0]}", hint="run `make lab` again")
        to_log = ["sh", "-c", f'exec "$@" >> {self.run}/log 2>&1', "sh", str(program), *command[1:]]
        env = {**os.environ, "PATH": host.search_path()}
        self._daemons.append(stack.enter_context(group.spawn(to_log, env=env)))

    def _wait_for(self, condition: Callable[[], object]) -> None:
        wait_until(
            lambda: not self.is_running or condition(),
            timeout_s=_START_TIMEOUT_S,
            what="Docker Engine to start",
        )
        if not self.is_running:
            last = (self.log.splitlines() or ["it said nothing"])[-1]
            raise EngineError(f"Docker Engine ended before it was ready: {last}")

    def _stop(self) -> None:
        """Remove the containers, then end the daemons, each while those it needs are there."""
        if self.is_running:
            with contextlib.suppress(OSError, DockerException), contextlib.closing(self.client()) as client:
                remove_containers(client)
        for daemon in reversed(self._daemons):
            daemon.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                daemon.wait(_STOP_TIMEOUT_S)

    def _places(self) -> list[Path]:
        """Everywhere the daemons leave something: files, sockets, cgroups and a bridge."""
        runtime_places = [self.socket.with_name(name) for name in ("docker", "containerd", "docker.sock")]
        return [self.run, self.data, *runtime_places, root_of_cgroup2() / "docker"]

    def _remove(self, places: list[Path]) -> None:
        """Remove what the daemons made but for the firewall rules, which stay as long as the machine."""
        for mount in reversed(read_mountinfo()):
            if any(Path(mount.mount_point).is_relative_to(place) for place in places):
                syscalls.umount(mount.mount_point, syscalls.MNT_DETACH)
        for place in places:
            if place.is_relative_to(root_of_cgroup2()):
                for directory, _, _ in os.walk(place, topdown=False):
                    os.rmdir(directory)
            else:
                shutil.rmtree(place, ignore_errors=True)
        self.socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError), Rtnetlink() as link:
            link.delete_link("docker0")


def known_runtimes() -> dict[str, str]:
    """Return the runtimes that an engine of our own is told of: ours, and crun where it is installed."""
    crun = host.find_program("crun")
    return {"cnlab": runtime.command(), **({"crun": str(crun)} if crun else {})}


@contextlib.contextmanager
def docker_engine(*, runtime: str | None = None) -> Iterator[DockerClient]:
    """Give a client of a Docker Engine; the first use in a private kernel starts one, which takes seconds.

    The containers made within the block go with it, where the engine is our own; images stay.

    Args:
        runtime: one that the engine must know, such as ``cnlab``, which the host's own seldom does.

    Raises:
        MissingFeature: this user may use no engine of the host, and this is no private kernel; or the engine
            does not know `runtime`.
        EngineError: it could not be started.
    """
    host.require("docker")
    if not host.is_ours_to_change() or (not _engines and _answers(docker.from_env)):
        with contextlib.closing(docker.from_env()) as client:
            _require_runtime(client, runtime)
            yield client
        return
    with contextlib.closing(_own_engine().client()) as client:
        _require_runtime(client, runtime)
        before = {container.id for container in client.containers.list(all=True)}
        try:
            yield client
        finally:
            remove_containers(client, but=before)


def load_image(client: DockerClient, layout: Layout, reference: str) -> DockerImage:
    """Give an image of an OCI layout to an engine, under the same name: ``busybox`` is ``busybox:latest``."""
    name = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
    image = open_image(layout, reference if reference in layout.tags() else name)
    with tempfile.TemporaryFile() as file:
        archive.save({name: image}, file)
        file.seek(0)
        client.images.load(file)
    return client.images.get(name)


def remove_containers(client: DockerClient, *, but: Container[str] = ()) -> None:
    """Kill and remove an engine's containers with their anonymous volumes, but those with the ids `but`."""
    for container in client.containers.list(all=True, ignore_removed=True):
        if container.id not in but:
            with contextlib.suppress(NotFound):
                container.remove(force=True, v=True)


_engines: list[Engine] = []
_one_at_a_time = threading.Lock()


def _own_engine() -> Engine:
    """Return this process's engine, started if it does not run."""
    with _one_at_a_time:
        if not _engines or not _engines[-1].is_running:
            for dead in _engines:
                dead.__exit__()
            print("Docker Engine starts: a few seconds …", flush=True)
            _engines[:] = [Engine().__enter__()]
            if not host.is_private_kernel():  # which ends, as a machine, with all that is in it
                atexit.register(_engines[0].__exit__)
        return _engines[0]


def _require_runtime(client: DockerClient, name: str | None) -> None:
    """Tell it now: the engine itself would say ``400 Client Error`` for the first container."""
    known = client.info()["Runtimes"] if name else {}
    if name and name not in known:
        path = known_runtimes().get(name, "PATH")
        hint = f"start dockerd with --add-runtime={name}={path}, or choose the kernel “Cloud Native Lab”"
        reason = f"the engine at {client.api.base_url} knows {', '.join(known)}, and no runtime {name}"
        raise MissingFeature("docker", reason, hint=hint)


def _answers(connect: Callable[[], DockerClient]) -> bool:
    """Whether there is an engine."""
    with contextlib.suppress(OSError, DockerException), contextlib.closing(connect()) as client:
        return bool(client.ping())
    return False
