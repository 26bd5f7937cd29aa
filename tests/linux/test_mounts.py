import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from cnlab.linux import syscalls
from cnlab.linux.mounts import (
    Mount,
    bind_mount,
    make_private,
    overlay_mount,
    parse_mountinfo,
    pivot_root,
    proc_mount,
    read_mountinfo,
    tmpfs,
)

# From a laptop, shortened: a plain mount, two optional fields, names with blanks, an overlay, a bind mount.
CAPTURED = r"""22 27 0:20 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime shared:5 master:1 - ext3 /dev/root rw,errors=continue
95 27 8:17 / /media/my\040disk\134old ro,relatime shared:50 - vfat /dev/sdb1 rw,iocharset=ascii
451 27 0:60 / /merged rw,relatime - overlay overlay rw,lowerdir=/l\0542:/l1,upperdir=/u,workdir=/w
460 27 254:0 /etc/hosts /box/hosts rw unbindable - ext4 /dev/vda rw
"""


def test_line_is_read_column_by_column():
    """The columns are those of proc_pid_mountinfo(5)."""
    assert parse_mountinfo(CAPTURED)[1] == Mount(
        mount_id=36,
        parent_id=35,
        device="98:0",
        root="/mnt1",
        mount_point="/mnt2",
        options=("rw", "noatime"),
        propagation=("shared:5", "master:1"),
        fs_type="ext3",
        source="/dev/root",
        super_options=("rw", "errors=continue"),
    )


def test_any_number_of_optional_fields_is_read_past():
    """Zero or more tags stand before the lone hyphen, so later columns have no fixed index."""
    fields = [mount.propagation for mount in parse_mountinfo(CAPTURED)]

    assert fields == [(), ("shared:5", "master:1"), ("shared:50",), (), ("unbindable",)]
    assert [mount.fs_type for mount in parse_mountinfo(CAPTURED)] == [
        "proc",
        "ext3",
        "vfat",
        "overlay",
        "ext4",
    ]


def test_octal_escapes_are_undone():
    """A blank in a name would otherwise end the column."""
    assert parse_mountinfo(CAPTURED)[2].mount_point == r"/media/my disk\old"


def test_mount_point_may_be_a_hyphen():
    """The separator is looked for only where optional fields can be."""
    (mount,) = parse_mountinfo("1 0 0:1 / - rw - tmpfs - rw")

    assert (mount.mount_point, mount.fs_type, mount.source) == ("-", "tmpfs", "-")


def test_readonly_is_either_the_mount_or_its_file_system():
    """A read-only bind mount shows a file system that is writable elsewhere."""
    readonly = [mount.is_readonly for mount in parse_mountinfo(CAPTURED)]

    assert readonly == [False, False, True, False, False]


def test_empty_table_has_no_mounts():
    """As /proc/PID/mountinfo of a process that is just ending."""
    assert parse_mountinfo("") == []


def test_findmnt_reads_the_same_table():
    """util-linux decides."""
    with open("/proc/self/mountinfo") as table:  # as it is now: on the machine others mount as they please
        now = table.read()
    command = ["findmnt", "--tab-file=/dev/stdin", "--json", "--list", "--output", "TARGET,FSTYPE"]
    listing = subprocess.check_output(command, input=now, text=True)
    theirs = [(row["target"], row["fstype"]) for row in json.loads(listing)["filesystems"]]

    assert sorted(theirs) == sorted((mount.mount_point, mount.fs_type) for mount in parse_mountinfo(now))


def test_process_that_is_gone_has_no_mounts(gone):
    """An empty table would look like a process in an empty namespace."""
    with pytest.raises(ProcessLookupError, match=rf"read\(/proc/{gone}/mountinfo\): no process {gone}"):
        read_mountinfo(gone)


def _mount_points() -> list[str]:
    return [mount.mount_point for mount in read_mountinfo()]


@pytest.mark.needs_mntns
def test_bind_mount_shows_a_directory_at_a_second_place(inside, tmp_path):
    """And is gone after the block."""
    (source := tmp_path / "source").mkdir()
    (target := tmp_path / "target").mkdir()
    (source / "file").write_text("seen twice")

    def look() -> None:
        with bind_mount(source, target) as mounted:
            print((mounted / "file").read_text())
            assert str(target) in _mount_points()
        assert str(target) not in _mount_points()

    assert inside(look) == "seen twice\n"


@pytest.mark.needs_mntns
def test_readonly_bind_mount_refuses_writes(inside, tmp_path):
    """The flag is ignored by the mount call that binds; the result must not be writable by mistake."""
    (target := tmp_path / "target").mkdir()

    def write() -> None:
        with bind_mount(tmp_path, target, readonly=True):
            try:
                (target / "file").write_text("")
            except OSError as error:
                print(errno.errorcode[error.errno])

    assert inside(write) == "EROFS\n"


@pytest.mark.needs_mntns
def test_mount_is_undone_after_an_error(inside, tmp_path):
    """The block may end in any way."""

    def fail() -> None:
        try:
            with tmpfs(tmp_path):
                raise RuntimeError
        except RuntimeError:
            assert str(tmp_path) not in _mount_points()

    inside(fail)


@pytest.mark.needs_mntns
def test_mount_is_undone_while_somebody_is_in_it(inside, tmp_path):
    """EBUSY would leave it behind; it is detached at once and freed by the last who leaves."""

    def stay() -> None:
        with tmpfs(tmp_path):
            os.chdir(tmp_path)
        assert str(tmp_path) not in _mount_points()

    inside(stay)


@pytest.mark.needs_mntns
def test_tmpfs_holds_no_more_than_its_size(inside, tmp_path):
    """A full disk, made to measure."""

    def fill() -> None:
        with tmpfs(tmp_path, size_bytes=64 * 1024):
            try:
                (tmp_path / "file").write_bytes(bytes(1_000_000))
            except OSError as error:
                print(errno.errorcode[error.errno])

    assert inside(fill) == "ENOSPC\n"


@pytest.mark.needs_mntns
def test_proc_shows_the_pid_namespace_of_who_mounts_it(inside, tmp_path):
    """Mounted beside the old one, both can be compared."""

    def look() -> None:
        with proc_mount(tmp_path):
            print(sorted(filter(str.isdigit, os.listdir(tmp_path))))

    assert inside(look, new=("mnt", "pid")) == "['1']\n"


@pytest.mark.needs_mntns
def test_overlay_writes_to_its_upper_directory_only(inside, tmp_path):
    """The lower ones are the image, and many containers share them."""

    def write() -> None:
        with tmpfs(tmp_path):  # upper and work must be on a file system that can carry them
            lower, upper, work, merged = (tmp_path / name for name in ("a,b:c", "upper", "work", "merged"))
            for directory in (lower, upper, work, merged):
                directory.mkdir()
            (lower / "old").write_text("from below")
            with overlay_mount(merged, lower=[lower], upper=upper, work=work):
                (merged / "new").write_text("from above")
                print((merged / "old").read_text())
            print(os.listdir(lower), os.listdir(upper), os.listdir(merged))

    assert inside(write) == "from below\n['old'] ['new'] []\n"


@pytest.mark.needs_mntns
def test_overlay_without_an_upper_directory_is_readonly(inside, tmp_path):
    """The first of the lower directories is the topmost."""

    def look() -> None:
        with tmpfs(tmp_path):
            for name in ("top", "bottom", "merged"):
                (tmp_path / name).mkdir()
            (tmp_path / "top/file").write_text("top")
            (tmp_path / "bottom/file").write_text("bottom")
            lower = [tmp_path / "top", tmp_path / "bottom"]
            with overlay_mount(tmp_path / "merged", lower=lower) as merged:
                print((merged / "file").read_text())
                try:
                    (merged / "file").write_text("")
                except OSError as error:
                    print(errno.errorcode[error.errno])

    assert inside(look) == "top\nEROFS\n"


@pytest.mark.needs_mntns
def test_pivot_root_leaves_nothing_of_the_old_root(inside, tmp_path):
    """Also not for the escape that gets out of a chroot: chroot again, keep a directory open, climb."""

    def pivot_and_climb() -> None:
        with tmpfs(tmp_path):
            (tmp_path / "only").mkdir()
            pivot_root(tmp_path)
            print(os.listdir("/"), os.getcwd())
            os.chroot("only")
            for _ in range(20):
                os.chdir("..")
            os.chroot(".")
            print(os.listdir("/"))
            os._exit(0)

    assert inside(pivot_and_climb) == "['only'] /\n['only']\n"


@pytest.mark.needs_mntns
def test_pivot_root_takes_a_directory_that_is_no_mount_point(inside, tmp_path):
    """pivot_root(2) wants a mount point; the dance makes it one."""
    (tmp_path / "file").write_text("")

    def pivot() -> None:
        pivot_root(tmp_path)
        print(os.listdir("/"))

    assert inside(pivot) == "['file']\n"


@pytest.mark.needs_mntns
def test_chroot_alone_is_no_jail(inside, tmp_path):
    """The misconception that pivot_root is the answer to."""
    (tmp_path / "inner").mkdir()

    def escape() -> None:
        os.chroot(tmp_path)
        os.chdir("/")
        os.chroot("inner")
        for _ in range(20):
            os.chdir("..")
        os.chroot(".")
        print(Path("/proc/self/status").exists())

    assert inside(escape) == "True\n"


@pytest.mark.needs_mntns
def test_private_mounts_are_marked_in_no_way(inside, tmp_path):
    """Private is the absence of tags in mountinfo."""

    def share_and_make_private() -> None:
        with tmpfs(tmp_path):
            syscalls.mount("", tmp_path, flags=syscalls.MS_SHARED)
            print(bool(read_mountinfo()[-1].propagation))
            make_private("/")
            print(bool(read_mountinfo()[-1].propagation))

    assert inside(share_and_make_private) == "True\nFalse\n"
