from dataclasses import replace

import pytest

from cnlab.containers.build.cache import Cache, Entry, first_key, next_key
from cnlab.containers.build.instructions import Cmd, Entrypoint, Run
from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER, digest_of
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout

RUN = Run(3, "RUN make", "make")
KEY = next_key(first_key("sha256:a"), RUN)


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "layout")


@pytest.fixture
def layer(layout):
    return Layer(layout.add_blob(b"layer", MEDIA_TYPE_LAYER), digest_of(b"layer"))


def test_place_in_the_file_does_not_count():
    """A comment above a step must not make it run again."""
    assert KEY == next_key(first_key("sha256:a"), replace(RUN, line=9, text="run   make"))


@pytest.mark.parametrize(
    "key",
    [
        next_key(first_key("sha256:b"), RUN),
        next_key(first_key("sha256:a", epoch=0), RUN),
        next_key(first_key("sha256:a"), replace(RUN, command="make all")),
        next_key(first_key("sha256:a"), replace(RUN, command=("make",))),
        next_key(first_key("sha256:a"), RUN, "A=1"),
        next_key(KEY, RUN),
    ],
)
def test_all_that_decides_is_in_the_key(key):
    """The base, the words, shell or not, what was copied or passed, and every step before."""
    assert KEY != key


def test_instructions_of_the_same_words_differ():
    """CMD a is not ENTRYPOINT a."""
    parent = first_key("x")

    assert next_key(parent, Cmd(1, "", "a")) != next_key(parent, Entrypoint(1, "", "a"))


def test_step_is_found_by_another_process(layout, layer):
    """The cache is on disk."""
    Cache(layout).remember(KEY, Entry(layer, "made\n"))

    assert Entry(layer, "made\n") == Cache(Layout(layout.path)).find(KEY)


def test_step_whose_layer_is_gone_is_not_found(layout, layer):
    """The layout may have collected its garbage."""
    Cache(layout).remember(KEY, Entry(layer))
    layout.collect_garbage()

    assert Cache(layout).find(KEY) is None


def test_step_without_a_layer_is_found(layout):
    """Those that change only the config have none."""
    Cache(layout).remember(KEY, Entry(None))

    assert Entry(None) == Cache(layout).find(KEY)


def test_file_that_was_damaged_is_as_if_it_were_not_there(layout):
    """A cache may be wrong about what it has, never about what it gives."""
    Cache(layout).remember(KEY, Entry(None))
    (layout.path / "build-cache" / KEY).write_text('{"layer": ')

    assert Cache(layout).find(KEY) is None


def test_cleared_cache_knows_nothing(layout):
    """And clearing an empty one is no error."""
    Cache(layout).remember(KEY, Entry(None))
    for _ in range(2):
        Cache(layout).clear()

    assert Cache(layout).find(KEY) is None
