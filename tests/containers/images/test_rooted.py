import ctypes
import os
import threading

import pytest

from cnlab.containers.images.paths import split
from cnlab.containers.images.rooted import RootedTree
from cnlab.errors import InvalidImage

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "usr" / "lib").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def tree(root):
    tree = RootedTree(root)
    yield tree
    tree.close()


def path_of(fd):
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"a/b", (b"a", b"b")),
        (b"./a//b/./c/", (b"a", b"b", b"c")),
        (b"/etc/passwd", (b"etc", b"passwd")),
        (b"./", ()),
        (b"...", (b"...",)),
    ],
)
def test_path_is_seen_from_the_root(path, names):
    """An absolute path in an archive means the root file system's, as every tool has it."""
    assert split(path) == names


@pytest.mark.parametrize("path", [b"..", b"../x", b"a/../../x", b"/..", b"a/..", b"a\0b", b"a/" * 257])
def test_path_that_climbs_or_cannot_be_is_refused(path):
    """Even where ``..`` would stay inside: what a link makes of it, nobody can tell beforehand."""
    with pytest.raises(InvalidImage):
        split(path)


def test_directory_is_found_or_made(tree, root):
    """Archives need not hold the directories of their files."""
    tree.directory((b"usr", b"share", b"doc"))

    assert (root / "usr/share/doc").is_dir()
    assert path_of(tree.directory((b"usr", b"lib"))) == str(root / "usr/lib")
    assert tree.find((b"no", b"such")) is None


def test_made_directory_has_its_permissions_whatever_the_umask(tree, root):
    """A careful user's umask must not make an image that nobody can enter."""
    before = os.umask(0o077)
    try:
        tree.directory((b"a", b"b"))
    finally:
        os.umask(before)

    assert [(root / path).stat().st_mode & 0o777 for path in ("a", "a/b")] == [0o755, 0o755]


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "../../../usr/lib"])
def test_link_of_a_lower_layer_leads_where_it_will_in_the_container(tree, root, target):
    """``/lib -> usr/lib`` and ``/var/run -> /run`` are in every Debian image."""
    (root / "lib").symlink_to(target)

    assert path_of(tree.directory((b"lib", b"x"))) == str(root / "usr/lib/x")


@pytest.mark.parametrize(
    "target", ["{outside}", "../outside", "/proc/self/root", "/proc/self/cwd", "/proc/1/root"]
)
def test_link_that_leads_out_is_refused(tree, root, target):
    """Also by way of /proc, whose links are no paths at all."""
    (root / "out").symlink_to(target.format(outside=root.parent / "outside"))

    with pytest.raises(InvalidImage, match=r"out(/x)?: a link on this path leads out"):
        tree.directory((b"out", b"x"))
    assert not list((root.parent / "outside").iterdir())


def test_link_that_goes_in_circles_is_refused(tree, root):
    """The kernel counts to forty."""
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    with pytest.raises(InvalidImage, match="circles"):
        tree.directory((b"a", b"x"))


def test_link_to_nothing_is_refused(tree, root):
    """To make the target would be to write where nobody has said a file goes."""
    (root / "a").symlink_to("nothing")

    with pytest.raises(InvalidImage, match="or nowhere"):
        tree.directory((b"a", b"x"))


def test_file_in_the_place_of_a_directory_is_refused(tree, root):
    """An archive that puts files below a file is broken."""
    (root / "a").write_text("a file")

    with pytest.raises(InvalidImage, match="no directory, but files go there"):
        tree.directory((b"a", b"b"))


def test_link_noted_as_an_escape_is_not_followed_even_inside(tree, root):
    """The layer that has just made ``etc-link -> /etc`` has no reason to write through it."""
    (root / "etc").mkdir()
    (root / "link").symlink_to("/etc")
    tree.note_link((b"link",), b"/etc")

    with pytest.raises(InvalidImage, match="leads out"):
        tree.directory((b"link",))


def test_remove_takes_a_whole_directory_and_no_link_with_it(tree, root):
    """A link in the tree may lead anywhere; what it leads to stays."""
    (root.parent / "outside" / "kept").touch()
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "link").symlink_to(root.parent / "outside")
    tree.remove((b"d",))
    tree.remove((b"never", b"was"))

    assert sorted(os.listdir(root)) == ["usr"]
    assert (root.parent / "outside" / "kept").exists()


def test_remove_keeps_what_it_is_told_to(tree, root):
    """A whiteout hides what lower layers have, not what its own layer has brought."""
    for path in ("d/old", "d/new", "d/sub/old", "d/sub/new", "d/gone/old"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    kept = {(b"d",), (b"d", b"new"), (b"d", b"sub"), (b"d", b"sub", b"new")}
    tree.remove((b"d",), keep=kept)

    assert sorted(str(path.relative_to(root)) for path in (root / "d").rglob("*")) == [
        "d/new",
        "d/sub",
        "d/sub/new",
    ]


def test_descriptors_do_not_pile_up(tree):
    """A layer has more directories than a process may have files open."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        tree.directory((b"%d" % number,))

    assert len(os.listdir("/proc/self/fd")) - before <= 64


def test_nobody_is_led_out_by_a_directory_that_turns_into_a_link(root):
    """The race that path checks lose: between the look and the step, the directory has become a link."""
    outside = root.parent / "outside"
    (root / "d").mkdir()
    (root / "link").symlink_to("../outside")
    is_over = threading.Event()
    renameat2 = ctypes.CDLL(None).renameat2
    names = [os.fsencode(root / name) for name in ("d", "link")]

    def swap():
        while not is_over.is_set():
            assert renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for number in range(5000):
            tree = RootedTree(root)
            try:
                fd = tree.directory((b"d",))
                os.close(os.open(b"%d" % number, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=fd))
                outcomes.add("written")
            except InvalidImage:
                outcomes.add("refused")
            finally:
                tree.close()
            if len(outcomes) == 2 and number > 500:
                break
    finally:
        is_over.set()
        swapper.join()

    assert list(outside.iterdir()) == []
    assert outcomes == {"written", "refused"}, "expected to meet the directory in both shapes"
