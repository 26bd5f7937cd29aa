"""The builder and the registry where students have them: in a private kernel, as its root."""

import json

import pytest
from private_kernel import in_private_kernel
from student import Student

pytestmark = [pytest.mark.needs_uml, pytest.mark.needs_userns]

CELL = r"""
import json
from pathlib import Path

from cnlab.containers.images import base_images
from cnlab.containers.build import build
from cnlab.containers.images.layout import Layout
from cnlab.containers.registry import Registry, pull, push
from cnlab.linux.mounts import read_mountinfo

Path("app.py").write_text("print('hello from', open('/where').read())")
before = [mount.mount_point for mount in read_mountinfo()]
layout = Layout.create("/tmp/layout")
base_images.python(layout)
text = 'FROM python:slim\nRUN hostname > /where\nCOPY app.py /app.py\nRUN ["python3", "/app.py"]\n'
builds = [build(".", layout, dockerfile=text, tag="app:1") for _ in range(2)]
with Registry("/tmp/registry") as registry:
    pushed = push(builds[0].image, f"{registry.address}/app:1")
    pulled = pull(f"{registry.address}/app:1", Layout.create("/tmp/other"))
print(json.dumps({
    "output": builds[0].steps[-1].output,
    "cached": [step.is_cached for step in builds[1].steps],
    "digests": [builds[0].image.digest, builds[1].image.digest, pushed.digest, pulled.digest],
    "left": [mount.mount_point for mount in read_mountinfo() if mount.mount_point not in before],
}))
"""


@pytest.fixture(scope="module")
def said():
    with Student() as student:
        return json.loads(in_private_kernel(student, CELL).splitlines()[-1])


def test_student_builds_an_image(said):
    """RUN is a container of our own runtime, with the Python that the notebook has."""
    assert "hello from build\n\n" == said["output"]


def test_student_sees_the_cache_at_work(said):
    """It is kept beside the layout."""
    assert [True] * 4 == said["cached"]


def test_student_pushes_and_pulls_the_same_image(said):
    """Over the loopback interface of the private kernel."""
    assert 1 == len(set(said["digests"]))


def test_nothing_stays_mounted(said):
    """Neither snapshots nor what the containers had."""
    assert [] == said["left"]
