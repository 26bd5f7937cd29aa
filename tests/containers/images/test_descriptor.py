import io
import json

import pytest

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_EMPTY,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from cnlab.errors import InvalidImage, InvalidValue

# From manifest.md, "Guidance for an Empty Descriptor".
EMPTY = Descriptor(
    MEDIA_TYPE_EMPTY, "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", 2
)


def test_descriptor_of_the_empty_object_is_the_specifications():
    """An implementation that hashes something else can talk to nobody."""
    assert Descriptor.of(b"{}", MEDIA_TYPE_EMPTY) == EMPTY


def test_digest_of_a_file_is_that_of_what_is_left_to_read():
    """A layer is hashed while it streams; nobody holds it in memory."""
    file = io.BytesIO(b"skipped{}")
    file.seek(7)

    assert digest_of(file) == digest_of(b"{}") == EMPTY.digest


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abc",
        "sha256:../../../../etc/passwd",
        EMPTY.digest.upper(),
        EMPTY.digest.replace("sha256", "SHA256"),
        EMPTY.digest.replace("sha256", "md5"),
        EMPTY.digest + "\n",
        "sha512:" + EMPTY.hex,
    ],
)
def test_digest_that_is_none_is_refused(digest):
    """A digest becomes a file name: what is no digest must never get that far."""
    with pytest.raises(InvalidImage, match="digest"):
        Descriptor(MEDIA_TYPE_LAYER, digest, 2)


@pytest.mark.parametrize("size", [-1, 1.5, "2", None, True])
def test_size_that_is_no_number_of_bytes_is_refused(size):
    """Readers allocate and compare by it."""
    with pytest.raises(InvalidImage, match="size"):
        Descriptor.from_json({"mediaType": MEDIA_TYPE_LAYER, "digest": EMPTY.digest, "size": size})


def test_fields_that_we_do_not_know_survive():
    """Who copies an image copies what others have written into it."""
    data = {
        "mediaType": MEDIA_TYPE_LAYER,
        "digest": EMPTY.digest,
        "size": 2,
        "annotations": {"org.example": "kept"},
        "platform": {"architecture": "arm64", "os": "linux", "variant": "v8", "os.features": ["x"]},
        "urls": ["https://example.org/layer"],
        "org.example.new": {"deep": [1, 2]},
    }

    assert json.dumps(Descriptor.from_json(data).to_json()) == json.dumps(data)


def test_platform_that_says_nothing_is_kept_as_it_is():
    """Engines write empty platforms beside attestations; that must not make the whole index unreadable."""
    data = {**EMPTY.to_json(), "platform": {"os": "", "architecture": ""}}
    descriptor = Descriptor.from_json(data)

    assert descriptor.platform is None
    assert descriptor.to_json() == data


@pytest.mark.parametrize("data", [None, [], "x", {}, {"mediaType": MEDIA_TYPE_LAYER, "digest": EMPTY.digest}])
def test_json_that_is_no_descriptor_is_refused(data):
    """Manifests come from strangers, and any JSON may stand where a descriptor should."""
    with pytest.raises(InvalidImage, match="lacks 'mediaType', 'digest' or 'size'"):
        Descriptor.from_json(data)


def test_descriptor_tells_index_from_manifest_by_its_media_type():
    """Docker's names of the same things count as well."""
    docker = "application/vnd.docker.distribution.manifest"

    assert Descriptor.of(b"{}", MEDIA_TYPE_INDEX).is_index
    assert Descriptor.of(b"{}", f"{docker}.list.v2+json").is_index
    assert Descriptor.of(b"{}", MEDIA_TYPE_MANIFEST).is_manifest
    assert Descriptor.of(b"{}", f"{docker}.v2+json").is_manifest
    assert not EMPTY.is_index
    assert not EMPTY.is_manifest


@pytest.mark.parametrize(
    ("has", "wanted", "fits"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("windows/amd64", "linux/amd64", False),
        ("linux/arm64", "linux/arm64/v8", True),  # arm64 has no other
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm", "linux/arm/v7", True),
    ],
)
def test_platform_fits_what_is_wanted(has, wanted, fits):
    """The variants that image-index.md makes the usual ones need not be said."""
    assert Platform.parse(has).satisfies(Platform.parse(wanted)) is fits


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d"])
def test_platform_of_another_form_is_refused(text):
    """The message shows two that are right."""
    with pytest.raises(InvalidValue, match="linux/arm64/v8"):
        Platform.parse(text)


def test_platform_is_written_as_docker_writes_it():
    """What a person types and what stands in an error are the same text."""
    assert [str(Platform.parse(text)) for text in ("linux/amd64", "linux/arm/v7")] == [
        "linux/amd64",
        "linux/arm/v7",
    ]
