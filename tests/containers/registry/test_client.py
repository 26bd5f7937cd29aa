import http.server
import io
import json
import threading

import pytest

from cnlab.containers.images.descriptor import (
    MEDIA_TYPE_LAYER,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Client, Registry, RegistryError, pull, push
from cnlab.containers.registry.session import is_loopback
from cnlab.containers.registry.tokens import basic_header
from cnlab.errors import InvalidImage

from .conftest import LAYERS, store_image, store_index

DATA = b"some layer"
DIGEST = digest_of(DATA)


def fates(transfer):
    return [fate for _, fate in transfer.blobs]


def blobs_of(layout):
    return {path.name: path.read_bytes() for path in (layout.path / "blobs").glob("*/*")}


def test_pulled_image_is_the_pushed_one_to_the_byte(registry, image, tmp_path):
    """Manifest, config and layers: all digests are those of before."""
    layout, descriptor = image
    pushed = push(image, f"{registry.address}/team/app:1")
    other = Layout.create(tmp_path / "other")
    pulled = pull(f"{registry.address}/team/app:1", other)

    assert descriptor.digest == pushed.digest == pulled.digest
    assert blobs_of(layout) == blobs_of(other)
    assert ["team/app:1"] == list(other.tags())


def test_second_push_sends_no_blob(registry, image):
    """It asks first: layers that do not change cost nothing."""
    first = push(image, f"{registry.address}/app:1")
    second = push(image, f"{registry.address}/app:2")

    assert ["uploaded"] * 3 == fates(first)
    assert ["exists"] * 3 == fates(second)
    assert (True, 0) == (first.uploaded > sum(map(len, LAYERS)), second.uploaded)


def test_blobs_of_another_repository_are_mounted(registry, image):
    """The registry has the bytes; all that is new is who may have them."""
    push(image, f"{registry.address}/one:1")
    mounted = push(image, f"{registry.address}/two:1", mount_from="one")
    sent = push(image, f"{registry.address}/three:1", mount_from="nobody")

    assert ["mounted"] * 3 == fates(mounted)
    assert ["uploaded"] * 3 == fates(sent)
    assert [] == list((registry.storage.directory / "uploads").iterdir())


def test_blob_can_be_sent_in_chunks(registry, image):
    """Where a proxy limits a request's size, say."""
    push(image, f"{registry.address}/app:1", chunk_size=30_000)
    chunks = [exchange.uploaded for exchange in registry.exchanges if exchange.method == "PATCH"]

    assert max(chunks) == 30_000
    assert sum(map(len, LAYERS)) < sum(chunks)


def test_pull_fetches_only_what_is_not_there(registry, image, tmp_path):
    """Two images of one base share it on disk and on the wire."""
    push(image, f"{registry.address}/app:1")
    other = Layout.create(tmp_path / "other")
    other.add_blob(LAYERS[1], MEDIA_TYPE_LAYER)
    seen = []
    pull(f"{registry.address}/app:1", other, on_blob=lambda blob, fate: seen.append(fate))

    assert ["downloaded", "downloaded", "exists"] == seen


def test_damaged_blob_is_refused_and_not_kept(registry, image, tmp_path):
    """The registry's disk, or somebody on the way, may have changed it: the manifest's digest tells."""
    push(image, f"{registry.address}/app:1")
    path = registry.storage.blob("app", digest_of(LAYERS[1]))
    path.write_bytes(LAYERS[1][:-1] + b"!")
    other = Layout.create(tmp_path / "other")

    with pytest.raises(InvalidImage, match="digest"):
        pull(f"{registry.address}/app:1", other)
    assert not other.has_blob(digest_of(LAYERS[1]))
    assert {} == other.tags()


def test_manifest_that_is_not_the_one_asked_for_is_refused(registry, client, image):
    """Who pulls by digest trusts no registry."""
    pushed = push(image, f"{registry.address}/app:1")
    path = registry.storage.directory / "blobs" / pushed.digest.replace(":", "/")
    path.write_bytes(path.read_bytes() + b" ")

    for reference in (pushed.digest, "1"):
        with pytest.raises(InvalidImage, match="instead of"):
            client.manifest("app", reference)


def test_index_is_pushed_whole_and_pulled_in_part(registry, layout, tmp_path):
    """One name for all platforms; each machine fetches its own."""
    index = store_index(layout, "multi", "amd64", "arm64")
    pushed = push((layout, index), f"{registry.address}/app:1")
    other = Layout.create(tmp_path / "other")
    pulled = pull(f"{registry.address}/app:1", other, platform=Platform("linux", "arm64"))

    assert index.digest == pushed.digest
    assert "arm64" == pulled.config["architecture"]
    with pytest.raises(InvalidImage, match="has no image for linux/s390x; it has linux/amd64, linux/arm64"):
        pull(f"{registry.address}/app:1", other, platform=Platform("linux", "s390x"))


def test_image_can_be_pulled_by_its_digest(registry, layout, image, tmp_path):
    """A tag may have moved meanwhile."""
    pushed = push(image, f"{registry.address}/app:1")
    push((layout, store_image(layout, "other", architecture="arm64")), f"{registry.address}/app:1")
    pulled = pull(f"{registry.address}/app@{pushed.digest}", Layout.create(tmp_path / "x"), tag="mine")

    assert (pushed.digest, {"mine"}) == (pulled.digest, set(pulled.layout.tags()))


def test_lists_are_read_page_by_page(registry, client, image):
    """However small the pages are."""
    for tag in ("c", "a", "b", "d", "e"):
        push(image, f"{registry.address}/app:{tag}")
    push(image, f"{registry.address}/other:1")

    assert ["a", "b", "c", "d", "e"] == client.tags("app", page_size=2)
    assert ["app", "other"] == client.catalog(page_size=1)
    assert 3 == sum("tags/list" in exchange.path for exchange in client.exchanges)


def test_deleted_tag_is_gone_and_its_manifest_is_not(registry, client, image):
    """A tag is a name; the manifest goes when it is deleted by its digest."""
    digest = push(image, f"{registry.address}/app:1").digest
    client.delete_manifest("app", "1")
    assert digest == client.head_manifest("app", digest).digest
    client.delete_manifest("app", digest)

    with pytest.raises(RegistryError) as caught:
        client.manifest("app", digest)
    assert (404, "MANIFEST_UNKNOWN") == (caught.value.status, caught.value.code)


def test_error_says_what_was_asked_and_what_was_answered(client):
    """One line, for a person."""
    with pytest.raises(RegistryError) as caught:
        client.tags("nobody")

    expected = "GET /v2/nobody/tags/list: 404 NAME_UNKNOWN: there is no repository nobody"
    assert expected == str(caught.value)


def test_chunk_at_the_wrong_place_is_refused_until_one_asks(client):
    """Two that share an upload, or one that lost an answer."""
    upload = client.start_upload("app")
    upload.send(b"some ")
    client.resume_upload("app", upload.location).send(b"lay")

    with pytest.raises(RegistryError) as caught:
        upload.send(b"lay")
    assert (416, 8) == (caught.value.status, upload.refresh())
    upload.finish(DIGEST, b"er")
    assert client.has_blob("app", DIGEST)


def test_part_of_a_blob_can_be_fetched(client):
    """To go on with a download."""
    client.upload("app", io.BytesIO(DATA), Descriptor.of(DATA, MEDIA_TYPE_LAYER))
    with client.open_blob("app", DIGEST, offset=5) as stream:
        assert b"layer" == stream.read()
    client.delete_blob("app", DIGEST)

    assert not client.has_blob("app", DIGEST)


def test_referrer_is_found_by_its_subject(registry, client, image):
    """A signature is pushed later than what it signs."""
    layout, descriptor = image
    push(image, f"{registry.address}/app:1")
    manifest = layout.manifest(descriptor) | {"subject": descriptor.to_json(), "artifactType": "text/x"}
    digest = client.put_manifest("app", "signature", json.dumps(manifest).encode(), MEDIA_TYPE_MANIFEST)

    assert [digest] == [found.digest for found in client.referrers("app", descriptor.digest)]
    assert [] == client.referrers("app", descriptor.digest, artifact_type="text/y")


def test_connection_that_the_registry_closed_is_opened_anew(tmp_path):
    """Registries close idle connections; that is no error of whoever asks next."""
    with Registry(tmp_path) as registry, Client(registry.address) as client:
        client.ping()
        port = int(registry.address.rpartition(":")[2])
        registry.__exit__()
        with Registry(tmp_path, port=port):
            client.ping()


def test_blob_may_be_elsewhere(image, tmp_path):
    """Large registries answer with the address of a store; our password is not sent there."""
    seen = []

    class Store(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path.split("/")[1], self.headers.get("Authorization")))
            if self.path.startswith("/v2/") and "Authorization" not in self.headers:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic realm=here")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path.startswith("/v2/"):
                self.send_response(307)
                self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/store")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(DATA)))
                self.end_headers()
                self.wfile.write(DATA)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            address = f"127.0.0.1:{server.server_address[1]}"
            client = Client(address, credentials=("ann", "secret"))
            with client, client.open_blob("app", DIGEST) as stream:
                assert DATA == stream.read()
        finally:
            server.shutdown()
            thread.join()
    assert [("v2", None), ("v2", basic_header("ann", "secret")), ("store", None)] == seen


def test_registry_that_is_not_there_is_named():
    """The address is what is wrong, so the error has it."""
    with pytest.raises(ConnectionRefusedError, match=r"GET http://127\.0\.0\.1:1/v2/: Connection refused"):
        Client("127.0.0.1:1").ping()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("example.org", False),
        ("10.0.0.1:5000", False),
        ("localhost.example.org", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(address, expected):
    """A password in plain HTTP is everybody's on the way."""
    assert expected == is_loopback(address)
