import io
import os
import subprocess
import tarfile

import pytest
import tarball

from cnlab.containers.images import tar
from cnlab.containers.images.tar import Member
from cnlab.containers.images.tar_reader import TarReader
from cnlab.errors import InvalidImage

LONG = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 200


def read(data, *, chunk_bytes=1000):
    """Return the members of an archive that arrives in odd pieces, and the bytes of each."""
    chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
    reader = TarReader(chunks)
    found = {}
    for member in reader:
        parts = [(0, member.stored)] if member.data is None else member.data
        content = bytearray(member.size if member.type in (tar.FILE, tar.SPARSE) else 0)
        for offset, length in parts:
            content[offset : offset + length] = b"".join(reader.read(length))
        found[os.fsdecode(member.name.rstrip(b"/"))] = (member, bytes(content))
    return found


def write(member, content=b""):
    return tar.header(member) + content + tar.padding(len(content)) + tar.END


def member(name=b"x", type=tar.FILE, **fields):
    return Member(name, type, **{"mode": 0o644, "uid": 0, "gid": 0, "size": 0, "mtime_ns": 0, **fields})


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Files of every kind that a format may get wrong."""
    root = tmp_path_factory.mktemp("tree")
    (root / LONG).parent.mkdir(parents=True)
    (root / LONG).write_bytes(b"long name")
    (root / "grün").write_bytes(b"not ASCII")
    (root / "empty").touch()
    (root / "block").write_bytes(bytes(range(256)) * 2)
    (root / "big").write_bytes(os.urandom(5000))
    with (root / "sparse").open("wb") as file:
        for number in range(30):
            file.seek(number * 100_000)
            file.write(b"%d" % number)
        file.truncate(4_000_000)
    (root / "to-long").symlink_to(LONG)
    os.link(root / "big", root / "hard")
    os.mkfifo(root / "pipe")
    os.utime(root / "empty", (1, 1_234_567_890.5))
    return root


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=gnu", "--sparse"],
        ["--format=pax"],
        ["--format=pax", "--sparse", "--sparse-version=0.0"],
        ["--format=pax", "--sparse", "--sparse-version=0.1"],
        ["--format=pax", "--sparse", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
def test_archive_of_gnu_tar_is_read_as_the_files_are(tree, options):
    """Layers come from many tools, and most of them speak one of GNU tar's dialects."""
    archive = subprocess.run(["tar", "-C", tree, *options, "-c", "."], capture_output=True, check=True)
    found = read(archive.stdout)

    for path in tree.rglob("*"):
        name, status = f"./{path.relative_to(tree)}", path.lstat()
        member, content = found.pop(name)
        assert (member.mode, member.uid, member.gid) == (
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
        )
        assert member.mtime_ns // 10**9 == status.st_mtime_ns // 10**9
        if member.type in (tar.FILE, tar.SPARSE):
            assert content == path.read_bytes(), name
        elif member.type == tar.SYMLINK:
            assert member.target.decode() == os.readlink(path)
    assert list(found) == ["."]


def test_hard_link_tells_its_target(tree):
    """Its bytes are in the archive once."""
    archive = subprocess.run(["tar", "-C", tree, "-c", "big", "hard"], capture_output=True, check=True)
    found = read(archive.stdout)

    assert (found["hard"][0].type, found["hard"][0].target, found["hard"][0].stored) == (tar.LINK, b"big", 0)


def test_archive_of_the_first_tars_is_read():
    """Version 7 knows no magic, and marks a directory by its slash."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("old"), io.BytesIO())
    data = bytearray(written.getvalue())
    data[0:5], data[156], data[257:265] = b"dir/\0", 0, bytes(8)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))

    assert read(bytes(data))["dir"][0].type == tar.DIRECTORY


def test_fractions_of_a_second_are_read_exactly():
    """Floating point would make 0.1 something else."""
    info, content = tarball.file("x")
    info.pax_headers = {"mtime": "1234567890.123456789"}

    assert read(tarball.layer((info, content)).getvalue())["x"][0].mtime_ns == 1_234_567_890_123_456_789


@pytest.mark.parametrize(
    "written",
    [
        member(b"short", mode=0o4755, uid=1000, gid=1000, mtime_ns=1_600_000_000 * 10**9),
        member(LONG.encode()),
        member(b"a" * 120 + b"/" + b"b" * 90),  # fits prefix and name
        member("grün".encode()),
        member(b"\xff\xfe"),
        member(b"\xff" * 300),
        member(uid=3_000_000, gid=3_000_000_000),
        member(mtime_ns=-5 * 10**9),
        member(mtime_ns=8**11 * 10**9),
        member(b"link", tar.SYMLINK, target=b"t" * 300),
        member(b"link", tar.LINK, target="grün".encode()),
        member(b"null", tar.CHAR, device=(1, 3)),
        member(b"d/", tar.DIRECTORY, mode=0o1777),
        member(xattrs={b"user.a": b"1\n2=3", b"security.capability": bytes(range(20))}),
    ],
    ids=range(14),
)
def test_header_is_read_back_by_us_and_by_python(written):
    """Numbers and names that do not fit go into pax records, and nothing else does."""
    ((ours, _),) = read(write(written)).values()
    with tarfile.open(fileobj=io.BytesIO(write(written))) as archive:
        theirs = archive.next()
        assert archive.next() is None

    assert ours == written
    assert os.fsencode(theirs.name) == written.name.rstrip(b"/")
    assert (theirs.uid, theirs.gid, theirs.mode) == (written.uid, written.gid, written.mode)
    assert int(theirs.mtime) == written.mtime_ns // 10**9
    assert os.fsencode(theirs.linkname) == written.target


def test_header_of_a_file_of_nine_gigabytes_tells_its_size():
    """Eleven octal digits end at eight; the record is one that other programs know."""
    with tarfile.open(fileobj=io.BytesIO(tar.header(member(size=9 << 30)))) as archive:
        assert archive.next().size == 9 << 30


def test_plain_file_takes_a_single_header():
    """No pax noise: what a header can say, it says alone."""
    assert len(tar.header(member(b"usr/bin/env", mode=0o755, mtime_ns=10**18))) == 512


def test_gnu_tar_accepts_what_we_write(tmp_path):
    """With its warnings as errors: an odd padding or a lone zero block would be told."""
    data = b"".join(
        tar.header(item) + content + tar.padding(len(content))
        for item, content in (
            (member(b"d/", tar.DIRECTORY, mode=0o755), b""),
            (member(b"d/" + b"n" * 200, size=5), b"hello"),
            (member(b"l", tar.SYMLINK, target=b"t" * 150), b""),
        )
    )
    done = subprocess.run(["tar", "-xv"], input=data + tar.END, cwd=tmp_path, capture_output=True, check=True)

    assert done.stderr == b""
    assert (tmp_path / "d" / ("n" * 200)).read_bytes() == b"hello"
    assert os.readlink(tmp_path / "l") == "t" * 150


def test_empty_archives_have_no_members():
    """Docker's empty layer is 1024 zeros; an interrupted tool writes nothing at all."""
    assert read(tar.END) == read(tar.END * 20) == read(b"") == {}


def broken(field, value, base=None):
    """A header with other bytes at one place, and the checksum that belongs to them."""
    data = bytearray(base or tar.header(member(size=0)))
    data[field : field + len(value)] = value
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def pax(records, kind=b"x", size=None):
    size = len(records) if size is None else size
    return tar.header(member(b"pax", kind, size=size)) + records + tar.padding(len(records))


SIZE, MODE, NAME, TYPE = 124, 100, 0, 156


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive at all" * 100, "no tar archive"),
        (b"x" * 100, "ends within a header"),
        (tar.header(member(size=1)), "ends within a member"),
        (tar.header(member(size=600)) + bytes(512), "ends within a member"),
        (broken(SIZE, b"-0000000001\0"), "no octal number"),
        (broken(SIZE, b"00000000008\0"), "no octal number"),
        (broken(SIZE, b"0x00000001_\0"), "no octal number"),
        (broken(SIZE, b"\xff" * 12), "a size of -1 bytes"),
        (broken(SIZE, b"\x80" + b"\xff" * 11), "out of all bounds"),
        (broken(TYPE, b"V"), "unknown type b'V'"),
        (
            tar.header(member()) + bytes(512) + tar.header(member()) + tar.END,
            "a block of zeros stands between",
        ),
        (pax(b"", size=3 << 19), "a header of 1573376 bytes"),
        (
            broken(TYPE, b"L", broken(SIZE, b"\x80" + b"\0" * 6 + b"\1" + b"\0" * 4)),
            "a header of 4294967808 bytes",
        ),
        (pax(b"x" * 1_000_000) * 3 + tar.header(member()), "malformed pax record"),
        (
            pax(b"11 a=" + b"b" * 5 + b"\n") * 10_000 + tar.header(member()),
            "a header of [0-9]* bytes; 1048576 are allowed",
        ),
        (pax(b"12 path=xxx\n") + tar.END, "after a header that announces a member"),
        (pax(b"13 path=xxx\n") + tar.header(member()), "malformed pax record"),
        (pax(b"-3 path=xxx\n") + tar.header(member()), "malformed pax record|is no number"),
        (pax(b"999999999999999999999 path=x\n") + tar.header(member()), "malformed pax record"),
        (pax(b"12 path=xxx ") + tar.header(member()), "malformed pax record"),
        (pax(b"3 \n") + tar.header(member()), "malformed pax record"),
        (pax(b"6 a=b\nno-blank=here\n") + tar.header(member()), "malformed pax record"),
        (pax(b"18 linkpath=a\0bc\n") + tar.header(member()), "malformed pax record"),
        (pax(b"22 SCHILY.xattr.a\0b=c\n") + tar.header(member()), "malformed pax record"),
        (pax(b"11 size=-1\n") + tar.header(member()), "is no number"),
        (pax(b"13 mtime=1e9\n") + tar.header(member()), "is no number"),
        (pax(b"13 mtime=nan\n") + tar.header(member()), "is no number"),
    ],
)
def test_damaged_or_hostile_archive_is_refused_in_one_line(data, message):
    """No loop, no recursion, no allocation by what a stranger wrote into a length."""
    with pytest.raises(InvalidImage, match=message):
        read(data)


def sparse(pairs, *, size, stored=0):
    """A sparse file of GNU's pax format 0.1."""
    text = b",".join(b"%d" % number for pair in pairs for number in pair)
    records = [(b"GNU.sparse.map", text), (b"GNU.sparse.size", b"%d" % size)]
    lines = b"".join(tar._pax_record(key, value) for key, value in records)
    return pax(lines) + tar.header(member(size=stored)) + bytes(stored) + tar.padding(stored) + tar.END


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sparse([(0, 100)], size=100, stored=50), "does not fit"),
        (sparse([(50, 100)], size=100, stored=100), "does not fit"),
        (sparse([(0, 10), (5, 10)], size=100, stored=20), "overlap"),
        (sparse([(1 << 63, 1)], size=1, stored=1), "is no number"),
        (sparse([(1 << 59, 1)], size=1, stored=1), "does not fit"),
        (pax(b"22 GNU.sparse.major=1\n") + tar.header(member(size=512)) + b"x\n".ljust(512), "is no number"),
        (
            pax(b"22 GNU.sparse.major=1\n")
            + tar.header(member(size=512))
            + b"99999999999\n".ljust(512, b"0")
            + tar.END,
            "more than 1048576 holes",
        ),
    ],
)
def test_hostile_map_of_a_sparse_file_is_refused(data, message):
    """It says where bytes go, and how many; neither may be taken on trust."""
    with pytest.raises(InvalidImage, match=message):
        read(data)


def test_sparse_file_that_claims_exabytes_is_not_made_of_them():
    """The reader tells the size; who writes the file has a limit."""
    reader = TarReader(iter([sparse([], size=1 << 59)]))
    (found,) = list(reader)

    assert (found.size, found.data) == (1 << 59, [])


def test_name_of_gnu_tar_ends_at_its_first_zero():
    """What stands behind it is not for the kernel, which would not take it."""
    names = pax(b"long\0rest", b"L") + pax(b"target\0rest", b"K")
    ((found, _),) = read(names + tar.header(member(b"x", tar.SYMLINK, target=b"t")) + tar.END).values()

    assert (found.name, found.target) == (b"long", b"target")


def test_link_that_claims_a_size_has_no_bytes():
    """Some tools repeat the target's size there; the bytes that follow are the next header."""
    lying = broken(SIZE, b"00000001000\0", tar.header(member(b"l", tar.LINK, target=b"t")))

    assert list(read(lying + tar.header(member(b"next")) + tar.END)) == ["l", "next"]
