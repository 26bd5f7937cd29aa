"""Images: one manifest of a layout, with its config and its layers.

See: OCI image-spec, manifest.md and config.md.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnlab.containers.descriptor import Descriptor, Platform
from cnlab.containers.layer import Layer, Limits
from cnlab.containers.layout import Layout
from cnlab.linux.idmaps import IdMap


class Image:
    """A view of the manifest that a descriptor points at; equal if the manifests are."""

    def __init__(self, layout: Layout, manifest_descriptor: Descriptor) -> None:
        self.layout = layout
        self.manifest_descriptor = manifest_descriptor

    @property
    def digest(self) -> str:
        """The digest of the manifest: what a registry calls the image."""
        raise NotImplementedError

    @property
    def id(self) -> str:
        """The digest of the config: what Docker calls the image."""
        raise NotImplementedError

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """The image config as a whole; what a container runs by default is under its key ``config``."""
        raise NotImplementedError

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        raise NotImplementedError

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of the uncompressed layers, lowest first."""
        raise NotImplementedError

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """The names of the root file systems after each layer, lowest first."""
        raise NotImplementedError

    @property
    def history(self) -> tuple[dict[str, Any], ...]:
        """How each layer came to be; entries with ``empty_layer`` have none."""
        raise NotImplementedError

    @property
    def annotations(self) -> dict[str, str]:
        """The manifest's annotations."""
        raise NotImplementedError

    @property
    def platform(self) -> Platform:
        """The machine it is for, by its config."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The bytes to pull: manifest, config and layers."""
        raise NotImplementedError


def open_image(layout: Layout, reference: str = "", *, platform: Platform | None = None) -> Image:
    """Return the image that a name or digest leads to; see `Layout.resolve`."""
    raise NotImplementedError


def images(layout: Layout) -> Iterator[tuple[str, Image]]:
    """Yield each image in a layout with its name, which may be empty: of an index, all its platforms."""
    raise NotImplementedError


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
        history: one entry for each layer that is not ``"empty_layer": true``; made up if there is none.
        created: seconds since 1970; by default 0, so that the same input gives the same image.
        annotations: of the manifest.
        name: tag it.
    """
    raise NotImplementedError


def multi_platform(
    layout: Layout,
    images: Iterable[Image],
    *,
    annotations: Mapping[str, str] | None = None,
    name: str = "",
) -> Descriptor:
    """Store an index of images of one layout, each for its platform, and return the index' descriptor."""
    raise NotImplementedError


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
    raise NotImplementedError
