"""What a program needs before its first instruction: the dynamic linker and the shared libraries it names.

A static program, such as busybox, needs nothing: it runs in an empty root file system. All others need what
is found here, or execve(2) says ENOENT of a program that is plainly there.

See: elf(5), ld.so(8), ldconfig(8).
"""

import os
import re
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cnlab.errors import MissingFeature
from cnlab.host import find_program

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_EHDR = struct.Struct("<16xHHIQQQIHHHHHH")  # Elf64_Ehdr: e_phoff is field 4, e_phentsize 8, e_phnum 9
_PHDR = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr, see _Segment
_DYN = struct.Struct("<qQ")  # Elf64_Dyn: d_tag d_val


@dataclass(frozen=True, slots=True)
class Elf:
    """What an ELF file asks for."""

    interpreter: str  # the dynamic linker, such as /lib64/ld-linux-x86-64.so.2; empty: none
    needed: tuple[str, ...]  # names of libraries, such as libc.so.6
    run_path: tuple[str, ...]  # directories to look in first; $ORIGIN is the file's own

    @property
    def is_static(self) -> bool:
        """Whether it runs alone."""
        return not self.interpreter and not self.needed


def parse_elf(data: bytes) -> Elf | None:
    """Read the program headers and the dynamic section of a 64-bit little-endian ELF file; None: not one."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    header = _EHDR.unpack_from(data)
    first, size, count = header[4], header[8], header[9]
    segments = [_Segment(*_PHDR.unpack_from(data, first + index * size)) for index in range(count)]
    interpreter = b"".join(data[s.offset : s.offset + s.file_size] for s in segments if s.type == _PT_INTERP)
    dynamic = [
        entry
        for s in segments
        if s.type == _PT_DYNAMIC
        for entry in _DYN.iter_unpack(data[s.offset : s.offset + s.file_size])
    ]
    texts = next((_offset_of(value, segments) for tag, value in dynamic if tag == _DT_STRTAB), 0)

    def text(start: int) -> str:
        return data[texts + start : data.index(b"\0", texts + start)].decode()

    run_path = ":".join(text(value) for tag, value in dynamic if tag in (_DT_RPATH, _DT_RUNPATH))
    return Elf(
        interpreter.rstrip(b"\0").decode(),
        tuple(text(value) for tag, value in dynamic if tag == _DT_NEEDED),
        tuple(filter(None, run_path.split(":"))),
    )


class _Segment(NamedTuple):
    """``Elf64_Phdr``."""

    type: int
    flags: int
    offset: int
    address: int
    physical_address: int
    file_size: int
    memory_size: int
    align: int


def _offset_of(address: int, segments: list[_Segment]) -> int:
    """Return where in the file the byte is that is at `address` when the program runs."""
    for segment in segments:
        if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.file_size:
            return address - segment.address + segment.offset
    return 0


def read_elf(path: str | os.PathLike[str]) -> Elf | None:
    """Read the file at `path`; None: it is no ELF file."""
    return parse_elf(Path(path).read_bytes())


def libraries(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the shared libraries that programs and libraries need, and those need in turn, by name.

    The dynamic linker is among them if a library needs it, as the C library does.

    Raises:
        MissingFeature: one of them is not on this machine.
    """
    known = parse_cache(_read_cache())
    found: dict[str, Path] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        for name, library in _needed_by(path, known):
            if name not in found:
                found[name] = library
                waiting.append(library)
    return dict(sorted(found.items()))


def _needed_by(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    elf = read_elf(path)
    if elf is None:
        return
    folders = [Path(folder.replace("$ORIGIN", str(path.parent))) for folder in elf.run_path]
    for name in elf.needed:
        own = next((folder / name for folder in folders if (folder / name).exists()), None)
        library = own or known.get(name)
        if library is None:
            raise MissingFeature(name, f"{path} needs it, and neither {elf.run_path} nor ld.so.cache has it")
        yield name, library.resolve()


def parse_cache(text: str) -> dict[str, Path]:
    """Read what ``ldconfig -p`` prints: the libraries for 64-bit programs, by name."""
    lines = re.findall(r"^\s+(\S+) \((.*?)\) => (.+)$", text, re.MULTILINE)
    found: dict[str, Path] = {}
    for name, kind, path in lines:
        if kind.startswith(("libc6,x86-64", "libc6,AArch64", "ELF")):
            found.setdefault(name, Path(path))
    return found


def _read_cache() -> str:
    program = find_program("ldconfig")
    if program is None:
        raise MissingFeature("ldconfig", "no program ldconfig", hint="it belongs to the C library (libc-bin)")
    return subprocess.run([program, "-p"], capture_output=True, text=True, check=True).stdout
