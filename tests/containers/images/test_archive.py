import gzip
import io
import json
import os
import re
import subprocess
import tarfile

import pytest
import tarball
from dockerd import private_dockerd
from tarball import directory, fifo, file, link, symlink
from tree import facts

from cnlab.containers.images.archive import load, save
from cnlab.containers.images.descriptor import Platform
from cnlab.containers.images.diff import diff
from cnlab.containers.images.image import multi_platform, new_image, open_image, unpack
from cnlab.containers.images.layer import read_entries
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidImage
from cnlab.host import find_program


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two trees, the second one with a file less and a file more."""
    before = tmp_path_factory.mktemp("before")
    (before / "bin").mkdir()
    (before / "bin" / "busybox").write_bytes(find_program("busybox").read_bytes())
    (before / "bin" / "busybox").chmod(0o755)
    (before / "etc").mkdir()
    (before / "etc" / "gone").write_text("x")
    after = tmp_path_factory.mktemp("trees") / "after"
    subprocess.run(["cp", "-a", before, after], check=True)
    (after / "etc" / "gone").unlink()
    (after / "etc" / "motd").write_text("hello")
    return before, after


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Layout.create(tmp_path_factory.mktemp("images") / "layout")


def make_image(layout, source, compression="gzip"):
    before, after = source
    layers = [
        diff(None, before, layout, compression=compression),
        diff(before, after, layout, compression=compression),
    ]
    return new_image(layout, layers=layers, config={"Cmd": ["/bin/busybox", "cat", "/etc/motd"]})


@pytest.fixture(scope="module")
def image(layout, source):
    return make_image(layout, source)


def skopeo(*arguments):
    """Run it as root, if only of a user namespace: it gives what it unpacks to root, as the archive says."""
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    done = subprocess.run([*as_root, "skopeo", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_image_comes_back_byte_for_byte(layout, image, tmp_path):
    """All digests, from the manifest down to the layers."""
    save({"box:1": image, "box:latest": image}, tmp_path / "box.tar")
    other = Layout.create(tmp_path / "other")
    loaded = load(tmp_path / "box.tar", other)

    assert loaded == {"box:1": image, "box:latest": image}
    assert other.digests() == layout.reachable([image.manifest_descriptor])
    assert open_image(other, "box:1") == image


def test_same_images_give_the_same_archive(image, tmp_path):
    """It can be compared, signed and cached."""
    written = [io.BytesIO(), io.BytesIO()]
    for file_object in written:
        save({"box": image}, file_object)

    assert written[0].getvalue() == written[1].getvalue()


def test_archive_is_an_image_layout_when_it_is_unpacked(image, tmp_path):
    """GNU tar has no complaints, and `Layout` opens what it has made."""
    save({"box:1": image}, tmp_path / "box.tar")
    (tmp_path / "unpacked").mkdir()
    done = subprocess.run(
        ["tar", "-C", tmp_path / "unpacked", "-xf", tmp_path / "box.tar"], capture_output=True, check=True
    )

    assert done.stderr == b""
    assert open_image(Layout(tmp_path / "unpacked"), "box:1") == image


@pytest.mark.needs_userns
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
@pytest.mark.needs_programs("skopeo")
def test_skopeo_reads_the_archive_by_either_name(image, tmp_path, transport):
    """One file, two formats."""
    save({"box:1": image}, tmp_path / "box.tar")
    said = json.loads(skopeo("inspect", f"{transport}:{tmp_path}/box.tar:box:1"))
    config = skopeo("inspect", "--config", "--raw", f"{transport}:{tmp_path}/box.tar:box:1")

    assert (said["Os"], said["Created"]) == ("linux", "1970-01-01T00:00:00Z")
    assert config.encode() == image.layout.read_blob(image.config_descriptor)
    if transport == "oci-archive":
        assert said["Digest"] == image.digest


@pytest.mark.needs_userns
@pytest.mark.needs_programs("skopeo")
def test_archives_of_skopeo_are_read(image, tmp_path, source):
    """It writes layers uncompressed for Docker; the config, Docker's name of the image, is the same."""
    save({"box:1": image}, tmp_path / "box.tar")
    loaded = {}
    for transport in ("oci-archive", "docker-archive"):
        path = f"{tmp_path}/{transport}.tar"
        skopeo("copy", f"oci-archive:{tmp_path}/box.tar:box:1", f"{transport}:{path}:theirs:2")
        loaded[transport] = load(path, Layout.create(tmp_path / transport))["theirs:2"]

    assert loaded["oci-archive"] == image
    assert loaded["docker-archive"].id == image.id
    assert facts(unpack(loaded["docker-archive"], tmp_path / "rootfs")) == facts(source[1])


@pytest.mark.needs_userns
@pytest.mark.needs_programs("skopeo")
def test_archive_of_several_platforms_brings_them_all(layout, image, tmp_path):
    """The name leads to this machine's; the others are there for whoever asks."""
    elsewhere = Platform("linux", "s390x")
    other = new_image(layout, layers=image.layers, platform=elsewhere)
    multi_platform(layout, [other, image], name="multi")
    skopeo("copy", "--all", f"oci:{layout.path}:multi", f"oci-archive:{tmp_path}/multi.tar:multi")
    loaded = Layout.create(tmp_path / "loaded")

    assert load(tmp_path / "multi.tar", loaded) == {"multi": image}
    assert open_image(loaded, "multi", platform=elsewhere) == other


@pytest.mark.needs_root
def test_docker_engine_loads_runs_and_saves_what_we_make(layout, source, image, tmp_path):
    """Its image IDs are our configs' digests, with each compression, and what it saves we read."""
    found = {}
    with private_dockerd() as engine:
        for compression in ("none", "gzip", "zstd"):
            name = f"box:{compression}"
            save({name: make_image(layout, source, compression)}, tmp_path / "box.tar")
            said = engine.docker("load", "-i", str(tmp_path / "box.tar")).stdout
            assert said == f"Loaded image: {name}\n"
            found[name] = engine.docker("inspect", "--format={{.Id}}", name).stdout.strip()
        printed = engine.docker("run", "--rm", "--network=none", "box:gzip").stdout
        engine.docker("save", "-o", str(tmp_path / "saved.tar"), "box:gzip", "box:zstd")
    loaded = load(tmp_path / "saved.tar", Layout.create(tmp_path / "loaded"))

    assert set(found.values()) == {image.id}
    assert printed == "hello"
    assert {name: theirs.id for name, theirs in loaded.items()} == {
        "box:gzip": image.id,
        "box:zstd": image.id,
    }
    assert facts(unpack(loaded["box:gzip"], tmp_path / "rootfs")) == facts(source[1])


def docker_archive(config, *layers, tags=("x:1",), members=()):
    """An archive as ``docker save`` writes it, or an enemy."""
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    files = [file("manifest.json", json.dumps(manifest).encode()), file("config.json", config)]
    files += [file(name, layer) for name, layer in zip(names, layers, strict=True)]
    return tarball.layer(*files, *members)


def config_of(image):
    return image.layout.read_blob(image.config_descriptor)


def plain_layers(layout, image):
    layers = []
    for layer in image.layers:
        with layout.open_blob(layer.descriptor) as blob:
            layers.append(gzip.decompress(blob.read()))
    return layers


@pytest.fixture
def empty(tmp_path):
    return Layout.create(tmp_path / "empty")


def refused(archive, layout):
    """Load an archive that is refused; check that nothing of it stays."""
    with pytest.raises(InvalidImage) as caught:
        load(archive, layout)
    assert layout.digests() == set()
    assert layout.entries() == []
    assert sorted(os.listdir(layout.path.parent)) == [layout.path.name]
    return str(caught.value)


def test_archive_without_a_name_is_loaded_by_its_digest(layout, image, empty):
    """``docker save`` of an image ID has none; the image must be no garbage nevertheless."""
    archive = docker_archive(config_of(image), *plain_layers(layout, image), tags=())
    (loaded,) = load(archive, empty).items()
    empty.collect_garbage()

    assert loaded[0] == loaded[1].digest
    assert loaded[1].config == image.config


def test_layer_that_docker_has_linked_is_found(layout, image, empty):
    """Old engines write the same layer of two images once, and a symbolic link."""
    first, second = plain_layers(layout, image)
    manifest = [{"Config": "c", "RepoTags": ["x:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    members = [
        directory("a"),
        file("manifest.json", json.dumps(manifest).encode()),
        symlink("a/layer.tar", "../store/layer.tar"),
        link("b/layer.tar", "store/second"),
        file("store/layer.tar", first),
        file("store/second", second),
        file("c", config_of(image)),
    ]

    assert load(tarball.layer(*members), empty)["x:1"].diff_ids == image.diff_ids


def test_compressed_archive_is_read(image, tmp_path, empty):
    """``docker save | gzip``."""
    written = io.BytesIO()
    save({"box:1": image}, written)

    assert load(io.BytesIO(gzip.compress(written.getvalue(), 1)), empty) == {"box:1": image}


def test_file_that_is_no_archive_of_images_is_refused(empty):
    """A root file system's tar is what people take for an image most often."""
    assert "it holds no images" in refused(tarball.layer(file("etc/passwd", b"x")), empty)
    assert "no tar archive" in refused(io.BytesIO(b"x" * 2000), empty)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([file("../evil", b"x")], "'..' leads out"),
        ([fifo("pipe")], "neither a file, a link nor a directory"),
        ([file("manifest.json", b"[")], "no JSON"),
        ([file("manifest.json", b"{}")], "no list of images"),
        ([file("manifest.json", b"[1]")], "no list of images"),
        ([file("manifest.json", b'[{"Config": "missing"}]')], "archive has no file 'missing'"),
        ([file("manifest.json", b'[{"Config": ["x"]}]')], r"archive has no file \['x'\]"),
        (
            [file("manifest.json", b'[{"Config": "a"}]'), symlink("a", "b"), symlink("b", "a")],
            "has no file 'a'",
        ),
        (
            [file("manifest.json", b'[{"Config": "a"}]'), symlink("a", "/etc/passwd")],
            "archive has no file 'a'",
        ),
        ([file("manifest.json", b'[{"Config": "c", "RepoTags": 5}]'), file("c", b"{}")], "RepoTags 5 are no"),
        ([file("index.json", b"{}"), file("manifest.json", b"[]")], "holds no images"),
        (
            [
                file(
                    "index.json",
                    b'{"manifests": [{"mediaType": "x", "size": 1, "digest": "sha256:%s"}]}' % (b"0" * 64),
                )
            ],
            "archive has no blob sha256:0",
        ),
    ],
)
def test_hostile_archive_is_refused_and_leaves_nothing(empty, members, message):
    """Names in an archive are looked up in it, and nowhere else."""
    assert re.search(message, refused(tarball.layer(*members), empty))


def test_config_under_another_digest_is_refused(layout, image, empty):
    """Docker's archives name the config by its digest."""
    manifest = [{"Config": "0" * 64 + ".json", "RepoTags": ["x:1"], "Layers": []}]
    members = [
        file("manifest.json", json.dumps(manifest).encode()),
        file("0" * 64 + ".json", config_of(image)),
    ]

    assert f"has the digest {image.id}" in refused(tarball.layer(*members), empty)


def test_layer_that_is_not_the_configs_is_refused(layout, image, empty):
    """The diff ID tells."""
    _, second = plain_layers(layout, image)

    assert "a layer has the diff ID" in refused(docker_archive(config_of(image), second, second), empty)
    assert "has 1 layers and 2 diff IDs" in refused(docker_archive(config_of(image), second), empty)


def test_blob_under_a_false_name_is_not_found_by_it(image, empty):
    """What a file is called in the archive proves nothing."""
    written = io.BytesIO()
    save({"box:1": image}, written)
    layer = image.layers[0].descriptor
    forged = written.getvalue().replace(layer.hex.encode(), b"0" * 64)
    members = [entry.path for entry in read_entries(io.BytesIO(written.getvalue()))]

    assert f"blobs/sha256/{layer.hex}" in members
    assert "layer: no tar archive" in refused(io.BytesIO(forged), empty)
    parts = []
    with tarfile.open(fileobj=io.BytesIO(written.getvalue())) as archive:
        for info in archive:
            content = archive.extractfile(info).read()
            parts.append(file(info.name, b"forged" if layer.hex in info.name else content))
    assert f"archive has no blob {layer.digest}" in refused(tarball.layer(*parts), empty)


def test_refused_archive_leaves_what_was_there(layout, image, empty):
    """Blobs that both have belong to the image that is already here."""
    written = io.BytesIO()
    save({"box:1": image}, written)
    load(io.BytesIO(written.getvalue()), empty)
    before = empty.digests()
    with pytest.raises(InvalidImage):
        load(docker_archive(config_of(image), *plain_layers(layout, image)[:1]), empty)

    assert empty.digests() == before
    assert open_image(empty, "box:1") == image
