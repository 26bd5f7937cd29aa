"""Runtime specification, features.md: what a runtime says that it knows, it knows."""

import json

import pytest

from cnlab.containers import runtime

FEATURES = runtime.features()


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["ociVersionMin", "ociVersionMax"])
def test_features_versions_must_be_accepted(box, name):
    """“The runtime MUST accept this value as the ociVersion property of config.json.”"""
    box.config["ociVersion"] = FEATURES[name]

    assert "hello\n" == box.run("echo", "hello")


def test_features_hooks_are_all_six():
    """“The runtime MUST support the elements in this array as the hooks property of config.json.”"""
    names = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]

    assert names == FEATURES["hooks"]


def test_features_mount_options_have_all_that_the_specification_demands():
    """“The runtime MUST recognize the elements in this array as the options of mounts objects.”"""
    must = (
        "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime",
        "noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro",
        "rprivate rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable",
    )

    assert {*" ".join(must).split()} <= set(FEATURES["mountOptions"])


@pytest.mark.needs_root
def test_features_command_prints_the_same(box):
    """Docker asks the command."""
    assert json.loads(box.command("features").stdout) == FEATURES
