import os
import stat

import pytest

from cnlab.containers.build.files import Tree, copy, digest, make_directories, resolve
from cnlab.containers.build.ignore import Ignore
from cnlab.errors import InvalidValue

CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")  # struct vfs_cap_data, effective


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "context"
    for name in ("app/main.py", "app/lib/one.py", "app/lib/two.txt", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def rootfs(tmp_path):
    (tmp_path / "rootfs").mkdir()
    return tmp_path / "rootfs"


def select(context, *patterns, ignore=""):
    return Tree(context, "the context", Ignore.parse(ignore)).select(patterns)


def files_of(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def copied(context, rootfs, *patterns, to, **options):
    owner = (os.getuid(), os.getgid())
    copy(select(context, *patterns), rootfs, to, owner=owner, **options)
    return files_of(rootfs)


def test_file_takes_the_name_of_the_destination(context, rootfs):
    """``COPY README.md /docs`` makes a file called docs."""
    assert ["docs"] == copied(context, rootfs, "README.md", to="/docs")


def test_slash_at_the_end_makes_a_directory(context, rootfs):
    """``COPY README.md /docs/`` does not."""
    assert ["docs", "docs/README.md"] == copied(context, rootfs, "README.md", to="/docs/")


def test_file_goes_into_a_directory_that_is_there(context, rootfs):
    """As with cp(1)."""
    (rootfs / "docs").mkdir()

    assert ["docs", "docs/README.md"] == copied(context, rootfs, "README.md", to="/docs")


def test_of_a_directory_the_contents_are_copied(context, rootfs):
    """Not as with cp(1): the directory's own name is not there."""
    expected = ["srv", "srv/lib", "srv/lib/one.py", "srv/lib/two.txt", "srv/main.py"]

    assert expected == copied(context, rootfs, "app", to="/srv")


def test_pattern_matches_within_one_directory(context, rootfs):
    """And keeps only the last component of what it matches."""
    assert ["srv", "srv/one.py"] == copied(context, rootfs, "app/*/*.py", to="/srv/")


def test_several_files_need_a_directory(context, rootfs):
    """Or the last one would be all that is left."""
    with pytest.raises(InvalidValue, match="2 files need a directory as destination: /srv/"):
        copied(context, rootfs, "app/lib/*", to="/srv")


def test_hidden_file_is_not_copied(context, rootfs):
    """Nor hashed: what .dockerignore hides is not part of the context."""
    names = [source.target for source in select(context, ".", ignore="app/lib\n!app/lib/two.txt\n")]

    assert ["", "README.md", "app", "app/main.py", "app/lib/two.txt"] == names


def test_missing_file_is_told_with_its_reason(context):
    """The two are told apart: it is not there, or it is hidden."""
    with pytest.raises(InvalidValue, match=r"^the context has no no\.txt$"):
        select(context, "no.txt")
    with pytest.raises(InvalidValue, match=r"the context has no README\.md \(\.dockerignore hides it\)"):
        select(context, "README.md", ignore="*.md")


@pytest.mark.parametrize("pattern", ["../secret", "app/../../secret", "/../secret"])
def test_source_outside_of_the_context_is_refused(context, pattern):
    """A Dockerfile from a stranger must not read the files of who builds it."""
    (context.parent / "secret").write_text("secret")

    with pytest.raises(InvalidValue, match="leads out of the context"):
        select(context, pattern)


def test_link_out_of_the_context_leads_nowhere(context):
    """Neither as the source itself nor as a directory on the way."""
    (context / "passwd").symlink_to("/etc/passwd")
    (context / "etc").symlink_to("/etc")

    for pattern in ("passwd", "etc/passwd"):
        with pytest.raises(InvalidValue, match="a link that leads nowhere in the context"):
            select(context, pattern)


def test_link_in_a_directory_stays_a_link(context, rootfs):
    """What it means is decided in the container."""
    (context / "app/link").symlink_to("/etc/hostname")
    copied(context, rootfs, "app", to="/")

    assert "/etc/hostname" == os.readlink(rootfs / "link")


def test_destination_is_seen_from_within_the_root_file_system(context, rootfs, tmp_path):
    """An absolute link in an image means the image's files; followed from here it would overwrite ours."""
    (tmp_path / "outside").mkdir()
    (rootfs / "data").mkdir()
    (rootfs / "app").symlink_to("/data")
    (rootfs / "evil").symlink_to(f"../../../../../../../..{tmp_path}/outside")
    copied(context, rootfs, "README.md", to="/app/")
    with pytest.raises(InvalidValue, match="/evil is a link that leads nowhere"):
        copied(context, rootfs, "README.md", to="/evil/x/")

    assert (rootfs / "data/README.md").exists()
    assert [] == files_of(tmp_path / "outside")


def test_link_at_the_destination_is_replaced(context, rootfs, tmp_path):
    """To write through it would change the file that it points at."""
    (tmp_path / "outside").write_text("untouched")
    (rootfs / "file").symlink_to(tmp_path / "outside")
    copied(context, rootfs, "README.md", to="/file")

    assert ("untouched", "README.md") == ((tmp_path / "outside").read_text(), (rootfs / "file").read_text())


def test_file_in_the_way_of_a_directory_is_refused(context, rootfs):
    """Rather than removed."""
    (rootfs / "srv").write_text("")

    with pytest.raises(InvalidValue, match="/srv is no directory"):
        copied(context, rootfs, "README.md", to="/srv/a/")


def test_mode_and_time_are_kept(context, rootfs):
    """A program stays executable, and make(1) may compare times."""
    (context / "README.md").chmod(0o750)
    os.utime(context / "README.md", (1000, 1000))
    copied(context, rootfs, "README.md", to="/a")
    copied(context, rootfs, "README.md", to="/b", mode=0o600)

    found = [(rootfs / name).stat() for name in ("a", "b")]
    assert [(0o750, 1000), (0o600, 1000)] == [(stat.S_IMODE(s.st_mode), s.st_mtime) for s in found]


def test_set_user_id_bit_survives_the_change_of_owner(context, rootfs):
    """chown(2) takes it away, so it comes last."""
    (context / "README.md").chmod(0o4755)
    copied(context, rootfs, "README.md", to="/su")

    assert 0o4755 == stat.S_IMODE((rootfs / "su").stat().st_mode)


@pytest.mark.needs_root
def test_copy_from_an_image_keeps_what_a_program_needs(context, rootfs):
    """Owner, permissions, and the capability that lets ping(8) ping."""
    ping = context / "ping"
    ping.touch()
    os.chown(ping, 5, 6)
    ping.chmod(0o4711)
    os.setxattr(ping, "security.capability", CAP_NET_RAW)
    copy(select(context, "ping"), rootfs, "/ping")
    found = (rootfs / "ping").stat()

    assert (5, 6, 0o4711) == (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
    assert CAP_NET_RAW == os.getxattr(rootfs / "ping", "security.capability")


def test_socket_cannot_be_copied(context, rootfs):
    """It is a place to meet a process, which is not copied."""
    os.mkfifo(context / "pipe")

    with pytest.raises(InvalidValue, match="neither file, directory nor link"):
        copied(context, rootfs, "pipe", to="/")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "app/main.py").write_text("changed"),
        lambda root: (root / "app/main.py").chmod(0o755),
        lambda root: (root / "app/main.py").rename(root / "app/other.py"),
        lambda root: (root / "app/new").mkdir(),
        lambda root: (root / "app/link").symlink_to("a"),
    ],
)
def test_digest_tells_a_change(context, change):
    """Name, mode, content, kind: what the copy would differ in."""
    before = digest(select(context, "app"))
    change(context)

    assert before != digest(select(context, "app"))


def test_digest_does_not_know_times_or_places(context, tmp_path):
    """A fresh checkout, elsewhere and later, is the same source."""
    before = digest(select(context, "app"))
    os.utime(context / "app/main.py", (1, 1))
    moved = context.rename(tmp_path / "elsewhere")

    assert before == digest(select(moved, "app"))


def test_missing_directories_are_made_on_the_way(rootfs):
    """WORKDIR relies on it."""
    made = make_directories(rootfs, "/a/b/c")

    assert (rootfs / "a/b/c", 0o755) == (made, stat.S_IMODE(made.stat().st_mode))


def test_path_is_resolved_as_by_a_process_inside(rootfs):
    """``..`` ends at the root, and absolute links begin there."""
    (rootfs / "usr/bin").mkdir(parents=True)
    (rootfs / "bin").symlink_to("/usr/bin")

    assert rootfs / "usr/bin" == resolve(rootfs, "/../../bin")
