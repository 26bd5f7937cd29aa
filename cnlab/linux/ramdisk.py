"""A block device made of memory, for those who need a disk that nobody misses.

The kernel's ``brd`` driver makes ``/dev/ram0``. To the block layer, and so to the io controller of cgroups,
it is a disk like any other, only very fast.

See: the kernel's guide "Using the RAM disk block device with Linux"; finit_module(2), delete_module(2).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnlab.errors import InvalidValue, MissingFeature
from cnlab.host import uml_modules_dir
from cnlab.linux import syscalls
from cnlab.linux.cgroup_files import parse_size

DRIVER = "brd"


@dataclass(frozen=True, slots=True)
class RamDisk:
    """A block device; `number` is its ``major:minor``, the key of io.max and io.stat."""

    path: Path
    number: str
    size_bytes: int


@contextlib.contextmanager
def ram_disk(size: int | str) -> Iterator[RamDisk]:
    """Make a RAM disk of `size` (bytes, or text such as "64M"), and give its memory back with the block.

    Pages are taken from the machine's memory as they are first written.

    Raises:
        MissingFeature: the kernel has no loadable RAM disk driver.
        OSError: the kernel refused to load it (EPERM: not root), or it is in use (EBUSY).
    """
    size_bytes = parse_size(size)
    if not size_bytes:
        raise InvalidValue(f"ram_disk({size!r}): a disk has a size; expected bytes or text like '64M'")
    with _loaded(f"rd_nr=1 rd_size={size_bytes // 1024}"):
        number = Path("/sys/block/ram0/dev").read_text().strip()
        yield RamDisk(Path("/dev/ram0"), number, size_bytes)


@contextlib.contextmanager
def _loaded(parameters: str) -> Iterator[None]:
    release = os.uname().release
    directories = filter(None, (Path("/lib/modules"), uml_modules_dir()))
    files = [file for directory in directories for file in (directory / release).rglob(f"{DRIVER}.ko")]
    if not files:
        raise MissingFeature("ramdisk", f"no {DRIVER}.ko among the modules of kernel {release}")
    with files[0].open("rb") as file:
        syscalls.finit_module(file.fileno(), parameters)
    try:
        yield
    finally:
        syscalls.delete_module(DRIVER)
