"""Images: one manifest of a layout, with its config and its layers.

See: OCI image-spec, manifest.md and config.md.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
    new_hash,
)
from cnlab.containers.images.layer import Layer, Limits, apply, chain_ids
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.rooted import RootedTree
from cnlab.errors import InvalidImage, InvalidValue
from cnlab.linux.idmaps import IdMap

_TAR = re.compile(r"application/vnd\.(oci\.image\.layer|docker\.image\.rootfs).*\.tar([+.](gzip|zstd))?")


class Image:
    """A view of the manifest that a descriptor points at; equal if the manifests are."""

    def __init__(self, layout: Layout, manifest_descriptor: Descriptor) -> None:
        self.layout = layout
        self.manifest_descriptor = manifest_descriptor

    def __repr__(self) -> str:
        return f"<Image {self.digest}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """The digest of the manifest: what a registry calls the image."""
        return self.manifest_descriptor.digest

    @property
    def id(self) -> str:
        """The digest of the config: what Docker calls the image."""
        return self.config_descriptor.digest

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        return self.layout.manifest(self.manifest_descriptor)

    @cached_property
    def config_descriptor(self) -> Descriptor:
        """What the manifest says of the config."""
        return Descriptor.from_json(self.manifest["config"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The image config as a whole; what a container runs by default is under its key ``config``."""
        return self.layout.read_json(self.config_descriptor)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        descriptors = [Descriptor.from_json(entry) for entry in self.manifest["layers"]]
        if len(descriptors) != len(self.diff_ids):
            counts = f"{len(descriptors)} layers and {len(self.diff_ids)} diff IDs"
            raise InvalidImage(f"image {self.digest} has {counts}")
        return tuple(map(Layer, descriptors, self.diff_ids))

    @cached_property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of the uncompressed layers, lowest first."""
        rootfs = self.config.get("rootfs")
        found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(found, list) or not all(isinstance(diff_id, str) for diff_id in found):
            raise InvalidImage(f"config {self.id} has no list rootfs.diff_ids")
        for diff_id in found:
            new_hash(diff_id)
        return tuple(found)

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """The names of the root file systems after each layer, lowest first."""
        return chain_ids(self.diff_ids)

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """How each layer came to be; entries with ``empty_layer`` have none."""
        return tuple(self.config.get("history") or ())

    @property
    def annotations(self) -> dict[str, str]:
        """The manifest's annotations."""
        return dict(self.manifest.get("annotations") or {})

    @property
    def platform(self) -> Platform:
        """The machine it is for, by its config."""
        known = ("os", "architecture", "variant", "os.version", "os.features")
        return Platform.from_json({key: self.config[key] for key in known if key in self.config})

    @property
    def size(self) -> int:
        """The bytes to pull: manifest, config and layers."""
        parts = [
            self.manifest_descriptor,
            self.config_descriptor,
            *(layer.descriptor for layer in self.layers),
        ]
        return sum(part.size for part in parts)


def open_image(layout: Layout, reference: str = "", *, platform: Platform | None = None) -> Image:
    """Return the image that a name or digest leads to; see `Layout.resolve`."""
    return Image(layout, layout.resolve(reference, platform=platform))


def images(layout: Layout) -> Iterator[tuple[str, Image]]:
    """Yield each image in a layout with its name, which may be empty: of an index, all its platforms."""
    for name, descriptor in layout.entries():
        for manifest in layout.manifests(descriptor):
            if manifest.is_manifest and layout.has_blob(manifest.digest):
                yield name, Image(layout, manifest)


def new_image(
    layout: Layout,
    *,
    layers: Sequence[Layer] = (),
    config: Mapping[str, Any] | None = None,
    platform: Platform | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    created: int | None = None,
    annotations: Mapping[str, str] | None = None,
    name: str = "",
) -> Image:
    """Store a config and a manifest over layers that are in the layout, and return the image.

    Args:
        layout: where they go.
        layers: lowest first; ``[*base.layers, layer]`` builds on an image.
        config: what a container runs by default, in config.md's words: ``{"Env": […], "Cmd": […], …}``.
        platform: by default this machine's.
        history: one entry for each layer, and any with ``"empty_layer": true``; by default only the layers'.
        created: seconds since 1970; by default 0, so that the same input gives the same image.
        annotations: of the manifest.
        name: tag it.
    """
    platform = platform or Platform.here()
    time = datetime.fromtimestamp(created or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entries = [dict(entry) for entry in history] or [{"created": time} for _ in layers]
    if len([entry for entry in entries if not entry.get("empty_layer")]) != len(layers):
        raise InvalidValue(f"history tells of other layers than the {len(layers)} that there are")
    for layer in layers:
        if not layout.has_blob(layer.descriptor.digest):
            raise InvalidImage(f"{layout.path} has no layer {layer.descriptor.digest}")
    config_json = {
        "created": time,
        **platform.to_json(),
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": entries,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": layout.add_json(config_json, MEDIA_TYPE_CONFIG).to_json(),
        "layers": [layer.descriptor.to_json() for layer in layers],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    image = Image(layout, layout.add_json(manifest, MEDIA_TYPE_MANIFEST, platform=platform))
    if name:
        layout.tag(name, image.manifest_descriptor)
    return image


def multi_platform(
    layout: Layout,
    images: Iterable[Image],
    *,
    annotations: Mapping[str, str] | None = None,
    name: str = "",
) -> Descriptor:
    """Store an index of images of one layout, each for its platform, and return the index' descriptor."""
    manifests = []
    for image in images:
        found = image.manifest_descriptor
        manifests.append(Descriptor(found.media_type, found.digest, found.size, {}, image.platform).to_json())
    index = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_INDEX,
        "manifests": manifests,
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    descriptor = layout.add_json(index, MEDIA_TYPE_INDEX)
    if name:
        layout.tag(name, descriptor)
    return descriptor


@contextlib.contextmanager
def open_layer(layout: Layout, layer: Layer) -> Iterator[Any]:
    """Open the blob of a layer, verified; refuse what no root file system is made of."""
    if not _TAR.fullmatch(layer.descriptor.media_type):
        what = f"layer {layer.descriptor.digest} is {layer.descriptor.media_type!r}"
        raise InvalidImage(f"{what}, not a tar archive, plain or by gzip or zstd")
    with layout.open_blob(layer.descriptor) as file:
        yield file


def unpack(
    image: Image,
    rootfs: str | os.PathLike[str],
    *,
    uid_map: Sequence[IdMap] | None = None,
    gid_map: Sequence[IdMap] | None = None,
    limits: Limits | None = None,
) -> Path:
    """Apply all layers to `rootfs`, a directory that does not exist or is empty, and return its path.

    The keywords are those of `layer.apply`. When it raises, `rootfs` is as it was before.
    """
    rootfs = Path(rootfs)
    was_there = rootfs.exists()
    if was_there and any(rootfs.iterdir()):
        raise InvalidValue(f"{rootfs} is not empty; an image is unpacked into a directory of its own")
    rootfs.mkdir(parents=True, exist_ok=True)
    try:
        for layer in image.layers:
            with open_layer(image.layout, layer) as file:
                apply(file, rootfs, diff_id=layer.diff_id, uid_map=uid_map, gid_map=gid_map, limits=limits)
    except BaseException:
        _empty(rootfs)
        if not was_there:
            rootfs.rmdir()
        raise
    return rootfs


def _empty(directory: Path) -> None:
    tree = RootedTree(directory)
    try:
        tree.empty(())
    finally:
        tree.close()
