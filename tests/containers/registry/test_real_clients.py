"""skopeo, podman and docker decide whether this is a registry, and our client finds what they push."""

import json
import subprocess
import tempfile

import pytest
from dockerd import private_dockerd

from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Client, Registry, pull, push

from .conftest import store_index

pytestmark = pytest.mark.needs_programs("skopeo")

ANN = ("ann", "secret")
LOGIN = "ann:secret"


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done


def skopeo(*command, check=True):
    return run("skopeo", *command, check=check)


def blobs_of(path):
    return {file.name: file.read_bytes() for file in (path / "blobs" / "sha256").iterdir()}


@pytest.fixture
def busybox(tmp_path):
    return base_images.busybox(Layout.create(tmp_path / "busybox"), "busybox:1")


def test_skopeo_pushes_and_pulls_the_same_bytes(registry, busybox, tmp_path):
    """All digests are those of before, so nothing was packed or formatted anew."""
    layout = busybox.layout
    name = f"docker://{registry.address}/team/busybox:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.path}:busybox:1", name)
    skopeo("copy", "--src-tls-verify=false", name, f"oci:{tmp_path}/back:1")

    assert blobs_of(layout.path) == blobs_of(tmp_path / "back")


def test_skopeo_finds_what_our_client_pushed(registry, busybox):
    """Digest, layers and platform, read from the registry."""
    pushed = push(busybox, f"{registry.address}/busybox:1")
    said = json.loads(
        skopeo("inspect", "--tls-verify=false", f"docker://{registry.address}/busybox:1").stdout
    )

    assert (busybox.digest, busybox.digest, ["1"]) == (pushed.digest, said["Digest"], said["RepoTags"])
    assert [layer.descriptor.digest for layer in busybox.layers] == said["Layers"]


def test_our_client_finds_what_skopeo_pushed(registry, busybox, tmp_path):
    """The other direction, with Docker's media types instead of OCI's."""
    layout = busybox.layout
    name = f"docker://{registry.address}/busybox:1"
    skopeo("copy", "--format=v2s2", "--dest-tls-verify=false", f"oci:{layout.path}:busybox:1", name)
    pulled = pull(f"{registry.address}/busybox:1", Layout.create(tmp_path / "pulled"))

    assert "application/vnd.docker.distribution.manifest.v2+json" == pulled.manifest["mediaType"]
    assert busybox.diff_ids == pulled.diff_ids


def test_skopeo_copies_every_platform_of_an_index(registry, layout, tmp_path):
    """Manifests of an index are asked for, and put, by their digests."""
    store_index(layout, "multi", "amd64", "arm64")
    name = f"docker://{registry.address}/multi:1"
    copy = ("copy", "--all", "--preserve-digests")  # else it compresses our plain layers
    skopeo(*copy, "--dest-tls-verify=false", f"oci:{layout.path}:multi", name)
    skopeo(*copy, "--src-tls-verify=false", name, f"oci:{tmp_path}/back:1")

    assert blobs_of(layout.path) == blobs_of(tmp_path / "back")


def test_skopeo_lists_and_deletes_tags(registry, busybox):
    """More tags than fit on skopeo's page would not show otherwise."""
    for tag in ("b", "a", "c"):
        push(busybox, f"{registry.address}/busybox:{tag}")
    name = f"docker://{registry.address}/busybox"
    said = json.loads(skopeo("list-tags", "--tls-verify=false", name).stdout)
    skopeo("delete", "--tls-verify=false", f"{name}:a")

    assert ["a", "b", "c"] == said["Tags"]
    assert [] == registry.storage.tags("busybox"), "skopeo deletes the manifest, and so all its tags"


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_skopeo_logs_in_as_the_challenge_asks(busybox, tmp_path, scheme):
    """With a token, or with the password; without either, or with another one, it is told no."""
    source = f"oci:{busybox.layout.path}:busybox:1"
    with Registry(tmp_path / "registry", users=dict([ANN]), scheme=scheme) as registry:
        target = ("--dest-tls-verify=false", source, f"docker://{registry.address}/busybox:1")
        skopeo("copy", f"--dest-creds={LOGIN}", *target)
        stranger = skopeo("copy", *target, check=False)
        liar = skopeo("copy", "--dest-creds=ann:wrong", *target, check=False)
        with Client(registry.address, credentials=ANN) as client:
            assert ["1"] == client.tags("busybox")

    assert (1, 1) == (stranger.returncode, liar.returncode)
    assert "denied" in stranger.stderr or "unauthorized" in stranger.stderr
    assert "nauthorized" in liar.stderr or "invalid username/password" in liar.stderr


@pytest.mark.needs_root
def test_podman_pulls_and_pushes(registry, busybox, tmp_path):
    """It goes through its own storage, where layers are unpacked and packed again."""
    name, copy = f"{registry.address}/busybox:1", f"{registry.address}/from-podman:1"
    push(busybox, name)
    with tempfile.TemporaryDirectory() as short:  # podman takes no runroot of more than 50 characters
        own = ["podman", f"--root={tmp_path}/root", f"--runroot={short}", "--storage-driver=vfs"]
        run(*own, "pull", "--tls-verify=false", name)
        run(*own, "push", "--tls-verify=false", name, copy)
    pulled = pull(copy, Layout.create(tmp_path / "pulled"))

    assert busybox.diff_ids == pulled.diff_ids


def _registry_beside(engine, directory):
    return engine.in_its_network(lambda: Registry(directory, users=dict([ANN])))


@pytest.mark.needs_root
def test_docker_logs_in_pulls_runs_and_pushes(busybox, tmp_path):
    """dockerd uploads in chunks of unknown length, and mounts what it knows to be there."""
    directory = tmp_path / "registry"
    with Registry(directory) as here:
        pushed = push(busybox, f"{here.address}/busybox:1")
    with private_dockerd() as engine, _registry_beside(engine, directory) as registry:
        name, copy = f"{registry.address}/busybox:1", f"{registry.address}/team/copy:2"
        denied = engine.docker("pull", name, check=False)
        wrong = engine.docker("login", "--username=ann", "--password=wrong", registry.address, check=False)
        engine.docker("login", "--username=ann", "--password=secret", registry.address)
        pulled = engine.docker("pull", name)
        ran = engine.docker("run", "--rm", "--network=none", name, "echo", "hello")
        engine.docker("tag", name, copy)
        engine.docker("push", copy)
        mounts = [str(one) for one in registry.exchanges if "mount=" in one.path]
    with Registry(directory) as here:
        copied = pull(f"{here.address}/team/copy:2", Layout.create(tmp_path / "pulled"))

    assert "denied" in denied.stderr
    assert "wrong user or password" in wrong.stderr
    assert f"Digest: {pushed.digest}" in pulled.stdout
    assert "hello\n" == ran.stdout
    assert [True] == [line.endswith("201") for line in mounts]
    assert busybox.diff_ids == copied.diff_ids
