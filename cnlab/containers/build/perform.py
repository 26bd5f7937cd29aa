"""Do one step: change a snapshot of the image so far, and make a layer of what changed."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cnlab.containers import bundle
from cnlab.containers.build import files
from cnlab.containers.build.cache import Entry
from cnlab.containers.build.errors import BuildError
from cnlab.containers.build.execute import execute
from cnlab.containers.build.image_config import Config, argument_vector, environment, workdir
from cnlab.containers.build.instructions import Copy, Instruction, Run, Workdir
from cnlab.containers.images.diff import upper_changes
from cnlab.containers.images.image import Image
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.snapshot import Snapshot, SnapshotStore

_OUTPUT_LINES = 20


@dataclass(frozen=True, slots=True)
class Performer:
    """Who does steps, on snapshots in a store."""

    store: Callable[[], SnapshotStore]  # called when a step has to be done at all
    context: files.Tree
    epoch: int | None  # no file is younger

    def perform(
        self,
        instruction: Instruction,
        image: Image,
        *,
        arguments: Mapping[str, str],
        source: Image | None = None,
    ) -> Entry:
        """Do an instruction on top of `image`.

        Args:
            instruction: with its variables resolved.
            image: the image so far.
            arguments: the ARGs so far, which RUN sees as variables.
            source: the image that COPY copies from; by default it is the context.
        """
        match instruction:
            case Run():
                return self._run(instruction, image, arguments)
            case Copy():
                return self._copy(instruction, image, source)
            case Workdir():
                with self.store().mounted(image) as snapshot:
                    files.make_directories(snapshot.rootfs, workdir(_config(image), instruction.path))
                    return Entry(self._commit(snapshot, image))
        return Entry(None)

    def _run(self, instruction: Run, image: Image, arguments: Mapping[str, str]) -> Entry:
        config = _config(image)
        with self.store().mounted(image) as snapshot:
            code, output = execute(
                snapshot.rootfs,
                argument_vector(instruction.command),
                env={**arguments, **environment(config)},
                cwd=workdir(config),
                user=config.get("User", ""),
            )
            if code:
                error = BuildError(f"exit code {code}")
                error.add_note("\n".join(output.splitlines()[-_OUTPUT_LINES:]))
                raise error
            return Entry(self._commit(snapshot, image), output)

    def _copy(self, instruction: Copy, image: Image, source: Image | None) -> Entry:
        with self._tree(source) as tree, self.store().mounted(image) as snapshot:
            owner = None if source else (0, 0)
            if instruction.chown:
                owner = _owner(instruction.chown, snapshot.rootfs)
            files.copy(
                tree.select(instruction.sources),
                snapshot.rootfs,
                os.path.join(workdir(_config(image)), instruction.destination),
                owner=owner,
                mode=int(instruction.chmod, 8) if instruction.chmod else None,
            )
            return Entry(self._commit(snapshot, image))

    @contextlib.contextmanager
    def _tree(self, source: Image | None) -> Iterator[files.Tree]:
        if source is None:
            yield self.context
            return
        with self.store().mounted(source, readonly=True) as snapshot:
            yield files.Tree(snapshot.rootfs, "the image that it copies from")

    def _commit(self, snapshot: Snapshot, image: Image) -> Layer | None:
        assert snapshot.upper is not None, "a step works on a writable snapshot"
        if not upper_changes(snapshot.upper, lowers=snapshot.lowers):
            return None
        return snapshot.commit(image.layout, clamp_mtime=self.epoch)


def _owner(chown: str, rootfs: Path) -> tuple[int, int]:
    """Return the ids of ``user[:group]``; a user alone means the group of the same number."""
    found = bundle.resolve_user(chown, rootfs)
    return found["uid"], found["gid"] if ":" in chown else found["uid"]


def _config(image: Image) -> Config:
    return image.config.get("config") or {}
