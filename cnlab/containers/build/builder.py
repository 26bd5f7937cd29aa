"""Build an image: one step an instruction, one layer a step that changes files.

Interface: `build`. A step is looked up in the cache before it is done; a stage that the image does not need
is not built at all. RUN, COPY and WORKDIR work on a snapshot, which is an overlay mount, so they need
CAP_SYS_ADMIN: the private kernel, or root. A build whose steps are all in the cache needs nothing.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnlab.containers.build import files
from cnlab.containers.build.cache import Cache, first_key, next_key
from cnlab.containers.build.dockerfile import parse, resolve
from cnlab.containers.build.errors import BuildError
from cnlab.containers.build.ignore import Ignore
from cnlab.containers.build.image_config import Config, configured, environment
from cnlab.containers.build.instructions import Arg, Cmd, Copy, From, Instruction, Run
from cnlab.containers.build.perform import Performer
from cnlab.containers.build.stages import Stages
from cnlab.containers.images.image import Image, new_image, open_image
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import SnapshotStore, temporary_store
from cnlab.errors import InvalidImage, InvalidValue

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one instruction."""

    number: int  # from 1, over all stages that are built
    stage: str  # the stage's name, or its number
    text: str  # the instruction as it was written
    line: int
    is_cached: bool
    seconds: float
    layer_size: int = 0  # bytes as stored; 0 if no file changed; of FROM, all layers of the base
    diff_id: str = ""  # of the layer, if there is one
    output: str = ""  # what RUN said


@dataclass(frozen=True, slots=True)
class Build:
    """An image, and how it came to be."""

    image: Image
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """How long all steps took."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True)
class _State:
    """The image between two steps."""

    key: str
    layers: tuple[Layer, ...] = ()
    config: Config = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)  # the ARGs so far
    has_own_cmd: bool = False


def build(
    context: str | os.PathLike[str],
    layout: Layout,
    *,
    dockerfile: str = "Dockerfile",
    tag: str = "",
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    source_date_epoch: int | None = 0,
    store: SnapshotStore | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Build:
    r"""Build an image as a Dockerfile says.

    Args:
        context: the directory that COPY copies from, less what its ``.dockerignore`` hides.
        layout: where the image goes, where base images are, and beside which the cache is kept.
        dockerfile: a path in the context; or the text itself, which has a ``\n``.
        tag: the image's name in the layout.
        target: the stage to build; by default the last.
        build_args: values for ARG.
        no_cache: do every step.
        source_date_epoch: no time in the image is later than these seconds since 1970, so that the same input
            gives the same bytes; None: times are as they are.
        store: where layers are unpacked; by default a place for this build only.
        on_step: called with each step when it is done.

    Raises:
        DockerfileError: a line is not understood.
        BuildError: a step failed.
    """
    is_text = "\n" in dockerfile
    text = dockerfile if is_text else Path(context, dockerfile).read_text()
    build_args = dict(build_args or {})
    stages = Stages.of(parse(text, "Dockerfile" if is_text else dockerfile), build_args)
    with contextlib.ExitStack() as stack:
        own_store = functools.cache(lambda: stack.enter_context(temporary_store()))
        tree = files.Tree(Path(context).resolve(), "the context", Ignore.of(Path(context)))
        builder = _Builder(
            stages=stages,
            layout=layout,
            performer=Performer(own_store if store is None else lambda: store, tree, source_date_epoch),
            build_args=build_args,
            use_cache=not no_cache,
            created=int(time.time()) if source_date_epoch is None else source_date_epoch,
            on_step=on_step,
        )
        state = builder.build(stages.index(target) if target else len(stages.stages) - 1)
        return Build(builder.image(state, tag), tuple(builder.steps))


@dataclass(slots=True)
class _Builder:
    stages: Stages
    layout: Layout
    performer: Performer
    build_args: Mapping[str, str]
    use_cache: bool
    created: int  # seconds since 1970
    on_step: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)
    states: dict[int, _State] = field(default_factory=dict)

    def build(self, target: int) -> _State:
        """Build the stages that `target` needs, and it."""
        for number in self.stages.needed_for(target):
            stage = self.stages.stages[number]
            with self._failing_at(stage.base):
                state = self._begin(number, stage.base)
            for instruction in stage.instructions:
                with self._failing_at(instruction):
                    state = self._step(state, instruction, number)
            self.states[number] = state
        return self.states[target]

    def image(self, state: _State, tag: str = "") -> Image:
        """Store the image that a state is."""
        return new_image(
            self.layout,
            layers=state.layers,
            config=state.config,
            history=state.history,
            created=self.created,
            name=tag,
        )

    def _begin(self, number: int, base: From) -> _State:
        started = time.perf_counter()
        earlier = self.stages.find(base.image, before=number)
        if base.image == SCRATCH:
            state = _State(first_key(SCRATCH, self.performer.epoch))
        elif earlier is not None:
            state = replace(self.states[earlier], arguments={}, has_own_cmd=False)
        else:
            image = self._open(base.image)
            config = dict(image.config.get("config") or {})
            state = _State(first_key(image.digest, self.performer.epoch), image.layers, config, image.history)
        size = sum(layer.descriptor.size for layer in state.layers)
        self._report(number, base, started, is_cached=True, layer_size=size)
        return state

    def _open(self, name: str) -> Image:
        """Open an image of the layout; without a tag, ``latest`` is meant."""
        with_tag = f"{name}:latest"
        return open_image(self.layout, with_tag if with_tag in self.layout.tags() else name)

    def _step(self, state: _State, instruction: Instruction, stage: int) -> _State:
        started = time.perf_counter()
        resolved = resolve(instruction, {**state.arguments, **environment(state.config)})
        cache = Cache(self.layout)
        key = next_key(state.key, resolved, *self._what_else_decides(state, resolved, stage))
        found = cache.find(key) if self.use_cache else None
        entry = found or self.performer.perform(
            resolved,
            self.image(state),
            arguments=state.arguments,
            source=self._source(resolved, stage),
        )
        if found is None:
            cache.remember(key, entry)
        self._report(
            stage,
            instruction,
            started,
            is_cached=found is not None,
            layer_size=entry.layer.descriptor.size if entry.layer else 0,
            diff_id=entry.layer.diff_id if entry.layer else "",
            output=entry.output,
        )
        return self._after(state, key, resolved, entry.layer)

    def _after(self, state: _State, key: str, instruction: Instruction, layer: Layer | None) -> _State:
        created = datetime.fromtimestamp(self.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        note = {"created": created, "created_by": instruction.text}
        own = self._argument(instruction) if isinstance(instruction, Arg) else {}
        return _State(
            key,
            (*state.layers, layer) if layer else state.layers,
            configured(state.config, instruction, keep_cmd=state.has_own_cmd),
            (*state.history, note if layer else {**note, "empty_layer": True}),
            {**state.arguments, **own},
            state.has_own_cmd or isinstance(instruction, Cmd),
        )

    def _what_else_decides(self, state: _State, instruction: Instruction, stage: int) -> list[str]:
        """Return what a step's result depends on, apart from the image before it and its words."""
        match instruction:
            case Run():
                return [f"{name}={value}" for name, value in sorted(state.arguments.items())]
            case Copy(from_stage=""):
                return [files.digest(self.performer.context.select(instruction.sources))]
            case Copy(from_stage=name):
                earlier = self.stages.find(name, before=stage)
                return [self._open(name).digest if earlier is None else self.states[earlier].key]
        return []

    def _source(self, instruction: Instruction, stage: int) -> Image | None:
        """Return the image that a COPY copies from, if not from the context."""
        if not isinstance(instruction, Copy) or not instruction.from_stage:
            return None
        earlier = self.stages.find(instruction.from_stage, before=stage)
        return self._open(instruction.from_stage) if earlier is None else self.image(self.states[earlier])

    def _argument(self, instruction: Arg) -> dict[str, str]:
        """Return an ARG's value: the caller's, its own default, or that from before the first FROM."""
        name = instruction.name
        if name in self.build_args:
            return {name: self.build_args[name]}
        default = self.stages.arguments.get(name) if instruction.default is None else instruction.default
        return {} if default is None else {name: default}

    def _report(self, stage: int, instruction: Instruction, started: float, **outcome: Any) -> None:
        step = Step(
            number=len(self.steps) + 1,
            stage=self.stages.stages[stage].name or str(stage),
            text=instruction.text,
            line=instruction.line,
            seconds=time.perf_counter() - started,
            **outcome,
        )
        self.steps.append(step)
        self.on_step(step)

    @contextlib.contextmanager
    def _failing_at(self, instruction: Instruction) -> Iterator[None]:
        """Say of an error where in the Dockerfile it happened."""
        try:
            yield
        except (BuildError, InvalidImage, InvalidValue, OSError) as error:
            where = f"{self.stages.name}:{instruction.line}"
            reason = error.strerror if isinstance(error, OSError) and not error.filename else error
            said = BuildError(f"{where}: {instruction.text}: {reason}")
            for note in getattr(error, "__notes__", ()):
                said.add_note(note)
            raise said from error
