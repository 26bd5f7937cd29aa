import http.client
import io
import json
import socket
import threading
from urllib.parse import quote

import pytest

from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER, Descriptor, digest_of
from cnlab.containers.registry import Client, Registry, RegistryError
from cnlab.containers.registry.tokens import basic_header
from cnlab.errors import InvalidValue

DATA = b"some layer"
DESCRIPTOR = Descriptor.of(DATA, MEDIA_TYPE_LAYER)
ANN = ("ann", "secret")


@pytest.fixture
def connection(registry):
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    yield connection
    connection.close()


def ask(connection, *request, **headers):
    connection.request(*request, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer, answer.read()


def test_body_of_unknown_length_is_read_chunk_by_chunk(connection):
    """Docker sends layers so: it compresses while it sends, and does not know the size."""
    location = ask(connection, "POST", "/v2/app/blobs/uploads/")[0].headers["Location"]
    connection.request("PATCH", location, body=iter([b"some ", b"layer"]), encode_chunked=True)
    answer = connection.getresponse()
    answer.read()

    assert (202, "0-9") == (answer.status, answer.headers["Range"])


def test_request_after_a_refused_body_is_understood(connection):
    """What nobody read of a body must not be taken for the next request."""
    refused, _ = ask(connection, "PUT", "/v2/app/nothing", b"GET /v2/ HTTP/1.1\r\n\r\n" * 1000)
    answer, body = ask(connection, "GET", "/v2/")

    assert (404, 200, b"{}") == (refused.status, answer.status, body)


def test_head_says_what_get_would_and_sends_nothing(connection):
    """Clients ask so whether a blob is there, and how large it is."""
    digest = digest_of(DATA)
    ask(connection, "POST", f"/v2/app/blobs/uploads/?digest={digest}", DATA)
    head, body = ask(connection, "HEAD", f"/v2/app/blobs/{digest}")

    assert (200, str(len(DATA)), digest) == (
        head.status, head.headers["Content-Length"], head.headers["Docker-Content-Digest"]
    )  # fmt: skip
    assert b"" == body
    assert DATA == ask(connection, "GET", f"/v2/app/blobs/{digest}")[1]


def test_blob_may_be_empty(connection):
    """To send nothing by sendfile(2) is no error, but Python's refuses it."""
    digest = digest_of(b"")
    ask(connection, "POST", f"/v2/app/blobs/uploads/?digest={digest}", b"")
    answers = [ask(connection, "GET", f"/v2/app/blobs/{digest}") for _ in range(2)]

    assert [(200, b"")] * 2 == [(answer.status, body) for answer, body in answers]


@pytest.mark.parametrize(
    "path", ["/v2/%2e%2e/%2e%2e/etc/tags/list", "/v2/../../../etc/passwd", "/v2/a%00b/tags/list"]
)
def test_encoded_path_leads_nowhere(connection, path):
    """Checks come after decoding, or they check another path than is used."""
    answer, body = ask(connection, "GET", path)

    assert answer.status in (400, 404)
    assert "NAME_INVALID" == json.loads(body)["errors"][0]["code"]


def test_upload_can_go_on_after_the_connection_broke(registry, client):
    """The client that comes back asks how much has arrived."""
    upload = client.start_upload("app")
    path = upload.location.partition(registry.address)[2]
    with socket.create_connection(registry.address.split(":")) as broken:
        broken.sendall(f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nsome ".encode())
        broken.shutdown(socket.SHUT_WR)
        assert b"" == broken.recv(1)

    again = client.resume_upload("app", upload.location)
    assert 5 == again.offset
    again.send(b"layer")
    again.finish(digest_of(DATA))
    assert client.has_blob("app", digest_of(DATA))


def test_exchanges_are_kept_in_order(registry, client):
    """So that one can see what a push says on the wire, from either side."""
    client.upload("app", io.BytesIO(DATA), DESCRIPTOR)

    said = [(exchange.method, exchange.status, exchange.uploaded) for exchange in registry.exchanges]
    assert [("POST", 202, 0), ("PUT", 201, len(DATA))] == said
    assert said == [(exchange.method, exchange.status, exchange.uploaded) for exchange in client.exchanges]


def test_nothing_is_left_after_the_block(tmp_path):
    """Neither a thread nor a port, though a client keeps its connection open."""
    before = threading.active_count()
    with Registry(tmp_path) as registry, Client(registry.address) as client:
        client.ping()
        address = registry.address
        assert threading.active_count() > before
        registry.__exit__()
        assert before == threading.active_count()
    with pytest.raises(ConnectionRefusedError):
        Client(address).ping()


def test_many_clients_are_served_at_once(registry):
    """One that is slow must not keep the others waiting."""
    with socket.create_connection(registry.address.split(":")) as slow:
        slow.sendall(b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nContent-Length: 5\r\n\r\n1")
        with Client(registry.address) as client:
            client.ping()


def test_stranger_is_told_how_to_log_in(tmp_path):
    """401 names where tokens are to be had, and which one."""
    with Registry(tmp_path, users={"ann": "secret"}) as registry:
        connection = http.client.HTTPConnection(registry.address, timeout=10)
        answer, _ = ask(connection, "GET", "/v2/app/manifests/1")
        connection.close()

    expected = f'Bearer realm="http://{registry.address}/token",service="{registry.address}",'
    assert (401, f'{expected}scope="repository:app:pull"') == (
        answer.status,
        answer.headers["WWW-Authenticate"],
    )


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_user_may_push_and_stranger_may_not_even_look(tmp_path, scheme):
    """By a token, or by the password in each request."""
    with Registry(tmp_path, users=dict([ANN]), scheme=scheme) as registry:
        with Client(registry.address, credentials=ANN) as ann:
            ann.upload("app", io.BytesIO(DATA), DESCRIPTOR)
            assert ann.has_blob("app", digest_of(DATA))
        for credentials in (None, ("ann", "wrong"), ("bob", "secret")):
            with Client(registry.address, credentials=credentials) as stranger:
                with pytest.raises(RegistryError) as caught:
                    stranger.has_blob("app", digest_of(DATA))
                assert 401 == caught.value.status


@pytest.mark.parametrize(
    "token", ["", "Bearer", "Bearer x.y.z", "Bearer " + "a" * 5000, "Basic YW5uOnNlY3JldA=="]
)
def test_invented_token_opens_nothing(tmp_path, token):
    """Not even the question whether one is logged in."""
    with Registry(tmp_path, users=dict([ANN])) as registry:
        connection = http.client.HTTPConnection(registry.address, timeout=10)
        answers = [ask(connection, "GET", path, Authorization=token)[0] for path in ("/v2/", "/v2/_catalog")]
        connection.close()

    assert [401, 401] == [answer.status for answer in answers]


def test_taken_port_is_named(registry, tmp_path):
    """Two registries, one port: the second one says which."""
    port = int(registry.address.rpartition(":")[2])

    with pytest.raises(OSError, match=rf"bind\(127\.0\.0\.1:{port}\): Address already in use"):
        Registry(tmp_path / "second", port=port)


def test_token_for_reading_does_not_let_write(tmp_path):
    """A machine that only runs images is given no more than it needs."""
    with Registry(tmp_path, users=dict([ANN])) as registry:
        connection = http.client.HTTPConnection(registry.address, timeout=10)
        path = f"/token?scope={quote('repository:app:pull')}"
        _, body = ask(connection, "GET", path, Authorization=basic_header(*ANN))
        token = f"Bearer {json.loads(body)['token']}"
        reading, _ = ask(connection, "GET", "/v2/app/manifests/1", Authorization=token)
        writing, _ = ask(connection, "POST", "/v2/app/blobs/uploads/", Authorization=token)
        connection.close()

    assert (404, 401) == (reading.status, writing.status)
    assert 'error="insufficient_scope"' in writing.headers["WWW-Authenticate"]


def test_blob_is_not_mounted_from_where_one_may_not_read(tmp_path):
    """Or a digest would be enough to read a secret; the answer is that of a blob that is not there."""
    digest = digest_of(DATA)
    with Registry(tmp_path, users=dict([ANN])) as registry:
        with Client(registry.address, credentials=ANN) as ann:
            ann.upload("secret", io.BytesIO(DATA), DESCRIPTOR)
        connection = http.client.HTTPConnection(registry.address, timeout=10)
        path = f"/token?scope={quote('repository:app:pull,push')}"
        _, body = ask(connection, "GET", path, Authorization=basic_header(*ANN))
        token = f"Bearer {json.loads(body)['token']}"
        path = f"/v2/app/blobs/uploads/?mount={digest}&from=secret"
        answer, _ = ask(connection, "POST", path, Authorization=token)
        connection.close()

    assert 202 == answer.status


def test_unknown_scheme_is_refused(tmp_path):
    """Before a port is opened."""
    with pytest.raises(InvalidValue, match="expected 'Bearer' or 'Basic'"):
        Registry(tmp_path, scheme="Digest")
