"""A registry, and a layout with an image of two layers to push there."""

from __future__ import annotations

import pytest

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Platform,
    digest_of,
)
from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Client, Registry

LAYERS = (b"\0" * 10240, bytes(1024) + b"x" * 100_000)  # the registry does not look into layers


def store_image(layout, name, *, architecture="amd64"):
    """Store an image and return its manifest's descriptor."""
    layers = [layout.add_blob(data, MEDIA_TYPE_LAYER) for data in LAYERS]
    rootfs = {"type": "layers", "diff_ids": [digest_of(data) for data in LAYERS]}
    config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["true"]}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": layout.add_json(config, MEDIA_TYPE_CONFIG).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    descriptor = layout.add_json(manifest, MEDIA_TYPE_MANIFEST, platform=Platform("linux", architecture))
    layout.tag(name, descriptor)
    return descriptor


def store_index(layout, name, *architectures):
    """Store an index of one image for each architecture."""
    images = [store_image(layout, f"{name}-{own}", architecture=own) for own in architectures]
    manifests = [image.to_json() for image in images]
    index = {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": manifests}
    descriptor = layout.add_json(index, MEDIA_TYPE_INDEX)
    layout.tag(name, descriptor)
    return descriptor


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "layout")


@pytest.fixture
def image(layout):
    return layout, store_image(layout, "app:1")


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def client(registry):
    with Client(registry.address) as client:
        yield client
