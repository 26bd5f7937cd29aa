"""The Docker SDK's words, as parts of config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnlab.containers.container import host_config
from cnlab.errors import InvalidValue
from cnlab.linux.idmaps import IdMap

IMAGE = {"config": {"Entrypoint": ["/entry"], "Cmd": ["serve", "--all"]}}


def test_image_says_what_runs():
    """Entrypoint and command of an image are one command line."""
    assert ["/entry", "serve", "--all"] == host_config.arguments(IMAGE, None, {})


def test_command_takes_the_place_of_the_images_alone():
    """The entrypoint is the program, the command its arguments."""
    assert ["/entry", "stop now"] == host_config.arguments(IMAGE, ["stop now"], {})


def test_new_entrypoint_does_not_get_the_images_command():
    """It was meant for the old one."""
    assert ["sh"] == host_config.arguments(IMAGE, None, {"entrypoint": "sh"})


def test_text_is_split_as_a_shell_would():
    """So the Docker SDK does, and a blank in quotes stays."""
    assert ["echo", "a b"] == host_config.arguments({}, "echo 'a b'", {})


def test_nothing_to_run_is_refused():
    """An image from scratch often names no command."""
    with pytest.raises(InvalidValue, match="no command: the image names none"):
        host_config.arguments({}, None, {})


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), (4096, 4096), ("1G", 1 << 30), ("512kb", 512 << 10), (-1, -1)]
)
def test_sizes_are_written_as_docker_writes_them(text, size):
    assert size == host_config.parse_bytes(text)


def test_what_is_no_size_is_refused():
    with pytest.raises(InvalidValue, match="'many' is no size"):
        host_config.parse_bytes("many")


def test_one_cpu_is_a_thousand_million():
    """Docker counts in billionths of a CPU, the kernel in microseconds of each tenth of a second."""
    limits = host_config.resources({"nano_cpus": 250_000_000})

    assert {"cpu": {"period": 100_000, "quota": 25_000}} == limits


def test_no_limit_is_written_that_nobody_asked_for():
    """A limit in config.json would need its controller."""
    assert {} == host_config.resources({"name": "web"})


def test_no_limit_of_a_resource_is_the_greatest_number():
    """Docker says -1, where the specification's numbers have no sign."""
    (limit,) = host_config.rlimits({"ulimits": [{"Name": "nofile", "Soft": 64, "Hard": -1}]})

    assert {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 2**64 - 1} == limit


def test_volume_is_written_either_way(tmp_path: Path):
    """The SDK takes the command line's text too."""
    as_text = host_config.mounts({"volumes": [f"{tmp_path}:/data:ro"]})
    as_mapping = host_config.mounts({"volumes": {str(tmp_path): {"bind": "/data", "mode": "ro"}}})

    assert as_mapping == as_text
    assert as_text[0]["options"] == ["rbind", "ro", "rprivate"]


def test_volume_that_is_not_there_is_refused():
    """Docker makes a directory of root's, and hides the typing error."""
    with pytest.raises(InvalidValue, match="there is no /no/such/place here"):
        host_config.mounts({"volumes": ["/no/such/place:/data"]})


def test_namespace_of_the_host_is_one_that_is_not_made():
    made = host_config.namespaces({"network_mode": "host"}, pid_of=lambda name: 0)

    assert ["mount", "cgroup", "pid", "ipc", "uts"] == made


def test_namespace_of_another_container_is_joined_by_path():
    """This is what a Kubernetes Pod is made of."""
    made = host_config.namespaces({"network_mode": "container:web"}, pid_of={"web": 7}.__getitem__)

    assert {"type": "network", "path": "/proc/7/ns/net"} in made


def test_misspelt_mode_is_refused_with_those_that_exist():
    with pytest.raises(InvalidValue, match="pid_mode='hosts': expected 'host', 'container:NAME' or nothing"):
        host_config.namespaces({"pid_mode": "hosts"}, pid_of=lambda name: 0)


def test_unknown_option_is_refused_as_a_call_would():
    """A limit that is misspelt would be no limit."""
    with pytest.raises(TypeError, match="no option memory_limit; there are name, hostname"):
        host_config.require_known({"memory_limit": "64m"})  # type: ignore[typeddict-unknown-key]


def test_ports_without_a_network_are_refused():
    """Nobody would publish them, and the reader would look for the mistake elsewhere."""
    with pytest.raises(InvalidValue, match="pass network="):
        host_config.require_known({"ports": {"80/tcp": 8080}})


def test_device_is_made_as_it_is_here_and_may_be_used_as_asked():
    nodes = host_config.devices({"devices": ["/dev/zero:/dev/nothing:r"]})
    *_, rule = host_config.device_rules({"devices": ["/dev/zero:/dev/nothing:r"]})

    assert [("/dev/nothing", "c", 1, 5)] == [tuple(node.values())[:4] for node in nodes]
    assert {"allow": True, "access": "r", "type": "c", "major": 1, "minor": 5} == rule


def test_what_is_no_device_is_refused():
    with pytest.raises(InvalidValue, match="device /etc/passwd: this is none"):
        host_config.devices({"devices": ["/etc/passwd"]})


def test_variable_of_a_process_beside_wins_over_the_containers():
    """Of two with one name, programs take the first."""
    made = host_config.exec_process({"env": ["A=1", "B=1"]}, ["env"], environment=["A=2"])

    assert ["A=2", "B=1"] == made["env"]


def test_security_options_are_read(tmp_path: Path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))

    assert host_config.seccomp({}) == "default"
    assert host_config.seccomp({"security_opt": ["seccomp=unconfined"]}) is None
    assert host_config.seccomp({"security_opt": [f"seccomp={profile}"]}) == {
        "defaultAction": "SCMP_ACT_ALLOW"
    }
    assert host_config.has_no_new_privileges({"security_opt": ["no-new-privileges:true"]})


def test_process_beside_is_like_the_containers_own_but_for_what_is_given():
    own = {"args": ["httpd"], "cwd": "/srv", "env": ["A=1"], "user": {"uid": 0, "gid": 0}}
    made = host_config.exec_process(own, ["ls"], environment={"B": "2"}, user={"uid": 5, "gid": 5})

    assert made == {
        "args": ["ls"],
        "cwd": "/srv",
        "env": ["A=1", "B=2"],
        "user": {"uid": 5, "gid": 5, "additionalGids": [5]},
        "terminal": False,
    }


def test_id_maps_have_the_specs_words():
    assert [{"containerID": 0, "hostID": 100000, "size": 65536}] == host_config.id_mappings(
        [IdMap(0, 100000, 65536)]
    )
