"""Docker Engine in the private kernel, judged by the Docker SDK; and nothing where there can be none.

One kernel and one engine serve all tests: `GUEST` runs in it as a cell of a student's notebook, and each test
looks at one fact of what it told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dockerd import Dockerd, private_dockerd
from private_kernel import in_private_kernel
from rootfs_archive import busybox_archive
from student import Student

from cnlab.containers import runtime
from cnlab.containers.engine import docker_engine
from cnlab.errors import MissingFeature

GUEST = r"""
import contextlib, io, json, os, tempfile, urllib.request
from pathlib import Path
from cnlab.clock import wait_until
from cnlab.containers import engine
from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.processes import processes

def traces():
    return {
        "cgroups": sorted(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()),
        "links": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(mount.mount_point for mount in read_mountinfo()),
        "run": sorted({*os.listdir("/run")} - {"xtables.lock"}),  # iptables' own
        "programs": sorted({p.name for p in processes() if p.cmdline} - {"bpfilter_umh"}),  # the kernel's own
    }

def fetch(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).read()

told = {}
layout = Layout.create(tempfile.mkdtemp())
image = base_images.busybox(layout, "busybox:latest")
before = traces()

os.makedirs("/etc/docker", exist_ok=True)
Path("/etc/docker/daemon.json").write_text("made to be unreadable")
broken = Path("/usr/local/sbin/dockerd")
broken.write_text("#!/bin/sh\necho 'level=fatal msg=\"made to fail\"'\nexit 1\n")
broken.chmod(0o755)
try:
    with engine.docker_engine():
        pass
except engine.EngineError as error:
    told["error"] = str(error)
broken.unlink()
told["after the error"] = traces() == before

with engine.docker_engine() as client:
    told["version"], told["info"] = client.version()["Version"], client.info()
    loaded = engine.load_image(client, layout, "busybox")
    told["image"] = {"ours": image.id, "theirs": loaded.id, "tags": loaded.tags}
    told["said"] = {
        runtime: client.containers.run(
            "busybox", ["echo", "hello"], runtime=runtime, remove=True, network_mode="none"
        ).decode()
        for runtime in ("runc", "crun", "cnlab")
    }
    web = client.containers.run(
        "busybox", ["httpd", "-f", "-h", "/etc"], detach=True, ports={"80/tcp": 8080}, mem_limit="32m"
    )
    told["page"] = wait_until(lambda: fetch("http://127.0.0.1:8080/passwd"), timeout_s=60).decode()
    told["memory.max"] = web.exec_run(["cat", "/sys/fs/cgroup/memory.max"]).output.decode()
    with engine.docker_engine() as other:
        told["seen by an inner block"] = len(other.containers.list())
    told["still there"] = len(client.containers.list())
with engine.docker_engine() as client:
    told["after the block"] = len(client.containers.list(all=True))
    first = engine._engines[-1]

with engine.docker_engine() as client:
    told["is the same"] = engine._engines[-1] is first
first._daemons[-1].signal(9)
first._daemons[-1].wait(60)
with engine.docker_engine() as client:
    told["after its death"] = client.ping()
engine._engines.pop().__exit__()
told["before"], told["after"] = before, traces()
print(json.dumps(told, default=str))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the cell of a student's notebook told."""
    with Student() as student:
        return json.loads(in_private_kernel(student, GUEST, timeout_s=280).splitlines()[-1])


@pytest.mark.needs_uml
def test_engine_uses_cgroup_version_2_and_overlayfs(told):
    """As on a server of today, though the host may have neither."""
    assert told["info"]["CgroupVersion"] == "2"
    assert told["info"]["Driver"] == "overlay2"


@pytest.mark.needs_uml
def test_engine_does_not_look_at_the_hosts_settings(told):
    """They are meant for another engine, whose key may be root's alone; here they are no settings at all."""
    assert told["version"]


@pytest.mark.needs_uml
def test_image_of_our_layout_is_the_same_image_there(told):
    """Docker's image id is the digest of the config, so equal ids are equal images."""
    assert told["image"]["theirs"] == told["image"]["ours"]
    assert told["image"]["tags"] == ["busybox:latest"]


@pytest.mark.needs_uml
@pytest.mark.parametrize("runtime", ["runc", "crun", "cnlab"])
def test_engine_starts_containers_with_each_runtime(told, runtime):
    """Also with the one that the course has written."""
    assert told["said"][runtime] == "hello\n"


@pytest.mark.needs_uml
def test_published_port_answers_in_the_notebook(told):
    """The engine is in the notebook's own network."""
    assert told["page"].startswith("root:")


@pytest.mark.needs_uml
def test_limit_reaches_the_kernel(told):
    assert told["memory.max"] == f"{32 << 20}\n"


@pytest.mark.needs_uml
def test_block_removes_the_containers_that_were_made_in_it(told):
    """A cell that fails half-way must not block the port for the next attempt."""
    assert told["after the block"] == 0


@pytest.mark.needs_uml
def test_inner_block_leaves_the_outer_ones_containers(told):
    assert (told["seen by an inner block"], told["still there"]) == (1, 1)


@pytest.mark.needs_uml
def test_engine_serves_later_blocks(told):
    """It takes seconds to start, and a notebook has many cells."""
    assert told["is the same"]


@pytest.mark.needs_uml
def test_engine_that_has_died_is_started_anew(told):
    """Students kill things."""
    assert told["after its death"]


@pytest.mark.needs_uml
def test_engine_that_cannot_start_says_its_last_words_and_leaves_nothing(told):
    assert told["error"] == 'Docker Engine ended before it was ready: level=fatal msg="made to fail"'
    assert told["after the error"]


@pytest.mark.needs_uml
@pytest.mark.parametrize("kind", ["cgroups", "links", "mounts", "run", "programs"])
def test_end_of_the_engine_leaves_nothing(told, kind):
    """Firewall rules apart, which go with the machine."""
    assert told["after"][kind] == told["before"][kind]


@pytest.mark.as_student
def test_user_without_an_engine_is_told_where_there_is_one(monkeypatch):
    """On a laptop's ordinary Python kernel."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    with (
        pytest.raises(MissingFeature, match=r"no daemon answers at unix:///no/such/docker\.sock") as caught,
        docker_engine(),
    ):
        pass

    assert "Cloud Native Lab" in caught.value.__notes__[0]


@pytest.fixture(scope="module")
def engine_of_the_host() -> Iterator[Dockerd]:
    """One that somebody else has started; it knows our runtime, and has an image ``busybox``."""
    with private_dockerd(f"--add-runtime=cnlab={runtime.command()}") as dockerd:
        (dockerd.directory / "busybox.tar").write_bytes(busybox_archive())
        dockerd.docker("import", str(dockerd.directory / "busybox.tar"), "busybox")
        yield dockerd


@pytest.mark.needs_root
def test_engine_of_the_host_is_used_where_there_is_one(engine_of_the_host, monkeypatch):
    """It is found as the docker client finds it, and asked to use the runtime that it knows as ours."""
    monkeypatch.setenv("DOCKER_HOST", engine_of_the_host.address)
    with docker_engine(runtime="cnlab") as client:
        said = client.containers.run("busybox", ["echo", "hello"], runtime="cnlab", remove=True)
        root = client.info()["DockerRootDir"]

    assert said == b"hello\n"
    assert root == f"{engine_of_the_host.directory}/data"


@pytest.mark.needs_root
def test_containers_in_an_engine_of_the_host_stay(engine_of_the_host, monkeypatch):
    """What goes with the block is up to the engine's owner there, whose own containers are beside ours."""
    monkeypatch.setenv("DOCKER_HOST", engine_of_the_host.address)
    with docker_engine() as client:
        made = client.containers.create("busybox", ["true"]).id

    assert engine_of_the_host.docker("ps", "--all", "--quiet", "--no-trunc").stdout.split() == [made]
    engine_of_the_host.docker("rm", made)


@pytest.mark.needs_root
def test_runtime_that_the_engine_of_the_host_does_not_know_is_told(engine_of_the_host, monkeypatch):
    """Before a container is made, and with what to do about it."""
    monkeypatch.setenv("DOCKER_HOST", engine_of_the_host.address)
    with pytest.raises(MissingFeature, match=r"knows .*cnlab.* and no runtime youki") as caught:
        docker_engine(runtime="youki").__enter__()

    assert "--add-runtime=youki=" in caught.value.__notes__[0]


ON_A_HOST = """
import tempfile
from cnlab.containers import engine
from cnlab.containers.images import base_images
from cnlab.containers.images.layout import Layout

layout = Layout.create(tempfile.mkdtemp())
base_images.busybox(layout, "busybox:latest")
with engine.docker_engine() as client:
    engine.load_image(client, layout, "busybox")
    print(client.containers.run("busybox", ["echo", "hello"], runtime="cnlab", remove=True).decode())
"""


@pytest.mark.needs_root
def test_engine_starts_on_a_machine_that_its_root_has_given_up(tmp_path):
    """Such as a virtual machine, with CNLAB_MACHINE=host; a namespace stands in for its network and files."""
    script = (
        "ip link set lo up; mount -t tmpfs run /run; mount -t tmpfs lib /var/lib;"
        '"$0" -c "$1" && ls /run /var/lib && ls /sys/class/net'
    )
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script, sys.executable, ON_A_HOST],
        env={**os.environ, "CNLAB_MACHINE": "host", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert "hello\n" in done.stdout, done.stderr
    assert "docker" not in done.stdout.partition("hello")[2]
