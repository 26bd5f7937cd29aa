"""Who watches files, as seen by whoever wrote them; what a real Envoy says is in `test_faults`."""

import pytest

from cnlab.mesh.data_plane.readers import Readers, versions
from cnlab.mesh.errors import ProgramEnded
from cnlab.mesh.pilot import files
from cnlab.mesh.pilot.resources import RDS, route_configuration
from cnlab.mesh.pilot.snapshot import Snapshot

OUTBOUND = "http.outbound.rds.outbound"


class Envoy:
    """Says what a test lets it say."""

    def __init__(self):
        self.log, self.has, self.rejected, self.is_running = "", {OUTBOUND: "old"}, 1, True

    def versions(self):
        if not self.is_running:
            raise ProgramEnded("front", "Envoy does not run")
        return self.has

    def stats(self, pattern):
        return {f"{OUTBOUND}.update_rejected": self.rejected}


@pytest.fixture
def written(tmp_path):
    """A directory with the files of a proxy."""
    files.write(tmp_path / "front", Snapshot.of("1", {RDS: [route_configuration("outbound", [])]}))
    return tmp_path


def test_proxy_that_has_the_versions_of_its_files_has_accepted_them(written):
    """Whatever it refused at another time."""
    envoy = Envoy()
    readers = Readers(written, {"front": envoy})
    envoy.has = versions(written / "front")

    assert OUTBOUND in envoy.has
    assert [] == readers.refusals(timeout_s=0)


def test_refusal_is_read_in_the_log(written):
    """Only in what was written since; Envoy's words may have many lines."""
    envoy = Envoy()
    envoy.log = "[1] Filesystem config update rejected: an old story\n"
    readers = Readers(written, {"front": envoy})
    envoy.rejected += 1
    envoy.log += "[2] Filesystem config update rejected: name {\n}\n: no\n[3] another matter\n"

    assert [{"node": "front", "type": "RDS", "error": "name {\n}\n: no", "resources": ["outbound"]}] == (
        readers.refusals(timeout_s=0)
    )


def test_who_does_not_read_is_named(written):
    """Neither yes nor no: the change is taken back, and whom to look at is said."""
    readers = Readers(written, {"front": Envoy()})

    with pytest.raises(TimeoutError, match="no answer within 0 s from front"):
        readers.refusals(timeout_s=0)


def test_who_ends_meanwhile_is_not_waited_for(written):
    """It has no say in a change."""
    envoy = Envoy()
    readers = Readers(written, {"front": envoy})
    envoy.is_running = False

    assert [] == readers.refusals(timeout_s=0)
