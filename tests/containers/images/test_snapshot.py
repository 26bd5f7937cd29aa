import gzip
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tarball
from private_kernel import in_private_kernel
from student import Student
from tarball import directory, file, symlink
from tree import facts

from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER_GZIP
from cnlab.containers.images.image import new_image, unpack
from cnlab.containers.images.layer import Layer, diff_id_of
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.overlay import is_opaque, is_whiteout
from cnlab.containers.images.snapshot import SnapshotStore, temporary_store
from cnlab.errors import InvalidImage, InvalidValue, MissingFeature
from cnlab.linux.mounts import read_mountinfo

pytestmark = pytest.mark.needs_root


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "images")


@pytest.fixture
def store():
    with temporary_store() as store:
        yield store


def store_layer(layout, *members):
    archive = tarball.layer(*members, compress=gzip.compress)
    diff_id = diff_id_of(archive)
    archive.seek(0)
    return Layer(layout.add_blob(archive, MEDIA_TYPE_LAYER_GZIP), diff_id)


BASE = (
    directory(".", mode=0o711),
    file("etc/motd", b"hi"),
    file("etc/gone"),
    directory("tmp", mode=0o1777),
    file("cache/a"),
    file("usr/lib/libc"),
    symlink("lib", "usr/lib"),
    symlink("run-link", "/run"),
    directory("run"),
)
CHANGE = (
    file("etc/.wh.gone"),
    file("etc/motd", b"changed"),
    file("cache/.wh..wh..opq"),
    file("cache/b"),
    file("lib/through"),
    file("run-link/pid"),
    file("tmp/x"),
)


@pytest.fixture
def image(layout):
    return new_image(layout, layers=[store_layer(layout, *BASE), store_layer(layout, *CHANGE)])


def mounts_below(path):
    return [mount.mount_point for mount in read_mountinfo() if mount.mount_point.startswith(str(path))]


def test_snapshot_shows_what_unpacking_makes(store, image, tmp_path):
    """The same image by two ways: layers stacked by the kernel, and applied one after the other."""
    rootfs = unpack(image, tmp_path / "rootfs")
    with store.mounted(image) as snapshot:
        shown, root = facts(snapshot), os.stat(snapshot)

    assert shown == facts(rootfs)
    assert stat.S_IMODE(root.st_mode) == stat.S_IMODE(rootfs.stat().st_mode) == 0o711


def test_layer_is_kept_as_overlayfs_wants_it(store, image):
    """Devices 0/0 for whiteouts, and only what changed: that is why images share space."""
    top, bottom = store.prepare(image)

    assert [path.name for path in (bottom, top)] == [chain.split(":")[1] for chain in image.chain_ids]
    assert is_whiteout((top / "etc" / "gone").lstat())
    assert not (top / "usr" / "lib" / "libc").exists()
    assert (top / "usr" / "lib" / "through").exists()  # where the lower layer's link leads
    assert (top / "run" / "pid").exists()
    assert stat.S_IMODE((top / "tmp").stat().st_mode) == 0o1777  # not that of a directory made on the way
    assert facts(bottom)["etc/gone"]


def test_layer_is_unpacked_once_for_all_images(store, image, layout):
    """The chain ID is its name; a second image on the same base costs its own layer."""
    before = [path.stat().st_ino for path in store.prepare(image)]
    child = new_image(layout, layers=[*image.layers, store_layer(layout, file("new"))])
    after = [path.stat().st_ino for path in store.prepare(child)]

    assert after[1:] == before


def test_same_layer_on_another_base_is_another_file_system(store, image, layout):
    """A whiteout of what one base has is nothing on the other; hence chain IDs, not diff IDs."""
    other = new_image(layout, layers=[store_layer(layout, file("x")), image.layers[1]])
    top, _ = store.prepare(other)

    assert top not in store.prepare(image)
    assert not os.path.lexists(top / "etc" / "gone")


def test_what_a_container_writes_is_its_own(store, image):
    """Copy on write: neither the layers nor the neighbour see it."""
    with store.mounted(image) as one, store.mounted(image) as two:
        (one.rootfs / "etc" / "motd").write_text("mine")
        (one.rootfs / "etc" / "new").touch()

        assert (two.rootfs / "etc" / "motd").read_text() == "changed"
        assert not (two.rootfs / "etc" / "new").exists()
        assert sorted(os.listdir(one.upper / "etc")) == ["motd", "new"]
    with store.mounted(image) as three:
        assert (three.rootfs / "etc" / "motd").read_text() == "changed"


def test_commit_makes_a_layer_that_makes_the_same_file_system(store, image, layout, tmp_path):
    """What ``docker commit`` and each step of a build do."""
    with store.mounted(image) as snapshot:
        (snapshot.rootfs / "etc" / "motd").unlink()
        (snapshot.rootfs / "etc" / "new").write_text("new")
        (snapshot.rootfs / "cache" / "b").unlink()
        (snapshot.rootfs / "cache").rmdir()
        (snapshot.rootfs / "cache").mkdir()
        layer = snapshot.commit(layout)
        shown = facts(snapshot)
        assert is_opaque(str(snapshot.upper / "cache"))
    child = new_image(layout, layers=[*image.layers, layer])
    with store.mounted(child) as snapshot:
        again = facts(snapshot)

    assert facts(unpack(child, tmp_path / "rootfs")) == again == shown


def test_nothing_stays_mounted_when_the_block_fails(store, image):
    """An exception must not cost a mount that only root can remove."""

    def fail():
        with store.mounted(image) as snapshot:
            assert mounts_below(store.path) == [str(snapshot.rootfs)]
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        fail()
    assert mounts_below(store.path) == []
    assert list((store.path / "active").iterdir()) == []


def test_readonly_snapshot_refuses_writes(store, image):
    """Also with a single layer, where overlayfs wants two directories."""
    single = new_image(image.layout, layers=image.layers[:1])
    for each in (single, image):
        with store.mounted(each, readonly=True) as snapshot:
            assert snapshot.upper is None
            with pytest.raises(OSError, match="Read-only file system"):
                (snapshot.rootfs / "new").touch()
            with pytest.raises(InvalidValue, match="is read-only"):
                snapshot.commit(image.layout)


def test_image_without_layers_is_an_empty_directory(store, layout):
    """FROM scratch."""
    with store.mounted(new_image(layout)) as snapshot:
        assert os.listdir(snapshot) == []
        (snapshot.rootfs / "x").touch()


def test_image_of_sixty_layers_is_mounted(store, layout):
    """The kernel takes one page of options; sixty paths are longer."""
    layers = [store_layer(layout, file(f"f{number}"), file("last", b"%d" % number)) for number in range(60)]
    with store.mounted(new_image(layout, layers=layers)) as snapshot:
        assert len(os.listdir(snapshot)) == 61
        assert (snapshot.rootfs / "last").read_bytes() == b"59"
        assert len(":".join(map(str, snapshot.lowers))) > 4096


def test_refused_layer_leaves_nothing_and_the_layers_below_stay(store, image, layout):
    """The next try must not take half a layer for a whole one."""
    bad = new_image(layout, layers=[*image.layers, store_layer(layout, file("x"), file("../y"))])
    with pytest.raises(InvalidImage, match="leads out"), store.mounted(bad):
        pytest.fail("a hostile image was mounted")

    assert len(list((store.path / "layers").iterdir())) == 2
    assert list((store.path / "active").iterdir()) == []
    assert mounts_below(store.path) == []


def test_what_a_killed_process_has_left_is_swept_away(store, image):
    """SIGKILL runs no with-block; the next one who opens the store does."""
    code = """
import sys, time
from cnlab.containers.images.image import open_image
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import SnapshotStore
with SnapshotStore(sys.argv[1]).mounted(open_image(Layout(sys.argv[2]), sys.argv[3])) as snapshot:
    (snapshot.rootfs / "written").touch()
    print(snapshot.rootfs, flush=True)
    time.sleep(600)
"""
    image.layout.tag("x", image.manifest_descriptor)
    argv = [sys.executable, "-c", code, store.path, image.layout.path, "x"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        rootfs = process.stdout.readline().strip()
        SnapshotStore(store.path)
        while_it_lives = mounts_below(store.path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    after_its_death = mounts_below(store.path)
    SnapshotStore(store.path)

    assert while_it_lives == after_its_death == [rootfs]
    assert mounts_below(store.path) == []
    assert list((store.path / "active").iterdir()) == []


def test_prune_keeps_what_images_and_running_containers_need(store, image, layout):
    """Space comes back, and nobody loses the ground under his feet."""
    other = new_image(layout, layers=[store_layer(layout, file("big", bytes(100_000)))])
    third = new_image(layout, layers=[store_layer(layout, file("third"))])
    kept = store.prepare(image)
    store.prepare(other)
    with store.mounted(third) as snapshot:
        freed = store.prune([image])
        left = set((store.path / "layers").iterdir())

        assert left == {*kept, *snapshot.lowers}
        assert 100_000 <= freed < 200_000
    store.prune()
    assert list((store.path / "layers").iterdir()) == []


@pytest.mark.as_student
def test_machine_that_forbids_it_is_told_in_one_line():
    """An ordinary user mounts nothing; the hint says where it can be done."""
    with pytest.raises(MissingFeature) as caught, temporary_store():
        pytest.fail("an ordinary user has mounted an overlay")

    assert "cannot mount one below" in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "private kernel" in caught.value.hint


ELSEWHERE = (
    Path(tarball.__file__).read_text()
    + """
from cnlab.containers.images.image import new_image
from cnlab.containers.images.layer import Layer, diff_id_of, read_entries
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import temporary_store

layout = Layout.create("images")
layers = []
for members in (
    [file("etc/a", uid=5), file("etc/b"), char_device("dev/null", 1, 3), directory("d"), file("d/x")],
    [file("etc/.wh.a"), file("d/.wh..wh..opq"), file("d/y")],
):
    archive = layer(*members)
    diff_id = diff_id_of(archive)
    archive.seek(0)
    layers.append(Layer(layout.add_blob(archive, "application/vnd.oci.image.layer.v1.tar"), diff_id))
with temporary_store() as store, store.mounted(new_image(layout, layers=layers)) as snapshot:
    print(*sorted(path.relative_to(snapshot.rootfs).as_posix() for path in snapshot.rootfs.rglob("*")))
    (snapshot.rootfs / "etc" / "b").unlink()
    (snapshot.rootfs / "new").write_text("x")
    with layout.open_blob(snapshot.commit(layout).descriptor) as blob:
        print(*((entry.path, entry.kind, entry.uid) for entry in read_entries(blob)))
with open("/proc/self/mountinfo") as mounts:
    print(mounts.read().count("cnlab-snapshots"))
"""
)
COMMITTED = "('etc', 'directory', 0) ('etc/b', 'whiteout', 0) ('new', 'file', 0)"


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_root_of_a_user_namespace_has_snapshots_too():
    """Rootless: user.overlay attributes, no devices, and no owner but oneself."""
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", ELSEWHERE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["d d/y etc etc/b", COMMITTED, "0"]


@pytest.mark.needs_uml
def test_private_kernel_has_snapshots(student: Student):
    """Its root is an overlay itself, on which none may stand: another place has to be found."""
    assert in_private_kernel(student, ELSEWHERE).splitlines() == [
        "d d/y dev dev/null etc etc/b",
        COMMITTED,
        "0",
    ]
