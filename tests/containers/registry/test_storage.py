import threading

import pytest

from cnlab.containers.images.descriptor import digest_of
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.storage import Storage

DATA = b"some layer"
DIGEST = digest_of(DATA)


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "registry")


def push_blob(storage, repository, data=DATA):
    upload = storage.begin_upload(repository)
    storage.append(upload, [data])
    storage.finish_upload(repository, upload, digest_of(data))


def files_of(storage):
    return sorted(
        str(path.relative_to(storage.directory)) for path in storage.directory.rglob("*") if path.is_file()
    )


def test_blob_lies_where_an_image_layout_has_it(storage):
    """The same content has the same place on both sides of a push."""
    push_blob(storage, "app")

    assert DATA == (storage.directory / "blobs" / "sha256" / DIGEST.partition(":")[2]).read_bytes()


def test_what_was_pushed_is_there_after_a_restart(storage):
    """Nothing is kept in memory."""
    push_blob(storage, "app")
    storage.put_manifest("app", b"{}", "text/x", digest=digest_of(b"{}"), tag="1")
    again = Storage(storage.directory)

    assert (digest_of(b"{}"), "text/x", b"{}") == again.manifest("app", "1")
    assert again.has_blob("app", DIGEST)


def test_bytes_of_another_digest_are_thrown_away(storage):
    """A name that does not fit would be wrong for ever."""
    upload = storage.begin_upload("app")
    storage.append(upload, [b"other bytes"])

    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        storage.finish_upload("app", upload, DIGEST)
    assert [] == files_of(storage)


def test_chunks_that_came_before_a_broken_connection_stay(storage):
    """So that the client can go on from there."""

    def chunks():
        yield b"some "
        raise ConnectionResetError

    upload = storage.begin_upload("app")
    with pytest.raises(ConnectionResetError):
        storage.append(upload, chunks())

    assert 5 == storage.upload_size(upload)


def test_blob_of_one_repository_is_not_another_ones(storage):
    """Who may read one repository could otherwise read all, by guessing digests."""
    push_blob(storage, "secret")

    assert not storage.has_blob("app", DIGEST)
    with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
        storage.blob("app", DIGEST)


def test_mounted_blob_is_stored_once(storage):
    """That is what mounting is for."""
    push_blob(storage, "one")
    storage.mount_blob("two", DIGEST, "one")

    assert storage.blob("one", DIGEST) == storage.blob("two", DIGEST)


def test_blob_stays_while_any_repository_has_it(storage):
    """Deleting is about one repository; disk space comes back with the last."""
    push_blob(storage, "one")
    storage.mount_blob("two", DIGEST, "one")
    storage.delete_blob("one", DIGEST)

    assert storage.has_blob("two", DIGEST)
    storage.delete_blob("two", DIGEST)
    assert not any("blobs/sha256" in name for name in files_of(storage))


def test_manifest_takes_its_tags_with_it(storage):
    """A tag that means nothing is an error to everybody who asks."""
    for tag in ("1", "latest"):
        storage.put_manifest("app", b"{}", "text/x", digest=digest_of(b"{}"), tag=tag)
    storage.put_manifest("app", b"[]", "text/x", digest=digest_of(b"[]"), tag="other")
    storage.delete_manifest("app", digest_of(b"{}"))

    assert ["other"] == storage.tags("app")


def test_tags_are_sorted_without_regard_to_case(storage):
    """That is what the specification calls lexical order; pages depend on it."""
    for tag in ("b", "A", "a", "C"):
        storage.put_manifest("app", b"{}", "text/x", digest=digest_of(b"{}"), tag=tag)

    assert ["A", "a", "b", "C"] == storage.tags("app")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc", "_uploads", "a/_tags/b", "A", ""])
def test_name_that_is_no_repository_touches_no_file(storage, name):
    """Names become paths."""
    before = files_of(storage)

    for attempt in (storage.begin_upload, storage.tags, lambda name: storage.blob(name, DIGEST)):
        with pytest.raises(RegistryError, match="NAME_INVALID"):
            attempt(name)
    assert before == files_of(storage)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../etc/passwd", "sha256:", "md5:" + "a" * 32, "../x", "sha256:" + "A" * 64]
)
def test_digest_that_is_none_touches_no_file(storage, digest):
    """Digests become paths, too."""
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        storage.blob("app", digest)


@pytest.mark.parametrize("upload", ["../repositories", "..", "", ".", "a/b"])
def test_upload_that_is_none_is_unknown(storage, upload):
    """And so do the names of uploads."""
    with pytest.raises(RegistryError, match="BLOB_UPLOAD_UNKNOWN"):
        storage.append(upload, [b"x"])


def test_many_may_push_the_same_blob_at_once(storage):
    """Images share layers, and build machines push at the same time."""
    threads = [threading.Thread(target=push_blob, args=(storage, f"app{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(storage.has_blob(f"app{number}", DIGEST) for number in range(8))
