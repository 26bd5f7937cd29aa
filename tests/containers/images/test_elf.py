import re
import subprocess
import sys
from pathlib import Path

from cnlab.containers.images.elf import libraries, parse_cache, parse_elf, read_elf
from cnlab.host import find_program

PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()

# from Debian 12, shortened: a second architecture is installed, and a name has two entries
CACHE = """568 libs found in cache `/etc/ld.so.cache'
\tlibz.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libz.so.1
\tlibz.so.1 (libc6) => /lib/i386-linux-gnu/libz.so.1
\tlibc.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /lib/x86_64-linux-gnu/libc.so.6
\tlibc.so.6 (libc6,x86-64, OS ABI: Linux 3.2.0) => /opt/old/libc.so.6
"""


def test_static_program_needs_nothing():
    """So busybox runs where there is no other file."""
    found = read_elf(find_program("busybox"))

    assert found is not None
    assert found.is_static


def test_dynamic_program_names_its_linker_and_libraries():
    """The kernel starts the linker, which looks for the rest; without either, execve(2) says ENOENT."""
    found = read_elf(PYTHON)

    assert found is not None
    assert Path(found.interpreter).exists()
    assert "libc.so.6" in found.needed


def test_libraries_are_those_that_ldd_finds():
    """ldd(1) asks the dynamic linker itself; a library that only it knows would be missing in the image."""
    said = subprocess.run(["ldd", PYTHON], capture_output=True, text=True, check=True).stdout
    asked = {Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", said)}

    assert asked == set(libraries([PYTHON]).values()) & asked


def test_script_is_no_elf_file():
    """A shebang line is read by the kernel as well, but names no libraries."""
    assert parse_elf(b"#!/bin/sh\n") is None


def test_first_library_of_our_architecture_counts():
    """That is the one that the dynamic linker would take."""
    found = parse_cache(CACHE)

    assert Path("/lib/x86_64-linux-gnu/libz.so.1") == found["libz.so.1"]
    assert Path("/lib/x86_64-linux-gnu/libc.so.6") == found["libc.so.6"]
