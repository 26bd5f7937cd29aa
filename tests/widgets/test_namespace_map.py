"""The live map of processes and namespaces."""

import pytest

from cnlab.linux.namespaces import KINDS, Namespace, namespaces_of
from cnlab.linux.processes import Process
from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.namespace_map import (
    Box,
    NamespaceMap,
    below_notebook,
    boxes,
    colours,
    describe_namespaces,
    draw_namespaces,
)
from cnlab.widgets.picture import QUIET


def a_process(pid: int, *, uts: int, nspids: tuple[int, ...] = ()) -> Process:
    return Process(
        pid=pid,
        ppid=1,
        name="sleep",
        state="S",
        uid=0,
        gid=0,
        nspids=nspids or (pid,),
        cgroup="/",
        cmdline=("sleep", "9"),
        start_time_s=0,
        rss_bytes=0,
        namespaces={"uts": Namespace("uts", uts), "net": Namespace("net", 1)},
    )


ROW = [a_process(10, uts=100), a_process(11, uts=101, nspids=(11, 1)), a_process(12, uts=101)]


def test_neighbours_in_one_namespace_share_a_box():
    """Sharing is what the map is to show."""
    assert [Box(0, 1, Namespace("uts", 100)), Box(1, 2, Namespace("uts", 101))] == boxes(ROW, "uts")
    assert [Box(0, 3, Namespace("net", 1))] == boxes(ROW, "net")


def test_own_namespaces_are_quiet_and_new_ones_are_not():
    """Colour means: the notebook is not in there."""
    chosen = colours(ROW)

    assert chosen[Namespace("uts", 100)] == chosen[Namespace("net", 1)] == QUIET
    assert chosen[Namespace("uts", 101)] != QUIET


def test_process_that_does_not_tell_its_namespaces_gets_no_colour():
    """A zombie has left its namespaces; the map must draw the others all the same."""
    zombie = Process(13, 1, "sh", "Z", 0, 0, (13,), "/", (), 0, 0, {})

    assert boxes([ROW[0], zombie], "uts")[1] == Box(1, 1, None)
    assert draw_namespaces([ROW[0], zombie]).alt.endswith("sh (13) is apart in nothing.")


def test_alternative_text_names_the_kinds_that_differ():
    """The words say what the colours say."""
    assert "sleep (11) is apart in uts; sleep (12) is apart in uts." in describe_namespaces(ROW)


def test_map_shows_the_processes_it_started_until_it_closes():
    """The map is read from /proc, and what the block made is unmade by it."""
    with NamespaceMap() as live:
        pid = live.start()
        assert pid in [process.pid for process in below_notebook()]

    assert pid not in [process.pid for process in below_notebook()]


def children() -> dict[int, Process]:
    """What this test process has below itself now; some of it may be of tests before."""
    return {process.pid: process for process in below_notebook()[1:]}


@pytest.mark.needs_userns
def test_buttons_start_a_process_in_the_namespaces_chosen():
    """The control changes something real: the kernel makes those namespaces and no others."""
    with NamespaceMap() as live:
        chooser, buttons, _message, _image = live._live(live.picture()).children
        for toggle in chooser.children[1:]:
            toggle.value = toggle.description in ("user", "uts")
        before = children()
        buttons.children[0].click()
        [started] = [process for pid, process in children().items() if pid not in before]
        ours, theirs = namespaces_of(), started.namespaces

        assert {kind for kind in KINDS if ours.get(kind) != theirs.get(kind)} == {"user", "uts"}


def test_static_form_is_the_picture_with_its_words():
    """The book shows the map although no kernel runs there."""
    with NamespaceMap() as live:
        bundle = live._repr_mimebundle_()

    assert WIDGET_VIEW in bundle
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert bundle["text/plain"].startswith("Map of namespaces")


def test_closed_map_is_shown_as_it_is_and_still_works():
    """A notebook that ran to its end has closed the map; its reader begins to play only then."""
    with NamespaceMap() as live:
        live.start()
        _chooser, buttons, _message, image = live._live(live.picture()).children
        before = image.value
        live.close()
        assert image.value != before

        others = children()
        buttons.children[0].click()
        assert len(children().keys() - others.keys()) == 1
