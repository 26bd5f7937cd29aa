"""A container at a glance, from made-up facts and from the live system."""

from dataclasses import replace

import pytest

from cnlab.linux.namespaces import spawn
from cnlab.linux.nsfs import Namespace
from cnlab.widgets.container_glance import Glance, container_glance, draw_glances, look_at

HOME = Glance(
    label="notebook",
    pid=1,
    namespaces={"pid": Namespace("pid", 1), "uts": Namespace("uts", 2)},
    root_outside=0,
    capabilities=frozenset({"CAP_CHOWN"}),
    seccomp="none",
    no_new_privs=False,
    processes=3,
    pids_max=None,
    memory_bytes=5 << 20,
    memory_max_bytes=None,
    cpus=None,
)
BOX = replace(
    HOME,
    label="web",
    namespaces={"pid": Namespace("pid", 7), "uts": Namespace("uts", 2)},
    root_outside=100000,
    capabilities=frozenset(),
    seccomp="filter",
    no_new_privs=True,
    processes=1,
    pids_max=20,
    memory_max_bytes=64 << 20,
    cpus=0.5,
)


def test_words_tell_what_is_its_own_and_what_it_may_do():
    """The picture's alternative text is all that some readers have."""
    expected = (
        "web: own namespaces pid; user 0 is user 100000, capabilities 0 of 41, seccomp filter, "
        "new privileges never, processes 1 of 20, memory 5 of 64 MiB, CPUs at most 0.5."
    )

    assert draw_glances([HOME, BOX]).alt.endswith(expected)


def test_each_column_has_a_box_for_each_namespace():
    (axes,) = draw_glances([HOME, BOX]).figure.axes
    words = [text.get_text() for text in axes.texts]

    assert 1 == words.count("own")
    assert 1 == words.count("shared")


def test_unknown_group_is_called_unknown():
    """Where cgroup v2 has no controllers there is nothing to read, and no limit is not the same."""
    rows = replace(HOME, processes=None, memory_bytes=None).rows()

    assert ("unknown", "unknown", "unknown") == (rows["processes"], rows["memory"], rows["CPUs"])


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_live_process_is_read_from_outside():
    """A user namespace of one's own, and out here still the same user."""
    import os

    with spawn(["sleep", "60"], new=("user", "uts")) as child:
        seen = look_at("child", child)
        told = container_glance({"us": None, "child": child}).alt

    assert seen.root_outside == os.getuid()
    assert "child: own namespaces user, uts" in told
