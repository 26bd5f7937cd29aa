import pytest

from cnlab.containers.images.reference import Reference, is_repository
from cnlab.errors import InvalidValue

HEX = "a" * 64


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("ann/app:2", "docker.io/ann/app:2"),
        ("localhost/app", "localhost/app:latest"),
        ("127.0.0.1:5000/team/app:1.0", "127.0.0.1:5000/team/app:1.0"),
        (f"example.org/app@sha256:{HEX}", f"example.org/app@sha256:{HEX}"),
        (f"example.org/app:1@sha256:{HEX}", f"example.org/app:1@sha256:{HEX}"),
    ],
)
def test_short_name_means_what_docker_means_by_it(typed, meant):
    """The same word on two command lines must not be two images."""
    assert meant == str(Reference.parse(typed))


def test_port_is_no_tag():
    """The colon before a port and the colon before a tag look alike."""
    reference = Reference.parse("127.0.0.1:5000/app")

    assert ("127.0.0.1:5000", "app", "latest") == (reference.registry, reference.repository, reference.tag)


def test_digest_is_asked_for_rather_than_the_tag():
    """A tag may move; whoever writes a digest wants these bytes."""
    assert f"sha256:{HEX}" == Reference.parse(f"example.org/app:1@sha256:{HEX}").tag_or_digest


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "App",
        "example.org/",
        "example.org/a//b",
        "example.org/../etc",
        "example.org/app:.x",
        "a:b:c",
        "a@sha256:12",
    ],
)
def test_what_is_no_name_is_refused(typed):
    """A repository's name becomes a path on the registry's disk."""
    with pytest.raises(InvalidValue, match="image name"):
        Reference.parse(typed)


@pytest.mark.parametrize("name", ["..", "a/..", "a/../b", "/a", "a/", ".a", "_a", "a/_blobs", "a" * 256])
def test_no_repository_leaves_its_folder(name):
    """Neither upwards nor into the folders that a registry keeps for itself."""
    assert not is_repository(name)
