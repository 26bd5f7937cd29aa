import gzip
import io
import os
import stat
import subprocess
from pathlib import Path

import pytest
from tarball import char_device, directory, fifo, file, layer, link, symlink, with_xattrs
from tree import facts

from cnlab.containers.images.layer import Entry, apply, chain_id, chain_ids, diff_id_of, read_entries
from cnlab.errors import InvalidImage
from cnlab.linux.idmaps import IdMap


@pytest.fixture
def rootfs(tmp_path):
    (tmp_path / "rootfs").mkdir()
    return tmp_path / "rootfs"


def paths(root):
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob("*"))


@pytest.mark.needs_root
@pytest.mark.parametrize("options", [["-z"], ["--zstd"], ["--format=pax", "--xattrs"]], ids=" ".join)
def test_layer_unpacks_to_what_gnu_tar_makes_of_it(tmp_path, rootfs, options):
    """All kinds of files, with owners, permissions, times, devices and links, beside the real program."""
    source = tmp_path / "source"
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "e" / "file").write_bytes(os.urandom(3000))
    (source / "setuid").touch()
    (source / "setuid").chmod(0o4711)
    os.link(source / "setuid", source / "d" / "hard")
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "pipe")
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(source / "d", "user.note", b"kept")
    os.chown(source / "d" / "e", 1000, 2000)
    os.lchown(source / "link", 5, 6)
    (source / "d").chmod(0o1777)
    archive = subprocess.run(
        ["tar", "-C", source, *options, "-c", "."], capture_output=True, check=True
    ).stdout
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "-C", theirs, *options, "-xp"], input=archive, check=True)
    applied = apply(io.BytesIO(archive), rootfs)

    assert facts(rootfs) == facts(theirs)
    assert (applied.left_out, applied.entries) == ((), 9)


def test_whiteout_hides_a_file_of_a_lower_layer(rootfs):
    """layer.md, "Whiteouts": an empty file tells that another one is gone, and is not made itself."""
    apply(layer(file("etc/motd", b"hi"), file("etc/kept")), rootfs)
    apply(layer(file("etc/.wh.motd")), rootfs)

    assert paths(rootfs) == ["etc", "etc/kept"]


def test_whiteout_hides_a_directory_with_all_in_it(rootfs):
    """One marker for a whole tree."""
    apply(layer(file("var/cache/apt/a"), file("var/cache/b"), file("var/kept")), rootfs)
    apply(layer(file("var/.wh.cache")), rootfs)

    assert paths(rootfs) == ["var", "var/kept"]


@pytest.mark.parametrize("turned", [False, True], ids=["whiteout first", "whiteout last"])
def test_whiteout_spares_what_its_own_layer_brings(rootfs, turned):
    """The specification leaves the order open, and says that a layer hides only what is below it."""
    apply(layer(file("d/old"), file("d/sub/old"), file("f", b"old")), rootfs)
    members = [file(".wh.d"), file("d/new"), file("d/sub/new"), file(".wh.f"), file("f", b"new")]
    apply(layer(*(reversed(members) if turned else members)), rootfs)

    assert paths(rootfs) == ["d", "d/new", "d/sub", "d/sub/new", "f"]
    assert (rootfs / "f").read_bytes() == b"new"


@pytest.mark.parametrize("turned", [False, True], ids=["marker first", "marker last"])
def test_opaque_directory_shows_nothing_of_lower_layers(rootfs, turned):
    """layer.md, "Opaque Whiteout"."""
    apply(layer(file("bin/a"), file("bin/sub/b"), file("other")), rootfs)
    members = [file("bin/.wh..wh..opq"), file("bin/new"), file("bin/sub/new")]
    apply(layer(*(reversed(members) if turned else members)), rootfs)

    assert paths(rootfs) == ["bin", "bin/new", "bin/sub", "bin/sub/new", "other"]


def test_whiteout_of_what_was_never_there_does_nothing(rootfs):
    """A layer may be applied to another base than it was made from."""
    apply(layer(file("a/b/.wh.c"), file("x/.wh..wh..opq"), file(".wh.y")), rootfs)

    assert paths(rootfs) == []


def test_whiteout_of_a_link_leaves_what_it_points_at(rootfs):
    """It hides the name, not the file."""
    apply(layer(file("real"), symlink("alias", "real"), symlink("to-dir", "/")), rootfs)
    apply(layer(file(".wh.alias"), file(".wh.to-dir")), rootfs)

    assert paths(rootfs) == ["real"]


def test_books_of_aufs_are_ignored(rootfs):
    """Docker wrote them into layers for years; they are no whiteouts."""
    apply(
        layer(directory(".wh..wh.plnk"), file(".wh..wh.plnk/12.34"), file(".wh..wh.aufs"), file("x")), rootfs
    )

    assert paths(rootfs) == ["x"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (directory("x"), file("x", b"new")),
        (file("x"), directory("x")),
        (symlink("x", "/etc"), directory("x")),
        (symlink("x", "y"), file("x", b"new")),
        (file("x"), symlink("x", "y")),
        (directory("x"), symlink("x", "y")),
        (file("x"), fifo("x")),
    ],
)
def test_file_of_another_kind_takes_the_place_of_the_old_one(rootfs, before, after):
    """layer.md, "Modifications": the old one is removed first, a link is not followed."""
    apply(layer(before, file("y", b"untouched")), rootfs)
    if before[0].isdir():
        apply(layer(file("x/inside")), rootfs)
    apply(layer(after), rootfs)
    alone = rootfs.parent / "alone"
    alone.mkdir()
    apply(layer(after), alone)

    assert facts(rootfs)["x"] == facts(alone)["x"]
    assert (rootfs / "y").read_bytes() == b"untouched"
    assert paths(rootfs) == ["x", "y"]


def test_directory_that_is_there_keeps_its_files_and_gets_new_permissions(rootfs):
    """Else every layer that touches /etc would empty it."""
    apply(layer(directory("d", mode=0o755), file("d/kept")), rootfs)
    apply(layer(directory("d", mode=0o700, mtime=1_000_000_000)), rootfs)
    status = (rootfs / "d").stat()

    assert paths(rootfs) == ["d", "d/kept"]
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o700, 1_000_000_000)


def test_directory_has_its_time_although_files_came_later(rootfs):
    """To write a file into a directory changes the directory."""
    apply(layer(directory("d", mtime=1_000_000_000), file("d/late"), file("d/later")), rootfs)

    assert (rootfs / "d").stat().st_mtime == 1_000_000_000


def test_root_directory_itself_has_permissions_too(rootfs):
    """Most archives begin with it."""
    apply(layer(directory("./", mode=0o711, mtime=1_000_000_000), file("./x")), rootfs)
    status = rootfs.stat()

    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o711, 1_000_000_000)


def test_hard_link_is_the_same_file(rootfs):
    """Also one to a lower layer's file."""
    apply(layer(file("a", b"shared"), link("b", "a"), link("sub/c", "./a")), rootfs)
    apply(layer(link("d", "/a")), rootfs)

    assert len({(rootfs / name).stat().st_ino for name in ("a", "b", "sub/c", "d")}) == 1


def test_replaced_file_is_a_new_one_and_its_hard_links_keep_the_old(rootfs):
    """Who writes into the old file changes it under every name, in a snapshot store for all images."""
    apply(layer(file("a", b"old"), link("b", "a")), rootfs)
    apply(layer(file("a", b"new")), rootfs)

    assert [(rootfs / name).read_bytes() for name in ("a", "b")] == [b"new", b"old"]


def test_later_member_of_the_same_name_wins(rootfs):
    """That is how tar appends."""
    apply(layer(file("a", b"first"), file("a", b"second"), directory("d"), file("d", b"now a file")), rootfs)

    assert (rootfs / "a").read_bytes() == b"second"
    assert (rootfs / "d").read_bytes() == b"now a file"


def test_extended_attributes_are_set_and_those_the_machine_refuses_are_told(rootfs):
    """Silence would lose a capability; to stop would lose the image."""
    member = with_xattrs(file("x"), {"user.note": "kept", "nosuch.namespace": "lost"})
    applied = apply(layer(member), rootfs)

    assert os.getxattr(rootfs / "x", "user.note") == b"kept"
    assert applied.left_out == ("x: nosuch.namespace",)


@pytest.mark.needs_root
def test_file_capabilities_survive_the_change_of_owner(rootfs):
    """chown(2) takes them away, so they come after it."""
    value = b"\x01\x00\x00\x02\x00\x20" + bytes(14)  # cap_net_raw+ep
    member = with_xattrs(file("ping", mode=0o755, uid=1, gid=1), {"security.capability": value.decode()})
    apply(layer(member), rootfs)

    assert os.getxattr(rootfs / "ping", "security.capability") == value


@pytest.mark.as_student
def test_everything_belongs_to_who_may_not_give_files_away():
    """Unpacking needs no root; who is nobody else in the image is not set-user-ID to them either."""
    members = [
        directory("d", mode=0o555, uid=5),
        file("d/f", b"x", uid=1000, gid=1000, mode=0o4755),
        file("su", uid=0, gid=42, mode=0o6755),
        symlink("d/l", "f", uid=7),
        file("secret", mode=0),
    ]
    root = Path.cwd() / "rootfs"
    root.mkdir()
    apply(layer(*members), root)
    apply(layer(file("d/more"), file("d/.wh.f")), root)  # d is read-only, for its owner too
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in root.rglob("*")}
    mode = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "su", "secret")}

    assert owners == {(os.getuid(), os.getgid())}
    assert mode == {"d": 0o555, "su": 0o4755, "secret": 0}
    assert sorted(os.listdir(root / "d")) == ["l", "more"]


@pytest.mark.as_student
def test_device_is_refused_to_who_may_not_make_one_or_left_out():
    """The kernel decides; the hint says what to do."""
    root = Path.cwd() / "rootfs"
    root.mkdir()
    with pytest.raises(PermissionError) as caught:
        apply(layer(char_device("dev/null", 1, 3)), root)
    applied = apply(layer(char_device("dev/null", 1, 3), file("x")), root, devices="skip")

    assert str(caught.value) == "[Errno 1] apply(dev/null): Operation not permitted"
    assert "devices='skip'" in caught.value.__notes__[0]
    assert applied.left_out == ("dev/null: device",)
    assert paths(root) == ["dev", "x"]


@pytest.mark.needs_root
def test_ids_are_shifted_for_a_user_namespace(rootfs):
    """What is root's inside must be somebody's outside who is not root."""
    maps = [IdMap(0, 100_000, 1000), IdMap(1000, 50, 1)]
    members = [file("r"), file("u", uid=1000, gid=1000), file("x", uid=7777, gid=3, mode=0o4755)]
    apply(layer(*members, file("made/above")), rootfs, uid_map=maps, gid_map=[IdMap(0, 200_000, 1001)])
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in rootfs.rglob("*")}

    assert owners == {
        "r": (100_000, 200_000),
        "u": (50, 201_000),
        "x": (0, 200_003),  # nobody's there, so the caller's own, and not set-user-ID to root
        "made": (100_000, 200_000),
        "above": (100_000, 200_000),
    }
    assert stat.S_IMODE((rootfs / "x").stat().st_mode) == 0o755


def test_layer_with_another_diff_id_is_refused(rootfs):
    """The config has signed for it."""
    data = layer(file("x")).getvalue()
    right = diff_id_of(io.BytesIO(gzip.compress(data)))

    assert apply(io.BytesIO(data), rootfs, diff_id=right).diff_id == right
    with pytest.raises(InvalidImage, match=f"layer has the diff ID {right}, not sha256:0"):
        apply(io.BytesIO(data), rootfs, diff_id="sha256:" + "0" * 64)


def test_bytes_behind_the_end_count_for_the_diff_id(rootfs):
    """GNU tar pads to ten kilobytes; the digest is of the file, not of its members."""
    data = layer(file("x")).getvalue() + bytes(100_000)
    said = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout.decode()

    assert apply(io.BytesIO(data), rootfs).diff_id == f"sha256:{said.split()[0]}"


def test_entries_tell_what_a_layer_holds():
    """For people and pictures; nothing is written."""
    members = layer(
        directory("etc", mtime=5),
        file("./etc/motd", b"hi", mode=0o600, uid=1, gid=2),
        symlink("etc/link", "motd"),
        link("etc/hard", "etc/motd"),
        file("etc/.wh.gone"),
        file("var/.wh..wh..opq"),
        char_device("dev/null", 1, 3),
        fifo("pipe"),
    )
    entries = list(read_entries(members))

    assert entries[0] == Entry("etc", "directory", 0o755, 0, 0, 0, 5)
    assert entries[1] == Entry("etc/motd", "file", 0o600, 1, 2, 2, 0)
    assert [(entry.path, entry.kind, entry.target) for entry in entries[2:]] == [
        ("etc/link", "symlink", "motd"),
        ("etc/hard", "link", "etc/motd"),
        ("etc/gone", "whiteout", ""),
        ("var", "opaque", ""),
        ("dev/null", "char", ""),
        ("pipe", "fifo", ""),
    ]


def test_chain_id_is_what_a_shell_computes_from_the_specification():
    """config.md: ChainID(L0|...|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))."""
    diff_ids = ["sha256:" + letter * 64 for letter in "abc"]
    script = """
chain=$1; shift
for diff_id in "$@"; do chain=sha256:$(printf '%s %s' "$chain" "$diff_id" | sha256sum | cut -d' ' -f1); done
printf %s "$chain"
"""
    said = subprocess.run(["sh", "-c", script, "sh", *diff_ids], capture_output=True, text=True, check=True)

    assert chain_id(diff_ids) == said.stdout
    assert chain_ids(diff_ids)[0] == diff_ids[0]
    assert chain_ids(diff_ids)[1] == chain_id(diff_ids[:2])
    assert chain_id([]) == ""
