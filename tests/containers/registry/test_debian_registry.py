"""Our client at the registry that Debian packages: what it takes from a server that is not ours."""

import io
import json
import subprocess

import pytest

from cnlab.containers.images import base_images
from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_INDEX,
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)
from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Client, RegistryError, pull, push

from .conftest import store_index
from .debian_registry import debian_registry

pytestmark = pytest.mark.needs_programs("docker-registry", "skopeo")

DATA = b"some layer"
DIGEST = digest_of(DATA)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with debian_registry(tmp_path_factory.mktemp("debian") / "registry") as address:
        yield address


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def busybox(tmp_path_factory):
    return base_images.busybox(Layout.create(tmp_path_factory.mktemp("images") / "layout"), "busybox:1")


def skopeo(*command):
    done = subprocess.run(["skopeo", *command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fates(transfer):
    return {fate for _, fate in transfer.blobs}


def test_skopeo_finds_there_what_our_client_pushed(address, busybox):
    """Digest and layers, as a third party reads them."""
    pushed = push(busybox, f"{address}/pushed:1")
    said = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{address}/pushed:1"))

    assert (busybox.digest, busybox.digest) == (pushed.digest, said["Digest"])
    assert [layer.descriptor.digest for layer in busybox.layers] == said["Layers"]


def test_our_client_pulls_what_skopeo_pushed_there(address, busybox, tmp_path):
    """To the byte, with neither end of ours on the way there."""
    name = f"docker://{address}/by-skopeo:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{busybox.layout.path}:busybox:1", name)
    pulled = pull(f"{address}/by-skopeo:1", Layout.create(tmp_path / "pulled"))

    assert busybox.digest == pulled.digest
    assert [busybox.layout.read_blob(layer.descriptor) for layer in busybox.layers] == [
        pulled.layout.read_blob(layer.descriptor) for layer in pulled.layers
    ]


def test_index_is_pushed_with_all_its_platforms(address, layout):
    """Manifests without a tag, then the index; skopeo reads the raw index back."""
    index = store_index(layout, "multi", "amd64", "arm64")
    push((layout, index), f"{address}/multi:1")
    said = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{address}/multi:1")

    assert layout.read_blob(index) == said.encode()


def test_second_push_sends_nothing(address, busybox):
    """It is asked first, and says what it has."""
    first = push(busybox, f"{address}/twice:1")
    second = push(busybox, f"{address}/twice:2")

    assert ({"uploaded"}, {"exists"}) == (fates(first), fates(second))


def test_blobs_are_mounted_from_another_repository(address, busybox):
    """The registry answers a mount with 201, and one from nowhere with an upload that is cancelled."""
    push(busybox, f"{address}/source:1")
    mounted = push(busybox, f"{address}/target:1", mount_from="source")
    sent = push(busybox, f"{address}/other:1", mount_from="nobody")

    assert ({"mounted"}, {"uploaded"}) == (fates(mounted), fates(sent))
    assert 0 == mounted.uploaded


def test_chunks_make_the_same_blob(address, busybox, tmp_path):
    """Each chunk's answer has a new place for the next: what this registry knows of an upload is in it."""
    push(busybox, f"{address}/chunks:1", chunk_size=300_000)
    pulled = pull(f"{address}/chunks:1", Layout.create(tmp_path / "pulled"))

    assert busybox.digest == pulled.digest


def test_upload_is_resumed_by_another_client(address, client):
    """The place of the last chunk's answer is all that must be kept."""
    upload = client.start_upload("resumed")
    upload.send(b"some ")
    client.close()
    with Client(address) as other:
        resumed = other.resume_upload("resumed", upload.location)
        assert 5 == resumed.offset
        resumed.send(b"lay")
        resumed.finish(DIGEST, b"er")
        with other.open_blob("resumed", DIGEST) as stream:
            assert DATA == stream.read()


def test_place_of_an_earlier_chunk_is_refused(client):
    """This registry signs the offset into the place, so an old one is of no use; ours asks the file."""
    upload = client.start_upload("stale")
    stale = upload.location
    upload.send(b"some ")

    with pytest.raises(RegistryError, match="404 BLOB_UPLOAD_INVALID") as caught:
        client.resume_upload("stale", stale)
    assert "\n" not in str(caught.value)


def test_wrong_digest_is_refused(client):
    """By the server, too: a damaged upload gets no name."""
    with pytest.raises(RegistryError, match="400 DIGEST_INVALID"):
        client.start_upload("damaged").finish(DIGEST, b"other layer")
    assert not client.has_blob("damaged", DIGEST)


def test_part_of_a_blob_is_fetched_and_the_blob_deleted(client):
    """Ranges of RFC 9110, and the endpoint that Debian's configuration switches on as well."""
    client.upload("parts", io.BytesIO(DATA), Descriptor.of(DATA, MEDIA_TYPE_LAYER))
    with client.open_blob("parts", DIGEST, offset=5) as stream:
        assert b"layer" == stream.read()
    client.delete_blob("parts", DIGEST)

    assert not client.has_blob("parts", DIGEST)


def test_deleted_manifest_takes_its_tags_with_it(address, client, busybox):
    """By its digest; version 2 of this registry deletes no single tags and says so in one line."""
    push(busybox, f"{address}/deleted:1")
    with pytest.raises(RegistryError, match=r"DELETE /v2/deleted/manifests/1: 400 DIGEST_INVALID"):
        client.delete_manifest("deleted", "1")
    assert busybox.digest == client.head_manifest("deleted", "1").digest
    client.delete_manifest("deleted", busybox.digest)

    with pytest.raises(RegistryError, match="404 MANIFEST_UNKNOWN"):
        client.manifest("deleted", "1")
    assert [] == client.tags("deleted")


def test_all_pages_of_a_list_are_read(address, client, busybox):
    """It sends the catalogue one by one with links to the next; tags all at once, whatever was asked for."""
    names = {f"pages/{number}" for number in range(3)}
    for name in names:
        push(busybox, f"{address}/{name}:1")
    for tag in ("c", "a", "b"):
        push(busybox, f"{address}/pages/tags:{tag}")
    found, tags = client.catalog(page_size=1), client.tags("pages/tags", page_size=1)
    pages = sum(exchange.path.startswith("/v2/_catalog") for exchange in client.exchanges)

    assert names < set(found)
    assert len(found) == len(set(found)) <= pages
    assert ["a", "b", "c"] == sorted(tags)


def test_referrers_of_an_old_registry_stand_under_a_tag(address, client, busybox):
    """It has no list of them; without the tag there are none."""
    subject = push(busybox, f"{address}/signed:1").digest
    none = client.referrers("signed", subject)
    manifest = busybox.manifest | {"subject": {"digest": subject}, "artifactType": "text/x"}
    signature = Descriptor.of(json.dumps(manifest).encode(), MEDIA_TYPE_MANIFEST)
    client.put_manifest("signed", "signature", json.dumps(manifest).encode(), MEDIA_TYPE_MANIFEST)
    index = {"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX}
    index["manifests"] = [signature.to_json() | {"artifactType": "text/x"}]
    tag = subject.replace(":", "-")
    client.put_manifest("signed", tag, json.dumps(index).encode(), MEDIA_TYPE_INDEX)

    assert [] == none
    assert [signature.digest] == [found.digest for found in client.referrers("signed", subject)]
    assert [] == client.referrers("signed", subject, artifact_type="text/y")
