import contextlib
import os
import threading

import pytest

from cnlab.clock import wait_until
from cnlab.linux.namespaces import spawn
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink

from .conftest import OWN

pytestmark = pytest.mark.needs_root


def names(target=None):
    """The names of the links in a network namespace."""
    with Rtnetlink(target) as ip:
        return [link.name for link in ip.links()]


def test_new_namespace_holds_nothing_but_a_loopback_that_is_down():
    """Who expects 127.0.0.1 to answer there has to set it up."""
    with NetNs.create() as namespace, Rtnetlink(namespace) as ip:
        assert [(link.name, link.is_up) for link in ip.links()] == [("lo", False)]


def test_block_moves_the_thread_there_and_back():
    """Also if it ends by an exception: the notebook must not stay in a container's network."""
    before = os.readlink("/proc/thread-self/ns/net")
    with NetNs.create() as namespace, contextlib.suppress(ZeroDivisionError), inside(namespace):
        within = os.readlink("/proc/thread-self/ns/net")
        raise ZeroDivisionError

    assert within == f"net:[{namespace.inode}]"
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_other_threads_stay_where_they_are():
    """setns moves one thread; a server that runs beside keeps its network."""
    seen = []
    go, done = threading.Event(), threading.Event()

    def look() -> None:
        go.wait(10)
        seen.append(os.readlink("/proc/thread-self/ns/net"))
        done.set()

    before = os.readlink("/proc/thread-self/ns/net")
    other = threading.Thread(target=look)
    other.start()
    with NetNs.create() as namespace, inside(namespace):
        go.set()
        done.wait(10)
    other.join()

    assert seen == [before]


@pytest.mark.parametrize(
    "of", [lambda child: child, lambda child: child.pid, lambda c: f"/proc/{c.pid}/ns/net"]
)
def test_namespace_is_found_by_process_pid_or_path(of):
    """Each is what somebody has at hand: a child, a pid file, CNI_NETNS."""
    with spawn(["sleep", "60"], new=(*OWN, "net")) as child, NetNs.open(of(child)) as namespace:
        assert namespace.inode == child.namespaces["net"].inode


def test_namespace_of_a_process_that_has_ended_is_no_such_process(gone):
    """ENOENT for a path that nobody wrote would be puzzling."""
    with pytest.raises(ProcessLookupError, match=f"no process {gone}"):
        NetNs.open(gone)


def test_open_namespace_outlives_its_processes():
    """A descriptor is enough: that is how ``ip netns`` keeps its own."""
    with spawn(["sleep", "60"], new=(*OWN, "net")) as child:
        namespace = NetNs.open(child)
    with namespace:
        assert names(namespace) == ["lo"]


def test_links_end_with_the_last_who_uses_the_namespace():
    """Why a container's cable needs no cleaning up after its death."""
    with NetNs.create() as host, inside(host):
        with NetNs.create() as container, Rtnetlink() as ip:
            ip.add_veth("cable", peer="eth0", peer_netns=container)
        assert wait_until(lambda: names() == ["lo"], timeout_s=60)


def test_closing_twice_is_harmless():
    """A number that was closed may be somebody else's by now."""
    namespace = NetNs.current()
    namespace.close()
    namespace.close()

    assert namespace.fd == -1
