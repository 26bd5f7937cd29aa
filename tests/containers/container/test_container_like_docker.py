"""The same lines of the Docker SDK, once against a Docker Engine and once against `Container`."""

from __future__ import annotations

from typing import Any

import pytest
from docker import DockerClient
from dockerd import private_dockerd

from cnlab.containers.container import Container
from cnlab.containers.engine import load_image
from cnlab.containers.images import base_images
from cnlab.containers.images.image import Image
from cnlab.containers.images.layout import Layout

pytestmark = pytest.mark.needs_root

COMMAND = ["sh", "-c", "echo ready; touch /made; rm -f /etc/group; touch /run/up; sleep 1000"]
OPTIONS: dict[str, Any] = {
    "name": "subject",
    "hostname": "subject",
    "environment": {"COLOUR": "green"},
    "working_dir": "/etc",
    "labels": {"course": "cnlab"},
    "mem_limit": "32m",
    "nano_cpus": 500_000_000,
    "pids_limit": 50,
    "cap_drop": ["CHOWN"],
    "tmpfs": {"/run": "size=64k"},
    "ulimits": [{"Name": "nofile", "Soft": 64, "Hard": 64}],
    "network_mode": "none",
    "init": True,
}
WAIT_UNTIL_IT_IS_UP = ["sh", "-c", "until [ -e /run/up ]; do :; done"]
QUESTIONS = {
    "environment": "env | sort | grep -v -e SHLVL -e PWD",
    "identity": "id",
    "capabilities": "grep Cap /proc/self/status",
    "limits": "ulimit -n",
    "host name": "hostname",
    "seccomp": "grep Seccomp: /proc/self/status",
    "no new privileges": "grep NoNewPrivs /proc/self/status",
    "mounts": "grep -v -e proc/ -e sys/ -e hostname /proc/mounts | cut -d' ' -f2,3 | sort",
    "writable proc": "grep ' /proc/sys ' /proc/mounts | cut -c-30",
    "interfaces": "ls /sys/class/net",
    "devices": "ls /dev | sort",
    "process 1": "cat /proc/1/comm",
}


def observe(container: Any) -> dict[str, Any]:
    """Ask a container, of the SDK or of ours, everything that both can say."""
    seen: dict[str, Any] = {}
    container.reload()
    seen["status"] = [container.status]
    container.exec_run(WAIT_UNTIL_IT_IS_UP)
    for question, script in QUESTIONS.items():
        seen[question] = tuple(container.exec_run(["sh", "-c", script]))
    seen["exec_run"] = tuple(
        container.exec_run(["sh", "-c", "echo $A; pwd; exit 3"], environment={"A": "1"}, workdir="/tmp")
    )
    seen["labels"], seen["name"] = container.labels, container.name
    seen["memory limit"] = container.stats(stream=False)["memory_stats"]["limit"]
    top = container.top()
    commands = [row[top["Titles"].index("CMD")] for row in top["Processes"]]
    seen["top"] = sorted(command.split()[0] for command in commands)  # an engine's ps may cut the rest off
    seen["diff"] = sorted((change["Path"], change["Kind"]) for change in container.diff())
    for action in (container.pause, container.unpause, container.restart, container.kill):
        action(**({"timeout": 1} if action == container.restart else {}))
        container.reload()
        seen["status"].append(container.status)
        if action == container.restart:
            container.exec_run(WAIT_UNTIL_IT_IS_UP)
    seen["wait"] = container.wait()["StatusCode"]
    container.reload()
    seen["status"].append(container.status)
    seen["logs"], seen["last line"] = container.logs(), container.logs(tail=1)
    attrs = container.attrs
    seen["attrs"] = {key: attrs[key] for key in ("Name", "Image")} | {
        key: attrs["Config"][key] for key in ("Hostname", "WorkingDir", "Tty")
    }
    return seen


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return base_images.busybox(Layout.create(tmp_path_factory.mktemp("layout")), "busybox:latest")


@pytest.fixture(scope="module")
def theirs(image: Image) -> dict[str, Any]:
    with private_dockerd() as dockerd:
        client = DockerClient(base_url=dockerd.address)
        load_image(client, image.layout, "busybox")
        seen = observe(client.containers.run("busybox", COMMAND, detach=True, **OPTIONS))
        client.close()
    return seen


@pytest.fixture(scope="module")
def ours(image: Image) -> dict[str, Any]:
    with Container(image, COMMAND, **OPTIONS) as container:
        return observe(container)


@pytest.mark.parametrize(
    "fact",
    [
        *QUESTIONS,
        "exec_run",
        "labels",
        "name",
        "memory limit",
        "top",
        "diff",
        "status",
        "wait",
        "logs",
        "attrs",
    ],
)
def test_container_answers_as_docker_does(ours, theirs, fact):
    """Who knows the SDK knows `Container`, and the other way round."""
    assert theirs[fact] == ours[fact]
