import errno
from pathlib import Path

import pytest

from cnlab import host
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import cgroup_tree
from cnlab.linux.cgroups import Cgroup, cgroup_of, controllers, root_of_cgroup2


@pytest.fixture
def hybrid(tmp_path) -> Path:
    """A directory like the version 2 tree of a hybrid host: version 1 has all but one controller."""
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    return tmp_path


def test_limit_without_its_controller_is_refused_and_nothing_is_made(hybrid):
    """On such a host mkdir and a write "succeed" and limit nothing."""
    with pytest.raises(MissingFeature) as caught, Cgroup("demo", parent=hybrid, memory_max="64M"):
        pass

    assert str(caught.value) == f"cgroup2: {hybrid} offers hugetlb, not memory"
    assert "version 1 holds that controller" in caught.value.__notes__[0]
    assert not (hybrid / "demo").exists()


def test_directory_that_is_no_cgroup_is_refused(tmp_path):
    """On a hybrid host /sys/fs/cgroup itself is a tmpfs, which takes any file."""
    with pytest.raises(MissingFeature, match=f"{tmp_path} is not in a cgroup v2 tree"):
        Cgroup("demo", parent=tmp_path, memory_max="64M").__enter__()

    assert list(tmp_path.iterdir()) == []


def test_write_never_makes_a_file(tmp_path):
    """What the kernel has not made limits nothing."""
    with pytest.raises(FileNotFoundError, match=r"write\(.*memory.max, '1'\): No such file"):
        cgroup_tree.write(tmp_path / "memory.max", "1")

    assert list(tmp_path.iterdir()) == []


def test_host_without_cgroup2_says_so(monkeypatch):
    """Early, and with the way out."""
    monkeypatch.setattr(host, "cgroup2_root", lambda: None)

    with pytest.raises(MissingFeature, match="cgroup2: no cgroup2 file system is mounted") as caught:
        root_of_cgroup2()

    assert "Cloud Native Lab" in caught.value.__notes__[0]


def test_controller_that_is_not_offered_is_told_when_its_file_is_read(hybrid):
    """`memory.current` is missing because nobody accounts, not because of a typing error."""
    (hybrid / "demo").mkdir()
    (hybrid / "demo/cgroup.controllers").write_text("")

    with pytest.raises(MissingFeature, match="demo offers no controller, not memory"):
        Cgroup("demo", parent=hybrid).read("memory.current")


def test_file_that_no_kernel_has_is_told_by_its_path(hybrid):
    """A typing error stays one."""
    (hybrid / "demo").mkdir()
    (hybrid / "demo/cgroup.controllers").write_text("")

    with pytest.raises(FileNotFoundError, match=r"read\(.*/demo/cgroup.speed\)"):
        Cgroup("demo", parent=hybrid).read("cgroup.speed")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb"])
def test_name_is_one_directory(name, hybrid):
    """`..` would be somebody else's group."""
    with pytest.raises(InvalidValue, match="is no name for a cgroup"):
        Cgroup(name, parent=hybrid)


def test_bad_limit_is_told_before_anything_is_looked_at(tmp_path):
    """The value is wrong on every machine."""
    with pytest.raises(InvalidValue, match="memory_max: '64X' is no size"):
        Cgroup("demo", parent=tmp_path, memory_max="64X")


def test_refusal_to_make_a_group_tells_what_to_do(hybrid):
    """Without root the kernel's "Permission denied" is only half of the answer."""
    (hybrid / "demo").mkdir()

    with pytest.raises(FileExistsError, match=r"mkdir\(.*/demo\): File exists") as caught:
        cgroup_tree.make(hybrid / "demo")

    assert caught.value.__notes__ == ["Hint: a group of that name exists; choose another name"]
    assert caught.value.errno == errno.EEXIST


@pytest.mark.needs_cgroup2
def test_tree_offers_what_the_host_probe_promises():
    """`host.require("cgroup2")` and a group must agree."""
    assert set(host.CGROUP2_CONTROLLERS) <= set(controllers(root_of_cgroup2()))


@pytest.mark.needs_cgroup2
def test_own_group_is_a_directory_of_the_tree():
    """/proc/self/cgroup names it from the root of the tree."""
    assert (cgroup_of() / "cgroup.procs").exists()
