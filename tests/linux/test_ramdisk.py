"""A block device made of memory."""

import pytest
from private_kernel import in_private_kernel

from cnlab.errors import InvalidValue
from cnlab.linux.ramdisk import ram_disk


@pytest.mark.parametrize("size", ["max", 0, "64X"])
def test_disk_needs_a_size(size):
    """Said before any driver is loaded."""
    with pytest.raises(InvalidValue), ram_disk(size):
        pass


@pytest.mark.needs_uml
def test_disk_is_a_block_device_of_the_size_asked_for_and_leaves_with_the_block(student):
    """Its memory must be free again for the next one, which may have another size."""
    code = """
import os
from cnlab.linux.ramdisk import ram_disk
for size in ("1M", "2M"):
    with ram_disk(size) as disk:
        info = os.stat(disk.path)
        with disk.path.open("rb") as file:
            print(disk.number == f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}", file.seek(0, 2))
print(os.path.exists("/sys/block/ram0"))
"""

    assert "True 1048576\nTrue 2097152\nFalse\n" == in_private_kernel(student, code)


@pytest.mark.needs_uml
def test_io_max_holds_a_writer_back(student):
    """The disk is fast, but to the io controller it is a disk: 2 MiB at 1 MiB a second take two seconds."""
    code = """
import time
from cnlab.linux.cgroups import Cgroup
from cnlab.linux.ramdisk import ram_disk
with ram_disk("4M") as disk, Cgroup("writer", io_max={disk.number: {"wbps": 1 << 20}}) as group:
    start = time.monotonic()
    group.run(["dd", "if=/dev/zero", f"of={disk.path}", "bs=1M", "count=2", "oflag=direct"], check=True)
    print(time.monotonic() - start > 1.5, group.io_stat()[disk.number]["wbytes"])
"""

    assert "True 2097152\n" == in_private_kernel(student, code)
