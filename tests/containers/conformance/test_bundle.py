"""Runtime specification, bundle.md: "Filesystem Bundle"."""

import pytest

from cnlab.containers import runtime
from cnlab.containers.runtime.errors import InvalidConfig

pytestmark = pytest.mark.needs_root


def test_container_format_config_json_must_be_in_the_root_of_the_bundle(box):
    """“This REQUIRED file MUST reside in the root of the bundle directory and MUST be named config.json.”"""
    box.write()
    (box.bundle / "config.json").rename(box.bundle / "rootfs/config.json")

    with pytest.raises(InvalidConfig, match=r"config\.json: No such file"):
        runtime.create(box.id, str(box.bundle), root=box.root)


def test_container_format_root_filesystem_is_where_root_path_says(box):
    """“The directory referenced by root.path.”"""
    box.rootfs.rename(box.bundle / "elsewhere")
    box.config["root"]["path"] = "elsewhere"

    assert "busybox\n" in box.run("ls", "/bin")
