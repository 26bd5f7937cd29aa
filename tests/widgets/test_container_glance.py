"""A container at a glance, from made-up facts and from the live system."""

import json
from dataclasses import replace

import pytest
from private_kernel import in_private_kernel
from student import Student

from cnlab.containers.bundle import DEFAULT_CAPABILITIES
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

GUEST = """
import json, tempfile
from dataclasses import asdict
from cnlab.containers.container import Container
from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout
from cnlab.linux.idmaps import IdMap
from cnlab.widgets.container_glance import container_glance, look_at

OPTIONS = {
    "plain": {},
    "limited": {"mem_limit": "32m", "pids_limit": 20, "nano_cpus": 500_000_000},
    "bare": {
        "cap_drop": ["ALL"],
        "cap_add": ["NET_BIND_SERVICE"],
        "security_opt": ["no-new-privileges", "seccomp=unconfined"],
        "id_map": [IdMap(0, 100_000, 65_536)],
    },
}
INSIDE = "cat /proc/1/status; cd /sys/fs/cgroup; grep . memory.max pids.max cpu.max"
image = base_images.busybox(Layout.create(tempfile.mkdtemp()))
told = {}
for name, options in OPTIONS.items():
    with Container(image, ["sleep", "1000"], **options) as container:
        seen = {key: value for key, value in asdict(look_at(name, container)).items() if key != "namespaces"}
        inside = container.exec_run(["sh", "-c", INSIDE]).output.decode()
        told[name] = seen, container_glance({"notebook": None, name: container}).alt, inside
print(json.dumps(told, default=sorted))
"""


@pytest.fixture(scope="module")
def told():
    """What there was to see of three containers: the glance, its words, and what each saw of itself."""
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST, timeout_s=100).splitlines()[-1])


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


@pytest.mark.needs_uml
def test_limits_of_a_container_are_those_it_was_given(told):
    """And those that the kernel shows in the container's own group."""
    seen, words, inside = told["limited"]

    assert (32 << 20, 20, 0.5) == (seen["memory_max_bytes"], seen["pids_max"], seen["cpus"])
    assert 0 < seen["memory_bytes"] <= seen["memory_max_bytes"]
    assert 1 == seen["processes"]
    assert ["memory.max:33554432", "pids.max:20", "cpu.max:50000 100000"] == inside.splitlines()[-3:]
    assert "processes 1 of 20" in words
    assert "CPUs at most 0.5" in words


@pytest.mark.needs_uml
def test_container_without_limits_has_none(told):
    """Nothing that another container was given, and not the notebook's."""
    seen, words, inside = told["plain"]

    assert (None, None, None) == (seen["memory_max_bytes"], seen["pids_max"], seen["cpus"])
    assert ["memory.max:max", "pids.max:max", "cpu.max:max 100000"] == inside.splitlines()[-3:]
    assert "CPUs no limit" in words


@pytest.mark.needs_uml
def test_capabilities_and_filter_of_a_container_are_the_usual_ones(told):
    """Root of a container has Docker's fourteen and a seccomp filter; its process 1 reads the same."""
    seen, words, inside = told["plain"]

    assert sorted(DEFAULT_CAPABILITIES) == seen["capabilities"]
    assert ("filter", False, 0) == (seen["seccomp"], seen["no_new_privs"], seen["root_outside"])
    assert "\nSeccomp:\t2\n" in inside
    assert "\nNoNewPrivs:\t0\n" in inside
    assert "own namespaces cgroup, ipc, mnt, net, pid, uts;" in words


@pytest.mark.needs_uml
def test_what_was_taken_from_a_container_is_not_shown(told):
    """One capability is left, no filter is there, and its root is somebody else outside."""
    seen, words, inside = told["bare"]

    assert ["CAP_NET_BIND_SERVICE"] == seen["capabilities"]
    assert ("none", True, 100_000) == (seen["seccomp"], seen["no_new_privs"], seen["root_outside"])
    assert f"\nCapEff:\t{1 << 10:016x}\n" in inside
    assert "\nSeccomp:\t0\n" in inside
    assert "\nNoNewPrivs:\t1\n" in inside
    assert "user 0 is user 100000, capabilities 1 of 41, seccomp none" in words
