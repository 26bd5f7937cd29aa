import io
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from tree import facts

from cnlab.containers.images.changeset import writing_layer
from cnlab.containers.images.diff import Change, changes, diff, diff_upper, upper_changes
from cnlab.containers.images.layer import apply, diff_id_of, read_entries
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.ownership import Ownership
from cnlab.errors import InvalidImage
from cnlab.linux.idmaps import IdMap
from cnlab.linux.mounts import overlay_mount, tmpfs


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "images")


def build(root, files):
    """Make files from a dict of paths to text; a path that ends in a slash is a directory."""
    for name, text in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(text)
    return Path(root)


def copy(source, target):
    subprocess.run(["cp", "-a", source, target], check=True)
    return Path(target)


def entries(layout, layer):
    with layout.open_blob(layer.descriptor) as file:
        return list(read_entries(file))


def names(layout, layer):
    """The raw names in a layer, as GNU tar tells them."""
    with layout.open_blob(layer.descriptor) as file:
        said = subprocess.run(["tar", "-tzf", "-"], input=file.read(), capture_output=True, check=True)
    assert said.stderr == b""
    return said.stdout.decode().split()


@pytest.fixture
def lower(tmp_path):
    files = {
        "etc/motd": "hi",
        "etc/hosts": "localhost",
        "var/cache/a": "a",
        "var/cache/b": "b",
        "usr/bin/tool": "#!",
        "same": "same",
    }
    return build(tmp_path / "lower", files)


@pytest.fixture
def upper(lower, tmp_path):
    upper = copy(lower, tmp_path / "upper")
    (upper / "etc" / "motd").write_text("ho")
    (upper / "etc" / "hosts").unlink()
    shutil.rmtree(upper / "var" / "cache")
    (upper / "usr" / "bin" / "tool").chmod(0o755)
    build(upper, {"opt/app/main": "print()", "opt/empty/": ""})
    return upper


def test_changes_are_told_sorted_each_below_its_directory(lower, upper):
    """A directory that was deleted is one change, and so is one that holds changes."""
    assert changes(lower, upper) == [
        Change("modify", "etc"),
        Change("delete", "etc/hosts"),
        Change("modify", "etc/motd"),
        Change("add", "opt"),
        Change("add", "opt/app"),
        Change("add", "opt/app/main"),
        Change("add", "opt/empty"),
        Change("modify", "usr"),
        Change("modify", "usr/bin"),
        Change("modify", "usr/bin/tool"),
        Change("modify", "var"),
        Change("delete", "var/cache"),
    ]


def test_layer_of_a_diff_makes_one_tree_the_other(lower, upper, layout):
    """What matters in the end: the way there and the way back."""
    layer = diff(lower, upper, layout)
    with layout.open_blob(layer.descriptor) as file:
        apply(file, lower, diff_id=layer.diff_id)

    assert facts(lower) == facts(upper)


@pytest.mark.needs_root
def test_every_kind_of_file_survives(tmp_path, layout):
    """Owners, devices, links, attributes, odd names, long names, times before 1970."""
    source = build(tmp_path / "source", {"f": "x", "d/" + "n" * 200: "long", "grün": "", "sp ace": ""})
    os.link(source / "f", source / "d" / "hard")
    (source / "link").symlink_to("t" * 200)
    os.mkfifo(source / "pipe", 0o600)
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(source / "f", "user.note", b"\x00\xff")
    os.setxattr(source / "f", "security.capability", b"\x01\x00\x00\x02" + bytes(16))
    os.chown(source / "grün", 3_000_000, 70_000)
    (source / "d").chmod(0o3770)
    os.utime(source / "sp ace", (0, -86_400))
    (source / os.fsdecode(b"bytes\xff")).touch()
    layer = diff(None, source, layout)
    target = tmp_path / "target"
    target.mkdir()
    with layout.open_blob(layer.descriptor) as file:
        apply(file, target)

    assert facts(target) == facts(source)


def test_same_trees_give_the_same_bytes(lower, upper, tmp_path, layout):
    """Whoever made them, when, and in whatever order: that is what a digest is for."""
    first = diff(lower, upper, layout)
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(upper.rglob("*"), reverse=True):  # another order in the directories
        target = again / path.relative_to(upper)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True) if path.is_dir() else shutil.copy2(path, target)
    for path in sorted(upper.rglob("*"), reverse=True):
        shutil.copystat(path, again / path.relative_to(upper))

    assert diff(lower, again, layout) == first
    assert diff(lower, upper, Layout.create(tmp_path / "other")) == first


def test_compression_changes_the_digest_and_not_the_diff_id(lower, upper, layout):
    """The diff ID is the layer's, the digest the blob's."""
    layers = [diff(lower, upper, layout, compression=kind) for kind in ("none", "gzip", "zstd")]
    media_types = [layer.descriptor.media_type.rpartition("v1.")[2] for layer in layers]

    assert len({layer.diff_id for layer in layers}) == 1
    assert len({layer.descriptor.digest for layer in layers}) == 3
    assert media_types == ["tar", "tar+gzip", "tar+zstd"]
    assert layers[0].descriptor.digest == layers[0].diff_id
    with layout.open_blob(layers[2].descriptor) as file:
        assert diff_id_of(file) == layers[2].diff_id


def test_names_in_a_layer_are_those_of_the_specification(lower, upper, layout):
    """layer.md: paths without a leading "./", directories with a slash, whiteouts beside what they hide."""
    assert names(layout, diff(lower, upper, layout)) == [
        "etc/",
        "etc/.wh.hosts",
        "etc/motd",
        "opt/",
        "opt/app/",
        "opt/app/main",
        "opt/empty/",
        "usr/",
        "usr/bin/",
        "usr/bin/tool",
        "var/",
        "var/.wh.cache",
    ]


def test_trees_that_are_equal_give_an_empty_layer(lower, tmp_path, layout):
    """As Docker has it: 1024 zeros, whose digest everybody knows."""
    layer = diff(lower, copy(lower, tmp_path / "copy"), layout)

    assert layer.diff_id == "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def test_other_bytes_of_the_same_size_and_time_are_found(lower, tmp_path):
    """Builds set all times to one value; only the bytes tell then."""
    upper = copy(lower, tmp_path / "upper")
    status = (upper / "same").stat()
    (upper / "same").write_text("SAME")
    os.utime(upper / "same", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert changes(lower, upper) == [Change("modify", "same")]


@pytest.mark.parametrize(("ns", "changed"), [(999, []), (2_000_000_000, [Change("modify", "same")])])
def test_time_counts_by_the_second(lower, tmp_path, ns, changed):
    """A layer keeps no more: what was unpacked from one must not look changed."""
    upper = copy(lower, tmp_path / "upper")
    for root, offset in ((lower, 0), (upper, ns)):
        os.utime(root / "same", ns=(0, 1_000_000_000_000_000_000 + offset))

    assert changes(lower, upper) == changed


def test_time_of_a_directory_does_not_count(lower, tmp_path):
    """A file that came and went has changed it."""
    upper = copy(lower, tmp_path / "upper")
    os.utime(upper / "etc", (1, 1))

    assert changes(lower, upper) == []


def test_extended_attribute_is_a_change(lower, tmp_path):
    """A capability makes a program of another kind."""
    upper = copy(lower, tmp_path / "upper")
    os.setxattr(upper / "same", "user.note", b"new")
    os.setxattr(upper / "etc", "user.note", b"new")

    assert changes(lower, upper) == [Change("modify", "etc"), Change("modify", "same")]


@pytest.mark.parametrize("turned", [False, True], ids=["file to directory", "directory to file"])
def test_change_of_kind_needs_no_whiteout(tmp_path, layout, turned):
    """The new file takes the old one's place when the layer is applied."""
    file, directory = build(tmp_path / "a", {"x": "file"}), build(tmp_path / "b", {"x/y/z": "deep"})
    lower, upper = (directory, file) if turned else (file, directory)
    layer = diff(lower, upper, layout)
    with layout.open_blob(layer.descriptor) as archive:
        apply(archive, lower)

    assert not any(".wh." in name for name in names(layout, layer))
    assert facts(lower) == facts(upper)


def test_younger_files_are_clamped_and_older_ones_kept(tmp_path, layout):
    """SOURCE_DATE_EPOCH: what the build has made gets its time, what it has copied keeps its own."""
    root = build(tmp_path / "root", {"old": "", "new": ""})
    os.utime(root / "old", (1000, 1000))
    layer = diff(None, root, layout, clamp_mtime=2000)

    assert {entry.path: entry.mtime for entry in entries(layout, layer)} == {"old": 1000, "new": 2000}


def test_hard_links_are_stored_once(tmp_path, layout):
    """The first in order has the bytes."""
    root = build(tmp_path / "root", {"b": "x" * 5000})
    os.link(root / "b", root / "a")
    os.link(root / "b", root / "c")
    layer = diff(None, root, layout)

    assert [(entry.path, entry.kind, entry.target) for entry in entries(layout, layer)] == [
        ("a", "file", ""),
        ("b", "link", "a"),
        ("c", "link", "a"),
    ]


def test_new_hard_link_to_an_unchanged_file_brings_the_bytes(lower, tmp_path, layout):
    """A layer does not refer to files of other layers: who reads it alone must understand it."""
    upper = copy(lower, tmp_path / "upper")
    os.link(upper / "same", upper / "alias")
    found = entries(layout, diff(lower, upper, layout))

    assert [(entry.path, entry.kind, entry.size) for entry in found] == [("alias", "file", 4)]


def test_socket_is_left_out(tmp_path, layout):
    """tar has no type for it, and the program that listened is gone."""
    root = build(tmp_path / "root", {"f": ""})
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "s"))

        assert names(layout, diff(None, root, layout)) == ["f"]


def test_file_whose_name_would_be_a_whiteout_is_refused(tmp_path, layout):
    """To store it would delete another file; nothing is stored instead."""
    root = build(tmp_path / "root", {"d/.wh.x": ""})

    with pytest.raises(InvalidImage, match=r"d/\.wh\.x: a layer cannot hold"):
        diff(None, root, layout)
    assert layout.digests() == set()


def test_owners_are_the_images_not_the_disks(tmp_path, layout):
    """The way back of an unpacking for a user namespace."""
    root = build(tmp_path / "root", {"f": ""})
    maps = [IdMap(0, os.getuid(), 1)], [IdMap(5, os.getgid(), 1)]
    (entry,) = entries(layout, diff(None, root, layout, uid_map=maps[0], gid_map=maps[1]))

    assert (entry.uid, entry.gid) == (0, 5)


@pytest.mark.as_student
def test_files_of_an_ordinary_user_are_roots_in_the_image():
    """They were root's before they were unpacked, and nobody else can use the image."""
    layout, root = Layout.create("images"), build(Path("root"), {"f": ""})
    (entry,) = entries(layout, diff(None, root, layout))

    assert (os.getuid() != 0, entry.uid, entry.gid) == (True, 0, 0)


def test_file_shorter_than_it_claims_is_noticed(layout):
    """What follows would be read as garbage. Files in /sys all claim a page, and hold less."""
    with (
        pytest.raises(InvalidImage, match="/sys/kernel/uevent_seqnum became shorter"),
        writing_layer(layout, "gzip", Ownership(None, None)) as writer,
    ):
        writer.add("/sys/kernel", "uevent_seqnum")
    assert layout.digests() == set()


def change_everything(root):
    """What overlayfs has a form of its own for."""
    (root / "etc" / "motd").write_text("changed")
    (root / "etc" / "hosts").unlink()
    shutil.rmtree(root / "var" / "cache")
    shutil.rmtree(root / "usr")
    build(root, {"usr/bin/other": "new in a directory that was made anew", "opt/app/main": "x"})
    (root / "same").chmod(0o600)
    (root / "var").chmod(0o700)
    (root / "came").touch()
    (root / "came").unlink()
    (root / "etc" / "passwd").write_text("root")
    (root / "etc" / "passwd").rename(root / "etc" / "shadow")


def change_back(root):
    """Changes to changes."""
    build(root, {"usr/bin/tool": "is back", "var/cache/c": "c", "etc/hosts": "localhost"})
    (root / "etc" / "shadow").unlink()
    shutil.rmtree(root / "opt")


@pytest.mark.needs_root
@pytest.mark.parametrize("layers", [1, 2])
def test_upper_directory_of_an_overlay_is_the_diff_of_what_it_shows(lower, tmp_path, layout, layers):
    """Whiteouts and opaque directories are the kernel's words for what two trees show."""
    with tmpfs(_made(tmp_path / "tmpfs")) as place:
        lowers = [copy(lower, place / "lower")]
        before = copy(lower, place / "before")
        for number in range(layers):
            upper, work, merged = (_made(place / f"{kind}{number}") for kind in ("upper", "work", "on"))
            with overlay_mount(merged, lower=lowers, upper=upper, work=work):
                change_everything(merged) if number == 0 else change_back(merged)

                assert changes(before, merged) == upper_changes(upper, lowers=lowers)
                assert diff(before, merged, layout) == diff_upper(upper, layout, lowers=lowers)
                before = copy(merged, place / f"before{number}")
            lowers.insert(0, upper)


def _made(path):
    path.mkdir()
    return path


@pytest.mark.needs_root
def test_whiteout_of_the_kernel_becomes_one_of_the_specification(lower, tmp_path, layout):
    """A device 0/0 has no place in an image, and a directory made anew needs explicit whiteouts."""
    with tmpfs(_made(tmp_path / "tmpfs")) as place:
        upper, work, merged = (_made(place / kind) for kind in ("upper", "work", "merged"))
        with overlay_mount(merged, lower=[lower], upper=upper, work=work):
            (merged / "same").unlink()
            shutil.rmtree(merged / "var" / "cache")
            build(merged, {"var/cache/b": "b again"})
        device = (upper / "same").lstat()
        found = names(layout, diff_upper(upper, layout, lowers=[lower]))

    assert (device.st_mode & 0o170000, device.st_rdev) == (0o020000, 0)
    assert found == [".wh.same", "var/", "var/cache/", "var/cache/.wh.a", "var/cache/b"]


@pytest.mark.needs_root
def test_upper_directory_without_its_lowers_has_no_whiteouts_to_tell(tmp_path):
    """What it hides cannot be known; what it has can."""
    with tmpfs(_made(tmp_path / "tmpfs")) as place:
        build(place, {"a": "1"})
        os.mknod(place / "gone", 0o20000, os.makedev(0, 0))

        assert upper_changes(place) == [Change("add", "a")]


def test_layer_can_be_read_by_gnu_tar(lower, upper, layout, tmp_path):
    """The archive is plain tar; only whiteouts are the specification's own."""
    layer = diff(None, upper, layout, compression="none")
    target = _made(tmp_path / "target")
    with layout.open_blob(layer.descriptor) as file:
        subprocess.run(["tar", "-C", target, "-xpf", "-"], input=io.BytesIO(file.read()).read(), check=True)

    assert facts(target) == facts(upper)
