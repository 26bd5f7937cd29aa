"""The values for Zero to JupyterHub, and what they make of a user's pod."""

from __future__ import annotations

import asyncio
import os
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from ltiauthenticator.lti13.auth import LTI13Authenticator
from oauthenticator.generic import GenericOAuthenticator
from student import ROOT
from traitlets.config import Config

HUB = ROOT / "grading" / "hub"
TEACHER = "alice@uni.example"


@pytest.fixture
def values() -> dict[str, Any]:
    """Our values, parsed."""
    return yaml.safe_load((HUB / "values.yaml").read_text())


@pytest.fixture
def settings() -> dict[str, Any]:
    """What kubernetes.py defines when the chart runs it, with `c` filled in."""
    chart = {"c": Config(), "get_config": {"custom.instructor": TEACHER}.__getitem__}
    exec((HUB / "kubernetes.py").read_text(), chart)
    return chart


def pod(settings: dict[str, Any], name: str, number: int, names: Path) -> SimpleNamespace:
    """What a user's pod is to be made of, as the chart and KubeSpawner have it."""
    spawner = SimpleNamespace(user=SimpleNamespace(name=name, id=number), image="cnlab:1", environment={})
    spawner.volumes = {"home": {"name": "home"}}  # releases of the chart before 4.3: a list
    spawner.volume_mounts = {"home": {"name": "home", "mountPath": "/home/jovyan"}}
    spawner.init_containers = []
    settings["become_somebody"](spawner, names)
    return spawner


def test_every_user_has_an_id_of_their_own(settings, tmp_path):
    """By which the kernel, and with it the exchange, tells who owns what."""
    names = tmp_path / "passwd"
    users = [(TEACHER, 3), ("ada@uni.example", 1), ("grace@uni.example", 2), ("ada@uni.example", 1)]
    ids = [pod(settings, *user, names).uid for user in users]

    assert [100_000, 100_001, 100_002, 100_001] == ids
    assert 3 == len(names.read_text().splitlines())


def test_desk_knows_whose_a_submission_is(settings, tmp_path, monkeypatch):
    """It runs in a container where no user of another has a name."""
    from cnlab.grading.steps import arrivals

    pod(settings, "ada@uni.example", 1, tmp_path / "passwd")
    monkeypatch.setenv("CNLAB_PASSWD", str(tmp_path / "passwd"))

    assert ("ada@uni.example", "user 100002") == (arrivals._user_name(100_001), arrivals._user_name(100_002))


def test_student_has_no_way_to_the_course(settings, tmp_path):
    """Not by a mount, not by a variable; and the instructor has."""
    names = tmp_path / "passwd"
    student, teacher = (pod(settings, *user, names) for user in (("ada", 1), (TEACHER, 2)))
    mounts = [{each.get("subPath") for each in one.volume_mounts.values()} for one in (student, teacher)]

    assert [{None, "exchange", "passwd"}, {None, "exchange", "passwd", "course"}] == mounts
    assert ("CNLAB_COURSE" in student.environment, "CNLAB_COURSE" in teacher.environment) == (False, True)


def test_pod_keeps_what_the_chart_gives_it(settings, tmp_path):
    """The home of a user, and for each mount its volume; all of it objects, which Kubernetes refuses else."""
    spawner = pod(settings, "ada@uni.example", 1, tmp_path / "passwd")
    volumes, mounts = ([*each.values()] for each in (spawner.volumes, spawner.volume_mounts))

    assert {"home", "cnlab", "passwd"} == {each["name"] for each in volumes}
    assert {each["name"] for each in mounts} == {each["name"] for each in volumes}


def test_user_has_a_name_in_the_container(settings, tmp_path):
    """The shell of the pod's first container, run here; nbgrader asks for the name of its user id."""
    spawner = pod(settings, "ada@uni.example", 1, tmp_path / "passwd")
    [container] = spawner.init_containers.values()
    command = [word.replace("/new/", f"{tmp_path}/made-") for word in container["command"]]
    variables = {one["name"]: one["value"] for one in container["env"]}
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"], **variables})
    last = (tmp_path / "made-passwd").read_text().splitlines()[-1]

    assert "ada@uni.example:x:100001:100001::/home/jovyan:/bin/bash" == last


@pytest.mark.parametrize("name", ["a:b@u", "a@u\nb", "../a@u", "a+b@u", "-a@u", "a b@u", "alice"])
def test_name_that_would_mean_something_is_no_user(settings, name):
    """To passwd(5), a shell, a path, nbgrader's names of submissions; nor is what is no address."""
    authenticator = Authenticator(username_pattern=settings["c"].Authenticator.username_pattern)

    assert not authenticator.validate_username(name)
    assert authenticator.validate_username("ada.lovelace@uni.example")


@pytest.mark.parametrize("verified", [True, "true", False, "false", None])
def test_address_must_be_verified(settings, verified):
    """It is who teaches, or who handed in; the hub's own code asks for what kubernetes.py says."""
    authenticator = LTI13Authenticator(
        username_key="email", allow_all=True, post_auth_hook=settings["c"].Authenticator.post_auth_hook
    )
    claims = {"email": TEACHER, "email_verified": verified}
    user = asyncio.run(authenticator.get_authenticated_user(None, claims))
    by_oauth = {"name": TEACHER, "auth_state": {GenericOAuthenticator().user_auth_state_key: claims}}
    let_in = settings["only_verified"](None, None, by_oauth)

    assert [verified in (True, "true")] * 2 == [user is not None, let_in is not None]


@pytest.mark.parametrize(
    "kind",
    [JupyterHub, LTI13Authenticator, GenericOAuthenticator, Authenticator],
    ids=lambda kind: kind.__name__,
)
def test_hub_knows_its_settings(values, kind):
    """A misspelt one would be passed over in silence."""
    given = set(values["hub"]["config"][kind.__name__])

    assert given <= set(kind.class_trait_names(config=True))


def test_desk_beside_the_hub_can_start(values):
    """Its command names modules that exist, and it is nobody's root."""
    [desk] = values["hub"]["extraContainers"]
    modules = [word for word in " ".join(desk["command"]).split() if word.startswith("cnlab.")]

    assert 2 == len([import_module(module) for module in modules])
    assert 100_000 == desk["securityContext"]["runAsUser"]


def schema_of(keys: dict[str, Any] | list[str] | str) -> dict[str, Any]:
    """Say in JSON Schema what a part of chart_keys.yaml says."""
    if isinstance(keys, dict):
        properties = {name: schema_of(below) for name, below in keys.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    return {"enum": keys} if isinstance(keys, list) else {"type": keys.split()}


@pytest.fixture
def chart() -> jsonschema.Draft202012Validator:
    """The keys of the chart that our values use."""
    keys = yaml.safe_load(Path(__file__).with_name("chart_keys.yaml").read_text())
    return jsonschema.Draft202012Validator(schema_of(keys))


def test_chart_has_the_keys_that_are_set(values, chart):
    """`helm upgrade` refuses values with a key or a type that the chart's schema does not have."""
    notes = values["singleuser"]["extraAnnotations"].values()

    assert [] == [f"{error.json_path}: {error.message}" for error in chart.iter_errors(values)]
    assert {str} == {type(note) for note in notes}


@pytest.mark.parametrize(
    "wrong",
    [
        {"singleuser": {"memry": {"limit": "2G"}}},
        {"singleuser": {"cpu": {"limit": "500m"}}},
        {"singleuser": {"image": {"name": "cnlab", "tag": 1}}},
        {"singleuser": {"storage": {"type": "ephemeral"}}},
        {"hub": {"extraVolumes": {"name": "cnlab"}}},
        {"prePuller": {"hook": True}},
        {"networkPolicy": {"enabled": True}},
    ],
    ids=str,
)
def test_chart_refuses_what_it_does_not_have(chart, wrong):
    """The mistakes that are easily made."""
    assert 1 == len(list(chart.iter_errors(wrong)))
