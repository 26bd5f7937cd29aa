"""What the tests of `cnlab.linux` share: a look at what is left over, and a place to try things in."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from leftovers import control_groups

from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.namespaces import spawn

# An unprivileged user may do in a user namespace of its own what root may do anywhere.
OWN = () if os.geteuid() == 0 else ("user",)


def _what_there_is(temporary: str) -> dict[str, object]:
    """Look at what is ours; on the same machine other programs mount and make groups as they please."""
    roots = [mount.mount_point for mount in read_mountinfo() if mount.fs_type in ("cgroup", "cgroup2")]
    return {
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
        "mounts": [mount for mount in read_mountinfo() if mount.mount_point.startswith(temporary)],
        "files": len(os.listdir("/proc/self/fd")),
        "cgroups": [path for root in roots for path in control_groups(f"cnlab-test-{os.getpid()}*", root)],
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "hostname": os.uname().nodename,
    }


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test here leaves the machine as it found it: what is made is unmade, also after a failure."""
    temporary = str(tmp_path_factory.getbasetemp())
    before = _what_there_is(temporary)
    yield
    assert _what_there_is(temporary) == before


@pytest.fixture
def inside() -> Callable[..., str]:
    """Return a function that calls another one in new namespaces and returns what that printed."""

    def call(function: Callable[[], int | None], *, new: tuple[str, ...] = ("mnt",)) -> str:
        with spawn(function, new=(*OWN, *new), capture=True) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            printed, complaints = child.stdout.read(), child.stderr.read()
            assert child.wait(timeout_s=60) == 0, complaints
        return printed

    return call


@pytest.fixture
def gone() -> int:
    """Return the number of a process that has ended and been reaped."""
    with spawn(["true"]) as child:
        child.wait()
    return child.pid
