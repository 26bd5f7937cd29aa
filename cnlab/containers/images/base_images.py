"""Images to build on, made from what is on this machine: no registry is asked.

`busybox` is one static program under three hundred names. `python` adds this environment's interpreter, its
standard library, and the shared libraries that they need. Made twice on one machine they are the same bytes:
owners are 0, times are 1970.
"""

import hashlib
import io
import re
import subprocess
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from cnlab.containers.images import elf
from cnlab.containers.images.blobs import BlobWriter
from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER_GZIP
from cnlab.containers.images.image import Image, new_image
from cnlab.containers.images.layer import Layer
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.host import find_program

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_DIRECTORIES = {
    **dict.fromkeys(("bin", "dev", "etc", "home", "proc", "sys", "usr/bin", "usr/local/bin", "var"), 0o755),
    **{"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777},
}
_FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": b"127.0.0.1\tlocalhost\n",
    "etc/resolv.conf": b"",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|test|tests|idlelib|idle_test|tkinter|turtledemo|ensurepip|lib2to3|config-\d.*"
    r"|site-packages|dist-packages|sitecustomize\.py)(/|$)"
    r"|lib-dynload/(_tkinter|_?test\w*|_ctypes_test|_xx\w*|xx\w*|nis|_dbm|_gdbm)\."
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of a layer to be written."""

    content: bytes | Path
    mode: int = 0o644


Tree = Mapping[str, File | str | int]
"""What a layer holds, by path: a file, the target of a symbolic link, or the mode of a directory."""


def busybox(layout: Layout, name: str = "busybox:latest") -> Image:
    """Make an image of busybox: a shell and the usual commands, with a few files that they expect.

    Raises:
        MissingFeature: there is no static busybox on this machine.
    """
    program = find_program("busybox")
    hint = "install the Debian package busybox-static"
    if program is None:
        raise MissingFeature("busybox", "no program busybox", hint=hint)
    found = elf.read_elf(program)
    if found is not None and not found.is_static:
        raise MissingFeature("busybox", f"{program} needs shared libraries: {found.needed}", hint=hint)
    said = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
    applets = set(said.split()) - {"busybox", "linuxrc"}
    tree: Tree = {
        **_DIRECTORIES,
        **{path: File(content) for path, content in _FILES.items()},
        **{f"bin/{applet}": "busybox" for applet in applets},
        "bin/busybox": File(program, 0o755),
        "usr/bin/env": "../../bin/busybox",
    }
    return new_image(
        layout,
        layers=[write_layer(layout, tree)],
        config={"Env": [f"PATH={PATH}"], "Cmd": ["sh"]},
        history=[{"created": _CREATED, "created_by": f"busybox with {len(applets)} applets"}],
        name=name,
    )


def python(layout: Layout, name: str = "python:slim", *, packages: Iterable[str] = ()) -> Image:
    """Make an image of this environment's Python: on busybox, shared libraries, Python, packages if named.

    Args:
        layout: where the image goes.
        name: its name there.
        packages: installed distributions to bring along, with what they require and is installed.

    Raises:
        MissingFeature: a program or library is not on this machine.
        InvalidValue: a package is not installed.
    """
    base = busybox(layout)
    standard, interpreter = _standard_library(), _interpreter()
    packages = tuple(packages)
    added = _packages(packages)
    libraries = elf.libraries([interpreter, *_extensions(standard)])
    steps: list[tuple[str, Tree]] = [
        ("shared libraries", _linked(interpreter, libraries)),
        (f"Python {_VERSION}", _python(interpreter, standard)),
    ]
    if added:
        own = {file.content.resolve() for file in added.values() if isinstance(file.content, Path)}
        more = {
            name: path
            for name, path in elf.libraries(_extensions(added)).items()
            if name not in libraries and path not in own
        }
        files = {f"{_SITE_PACKAGES}/{path}": file for path, file in added.items()}
        steps.append((f"packages {' '.join(packages)}", files | _placed(more)))
    layers = [write_layer(layout, tree) for _, tree in steps]
    history = [{"created": _CREATED, "created_by": said} for said, _ in steps]
    env = [f"PATH={PATH}", "LANG=C.UTF-8", f"PYTHONPATH=/{_SITE_PACKAGES}"]
    return new_image(
        layout,
        layers=[*base.layers, *layers],
        config={"Env": env if added else env[:2], "Cmd": ["python3"]},
        history=[*base.history, *history],
        name=name,
    )


_CREATED = "1970-01-01T00:00:00Z"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_HOME = f"usr/local/lib/python{_VERSION}"
_SITE_PACKAGES = f"{_HOME}/site-packages"


def _interpreter() -> Path:
    path = Path(sys.base_prefix) / "bin" / f"python{_VERSION}"
    if not path.exists():
        raise MissingFeature("python", f"no {path}", hint="is this interpreter embedded in another program?")
    return path.resolve()


def _standard_library() -> dict[str, File]:
    """Return the standard library without tests, graphics and what only installs other things."""
    root = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    return _files_below(root)


def _files_below(root: Path) -> dict[str, File]:
    paths = ((path, str(path.relative_to(root))) for path in sorted(root.rglob("*")))
    return {name: File(path) for path, name in paths if not _LEFT_OUT.search(name) and path.is_file()}


def _extensions(files: Mapping[str, File]) -> Iterator[Path]:
    for name, file in files.items():
        if ".so" in PurePosixPath(name).suffixes and isinstance(file.content, Path):
            yield file.content


def _placed(libraries: Mapping[str, Path]) -> dict[str, File]:
    """Return libraries where dynamic linkers look without being told."""
    return {f"usr/lib/{name}": File(path, 0o755) for name, path in libraries.items()}


def _linked(interpreter: Path, libraries: Mapping[str, Path]) -> Tree:
    """Return the libraries, and the dynamic linker at the very path that the interpreter names."""
    found = elf.read_elf(interpreter)
    if found is None or not found.interpreter:
        return _placed(libraries)
    linker = Path(found.interpreter)
    others = {name: path for name, path in libraries.items() if name != linker.name}
    return {**_placed(others), str(linker).lstrip("/"): File(linker.resolve(), 0o755)}


def _python(interpreter: Path, standard: Mapping[str, File]) -> Tree:
    binary = f"python{_VERSION}"
    return {
        f"usr/local/bin/{binary}": File(interpreter, 0o755),
        "usr/local/bin/python3": binary,
        "usr/local/bin/python": binary,
        **{f"{_HOME}/{name}": file for name, file in standard.items()},
    }


def _packages(names: Sequence[str]) -> dict[str, File]:
    """Return the files of installed distributions, and of those that they require."""
    files: dict[str, File] = {}
    waiting, seen = [*names], set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in {re.sub(r"[-_.]+", "-", given).lower() for given in names}:
                raise InvalidValue(f"packages: {name} is not installed in {sys.prefix}") from None
            continue  # required on another platform or Python only
        waiting += [_requirement(text) for text in distribution.requires or () if "extra ==" not in text]
        for path in distribution.files or ():
            located = Path(str(path.locate()))
            if ".." not in path.parts and path.suffix != ".pyc" and located.is_file():
                files[str(path)] = File(located)
    return files


def _requirement(text: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", text)
    return found[0] if found else ""


def write_layer(layout: Layout, tree: Tree) -> Layer:
    """Store a layer of what is in `tree`, all owned by root; the directories above are added."""
    with layout.new_blob(MEDIA_TYPE_LAYER_GZIP) as blob:
        stream = _GzipStream(blob)
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            for path, node in sorted(_with_parents(tree).items()):
                _add(archive, path, node)
        stream.finish()
    return Layer(blob.descriptor, stream.diff_id)


def _with_parents(tree: Tree) -> Tree:
    above = {str(parent): 0o755 for path in tree for parent in PurePosixPath(path).parents if parent.name}
    return {**above, **tree}


def _add(archive: tarfile.TarFile, path: str, node: File | str | int) -> None:
    member = tarfile.TarInfo(path)
    if isinstance(node, int):
        member.type, member.mode = tarfile.DIRTYPE, node
        archive.addfile(member)
    elif isinstance(node, str):
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, node
        archive.addfile(member)
    else:
        content = node.content if isinstance(node.content, bytes) else node.content.read_bytes()
        member.size, member.mode = len(content), node.mode
        archive.addfile(member, io.BytesIO(content))


class _GzipStream:
    """Compress into a blob, without the time that gzip(1) notes, and remember the digest of what came."""

    def __init__(self, blob: BlobWriter) -> None:
        self._blob = blob
        self._hash = hashlib.sha256()
        self._compressor = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS | 16)

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._blob.write(self._compressor.compress(data))
        return len(data)

    def finish(self) -> None:
        self._blob.write(self._compressor.flush())

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
