import json

import pytest

from cnlab.containers.images.descriptor import digest_of
from cnlab.containers.registry.endpoints import (
    MANIFEST_SIZE_MAX,
    Endpoints,
    Request,
    find_route,
    needed_access,
)
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.storage import Storage
from cnlab.containers.registry.tokens import Access

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DATA = b"0123456789"
DIGEST = digest_of(DATA)


@pytest.fixture
def endpoints(tmp_path):
    return Endpoints(Storage(tmp_path))


def ask(endpoints, method, path, body=b"", **parts):
    headers = {name.replace("_", "-"): value for name, value in parts.pop("headers", {}).items()}
    return endpoints.answer(Request(method, path, parts, headers, [body]))


def push_blob(endpoints, repository="app", data=DATA):
    return ask(endpoints, "POST", f"/v2/{repository}/blobs/uploads/", data, digest=digest_of(data))


def push_manifest(endpoints, reference="1", **fields):
    descriptor = {"mediaType": "x/y", "digest": DIGEST, "size": len(DATA)}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [], **fields}
    data = json.dumps(manifest).encode()
    headers = {"content_type": MANIFEST}
    return data, ask(endpoints, "PUT", f"/v2/app/manifests/{reference}", data, headers=headers)


def refused(endpoints, *request, **parts):
    with pytest.raises(RegistryError) as caught:
        ask(endpoints, *request, **parts)
    return caught.value.status, caught.value.code


def test_blob_may_be_sent_in_one_request(endpoints):
    """end-4b: small blobs are not worth a conversation."""
    answer = push_blob(endpoints)

    assert (201, f"/v2/app/blobs/{DIGEST}") == (answer.status, answer.headers["Location"])


def test_chunks_are_put_together(endpoints):
    """end-5 and end-6: each chunk says where it begins; the range in the answer is what has arrived."""
    location = ask(endpoints, "POST", "/v2/app/blobs/uploads/").headers["Location"]
    first = ask(endpoints, "PATCH", location, DATA[:4], headers={"content_range": "0-3"})
    ask(endpoints, "PATCH", location, DATA[4:], headers={"content_range": "4-9"})
    done = ask(endpoints, "PUT", location, digest=DIGEST)

    assert (202, "0-3", 201) == (first.status, first.headers["Range"], done.status)
    assert DATA == endpoints.storage.blob("app", DIGEST).read_bytes()


def test_chunk_out_of_order_is_refused_with_the_place_to_go_on(endpoints):
    """416, and what has arrived stays."""
    location = ask(endpoints, "POST", "/v2/app/blobs/uploads/").headers["Location"]
    ask(endpoints, "PATCH", location, DATA[:4], headers={"content_range": "0-3"})
    answer = ask(endpoints, "PATCH", location, DATA[6:], headers={"content_range": "6-9"})

    assert (416, "0-3") == (answer.status, answer.headers["Range"])


def test_cancelled_upload_is_gone(endpoints):
    """end-14."""
    location = ask(endpoints, "POST", "/v2/app/blobs/uploads/").headers["Location"]
    ask(endpoints, "DELETE", location)

    assert (404, "BLOB_UPLOAD_UNKNOWN") == refused(endpoints, "GET", location)


def test_mount_needs_no_bytes(endpoints):
    """end-11: 201 at once; where the other repository has no such blob, an upload begins instead."""
    push_blob(endpoints, "one")
    uploads = "/v2/two/blobs/uploads/"
    mounted = ask(endpoints, "POST", uploads, mount=DIGEST, **{"from": "one"})
    other = ask(endpoints, "POST", uploads, mount=digest_of(b"?"), **{"from": "one"})

    assert (201, 202) == (mounted.status, other.status)
    assert endpoints.storage.has_blob("two", DIGEST)


@pytest.mark.parametrize(
    ("asked", "offset", "length", "said"),
    [
        ("bytes=2-4", 2, 3, "bytes 2-4/10"),
        ("bytes=7-", 7, 3, "bytes 7-9/10"),
        ("bytes=-2", 8, 2, "bytes 8-9/10"),
    ],
)
def test_part_of_a_blob_can_be_asked_for(endpoints, asked, offset, length, said):
    """A download that broke off is finished, not begun again."""
    push_blob(endpoints)
    answer = ask(endpoints, "GET", f"/v2/app/blobs/{DIGEST}", headers={"range": asked})

    assert (206, offset, length, said) == (
        answer.status, answer.offset, answer.length, answer.headers["Content-Range"]
    )  # fmt: skip


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=5-4", "bytes=-", "lines=1-2"])
def test_part_that_is_not_there_is_refused(endpoints, asked):
    """416 with an error of the specification's form."""
    push_blob(endpoints)

    assert 416 == refused(endpoints, "GET", f"/v2/app/blobs/{DIGEST}", headers={"range": asked})[0]


def test_manifest_comes_back_byte_for_byte(endpoints):
    """Its digest is of these bytes: to format the JSON anew would make another image."""
    push_blob(endpoints)
    data, put = push_manifest(endpoints)
    got = ask(endpoints, "GET", "/v2/app/manifests/1")

    assert (data, MANIFEST) == (got.body, got.headers["Content-Type"])
    assert digest_of(data) == put.headers["Docker-Content-Digest"] == got.headers["Docker-Content-Digest"]


def test_manifest_without_its_blobs_is_refused(endpoints):
    """Whoever pulled it would get stuck half-way."""
    with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
        push_manifest(endpoints)


def test_index_without_its_manifests_is_refused(endpoints):
    """The same, one level higher."""
    child = {"mediaType": MANIFEST, "digest": digest_of(b"?"), "size": 1}
    index = json.dumps({"schemaVersion": 2, "manifests": [child]}).encode()

    assert (400, "MANIFEST_BLOB_UNKNOWN") == refused(endpoints, "PUT", "/v2/app/manifests/1", index)


def test_manifest_under_a_wrong_digest_is_refused(endpoints):
    """A digest in the path is a promise."""
    push_blob(endpoints)

    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        push_manifest(endpoints, digest_of(b"?"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion": 1}',
        b'{"schemaVersion": 2, "layers": [{}]}',
        b'{"schemaVersion":2,"config":7}',
    ],
)
def test_what_is_no_manifest_is_refused(endpoints, data):
    """A registry that keeps anything under a tag breaks its clients."""
    assert (400, "MANIFEST_INVALID") == refused(endpoints, "PUT", "/v2/app/manifests/1", data)


def test_manifest_sent_as_something_else_is_refused(endpoints):
    """Two readers could take the same bytes for different images."""
    push_blob(endpoints)
    with pytest.raises(RegistryError, match="MANIFEST_INVALID"):
        push_manifest(endpoints, mediaType="application/vnd.oci.image.index.v1+json")


def test_too_large_manifest_is_refused(endpoints):
    """Manifests are read into memory, by everybody."""
    data = b" " * (MANIFEST_SIZE_MAX + 1)

    assert (413, "SIZE_INVALID") == refused(endpoints, "PUT", "/v2/app/manifests/1", data)


def test_tags_come_in_pages(endpoints):
    """end-8: the link leads to what follows the last, and the last page has none."""
    push_blob(endpoints)
    for tag in ("c", "a", "b"):
        push_manifest(endpoints, tag)
    first = ask(endpoints, "GET", "/v2/app/tags/list", n="2")
    second = ask(endpoints, "GET", "/v2/app/tags/list", n="2", last="b")

    assert ["a", "b"] == json.loads(first.body)["tags"]
    assert '</v2/app/tags/list?n=2&last=b>; rel="next"' == first.headers["Link"]
    assert (["c"], False) == (json.loads(second.body)["tags"], "Link" in second.headers)


def test_referrers_are_those_that_name_the_subject(endpoints):
    """end-12: how a signature is found, though the image does not know of it."""
    push_blob(endpoints)
    data, _ = push_manifest(endpoints)
    subject = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    _, put = push_manifest(
        endpoints, "sbom", subject=subject, artifactType="text/sbom", annotations={"a": "b"}
    )
    push_manifest(endpoints, "signature", subject=subject, artifactType="text/signature")
    path = f"/v2/app/referrers/{digest_of(data)}"
    answer = ask(endpoints, "GET", path, artifactType="text/sbom")
    found = json.loads(answer.body)["manifests"]

    assert digest_of(data) == put.headers["OCI-Subject"]
    assert [("text/sbom", {"a": "b"})] == [(one["artifactType"], one["annotations"]) for one in found]
    assert "artifactType" == answer.headers["OCI-Filters-Applied"]
    assert 2 == len(json.loads(ask(endpoints, "GET", path).body)["manifests"])


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "NAME_INVALID")),
        ("GET", "/v2/app/nothing", (404, "NAME_INVALID")),
        ("PUT", "/v2/", (405, "UNSUPPORTED")),
        ("GET", "/v2/../../etc/tags/list", (400, "NAME_INVALID")),
        ("GET", "/v2/app/tags/list", (404, "NAME_UNKNOWN")),
        ("GET", "/v2/app/manifests/1", (404, "MANIFEST_UNKNOWN")),
        ("GET", "/v2/app/manifests/..", (400, "MANIFEST_INVALID")),
        ("GET", f"/v2/app/blobs/{DIGEST}", (404, "BLOB_UNKNOWN")),
        ("GET", "/v2/app/blobs/sha256:1", (400, "DIGEST_INVALID")),
        ("DELETE", f"/v2/app/manifests/{DIGEST}", (404, "MANIFEST_UNKNOWN")),
        ("DELETE", "/v2/app/manifests/latest", (404, "MANIFEST_UNKNOWN")),
        ("DELETE", f"/v2/app/blobs/{DIGEST}", (404, "BLOB_UNKNOWN")),
    ],
)
def test_refusal_has_the_code_of_the_specification(endpoints, method, path, expected):
    """Clients decide by it: to try again, to log in, or to tell the user."""
    assert expected == refused(endpoints, method, path)


def test_repository_may_have_the_name_of_an_endpoint():
    """Slashes make paths that can be read twice; the last part decides."""
    path = f"/v2/blobs/uploads/blobs/{DIGEST}"
    route, names = find_route(Request("GET", path, {}, {}))

    assert (Endpoints.blob, {"name": "blobs/uploads", "digest": DIGEST}) == (route.endpoint, names)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v2/", None),
        ("HEAD", "/v2/a/b/manifests/1", Access("a/b", ("pull",))),
        ("PATCH", "/v2/a/blobs/uploads/x", Access("a", ("pull", "push"))),
        ("DELETE", "/v2/a/manifests/1", Access("a", ("delete",))),
        ("GET", "/v2/_catalog", Access("catalog", ("*",), "registry")),
    ],
)
def test_each_endpoint_says_what_a_token_must_allow(method, path, expected):
    """The scope of a challenge is this, so that a client asks for no more."""
    assert expected == needed_access(Request(method, path, {}, {}))
