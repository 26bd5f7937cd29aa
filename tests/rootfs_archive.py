"""A root file system to run: busybox under its names, and two users."""

from __future__ import annotations

import io
import tarfile

from cnlab.host import find_program

APPLETS = (
    *(
        "cat",
        "chown",
        "df",
        "echo",
        "env",
        "false",
        "grep",
        "head",
        "hostname",
        "id",
        "ip",
        "ls",
        "mkdir",
        "mount",
    ),
    *(
        "nc",
        "ps",
        "pwd",
        "seq",
        "sh",
        "sleep",
        "stty",
        "tail",
        "test",
        "touch",
        "true",
        "tty",
        "unshare",
        "wget",
    ),
)


def busybox_archive() -> bytes:
    """A root file system for ``docker import``: busybox under its names, and two users."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(str(find_program("busybox")), "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, mode in (("tmp", 0o1777), ("etc", 0o755), ("root", 0o700)):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            archive.addfile(directory)
        for name, text in (
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"),
            ("etc/group", b"root:x:0:\nuser:x:1000:\naudio:x:29:user\n"),
        ):
            file = tarfile.TarInfo(name)
            file.size = len(text)
            archive.addfile(file, io.BytesIO(text))
    return out.getvalue()
