"""Images as one tar file, which ``docker load`` and ``skopeo`` read, and what they write.

`save` writes an archive that is both at once: an OCI image layout, and a docker-archive by a
``manifest.json`` that points at the same blobs. `load` reads either, compressed or not.

    [{"Config": "blobs/sha256/…", "RepoTags": ["busybox:latest"], "Layers": ["blobs/sha256/…", …]}]

See: OCI image-spec, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem
Changeset Format".
"""

import contextlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from cnlab.containers.images import tar
from cnlab.containers.images.blobs import format_json, parse_json
from cnlab.containers.images.compression import Uncompressed
from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_LAYER_GZIP,
    MEDIA_TYPE_LAYER_ZSTD,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
)
from cnlab.containers.images.image import Image
from cnlab.containers.images.layout import REF_NAME, Layout
from cnlab.containers.images.paths import split
from cnlab.containers.images.tar import Member
from cnlab.containers.images.tar_reader import TarReader
from cnlab.errors import InvalidImage

CONTAINERD_NAME = "io.containerd.image.name"
_HUB = "docker.io/library/"
_MAX_LINKS = 8
_MAGIC = {b"\x1f\x8b": MEDIA_TYPE_LAYER_GZIP, b"\x28\xb5": MEDIA_TYPE_LAYER_ZSTD}


def save(images: Mapping[str, Image], archive: str | os.PathLike[str] | BinaryIO) -> None:
    """Write images and the names they shall have, such as ``busybox:latest``; the same bytes each time."""
    if isinstance(archive, str | os.PathLike):
        with open(archive, "wb") as file:
            return save(images, file)
    named = {_with_tag(name): image for name, image in images.items()}
    write = archive.write
    _write_file(write, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _write_file(write, "index.json", format_json(_index(named)))
    _write_file(write, "manifest.json", json.dumps(_docker_manifest(named), separators=(",", ":")).encode())
    blobs = {blob.digest: (image, blob) for image in named.values() for blob in _blobs(image)}
    for digest in sorted(blobs):
        image, blob = blobs[digest]
        with image.layout.open_blob(blob) as content:
            write(_header(_path(blob), blob.size))
            while chunk := content.read(1 << 20):
                write(chunk)
            write(tar.padding(blob.size))
    write(tar.END)
    return None


def _blobs(image: Image) -> list[Descriptor]:
    layers = [layer.descriptor for layer in image.layers]
    return [image.manifest_descriptor, image.config_descriptor, *layers]


def _path(blob: Descriptor) -> str:
    return posixpath.join("blobs", *blob.digest.split(":"))


def _with_tag(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _index(named: Mapping[str, Image]) -> dict[str, Any]:
    """Return the index, with names as containerd wants them beside those of the specification."""
    entries = []
    for name, image in named.items():
        found = image.manifest_descriptor
        is_short = "/" not in name
        annotations = {CONTAINERD_NAME: f"{_HUB}{name}" if is_short else name, REF_NAME: name}
        entries.append(
            Descriptor(found.media_type, found.digest, found.size, annotations, image.platform).to_json()
        )
    return {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": entries}


def _docker_manifest(named: Mapping[str, Image]) -> list[dict[str, Any]]:
    tags: dict[Image, list[str]] = {}
    for name, image in named.items():
        tags.setdefault(image, []).append(name)
    return [
        {
            "Config": _path(image.config_descriptor),
            "RepoTags": names,
            "Layers": [_path(layer.descriptor) for layer in image.layers],
        }
        for image, names in tags.items()
    ]


def _write_file(write: Callable[[bytes], object], name: str, content: bytes) -> None:
    write(_header(name, len(content)) + content + tar.padding(len(content)))


def _header(name: str, size: int) -> bytes:
    return tar.header(Member(name.encode(), tar.FILE, mode=0o644, uid=0, gid=0, size=size, mtime_ns=0))


def load(archive: str | os.PathLike[str] | BinaryIO, layout: Layout) -> dict[str, Image]:
    """Read all images of an archive into `layout`, tag them, and return them by name.

    An image without a name is returned by its digest. Of one for several platforms, this machine's is
    returned if it is there, else the first; all are in the layout.

    Raises:
        InvalidImage: it is no archive of images, or one that lies about a digest or a path; `layout` is as it
            was before.
    """
    if isinstance(archive, str | os.PathLike):
        with open(archive, "rb") as file:
            return load(file, layout)
    before = layout.digests()
    files = _Files(layout)
    wanted: set[str] = set()
    try:
        files.receive(archive)
        found = _oci_images(files) if files.has("index.json") else _docker_images(files)
        if not found:
            raise InvalidImage("archive holds no images: its index is empty")
        wanted = layout.reachable(descriptor for _, descriptor in found)
        for name, descriptor in found:
            layout.tag(name, descriptor)
    finally:
        for digest in files.digests() - before - wanted:
            layout.blob_path(digest).unlink(missing_ok=True)
    return {name or descriptor.digest: _one_of(layout, descriptor) for name, descriptor in found}


class _Files:
    """The files of an archive, stored as blobs: their bytes decide what they are called, not their names."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._blobs: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}

    def receive(self, archive: BinaryIO) -> None:
        with contextlib.closing(Uncompressed(archive).chunks()) as chunks:
            reader = TarReader(chunks)
            for member in reader:
                name, target = _normal(member.name), os.fsdecode(member.target)
                if member.type == tar.FILE:
                    with self.layout.new_blob("application/octet-stream") as blob:
                        for piece in reader.read(member.stored):
                            blob.write(piece)
                    self._blobs[name] = blob.descriptor
                elif member.type == tar.SYMLINK:  # ``docker save`` links layers that occur twice
                    self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
                elif member.type == tar.LINK:
                    self._links[name] = _normal(member.target)
                elif member.type != tar.DIRECTORY:
                    raise InvalidImage(f"archive: {name}: neither a file, a link nor a directory")

    def digests(self) -> set[str]:
        """Return the digests of all files."""
        return {blob.digest for blob in self._blobs.values()}

    def has(self, name: str) -> bool:
        return name in self._blobs

    def blob(self, name: Any) -> Descriptor:
        """Return the blob that the file `name` has become."""
        found = name if isinstance(name, str) else ""
        for _ in range(_MAX_LINKS):
            found = self._links.get(found, found)
        if found not in self._blobs:
            raise InvalidImage(f"archive has no file {name!r}")
        return self._blobs[found]

    def read(self, name: str) -> bytes:
        return self.layout.read_blob(self.blob(name))


def _normal(name: bytes) -> str:
    return os.fsdecode(b"/".join(split(name)))


def _oci_images(files: _Files) -> list[tuple[str, Descriptor]]:
    """Return what an OCI layout's index points at, by name; Docker's names stand beside it."""
    layout = files.layout
    index = parse_json(files.read("index.json"), "index.json of the archive")
    tags = _docker_tags(files) if files.has("manifest.json") else {}
    found = []
    for entry in index.get("manifests") or ():
        descriptor = Descriptor.from_json(entry)
        _require_complete(layout, descriptor)
        names = tags.get(_config_digest(layout, descriptor)) or [_name_in(descriptor)]
        found += [(name, descriptor) for name in names]
    return list(dict.fromkeys(found))


def _require_complete(layout: Layout, descriptor: Descriptor) -> None:
    """Refuse an image of which something is missing; an index may lead to images that are not here."""
    if not layout.has_blob(descriptor.digest):
        raise InvalidImage(f"archive has no blob {descriptor.digest}, which its index names")
    for manifest in layout.manifests(descriptor):
        for digest in layout.reachable([manifest]) if layout.has_blob(manifest.digest) else ():
            if not layout.has_blob(digest):
                raise InvalidImage(f"archive has no blob {digest}, which its image {manifest.digest} needs")


def _config_digest(layout: Layout, descriptor: Descriptor) -> str:
    if not descriptor.is_manifest:
        return ""
    return Descriptor.from_json(layout.manifest(descriptor)["config"]).digest


def _name_in(descriptor: Descriptor) -> str:
    named = descriptor.annotations
    return named.get(CONTAINERD_NAME, named.get(REF_NAME, "")).removeprefix(_HUB)


def _docker_tags(files: _Files) -> dict[str, list[str]]:
    """Return the names in ``manifest.json`` by the digest of the config."""
    return {files.blob(item.get("Config")).digest: _tags_of(item) for item in _items(files)}


def _docker_images(files: _Files) -> list[tuple[str, Descriptor]]:
    """Make a manifest for each image of a docker-archive, which has none."""
    found = []
    for item in _items(files):
        names = _tags_of(item) or [""]
        descriptor = _manifest_for(files, item)
        found += [(name, descriptor) for name in names]
    return found


def _tags_of(item: Mapping[str, Any]) -> list[str]:
    """Return the names of an image as people write them: ``docker.io/library/`` goes without saying."""
    tags = item.get("RepoTags") or []
    if not isinstance(tags, list) or not all(isinstance(name, str) for name in tags):
        raise InvalidImage(f"manifest.json of the archive: RepoTags {tags!r} are no names")
    return [name.removeprefix(_HUB) for name in tags]


def _items(files: _Files) -> list[dict[str, Any]]:
    if not files.has("manifest.json"):
        raise InvalidImage("archive has neither index.json nor manifest.json: it holds no images")
    wrapped = b'{"items":' + files.read("manifest.json") + b"}"
    items = parse_json(wrapped, "manifest.json of the archive")["items"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InvalidImage("manifest.json of the archive is no list of images")
    return items


def _manifest_for(files: _Files, item: Mapping[str, Any]) -> Descriptor:
    config = files.blob(item.get("Config"))
    said = posixpath.basename(item["Config"]).removesuffix(".json")
    if re.fullmatch("[0-9a-f]{64}", said) and said != config.hex:
        raise InvalidImage(f"archive: {item['Config']} has the digest {config.digest}")
    layers = [files.blob(name) for name in item.get("Layers") or ()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": replace(config, media_type=MEDIA_TYPE_CONFIG).to_json(),
        "layers": [replace(layer, media_type=_layer_type(files.layout, layer)).to_json() for layer in layers],
    }
    descriptor = files.layout.add_json(manifest, MEDIA_TYPE_MANIFEST)
    image = Image(files.layout, descriptor)
    try:
        for layer in image.layers:
            if layer.descriptor.media_type == MEDIA_TYPE_LAYER and layer.descriptor.digest != layer.diff_id:
                raise InvalidImage(
                    f"archive: a layer has the diff ID {layer.descriptor.digest}, not {layer.diff_id}"
                )
        return replace(descriptor, platform=image.platform)
    except InvalidImage:
        files.layout.blob_path(descriptor.digest).unlink()
        raise


def _layer_type(layout: Layout, layer: Descriptor) -> str:
    with layout.blob_path(layer.digest).open("rb") as file:
        return _MAGIC.get(file.read(2), MEDIA_TYPE_LAYER)


def _one_of(layout: Layout, descriptor: Descriptor) -> Image:
    here = [found for found in layout.manifests(descriptor) if layout.has_blob(found.digest)]
    with contextlib.suppress(InvalidImage):
        here.insert(0, layout.resolve(descriptor.digest))
    if not here:
        raise InvalidImage(f"archive has none of the images of its index {descriptor.digest}")
    return Image(layout, here[0])
