"""Start instances of services as containers: the same programs, the same variables, another box.

Interface: as in `cnlab.apps.launcher`. Images are made from what is on this machine, no registry is asked:
for C a static program and nothing else, for JavaScript Node.js and the libraries it needs, for Python the
course's image of it. Containers share the network of the engine's host, so that loopback addresses go on to
mean what they mean to processes.

Containers belong to the engine: unlike processes they outlive a launcher that is killed. In the private
kernel they end with the machine.

See: "Docker SDK for Python"; scratch in Dockerfile's ``FROM``.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cnlab import host
from cnlab.apps import languages
from cnlab.apps.application import Instance, Language, Program
from cnlab.apps.launcher import not_started
from cnlab.clock import wait_until
from cnlab.containers.images import base_images, elf
from cnlab.containers.images.base_images import File, Tree
from cnlab.containers.images.image import Image, new_image
from cnlab.containers.images.layout import Layout

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LABEL = "cnlab.apps"
_REPOSITORY = "cnlab-apps"
_NOBODY = "65534:65534"
_OF_NODE = ("acorn", "acorn-walk", "busboy", "cjs-module-lexer", "streamsearch", "undici", "xtend")


class RunningContainer:
    """An instance that is a container."""

    def __init__(
        self, instance: Instance, address: str, container: Container, language: Language, note: str
    ) -> None:
        self.name = instance.name
        self.address = address
        self.language: Language = language
        self.note = note
        self.container = container
        container.reload()
        self.pid = int(container.attrs["State"]["Pid"])
        self._last_words: str | None = None

    def __repr__(self) -> str:
        return f"<{self.name} at {self.address}, {self.language}, container {self.container.short_id}>"

    @property
    def log(self) -> str:
        """What it has said so far."""
        if self._last_words is not None:
            return self._last_words
        said: bytes = self.container.logs()
        return said.decode(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        if self._last_words is not None:
            return False
        self.container.reload()
        return bool(self.container.status in ("created", "running"))

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Return as soon as it says that it serves.

        Raises:
            NotStarted: it ended before, or said nothing within `timeout_s`.
        """
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._serves() or not self.is_running, timeout_s=timeout_s, poll_s=0.05)
        if not self._serves() or not self.is_running:
            raise not_started(self.name, self.address, self.log)

    def _serves(self) -> bool:
        return f" serves {self.address}\n" in self.log

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask it to finish the requests in flight and end; kill it if it has not within `timeout_s`."""
        if self.is_running:
            self.container.stop(timeout=max(1, round(timeout_s)))
        self.kill()

    def kill(self) -> None:
        """End it at once, and remove it; its log stays readable here."""
        if self._last_words is None:
            self._last_words = self.log
            self.container.remove(force=True, v=True)


class ContainerLauncher:
    """Runs instances as containers of an engine; a ``with`` block ends and removes them all."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._started: list[RunningContainer] = []
        self._troubles: dict[Language, str] = {}
        self._images: dict[Path, str] = {}
        self._run = uuid.uuid4().hex[:8]  # images and containers of two launchers must not meet
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self, instance: Instance, environment: Mapping[str, str]) -> RunningContainer:
        """Start an instance; the first of a program makes its image.

        Raises:
            NotCompiled: its source has an error.
            MissingFeature: something that its image is made of is not on this machine.
        """
        with self._lock:
            program, note = languages.choose(instance.service.program, self._troubles)
            if program.source not in self._images:
                self._images[program.source] = self._load(program)
            container = self._client.containers.run(
                self._images[program.source],
                detach=True,
                name=f"{instance.name}-{self._run}-{len(self._started)}",
                environment=dict(environment),
                labels={LABEL: self._run, "service": instance.service.name},
                network_mode="host",
                user=_NOBODY,
                read_only=True,
                cap_drop=["ALL"],
            )
            running = RunningContainer(instance, environment["LISTEN"], container, program.language, note)
            self._started.append(running)
        return running

    def close(self) -> None:
        """End and remove all that was started here, and the images."""
        with self._lock:
            for running in self._started:
                if running.is_running:
                    running.container.kill("SIGTERM")  # to all, before any is waited for
            for running in self._started:
                running.stop()
            for name in self._images.values():
                self._client.images.remove(name, force=True)
            self._started, self._images = [], {}

    def _load(self, program: Program) -> str:
        """Give the engine an image of a program and return its name."""
        from cnlab.containers.engine import load_image  # Docker's SDK takes 0.2 s to import

        name = f"{_REPOSITORY}-{program.source.stem}:{self._run}"
        with tempfile.TemporaryDirectory(prefix="cnlab-image-") as directory:
            layout = Layout.create(Path(directory, "layout"))
            make_image(layout, program, name)
            load_image(self._client, layout, name)
        return name


def make_image(layout: Layout, program: Program, name: str) -> Image:
    """Make an image that runs a program: on nothing, on Node.js or on Python.

    Raises:
        NotCompiled: its source has an error.
        MissingFeature: something that the image is made of is not on this machine.
    """
    file = f"app/{program.source.name}"
    if program.language == "C":
        with tempfile.TemporaryDirectory(prefix="cnlab-cc-") as directory:
            binary = Path(directory, program.source.stem)
            languages.compile_program(program.source, binary, "-static")
            return _image(layout, name, [{"app/service": File(binary, 0o755)}], ["/app/service"])
    if program.language == "JavaScript":
        return _image(layout, name, [_node(), _sources(program, "*.js")], ["/usr/bin/node", f"/{file}"])
    base = base_images.python(layout)
    own = base_images.write_layer(layout, _sources(program, "*.py"))
    config = {**base.config.get("config", {}), "Entrypoint": ["python3", "-B", f"/{file}"], "Cmd": None}
    return new_image(layout, layers=[*base.layers, own], config=config, name=name)


def _image(layout: Layout, name: str, trees: list[Tree], entrypoint: list[str]) -> Image:
    layers = [base_images.write_layer(layout, tree) for tree in trees]
    return new_image(layout, layers=layers, config={"Entrypoint": entrypoint}, name=name)


def _sources(program: Program, pattern: str) -> Tree:
    """Return a team's directory: a program and what it shares with its neighbours."""
    return {f"app/{path.name}": File(path) for path in sorted(program.source.parent.glob(pattern))}


def _node() -> Tree:
    """Return Node.js: the program, its linker and libraries, and the parts that Debian keeps beside it."""
    program = host.find_program("node")
    assert program is not None, "languages.trouble has said so before"
    libraries = elf.libraries([program])
    found = elf.read_elf(program)
    linker = found.interpreter if found else ""
    tree: dict[str, Any] = {"usr/bin/node": File(program.resolve(), 0o755), "tmp": 0o1777}
    tree |= {
        f"usr/lib/{name}": File(path, 0o755) for name, path in libraries.items() if name != Path(linker).name
    }
    if linker:
        tree[linker.lstrip("/")] = File(Path(linker).resolve(), 0o755)
    for part in _OF_NODE:
        root = Path("/usr/share/nodejs", part)
        tree |= {str(path).lstrip("/"): File(path) for path in sorted(root.rglob("*")) if path.is_file()}
    return tree
