"""The process tree and its slider."""

import os

from cnlab.linux.processes import Process, processes
from cnlab.widgets.process_tree import ProcessTree, ancestors, descendants, describe_family


def a_process(pid: int, ppid: int, name: str = "sh", cmdline: tuple[str, ...] = ("sh",)) -> Process:
    return Process(
        pid=pid,
        ppid=ppid,
        name=name,
        state="S",
        uid=0,
        gid=0,
        nspids=(pid,),
        cgroup="/",
        cmdline=cmdline,
        start_time_s=0,
        rss_bytes=0,
        namespaces={},
    )


FAMILY = [
    a_process(1, 0, "init"),
    a_process(2, 0, "kthreadd", ()),
    a_process(5, 1, "python"),
    a_process(6, 5, "sh"),
    a_process(7, 1, "cron"),
    a_process(8, 6, "sleep"),
]


def children() -> set[int]:
    """The pids below this test process; some may be of tests before."""
    return {process.pid for _, process in descendants(processes(), os.getpid())[1:]}


def test_ancestors_lead_from_process_1():
    """The line of parents tells what the notebook runs under."""
    assert [process.pid for process in ancestors(FAMILY, 8)] == [1, 5, 6]


def test_descendants_stand_below_their_parents():
    """A tree is drawn top down."""
    assert [(depth, process.pid) for depth, process in descendants(FAMILY, 5)] == [(0, 5), (1, 6), (2, 8)]


def test_alternative_text_tells_the_line_and_what_is_below():
    """The words say what the picture draws."""
    expected = "Process tree. Parents of this notebook (5): init (1). Its 2 descendants: sh (6), sleep (8)."

    assert expected == describe_family(FAMILY, 5)


def test_slider_starts_and_ends_real_processes():
    """The control acts on the kernel: what it says is what /proc shows."""
    before = children()
    with ProcessTree() as tree:
        slider, _image = tree._live(tree.picture()).children
        slider.value = 3
        assert len(children() - before) == 3
        slider.value = 1
        assert len(children() - before) == 1


def test_leaving_the_block_leaves_no_process():
    """A notebook that ends leaves nothing behind."""
    before = children()
    with ProcessTree(2):
        assert len(children() - before) == 2

    assert not children() - before


def test_closed_tree_is_shown_as_it_is():
    """A picture of processes that have ended would be a lie."""
    with ProcessTree(2) as tree:
        slider, image = tree._live(tree.picture()).children
        before = image.value
        tree.close()

    assert slider.value == 0
    assert image.value != before
