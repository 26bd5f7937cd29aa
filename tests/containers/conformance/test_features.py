"""Runtime specification, features.md: what a runtime says that it knows, it knows."""

import json

import pytest

from cnlab.containers import bundle, runtime
from cnlab.containers.runtime import config
from cnlab.containers.runtime.process import CapabilityMasks
from cnlab.linux import seccomp

FEATURES = runtime.features()
LINUX = FEATURES["linux"]


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


# features-linux.md


@pytest.mark.parametrize("name", LINUX["namespaces"])
def test_linux_features_namespaces_must_be_recognized(name):
    """“The runtime MUST recognize the elements in this array as the type of linux.namespaces objects.”"""
    config.check(bundle.config_for(args=["true"], namespaces=["mount", *({name} - {"mount"})]))


def test_linux_features_namespaces_are_all_of_the_specification():
    """“Recognized names, including namespaces that might not be supported by the host operating system.”"""
    assert {"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"} == {*LINUX["namespaces"]}


def test_linux_features_capabilities_must_be_recognized():
    """“The runtime MUST recognize the elements in this array in the process.capabilities object.”"""
    names = LINUX["capabilities"]

    assert 41 <= len(names)
    assert [] == CapabilityMasks({"bounding": names}, grantable=-1).refused


@pytest.mark.parametrize("name", LINUX["seccomp"]["actions"])
def test_linux_features_seccomp_actions_must_be_recognized(name):
    """“The runtime MUST recognize the elements in this array in the syscalls[].action property.”"""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": name}]}
    made = bundle.config_for(args=["true"], seccomp=profile)
    config.check(made)

    assert seccomp.compile_profile(profile)


def test_linux_features_seccomp_actions_are_those_that_config_json_may_have():
    """What is missing from the list is refused."""
    assert {"SCMP_ACT_NOTIFY"} == {*seccomp.ACTIONS} - {*LINUX["seccomp"]["actions"]}


@pytest.mark.parametrize("name", LINUX["seccomp"]["operators"])
def test_linux_features_seccomp_operators_must_be_recognized(name):
    """“The runtime MUST recognize the elements in this array in the syscalls[].args[].op property.”"""
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": name}]}

    assert seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})


@pytest.mark.parametrize("name", LINUX["seccomp"]["archs"])
def test_linux_features_seccomp_architectures_must_be_recognized(name):
    """“The runtime MUST recognize the elements in this array in the architectures property.”"""
    assert seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [name]})


@pytest.mark.parametrize("name", LINUX["seccomp"]["knownFlags"])
def test_linux_features_seccomp_known_flags_must_be_recognized(name):
    """“The runtime MUST recognize the elements in this array in the flags property.”"""
    assert 0 < seccomp.filter_flags({"flags": [name]})


@pytest.mark.needs_root
@pytest.mark.parametrize("name", LINUX["seccomp"]["knownFlags"])
def test_linux_features_seccomp_supported_flags_are_those_that_this_kernel_takes(box, name):
    """“The runtime MUST recognize and support the elements in this array”: a container runs with each that is
    in it, and with none that is not."""
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "flags": [name]}
    box.create("true")
    try:
        box.start()
        has_run = box.wait() == 0
    except OSError:
        has_run = False

    assert has_run == (name in LINUX["seccomp"]["supportedFlags"])


@pytest.mark.needs_root
def test_features_command_prints_the_same(box):
    """Docker asks the command."""
    assert json.loads(box.command("features").stdout) == FEATURES
