import json
import subprocess
import sys
import tarfile

import pytest
from dockerd import private_dockerd

from cnlab.containers import runtime
from cnlab.containers.images import archive, base_images
from cnlab.containers.images.layout import Layout
from cnlab.errors import InvalidValue, MissingFeature

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Layout.create(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def python(layout):
    return base_images.python(layout, packages=["pyzmq", "jupyter_core"])


@pytest.fixture(scope="module")
def slim(layout):
    return base_images.python(layout)


def unpacked(image, directory):
    """Unpack by tar(1), which knows nothing of us."""
    directory.mkdir()
    for layer in image.layers:
        blob = image.layout.blob_path(layer.descriptor.digest)
        subprocess.run(["tar", "-xzpf", blob, "-C", directory], check=True)
    return directory


def members(image):
    for layer in image.layers:
        with tarfile.open(image.layout.blob_path(layer.descriptor.digest)) as archive:
            yield from archive


@pytest.mark.needs_root
def test_busybox_is_a_small_system_of_its_own(layout, tmp_path):
    """A shell, its commands, a user and somewhere to write: nothing of it comes from the host."""
    root = unpacked(base_images.busybox(layout), tmp_path / "root")
    command = ["chroot", root, "/bin/sh", "-c", "whoami; /usr/bin/env true && echo hi > /tmp/x && cat /tmp/x"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "root\nhi\n" == said


@pytest.mark.needs_root
def test_python_runs_without_any_file_of_the_host(python, tmp_path):
    """Extension modules load, so all shared libraries are there; the package's own are found as well."""
    root = unpacked(python, tmp_path / "root")
    code = "import ssl, sqlite3, ctypes, lzma, zmq, jupyter_core, traitlets; print(ssl.OPENSSL_VERSION)"
    env = dict(entry.split("=", 1) for entry in python.config["config"]["Env"])
    done = subprocess.run(["chroot", root, "python3", "-c", code], env=env, capture_output=True, text=True)

    assert "" == done.stderr
    assert done.stdout.startswith("OpenSSL")


@pytest.mark.needs_root
def test_python_runs_in_a_container_of_docker(python, tmp_path):
    """Its engine loads it under our id; our runtime starts it as its config says."""
    with (tmp_path / "python.tar").open("wb") as file:
        archive.save({"python:latest": python}, file)
    with private_dockerd(f"--add-runtime=cnlab={runtime.command()}") as dockerd:
        dockerd.docker("load", "-i", str(tmp_path / "python.tar"))
        image = dockerd.docker("inspect", "--format={{.Id}}", "python").stdout.strip()
        command = ["run", "--rm", "--runtime=cnlab", "--network=none", "python", "python3", "-c"]
        said = dockerd.docker(*command, "import zmq, sys, os; print(os.getpid(), sys.prefix)").stdout

    assert (image, said) == (python.id, "1 /usr/local\n")


@pytest.mark.needs_programs("skopeo")
def test_python_is_an_image_to_skopeo(layout, python):
    """It reads the same digest, layers, platform and variables from our layout as we do."""
    layout.tag("python:skopeo", python.manifest_descriptor)
    command = ["skopeo", "inspect", f"oci:{layout.path}:python:skopeo"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert said["Digest"] == python.digest
    assert said["Layers"] == [layer.descriptor.digest for layer in python.layers]
    assert (said["Os"], said["Architecture"]) == (python.config["os"], python.config["architecture"])
    assert said["Env"] == python.config["config"]["Env"]


def test_python_builds_on_busybox(layout, python):
    """So that both share a layer, wherever they are pushed, pulled or unpacked."""
    busybox = base_images.busybox(layout)

    assert busybox.layers == python.layers[:1]
    assert 4 == len(python.layers)


def test_packages_do_not_change_the_layers_below(slim, python):
    """Images with different packages share everything else."""
    assert slim.layers == python.layers[:3]


def test_what_no_program_needs_is_left_out(slim):
    """Tests and compiled files would double the size; site-packages are the environment's, not Python's."""
    names = [member.name for member in members(slim) if member.name.startswith("usr/local/")]
    unwanted = {"test", "tests", "__pycache__", "site-packages", "dist-packages", "idlelib", "tkinter"}

    assert [] == [name for name in names if unwanted & set(name.split("/"))]
    assert f"usr/local/lib/python{VERSION}/json/decoder.py" in names


def test_image_made_twice_is_the_same_bytes(python, tmp_path):
    """Neither owner, nor time, nor order of files depends on who makes it and when."""
    again = base_images.python(Layout.create(tmp_path / "again"), packages=["pyzmq", "jupyter_core"])

    assert python.digest == again.digest
    assert {(0, 0, 0)} == {(member.uid, member.gid, member.mtime) for member in members(again)}


@pytest.mark.as_student
def test_student_makes_the_same_image():
    """Nothing of it needs root."""
    image = base_images.busybox(Layout.create("layout"))

    assert {(0, 0)} == {(member.uid, member.gid) for member in members(image)}


def test_history_tells_how_each_layer_came_to_be(python):
    """As `docker history` shows."""
    said = [entry["created_by"] for entry in python.history]

    assert said[0].startswith("busybox with ")
    assert ["shared libraries", f"Python {VERSION}", "packages pyzmq jupyter_core"] == said[1:]


def test_package_that_is_not_installed_is_named(layout):
    """It cannot be fetched: nothing here needs a network."""
    with pytest.raises(InvalidValue, match="no-such-thing is not installed"):
        base_images.python(layout, packages=["No.Such_Thing"])


def test_busybox_that_needs_libraries_is_refused(layout, tmp_path, monkeypatch):
    """Debian has a package of that kind, too; its image would start with ENOENT."""
    (tmp_path / "busybox").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingFeature, match="needs shared libraries"):
        base_images.busybox(layout)
