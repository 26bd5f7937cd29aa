import os

import pytest

from cnlab.errors import InvalidValue
from cnlab.linux.idmaps import IdMap, parse_id_map, read_gid_map, read_uid_map, write_gid_map, write_uid_map
from cnlab.linux.namespaces import spawn

pytestmark = pytest.mark.needs_userns


def test_map_file_has_three_columns_a_line():
    """Ids inside, ids outside, how many."""
    text = "         0     100000      65536\n     65536       1000          1\n"

    assert parse_id_map(text) == [IdMap(0, 100000, 65536), IdMap(65536, 1000)]


@pytest.mark.parametrize(("inside", "outside", "count"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_map_of_no_ids_is_refused(inside, outside, count):
    """The kernel would say no more than EINVAL."""
    with pytest.raises(InvalidValue, match="maps no ids"):
        IdMap(inside, outside, count)


def test_map_reads_differently_from_inside_and_outside():
    """The second column is in the ids of whoever reads the file."""
    with spawn(["cat", "/proc/self/uid_map"], new=("user",), capture=True) as child:
        assert child.stdout is not None
        seen_inside = parse_id_map(child.stdout.read())
    with spawn(["sleep", "60"], new=("user",)) as child:
        seen_outside = read_uid_map(child.pid)

    assert seen_outside == [IdMap(0, os.geteuid())]
    assert seen_inside == seen_outside, "the map's parent namespace is ours, and both look up to it"


def test_map_can_be_written_only_once():
    """Else a process could change who owns its files while it has them open."""
    with (
        spawn(["sleep", "60"], new=("user",)) as child,
        pytest.raises(PermissionError, match=rf"write\(/proc/{child.pid}/uid_map, '0 1000 1\\n'\)"),
    ):
        write_uid_map(child.pid, [IdMap(0, 1000)])


@pytest.mark.parametrize("read", [read_uid_map, read_gid_map])
def test_map_of_a_process_that_is_gone_cannot_be_read(gone, read):
    """FileNotFoundError would talk of a file that nobody asked for."""
    with pytest.raises(ProcessLookupError, match=f"no process {gone}; it may have ended"):
        read(gone)


def test_map_of_a_process_that_is_gone_is_refused(gone):
    """One line that says which file, and no traceback into ours."""
    with pytest.raises(FileNotFoundError, match=f"/proc/{gone}/"):
        write_gid_map(gone, [IdMap(0, 1000)])
