import json
import threading

import pytest

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_CONFIG,
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
)
from cnlab.containers.images.layout import REF_NAME, Layout
from cnlab.errors import InvalidImage, InvalidValue

HERE = Platform.here()
ELSEWHERE = Platform("linux", "s390x")


@pytest.fixture
def layout(tmp_path):
    return Layout.create(tmp_path / "images")


def manifest_of(layout, platform=HERE, *, word=""):
    """Store an image of one layer; `word` makes it differ from others."""
    config = layout.add_json({**platform.to_json(), "word": word}, MEDIA_TYPE_CONFIG)
    blob = layout.add_blob(f"{platform} {word}".encode(), MEDIA_TYPE_LAYER)
    manifest = {"schemaVersion": 2, "config": config.to_json(), "layers": [blob.to_json()]}
    return layout.add_json(manifest, MEDIA_TYPE_MANIFEST)


def index_of(layout, *descriptors):
    """Store an index."""
    entries = [descriptor.to_json() for descriptor in descriptors]
    return layout.add_json({"schemaVersion": 2, "manifests": entries}, MEDIA_TYPE_INDEX)


def for_platform(descriptor, platform):
    """The same pointer, said to be for a platform."""
    return Descriptor.from_json({**descriptor.to_json(), "platform": platform.to_json()})


def test_layout_has_the_three_parts_of_the_specification(layout):
    """image-layout.md, "Content"."""
    assert sorted(path.name for path in layout.path.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert json.loads((layout.path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((layout.path / "index.json").read_text())["schemaVersion"] == 2


def test_layout_that_exists_is_opened_not_emptied(layout):
    """A notebook is run twice."""
    layout.tag("kept", manifest_of(layout))

    assert list(Layout.create(layout.path).tags()) == ["kept"]


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (None, "no image layout"),
        ("{}", "imageLayoutVersion is None"),
        ('{"imageLayoutVersion":"2.0.0"}', "'2.0.0', not '1.0.0'"),
        ("[]", "not an object"),
    ],
)
def test_directory_that_is_no_layout_is_refused(tmp_path, marker, message):
    """Better now than at the first blob that is missing."""
    if marker is not None:
        (tmp_path / "oci-layout").write_text(marker)

    with pytest.raises(InvalidImage, match=message):
        Layout(tmp_path)


def test_layout_without_index_is_refused_when_it_is_asked(layout):
    """A copy that broke off."""
    (layout.path / "index.json").unlink()

    with pytest.raises(InvalidImage, match=r"index.json does not exist"):
        layout.tags()


def test_what_the_index_holds_besides_survives_a_tag_byte_for_byte(layout):
    """Other programs keep signatures and notes there."""
    foreign = '{"size":2,"mediaType":"x/y","digest":"sha256:' + "0" * 64 + '","new":{"b":1,"a":[]}}'
    text = '{"x-note":"ü","manifests":[' + foreign + '],"schemaVersion":2,"annotations":{"z":"1","a":"2"}}'
    (layout.path / "index.json").write_text(text)
    descriptor = manifest_of(layout)
    layout.tag("a", descriptor)
    layout.remove("a")

    assert (layout.path / "index.json").read_text() == text


def test_name_moves_to_another_image(layout):
    """Names are the one thing in a layout that changes."""
    first, second = (manifest_of(layout, word=word) for word in "ab")
    layout.tag("box:latest", first)
    layout.tag("box:old", first)
    layout.tag("box:latest", second)
    digests = {name: descriptor.digest for name, descriptor in layout.tags().items()}

    assert digests == {"box:old": first.digest, "box:latest": second.digest}


def test_entry_without_a_name_is_no_garbage(layout):
    """The specification asks for no name; an archive's image may have none."""
    descriptor = manifest_of(layout)
    layout.tag("", descriptor)
    layout.tag("", descriptor)
    layout.collect_garbage()

    assert layout.entries() == [("", descriptor)]
    assert layout.resolve().digest == descriptor.digest


@pytest.mark.parametrize("name", ["-x", "a b", "a//b", "../x", "x/", "ä"])
def test_name_that_no_other_program_would_take_is_refused(layout, name):
    """The grammar is that of org.opencontainers.image.ref.name."""
    with pytest.raises(InvalidValue, match="is no name for an image"):
        layout.tag(name, manifest_of(layout))


def test_only_images_and_indexes_that_are_here_get_a_name(layout):
    """A name that leads nowhere would be found out by somebody else, later."""
    absent = Descriptor.of(b"{}", MEDIA_TYPE_MANIFEST)
    layer = layout.add_blob(b"layer", MEDIA_TYPE_LAYER)

    for descriptor in (absent, layer):
        with pytest.raises(InvalidImage, match=f"has no manifest or index {descriptor.digest}"):
            layout.tag("x", descriptor)


def test_tags_of_many_threads_at_once_are_all_there(layout):
    """The index is one file; who reads, changes and writes it must be alone for that long."""
    descriptor = manifest_of(layout)
    threads = [threading.Thread(target=layout.tag, args=(f"n{number}", descriptor)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(layout.tags()) == sorted(f"n{number}" for number in range(16))


def test_single_image_needs_no_reference(layout):
    """``skopeo copy oci:DIRECTORY`` asks for none either."""
    layout.tag("a", manifest_of(layout))

    assert layout.resolve().digest == layout.resolve("a").digest


def test_two_images_need_one_and_the_message_has_the_names(layout):
    """To guess would be worse than to ask."""
    for word in "ab":
        layout.tag(word, manifest_of(layout, word=word))

    with pytest.raises(InvalidImage, match="has 2 images; say which of a, b"):
        layout.resolve()
    with pytest.raises(InvalidImage, match="has no image 'c'; it has a, b"):
        layout.resolve("c")


def test_index_is_resolved_to_the_image_for_the_platform_wanted(layout):
    """One name, an image for each kind of machine: image-index.md."""
    ours, others = manifest_of(layout, HERE), manifest_of(layout, ELSEWHERE)
    index = index_of(layout, for_platform(others, ELSEWHERE), for_platform(ours, HERE))
    layout.tag("multi", index)

    assert layout.resolve("multi").digest == ours.digest
    assert layout.resolve("multi", platform=ELSEWHERE).digest == others.digest
    with pytest.raises(
        InvalidImage, match=f"no image for linux/riscv64; the platforms are {HERE}, {ELSEWHERE}"
    ):
        layout.resolve("multi", platform=Platform.parse("linux/riscv64"))


def test_index_in_an_index_is_looked_into(layout):
    """Docker Engine writes one around each image that it saves."""
    ours = manifest_of(layout)
    layout.tag("deep", index_of(layout, index_of(layout, for_platform(ours, HERE))))

    assert layout.resolve("deep").digest == ours.digest
    assert layout.resolve(ours.digest).digest == ours.digest


def test_index_that_does_not_say_platforms_is_resolved_by_the_configs(layout):
    """The field is optional, and the config knows."""
    ours, others = manifest_of(layout, HERE), manifest_of(layout, ELSEWHERE)
    layout.tag("multi", index_of(layout, others, ours))

    assert layout.resolve("multi").digest == ours.digest


def test_image_for_another_platform_is_refused_if_one_was_asked_for(layout):
    """A plain image is taken as it is; who names a platform means it."""
    layout.tag("x", manifest_of(layout, ELSEWHERE))

    assert layout.resolve("x").is_manifest
    with pytest.raises(InvalidImage, match=f"no image for {HERE}; the platforms are {ELSEWHERE}"):
        layout.resolve("x", platform=HERE)


def test_indexes_nested_without_end_are_refused(layout):
    """Each level costs a reader memory and stack."""
    descriptor = manifest_of(layout)
    for _ in range(9):
        descriptor = index_of(layout, descriptor)
    layout.tag("deep", descriptor)

    with pytest.raises(InvalidImage, match="nested more than 8 deep"):
        layout.resolve("deep")


@pytest.mark.parametrize("media_type", [MEDIA_TYPE_MANIFEST, MEDIA_TYPE_INDEX])
def test_bytes_that_are_a_manifest_and_an_index_are_refused(layout, media_type):
    """CVE-2021-41190: two readers would see two images under one digest."""
    manifest = layout.read_json(manifest_of(layout))
    both = layout.add_json({**manifest, "manifests": []}, media_type)
    layout.tag("both", both)

    with pytest.raises(InvalidImage, match="is called"):
        layout.manifest(layout.resolve("both"))


def test_manifest_that_calls_itself_something_else_is_refused(layout):
    """The pointer's media type and the content's must agree."""
    manifest = layout.read_json(manifest_of(layout))
    wrong = layout.add_json({**manifest, "mediaType": MEDIA_TYPE_INDEX}, MEDIA_TYPE_MANIFEST)

    with pytest.raises(InvalidImage, match=r"and reads as .*index"):
        layout.manifest(wrong)


def test_manifest_without_layers_or_config_is_refused(layout):
    """The error should come from here, not as a KeyError from whoever reads on."""
    for descriptor in (
        layout.add_json({"schemaVersion": 2}, MEDIA_TYPE_MANIFEST),
        layout.add_json({"schemaVersion": 2, "config": {}, "layers": 5}, MEDIA_TYPE_MANIFEST),
    ):
        with pytest.raises(InvalidImage, match="lacks 'config' or 'layers'"):
            layout.manifest(descriptor)


def test_config_is_found_by_way_of_the_manifest(layout):
    """Two steps down the tree of descriptors."""
    assert layout.config(manifest_of(layout, word="w"))["word"] == "w"


def test_garbage_is_what_no_name_leads_to(layout):
    """Blobs are shared, so only the whole graph tells which are needed."""
    kept, dropped = manifest_of(layout, word="kept"), manifest_of(layout, word="dropped")
    layout.tag("kept", index_of(layout, for_platform(kept, HERE)))
    layout.tag("dropped", dropped)
    needed = layout.reachable(layout.tags()[name] for name in ["kept"])
    before = sum(path.stat().st_size for path in layout.path.glob("blobs/*/*"))
    layout.remove("dropped")
    freed = layout.collect_garbage()
    after = sum(path.stat().st_size for path in layout.path.glob("blobs/*/*"))

    assert layout.digests() == needed
    assert len(needed) == 4  # index, manifest, config, layer
    assert freed == before - after > 0
    assert layout.config(layout.resolve("kept"))["word"] == "kept"


def test_garbage_collection_keeps_its_hands_off_an_incomplete_index(layout):
    """An index may lead to images that were never pulled."""
    ours = manifest_of(layout)
    absent = for_platform(Descriptor.of(b"never pulled", MEDIA_TYPE_MANIFEST), ELSEWHERE)
    layout.tag("multi", index_of(layout, for_platform(ours, HERE), absent))
    layout.collect_garbage()

    assert layout.resolve("multi").digest == ours.digest


def test_name_that_is_not_there_cannot_be_removed(layout):
    """Silence would hide a typing error."""
    with pytest.raises(InvalidValue, match="has no image 'x'; it has none that has a name"):
        layout.remove("x")


def test_entry_of_another_program_is_found_by_its_name(layout):
    """Annotations of others on the same entry do not matter."""
    descriptor = manifest_of(layout)
    entry = {**descriptor.to_json(), "annotations": {"org.example": "x", REF_NAME: "theirs"}}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (layout.path / "index.json").write_text(json.dumps(index, indent=3))

    assert layout.resolve("theirs").digest == descriptor.digest
