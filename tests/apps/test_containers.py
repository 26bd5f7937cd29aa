"""The same application in containers of a real Docker Engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
from dockerd import Dockerd, private_dockerd

from cnlab.apps import Deployment, bookinfo
from cnlab.apps.containers import LABEL, ContainerLauncher, make_image
from cnlab.apps.launcher import NotStarted
from cnlab.containers.images.layout import Layout

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]


@dataclass
class Told:
    """What one run of the application in containers told."""

    languages: list[str] = field(default_factory=list)
    page: dict[str, Any] = field(default_factory=dict)
    inspected: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    logs: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    taken: str = ""


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    """An engine with a network of its own, in which its containers answer."""
    with private_dockerd() as dockerd:
        yield dockerd


@pytest.fixture(scope="module")
def client(dockerd: Dockerd) -> Iterator[docker.DockerClient]:
    """The Docker SDK at that engine."""
    client = docker.DockerClient(base_url=dockerd.address, timeout=120)
    yield client
    client.close()


@pytest.fixture(scope="module")
def told(dockerd: Dockerd, client: docker.DockerClient) -> Told:
    """Run the four services once, visit them, break one, and stop them."""
    told = Told()

    def visit() -> None:
        with ContainerLauncher(client) as launcher, Deployment(bookinfo(4), launcher=launcher) as shop:
            told.languages = [running.language for running in shop.instances]
            told.page = shop.get("/api/page").json()
            told.inspected = [container.attrs for container in client.containers.list()]
            shop.fail("ratings")
            shop.get("/api/page")
            shop.get("/api/page")
            told.counts = dict(shop.counts())
            ratings = shop.instances[-1]
            instance = shop.application.service("ratings").instances()[0]
            second = launcher.start(instance, instance.environment(listen=ratings.address, peers={}))
            with pytest.raises(NotStarted) as caught:
                second.wait_ready()
            told.taken = str(caught.value)
            ratings.container.stop(timeout=60)
            told.exit_codes = [ratings.container.wait()["StatusCode"]]
            ratings.stop()
        told.logs = [running.log for running in shop.instances]

    dockerd.in_its_network(visit)
    return told


def test_each_language_runs_in_a_container(told):
    """Not only the twins."""
    assert sorted(told.languages) == ["C", "JavaScript", "Python", "Python", "Python", "Python"]


def test_services_find_each_other(told):
    """By the same variables and the same addresses as processes."""
    assert told.page["errors"] == {}
    assert told.page["details"]["author"] == "William Shakespeare"


def test_clients_do_in_containers_what_they_do_as_processes(told):
    """Pages two and three show reviews v2 and v3, and each tries three times to get their ratings."""
    assert told.counts["ratings"] == 6


def test_containers_may_do_little(told):
    """Nobody's rights, nothing to write to, no capability."""
    assert len(told.inspected) == 6
    assert {attrs["Config"]["User"] for attrs in told.inspected} == {"65534:65534"}
    assert all(attrs["HostConfig"]["ReadonlyRootfs"] for attrs in told.inspected)
    assert all(attrs["HostConfig"]["CapDrop"] == ["ALL"] for attrs in told.inspected)


def test_container_ends_by_itself_when_it_is_stopped(told):
    """As process 1 it gets only the signals that it asked for; SIGTERM is one."""
    assert told.exit_codes == [0]


def test_taken_address_is_said_in_one_line(told):
    """By the same words as a process."""
    assert told.taken.startswith("ratings-v1: cannot listen on 127.")
    assert told.taken.endswith(":9080: Address already in use")


def test_log_outlives_the_container(told):
    """For whoever asks afterwards why."""
    assert all(" serves 127." in log for log in told.logs)


@pytest.mark.usefixtures("told")
def test_nothing_is_left_in_the_engine(client):
    """No container and no image."""
    assert client.containers.list(all=True, filters={"label": LABEL}) == []
    assert [tag for image in client.images.list() for tag in image.tags if "cnlab-apps" in tag] == []


def test_image_of_a_c_service_holds_a_program_and_nothing_else(tmp_path):
    """FROM scratch: less to patch, less to attack, less to move."""
    image = make_image(Layout.create(tmp_path / "layout"), bookinfo().service("ratings").program, "ratings")

    assert image.config["config"]["Entrypoint"] == ["/app/service"]
    assert len(image.layers) == 1
    assert image.layers[0].descriptor.size < 1 << 20
