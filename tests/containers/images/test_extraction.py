"""Layers made by an enemy. Each is refused in one line, and what lies beside the rootfs stays as it was."""

import gzip
import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from tarball import char_device, directory, fifo, file, layer, link, symlink, with_xattrs
from tree import facts

from cnlab.containers.images.layer import Limits, apply
from cnlab.errors import InvalidImage

VICTIM = b"root:x:0:0"


@pytest.fixture
def place(tmp_path):
    """A rootfs with a lower layer in it, and a directory beside it that is none of the layer's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "passwd").write_bytes(VICTIM)
    (tmp_path / "rootfs" / "etc").mkdir(parents=True)
    (tmp_path / "rootfs" / "etc" / "passwd").write_bytes(b"inside")
    (tmp_path / "rootfs" / "lower-out").symlink_to(tmp_path / "outside")
    (tmp_path / "rootfs" / "lower-up").symlink_to("../outside")
    return tmp_path


def attack(place, *members, **options):
    """Apply a layer and return the one line that refuses it; check that nothing outside has changed."""
    before = facts(place / "outside")
    with pytest.raises(InvalidImage) as caught:
        apply(layer(*members), place / "rootfs", **options)
    assert facts(place / "outside") == before, "the layer has written outside of its root file system"
    assert sorted(os.listdir(place)) == ["outside", "rootfs"], "the layer has written beside its rootfs"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["../outside/new", "a/../../outside/new", "etc/../../outside/passwd", ".."])
def test_path_that_climbs_is_refused(place, name):
    """The oldest trick of all."""
    assert "'..' leads out of the root file system" in attack(place, file(name, b"evil"))
    assert "'..' leads out of the root file system" in attack(place, directory(name))


def test_absolute_path_lands_inside(place):
    """It is as every tool has it: the root is the root file system's."""
    target = place / "outside" / "passwd"
    apply(layer(file(str(target), b"evil")), place / "rootfs")

    assert target.read_bytes() == VICTIM
    assert (place / "rootfs" / str(target).lstrip("/")).read_bytes() == b"evil"


@pytest.mark.parametrize("through", ["lower-out", "lower-up"])
def test_link_of_a_lower_layer_that_leads_out_is_not_followed(place, through):
    """Two layers together: one lays the link, the other one walks through it."""
    for member in (
        file(f"{through}/passwd", b"evil"),
        file(f"{through}/new", b"evil"),
        directory(f"{through}/new"),
        fifo(f"{through}/new"),
        symlink(f"{through}/new", "x"),
        link(f"{through}/new", "etc/passwd"),
    ):
        assert "a link on this path leads out" in attack(place, member)


@pytest.mark.parametrize("through", ["lower-out", "lower-up"])
@pytest.mark.parametrize("marker", [".wh.passwd", ".wh..wh..opq"])
def test_whiteout_does_not_reach_through_a_link(place, through, marker):
    """What deletes can do as much harm as what writes."""
    before = facts(place / "outside")
    apply(layer(file(f"{through}/{marker}")), place / "rootfs")

    assert facts(place / "outside") == before


@pytest.mark.parametrize(
    "target", ["{outside}", "../outside", "etc/../../outside", "/etc", "/proc/self/root"]
)
def test_link_that_the_layer_itself_lays_is_not_followed_out(place, target):
    """No program that walks a tree writes such a layer, so nothing honest is lost."""
    target = target.format(outside=place / "outside")
    said = attack(place, symlink("evil", target), file("evil/passwd", b"evil"))

    assert "a link on this path leads out" in said
    assert (place / "rootfs" / "etc" / "passwd").read_bytes() == b"inside"


def test_chain_of_links_is_not_followed_out(place):
    """Each of them looks harmless."""
    members = [symlink("a", "b"), symlink("b", "c/.."), symlink("c", str(place / "outside"))]

    assert "leads out" in attack(place, *members, file("a/outside/passwd", b"evil"))


def test_directory_that_becomes_a_link_is_looked_up_anew(place):
    """A reader that remembers "d is a directory" writes through the link."""
    members = [directory("d"), file("d/a"), symlink("d", str(place / "outside")), file("d/passwd", b"evil")]

    assert "leads out" in attack(place, *members)


def test_directory_that_becomes_a_link_gets_no_permissions_by_it(place):
    """Permissions of directories come last, when the path may mean something else."""
    apply(layer(directory("d", mode=0o777), symlink("d", str(place / "outside"))), place / "rootfs")

    assert (place / "outside").stat().st_mode & 0o777 != 0o777


def test_file_is_not_written_through_a_link_of_its_name(place):
    """The link is replaced."""
    (place / "rootfs" / "passwd").symlink_to(place / "outside" / "passwd")
    apply(layer(file("passwd", b"mine")), place / "rootfs")

    assert (place / "outside" / "passwd").read_bytes() == VICTIM
    assert not (place / "rootfs" / "passwd").is_symlink()


def test_permissions_owner_and_times_do_not_follow_a_link(place):
    """A symbolic link with odd permissions must not change what it points at."""
    before = facts(place / "outside")
    target = str(place / "outside" / "passwd")
    apply(
        layer(symlink("l", target, mode=0o777, mtime=1, uid=os.getuid(), gid=os.getgid())), place / "rootfs"
    )

    assert facts(place / "outside") == before


@pytest.mark.parametrize("target", ["../outside/passwd", "etc/../../outside/passwd"])
def test_hard_link_that_climbs_is_refused(place, target):
    """A hard link out would give the container a host's file to write."""
    assert "'..' leads out" in attack(place, link("evil", target))


@pytest.mark.parametrize("target", ["lower-out/passwd", "lower-up/passwd"])
def test_hard_link_through_a_link_is_refused(place, target):
    """The same by way of a lower layer's link."""
    assert "which is not there" in attack(place, link("evil", target))
    said = attack(place, symlink("out", str(place / "outside")), link("evil", "out/passwd"))
    assert "leads out" in said


def test_hard_link_to_a_link_links_the_link(place):
    """It must not be followed to the file behind it."""
    apply(layer(symlink("l", str(place / "outside" / "passwd")), link("evil", "l")), place / "rootfs")

    assert (place / "rootfs" / "evil").is_symlink()
    assert (place / "outside" / "passwd").stat().st_nlink == 1


def test_file_written_over_a_hard_link_is_a_new_file(place):
    """CVE-2019-14271's cousin: link first, then write "the same" name."""
    apply(layer(link("b", "etc/passwd"), file("b", b"evil")), place / "rootfs")

    assert (place / "rootfs" / "etc" / "passwd").read_bytes() == b"inside"


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", "etc/.wh..", "etc/.wh...", ".wh.x/y", "etc/.wh.x/"]
)
def test_whiteout_of_no_file_is_refused(place, name):
    """``.wh...`` would delete the directory above."""
    member = directory(name) if name.endswith("/") else file(name)
    if name == "etc/.wh.x/":
        apply(layer(member), place / "rootfs")  # a whiteout, although an odd one
    else:
        assert "whiteout" in attack(place, member)
    assert (place / "rootfs" / "etc" / "passwd").exists()


@pytest.mark.parametrize("member", [file("."), symlink("/", "x"), link("./", "etc/passwd"), fifo("")])
def test_root_can_only_be_a_directory(place, member):
    """There is nothing else to put in its place."""
    assert "the root of a file system can only be a directory" in attack(place, member)


def test_hard_link_to_what_is_not_there_is_refused(place):
    """Also when the entry itself had to make room for the link."""
    assert "a hard link to 'no/where', which is not there" in attack(place, link("x", "no/where"))
    assert "a hard link to '', which is not there" in attack(place, link("x", ""))
    assert "which is not there" in attack(place, directory("d"), file("d/f"), link("d", "d/f"))


def test_sparse_file_larger_than_the_limit_is_refused_before_it_is_made(place):
    """Half an exabyte in five hundred bytes; even a hole takes time to read."""
    info = tarfile.TarInfo("huge")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 59)}

    assert "files of more than 17179869184 bytes" in attack(place, (info, b""))
    assert not (place / "rootfs" / "huge").exists()


def test_holes_of_many_files_add_up(place):
    """Each below the limit, all together far above."""
    members = []
    for number in range(5):
        info = tarfile.TarInfo(f"f{number}")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "1000000"}
        members.append((info, b""))

    assert "more than 3000000 bytes" in attack(place, *members, limits=Limits(unpacked_bytes=3_000_000))


def test_bomb_of_bytes_is_refused(place):
    """The archive is small only while it is compressed."""
    bomb = io.BytesIO(gzip.compress(layer(file("zeros", bytes(20 << 20))).getvalue()))
    with pytest.raises(InvalidImage, match="more than 100 times as many"):
        apply(bomb, place / "rootfs", limits=Limits(ratio_from_bytes=4 << 20))
    bomb.seek(0)
    with pytest.raises(InvalidImage, match="files of more than 10485760 bytes"):
        apply(bomb, place / "rootfs", limits=Limits(unpacked_bytes=10 << 20))


def test_bomb_of_entries_is_refused(place):
    """Files cost inodes, not bytes."""
    members = [file(f"f{number}") for number in range(20)]

    assert "more than 10 entries" in attack(place, *members, limits=Limits(entries=10))


def test_device_that_overlayfs_takes_for_a_whiteout_is_refused(place):
    """On an overlay it would delete what lower layers have, unseen by who reads the layer."""
    assert "device 0:0 would be a whiteout" in attack(place, char_device("etc", 0, 0))


def test_device_numbers_that_no_kernel_has_are_refused(place):
    """They would be cut to other devices' numbers."""
    assert "no device has the number 4096:3" in attack(place, char_device("x", 0x1000, 3))


@pytest.mark.parametrize(
    "name", ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.metacopy"]
)
def test_attributes_of_overlayfs_are_refused(place, name):
    """They tell a later mount to show other files than those that are there."""
    member = with_xattrs(directory("d"), {name: "/"})

    assert "belongs to overlayfs" in attack(place, member)


def test_owner_that_is_no_id_is_refused(place):
    """To chown(2), the largest number means "leave it": the file would stay root's."""
    assert "owner 4294967295:0 is no id" in attack(place, file("x", uid=0xFFFF_FFFF))


@pytest.mark.parametrize("mtime", ["999999999999999999", "-999999999999999999", "-0.000000001"])
def test_time_of_no_calendar_is_the_file_systems_problem(place, mtime):
    """It clamps what it cannot hold; nothing overflows on the way there."""
    info, content = file("x")
    info.pax_headers = {"mtime": mtime}
    apply(layer((info, content)), place / "rootfs")

    assert (place / "rootfs" / "x").exists()


def test_damaged_layer_is_refused(place):
    """Half an archive, and an archive of something else."""
    whole = layer(file("x", bytes(5000))).getvalue()
    for data in (whole[:3000], b"<html>404</html>" * 100):
        with pytest.raises(InvalidImage):
            apply(io.BytesIO(data), place / "rootfs")


def mutated(data, chance):
    """Change an archive in a few places and make the checksums of its headers right again."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data))
        block = at // 512 * 512
        change = chance.randrange(4)
        if change == 0:
            data[at] = chance.choice(b"0179 \0/.=\n\xff\x80")
        elif change == 1:
            data[block + 156 : block + 157] = bytes([chance.choice(b"01234567xgLKSVN")])
        elif change == 2:
            del data[at : at + chance.choice((1, 512, 1024))]
        else:
            data[at:at] = data[block : block + 512]
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


@pytest.mark.parametrize(
    "options", [["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.0"]]
)
def test_archive_changed_at_random_is_applied_or_refused(place, options):
    """What nobody thought of: no endless loop, no error of the interpreter's own, nothing outside."""
    source = place.parent / f"{place.name}-source"
    (source / "d").mkdir(parents=True)
    (source / "d" / ("n" * 150)).symlink_to("t" * 150)
    with (source / "sparse").open("wb") as sparse:
        sparse.seek(100_000)
        sparse.write(b"x")
    os.link(source / "sparse", source / "hard")
    archive = subprocess.run(
        ["tar", "-C", source, *options, "-S", "-c", "."], capture_output=True, check=True
    )
    chance = random.Random(1)
    before, outcomes = facts(place / "outside"), set()
    for number in range(150):
        target = place / "rootfs" / str(number)
        target.mkdir()
        try:
            apply(io.BytesIO(mutated(archive.stdout, chance)), target, limits=Limits(unpacked_bytes=1 << 20))
            outcomes.add("applied")
        except (InvalidImage, OSError):
            outcomes.add("refused")

    assert outcomes == {"applied", "refused"}
    assert facts(place / "outside") == before


def test_deep_path_is_refused_before_it_cannot_be_removed(place):
    """Who makes it has to remove it again, one call inside the other."""
    assert "no path that a file can have" in attack(place, file("d/" * 300 + "f"))


def test_error_of_the_kernel_names_the_entry(place):
    """Among ten thousand files, which one?"""
    with pytest.raises(OSError, match=r"apply\(etc/n+\): File name too long"):
        apply(layer(file("etc/" + "n" * 256)), place / "rootfs")


def test_lower_layer_is_reached_by_absolute_link_inside(place):
    """What the refusals must not break: Debian's /var/run -> /run."""
    (place / "rootfs" / "run").mkdir()
    (place / "rootfs" / "var").mkdir()
    (place / "rootfs" / "var" / "run").symlink_to("/run")
    apply(layer(file("var/run/app/pid", b"1")), place / "rootfs")

    assert (place / "rootfs" / "run" / "app" / "pid").read_bytes() == b"1"
    assert Path(place / "rootfs" / "var" / "run").is_symlink()
