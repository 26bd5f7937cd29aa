import hashlib
import json
import signal
import subprocess
import sys

import pytest

from cnlab.containers.images.blobs import BlobStore, parse_json
from cnlab.containers.images.descriptor import MEDIA_TYPE_LAYER, Descriptor, Platform, digest_of
from cnlab.errors import InvalidImage

TEXT = "text/plain"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    return BlobStore(tmp_path)


def files_in(store):
    return sorted(path.name for path in store.path.rglob("*") if path.is_file())


def test_blob_is_found_under_the_name_that_sha256sum_gives_it(store):
    """Other programs read the directory, and never asked us."""
    descriptor = store.add_blob(b"hello", TEXT)
    said = subprocess.run(["sha256sum"], input=b"hello", capture_output=True, check=True).stdout.decode()

    assert (store.path / "blobs" / "sha256" / said.split()[0]).read_bytes() == b"hello"
    assert (descriptor.size, descriptor.media_type) == (5, TEXT)


def test_bytes_a_file_and_a_path_are_the_same_blob(store, tmp_path):
    """A file is read from where it stands, as everybody expects of a file."""
    path = tmp_path / "content"
    path.write_bytes(b"xxhello")
    with path.open("rb") as file:
        file.seek(2)
        from_file = store.add_blob(file, TEXT)

    assert from_file == store.add_blob(b"hello", TEXT)
    assert store.read_blob(store.add_blob(path, TEXT)) == b"xxhello"


def test_blob_can_be_read_by_others(store):
    """Engines run as other users than the one who made the layout."""
    path = store.blob_path(store.add_blob(b"hello", TEXT).digest)

    assert path.stat().st_mode & 0o777 == 0o644


def test_failing_writer_leaves_nothing(store):
    """A download breaks off more often than not."""

    def break_off():
        with store.new_blob(TEXT) as blob:
            blob.write(b"half of")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        break_off()

    assert files_in(store) == []


def test_content_that_is_not_what_was_expected_is_not_stored(store):
    """Same size, other bytes: only the digest tells."""
    expected = Descriptor.of(b"hello", TEXT)

    with pytest.raises(InvalidImage, match=f"blob has the digest sha256:[0-9a-f]*, not {expected.digest}"):
        store.add_blob(b"hullo", TEXT, expected=expected)
    with pytest.raises(InvalidImage, match="blob has 4 bytes, not the 5"):
        store.add_blob(b"hell", TEXT, expected=expected)
    assert files_in(store) == []


def test_endless_content_is_not_read_to_its_end(store):
    """A server that never stops sending must not fill the disk."""
    expected = Descriptor.of(b"hello", TEXT)
    with (
        open("/dev/zero", "rb") as endless,
        pytest.raises(InvalidImage, match="is longer than its 5 bytes"),
    ):
        store.add_blob(endless, TEXT, expected=expected)

    assert files_in(store) == []


@pytest.mark.parametrize(
    ("damage", "message"), [(b"hullo", "has the digest"), (b"hell", "has 4 bytes, not the 5")]
)
def test_damaged_blob_is_noticed_before_a_byte_is_read(store, damage, message):
    """Disks and people change files; a digest is there to tell."""
    descriptor = store.add_blob(b"hello", TEXT)
    store.blob_path(descriptor.digest).write_bytes(damage)

    with pytest.raises(InvalidImage, match=message), store.open_blob(descriptor):
        pytest.fail("a damaged blob was opened")


def test_blob_that_is_not_there_is_named(store):
    """A layout may be incomplete: the specification allows it, so the message must help."""
    descriptor = Descriptor.of(b"elsewhere", TEXT)

    with pytest.raises(InvalidImage, match=f"has no blob {descriptor.digest}"):
        store.read_blob(descriptor)


def test_path_is_no_digest(store):
    """The store must not be talked into opening other files."""
    for method in (store.blob_path, store.has_blob):
        with pytest.raises(InvalidImage, match="digest"):
            method("sha256:../../../etc/passwd")


def test_blob_of_another_algorithm_is_verified_by_it(store):
    """SHA-512 is registered in descriptor.md too."""
    digest = f"sha512:{hashlib.sha512(b'hello').hexdigest()}"
    expected = Descriptor(TEXT, digest, 5)
    store.add_blob(b"hello", TEXT, expected=expected)

    assert store.read_blob(expected) == b"hello"
    with pytest.raises(InvalidImage, match="not sha512:"):
        store.add_blob(b"hullo", TEXT, expected=expected)


def test_blob_that_is_read_whole_has_a_limit(store):
    """A manifest of a gigabyte is an attack on memory."""
    descriptor = store.add_blob(bytes(100), TEXT)

    assert store.read_blob(descriptor, limit=100) == bytes(100)
    with pytest.raises(InvalidImage, match="has 100 bytes, more than 99"):
        store.read_blob(descriptor, limit=99)


def test_descriptor_carries_what_it_was_given(store):
    """Annotations and platform are the pointer's, not the content's."""
    platform = Platform.parse("linux/amd64")
    descriptor = store.add_blob(b"hello", TEXT, annotations={"a": "b"}, platform=platform)

    assert (descriptor.annotations, descriptor.platform) == ({"a": "b"}, platform)


def test_json_is_stored_as_it_will_be_hashed(store):
    """One space more is another digest, and another image."""
    descriptor = store.add_json({"b": 1, "a": "ü"}, TEXT)

    assert store.read_blob(descriptor) == '{"b":1,"a":"ü"}'.encode()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_no_json_object_are_refused(text):
    """Deep nesting would otherwise end in an error of the interpreter's own."""
    with pytest.raises(InvalidImage, match=r"^manifest: "):
        parse_json(text, "manifest")


def test_writer_that_was_killed_leaves_what_can_be_removed(store):
    """Nothing can clean up after SIGKILL but somebody else; and a writer that lives is left in peace."""
    code = """
import sys, time
from cnlab.containers.images.blobs import BlobStore
with BlobStore(sys.argv[1]).new_blob("text/plain") as blob:
    blob.write(b"x" * 100_000)
    print("writing", flush=True)
    time.sleep(600)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, store.path], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        while_it_lives = store.remove_unfinished(), len(files_in(store))
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    left = files_in(store)
    freed = store.remove_unfinished()

    assert while_it_lives == (0, 1)
    assert len(left) == 1
    assert freed > 0
    assert files_in(store) == []


def test_digests_tell_what_is_there(store):
    """They are what another layout may be compared with."""
    added = {store.add_blob(content, MEDIA_TYPE_LAYER).digest for content in (b"a", b"b", b"a")}

    assert store.digests() == added == {digest_of(b"a"), digest_of(b"b")}


def test_json_object_comes_back(store):
    """What was stored is what is read."""
    value = {"schemaVersion": 2, "nested": {"list": [1, None, "x"]}}

    assert store.read_json(store.add_json(value, TEXT)) == json.loads(json.dumps(value))
