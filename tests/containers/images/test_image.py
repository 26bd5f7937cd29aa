import functools
import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
import tarball
from tree import facts

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
)
from cnlab.containers.images.diff import diff
from cnlab.containers.images.image import Image, images, multi_platform, new_image, open_image, unpack
from cnlab.containers.images.layer import Layer, chain_id, diff_id_of
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidImage, InvalidValue


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "images")


def store(layout, *members):
    """Store a layer made of members."""
    archive = tarball.layer(*members, compress=functools.partial(gzip.compress, mtime=0))
    diff_id = diff_id_of(archive)
    archive.seek(0)
    return Layer(layout.add_blob(archive, MEDIA_TYPE_LAYER_GZIP), diff_id)


def skopeo(*arguments):
    return subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def image(layout):
    layers = [store(layout, tarball.file("a", b"1"), tarball.file("b")), store(layout, tarball.file(".wh.b"))]
    config = {"Env": ["A=1"], "Cmd": ["/a"], "Labels": {"org.example": "ü"}, "ExposedPorts": {"80/tcp": {}}}
    return new_image(layout, layers=layers, config=config, annotations={"note": "x"}, name="box:1")


@pytest.mark.needs_programs("skopeo")
def test_skopeo_sees_the_image_as_we_do(layout, image):
    """Its reader is the one that CRI-O and podman have."""
    said = json.loads(skopeo("inspect", f"oci:{layout.path}:box:1"))
    raw = skopeo("inspect", "--raw", f"oci:{layout.path}:box:1")

    assert said["Digest"] == image.digest
    assert said["Layers"] == [layer.descriptor.digest for layer in image.layers]
    assert (said["Env"], said["Labels"]) == (["A=1"], {"org.example": "ü"})
    assert (said["Os"], said["Architecture"]) == (image.platform.os, image.platform.architecture)
    assert raw.encode() == layout.read_blob(image.manifest_descriptor)


@pytest.mark.needs_programs("skopeo")
def test_skopeo_reads_the_config_byte_for_byte(layout, image):
    """The digest of these bytes is what Docker calls the image."""
    raw = skopeo("inspect", "--config", "--raw", f"oci:{layout.path}:box:1")

    assert raw.encode() == layout.read_blob(image.config_descriptor)
    assert json.loads(raw)["rootfs"]["diff_ids"] == list(image.diff_ids)


@pytest.mark.needs_programs("skopeo")
def test_copy_by_skopeo_is_the_same_image(layout, image, tmp_path):
    """There and back: not a byte may change."""
    skopeo("copy", "--all", f"oci:{layout.path}:box:1", f"oci:{tmp_path}/theirs:copied")
    theirs = Layout(tmp_path / "theirs")

    assert open_image(theirs, "copied") == image
    assert theirs.digests() == layout.digests()


@pytest.mark.needs_programs("skopeo")
def test_image_made_elsewhere_is_read(layout, image, tmp_path):
    """skopeo writes Docker's own formats as well: other media types for the same things."""
    skopeo("copy", "--format=v2s2", f"oci:{layout.path}:box:1", f"dir:{tmp_path}/docker")
    other = Layout.create(tmp_path / "other")
    manifest = (tmp_path / "docker" / "manifest.json").read_bytes()
    for path in (tmp_path / "docker").iterdir():
        other.add_blob(path, "application/octet-stream")
    descriptor = Descriptor.of(manifest, json.loads(manifest)["mediaType"])
    docker = Image(other, descriptor)

    assert "docker" in docker.manifest["mediaType"]
    assert (docker.id, docker.diff_ids) == (image.id, image.diff_ids)
    assert sorted(os.listdir(unpack(docker, tmp_path / "rootfs"))) == ["a"]


def test_same_input_gives_the_same_image(layout, image, tmp_path):
    """No clock, no host name, no random number goes into it."""
    again = new_image(
        layout, layers=image.layers, config=image.config["config"], annotations={"note": "x"}, name="again"
    )

    assert again == image
    assert image.config["created"] == "1970-01-01T00:00:00Z"
    assert new_image(layout, layers=image.layers, created=86_400).config["created"] == "1970-01-02T00:00:00Z"


def test_image_tells_its_parts(layout, image):
    """The words are those of manifest.md and config.md."""
    assert image.manifest["mediaType"] == MEDIA_TYPE_MANIFEST
    assert image.annotations == {"note": "x"}
    assert image.chain_ids[-1] == chain_id(image.diff_ids)
    assert image.size == sum(layout.blob_path(digest).stat().st_size for digest in layout.digests())
    assert [entry["created"] for entry in image.history] == ["1970-01-01T00:00:00Z"] * 2
    assert image.platform == Platform.here()


def test_image_builds_on_another_one(layout, image):
    """Layers are shared, not copied."""
    before = layout.digests()
    child = new_image(layout, layers=[*image.layers, store(layout, tarball.file("c"))])

    assert child.chain_ids[:2] == image.chain_ids
    assert len(layout.digests() - before) == 3  # one layer, a config, a manifest


def test_history_must_tell_of_each_layer(layout, image):
    """``docker history`` counts along."""
    history = [{"created_by": "COPY"}, {"created_by": "ENV A=1", "empty_layer": True}, {"created_by": "RUN"}]
    child = new_image(layout, layers=image.layers, history=history)

    assert list(child.history) == history
    with pytest.raises(InvalidValue, match="other layers than the 2"):
        new_image(layout, layers=image.layers, history=history[:2])


def test_layer_that_is_not_in_the_layout_is_refused(layout, image, tmp_path):
    """An image whose bytes are elsewhere cannot be sent to anybody."""
    with pytest.raises(InvalidImage, match=f"has no layer {image.layers[0].descriptor.digest}"):
        new_image(Layout.create(tmp_path / "other"), layers=image.layers)


@pytest.mark.needs_programs("skopeo")
def test_index_of_several_platforms_is_one_that_skopeo_chooses_from(layout, image):
    """``docker pull`` on an arm64 machine gets arm64 bytes under the same name."""
    arm = new_image(layout, layers=image.layers, platform=Platform.parse("linux/arm64/v8"))
    index = multi_platform(layout, [image, arm], annotations={"note": "all"}, name="multi")
    chosen = skopeo("--override-arch=arm64", "--override-variant=v8", "inspect", f"oci:{layout.path}:multi")
    raw = json.loads(skopeo("inspect", "--raw", f"oci:{layout.path}:multi"))

    assert json.loads(chosen)["Architecture"] == "arm64"
    assert raw == layout.read_json(index)
    assert open_image(layout, "multi") == image
    assert open_image(layout, "multi", platform=Platform.parse("linux/arm64")) == arm
    assert {(name, found.digest) for name, found in images(layout)} == {
        ("box:1", image.digest),
        ("multi", image.digest),
        ("multi", arm.digest),
    }


def test_unpacked_image_is_its_layers_on_top_of_each_other(image, tmp_path):
    """The whiteout of the second hides a file of the first."""
    rootfs = unpack(image, tmp_path / "deep" / "rootfs")

    assert facts(rootfs).keys() == {"a"}
    assert (rootfs / "a").read_bytes() == b"1"


def test_directory_with_files_in_it_is_not_unpacked_into(image, tmp_path):
    """Two images in one directory are neither."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()

    with pytest.raises(InvalidValue, match="is not empty"):
        unpack(image, tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["mine"]


@pytest.mark.parametrize("was_there", [True, False])
def test_image_that_cannot_be_unpacked_leaves_nothing(layout, tmp_path, was_there):
    """The second layer is refused when the first is already on disk."""
    good = store(layout, tarball.file("a/b"), tarball.directory("a", mode=0))
    bad = store(layout, tarball.file("c"), tarball.file("../d"))
    rootfs = tmp_path / "rootfs"
    if was_there:
        rootfs.mkdir()

    with pytest.raises(InvalidImage, match="leads out"):
        unpack(new_image(layout, layers=[good, bad]), rootfs)
    assert rootfs.exists() is was_there
    assert sorted(os.listdir(tmp_path)) == (["images", "rootfs"] if was_there else ["images"])


@pytest.mark.as_student
def test_failed_unpacking_of_an_ordinary_user_leaves_nothing_either():
    """Also where the first layer's permissions bar the way."""
    layout = Layout.create("images")
    good = store(layout, tarball.file("a/b"), tarball.directory("a", mode=0))
    bad = store(layout, tarball.file("../d"))

    with pytest.raises(InvalidImage, match="leads out"):
        unpack(new_image(layout, layers=[good, bad]), "rootfs")
    assert not Path("rootfs").exists()


def test_layer_that_differs_from_its_diff_id_is_refused(layout, tmp_path):
    """The blob's digest is right; the config promises other contents."""
    layer = store(layout, tarball.file("a"))
    lying = new_image(layout, layers=[Layer(layer.descriptor, "sha256:" + "0" * 64)])

    with pytest.raises(InvalidImage, match="layer has the diff ID"):
        unpack(lying, tmp_path / "rootfs")


def test_damaged_layer_is_refused_before_anything_is_written(layout, image, tmp_path):
    """One bit on a disk."""
    path = layout.blob_path(image.layers[0].descriptor.digest)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)

    with pytest.raises(InvalidImage, match="has the digest"):
        unpack(image, tmp_path / "rootfs")


def test_config_that_counts_other_layers_than_the_manifest_is_refused(layout, image):
    """To pair them up anyhow would give some file system, not the image's."""
    manifest = {**image.manifest, "layers": image.manifest["layers"][:1]}
    broken = Image(layout, layout.add_json(manifest, MEDIA_TYPE_MANIFEST))

    with pytest.raises(InvalidImage, match="has 1 layers and 2 diff IDs"):
        broken.layers  # noqa: B018


@pytest.mark.parametrize("rootfs", [None, {}, {"diff_ids": "x"}, {"diff_ids": [1]}, {"diff_ids": ["../x"]}])
def test_config_without_diff_ids_is_refused(layout, image, rootfs):
    """They become names of directories."""
    config = layout.add_json({**image.config, "rootfs": rootfs}, image.config_descriptor.media_type)
    manifest = {**image.manifest, "config": config.to_json()}

    with pytest.raises(InvalidImage, match=r"rootfs.diff_ids|digest"):
        Image(layout, layout.add_json(manifest, MEDIA_TYPE_MANIFEST)).layers  # noqa: B018


def test_artifact_that_is_no_root_file_system_is_refused(layout, tmp_path):
    """Registries hold charts, signatures and models under the same kind of manifest."""
    blob = layout.add_blob(b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    chart = new_image(layout, layers=[Layer(blob, blob.digest)])

    with pytest.raises(InvalidImage, match="not a tar archive"):
        unpack(chart, tmp_path / "rootfs")


def test_image_of_a_tree_unpacks_to_that_tree(layout, tmp_path):
    """From files to an image and back, compressed."""
    source = tmp_path / "source"
    subprocess.run(["cp", "-a", os.path.dirname(json.__file__), source], check=True)
    image = new_image(layout, layers=[diff(None, source, layout)])

    assert image.layers[0].descriptor.media_type == MEDIA_TYPE_LAYER_GZIP
    assert facts(unpack(image, tmp_path / "rootfs")) == facts(source)
