"""From an image's configuration to config.json: what Docker gives a container unless told otherwise."""

import json
import os

import pytest

from cnlab.containers import bundle
from cnlab.containers.runtime import config
from cnlab.errors import InvalidValue
from cnlab.linux.capability_names import NAMES

IMAGE = {
    "architecture": "amd64",
    "config": {
        "User": "web:staff",
        "Env": ["PATH=/opt/bin:/bin", "MODE=image"],
        "Entrypoint": ["/opt/bin/serve"],
        "Cmd": ["--port", "80"],
        "WorkingDir": "/srv",
        "Labels": {"org.example.name": "web"},
    },
}


@pytest.fixture
def rootfs(tmp_path):
    """A root file system with users in it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nweb:x:33:\nstaff:x:50:web\naudio:x:29:nobody,web\n")
    return str(tmp_path)


def test_configuration_is_one_that_the_runtime_takes():
    """Every default is valid."""
    config.check(bundle.config_for(args=["sh"], hostname="box"))


def test_image_says_what_runs_and_how(rootfs):
    """See image-spec, conversion.md."""
    made = bundle.config_for(IMAGE, rootfs=rootfs)
    process = made["process"]

    assert (["/opt/bin/serve", "--port", "80"], "/srv", {"org.example.name": "web"}) == (
        process["args"],
        process["cwd"],
        made["annotations"],
    )
    assert {"uid": 33, "gid": 50} == process["user"]


def test_caller_wins_over_the_image(rootfs):
    """As the arguments of docker run do; variables are replaced by name and the rest stays."""
    process = bundle.config_for(
        IMAGE, args=["sh"], env={"MODE": "mine", "MORE": "1"}, cwd="/", user="root", rootfs=rootfs
    )["process"]

    assert (["sh"], ["PATH=/opt/bin:/bin", "MODE=mine", "MORE=1"], "/", 0) == (
        process["args"],
        process["env"],
        process["cwd"],
        process["user"]["uid"],
    )


def test_image_without_a_program_needs_one():
    """The message says what to pass."""
    with pytest.raises(InvalidValue, match="pass args"):
        bundle.config_for({"config": {}})


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("root", {"uid": 0, "gid": 0}),
        ("web", {"uid": 33, "gid": 33, "additionalGids": [29, 50]}),
        ("33", {"uid": 33, "gid": 33, "additionalGids": [29, 50]}),
        ("web:audio", {"uid": 33, "gid": 29}),
        ("1234", {"uid": 1234, "gid": 0}),
        ("1234:5678", {"uid": 1234, "gid": 5678}),
    ],
)
def test_user_is_looked_up_in_the_root_file_system(rootfs, user, expected):
    """“user[:group]”, each a name or a number; without a group also those that list the user."""
    assert expected == bundle.resolve_user(user, rootfs)


@pytest.mark.parametrize("user", ["nobody", "web:nogroup"])
def test_user_who_is_not_there_is_an_error(rootfs, user):
    """Not silently root."""
    with pytest.raises(InvalidValue, match="not in"):
        bundle.resolve_user(user, rootfs)


@pytest.mark.parametrize("number", ["4294967295", "4294967296", "-1", "99999999999999999999"])
@pytest.mark.parametrize("user", ["{}", "1:{}", "evil", "web:wheel", "named"])
def test_user_whose_number_is_no_id_is_an_error(rootfs, user, number):
    """The kernel would leave the process what it is, which is root, or cut the number to one of 32 bits."""
    with open(f"{rootfs}/etc/passwd", "a") as file:
        file.write(f"evil:x:{number}:1::/:/bin/sh\nnamed:x:7:{number}::/:/bin/sh\n")
    with open(f"{rootfs}/etc/group", "a") as file:
        file.write(f"wheel:x:{number}:\n")

    with pytest.raises(InvalidValue, match=r"not in|expected a number from 0 to 4294967294"):
        bundle.resolve_user(user.format(number), rootfs)


def test_user_table_that_is_a_link_is_not_followed(tmp_path):
    """It could be the host's."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")

    with pytest.raises(InvalidValue, match="not in"):
        bundle.resolve_user("root", tmp_path)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), set(bundle.DEFAULT_CAPABILITIES)),
        (
            ("NET_ADMIN",),
            ("CAP_CHOWN",),
            set(bundle.DEFAULT_CAPABILITIES) - {"CAP_CHOWN"} | {"CAP_NET_ADMIN"},
        ),
        ((), ("ALL",), set()),
        (("net_raw",), ("all",), {"CAP_NET_RAW"}),
        (("ALL",), (), set(NAMES)),
    ],
)
def test_capabilities_are_the_defaults_plus_and_minus(add, drop, expected):
    """With or without CAP_, in either case, as Docker takes them."""
    process = bundle.config_for(args=["sh"], cap_add=add, cap_drop=drop)["process"]

    assert [expected] * 3 == [
        set(process["capabilities"][name]) for name in ("bounding", "effective", "permitted")
    ]


def test_capability_that_nobody_knows_is_an_error():
    """A typing error must not leave a container without what it needs."""
    with pytest.raises(InvalidValue, match="CAP_NET_ADMINN"):
        bundle.config_for(args=["sh"], cap_add=["NET_ADMINN"])


def test_mount_takes_the_place_of_a_default_one_with_its_destination():
    """So a caller can have a larger /dev/shm."""
    mine = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=1g"]}
    mounts = bundle.config_for(args=["sh"], mounts=[mine])["mounts"]

    assert [mine] == [mount for mount in mounts if mount["destination"] == "/dev/shm"]


def test_namespace_may_be_named_or_described():
    """A path joins one that exists."""
    shared = {"type": "network", "path": "/proc/1/ns/net"}

    assert [{"type": "pid"}, shared] == bundle.config_for(args=["sh"], namespaces=["pid", shared])["linux"][
        "namespaces"
    ]


def test_rootless_configuration_asks_for_nothing_that_takes_root():
    """One id is mapped, so files of group tty are not to be had, and there are no cgroups to mount."""
    made = bundle.config_for(args=["sh"], rootless=True)
    options = [option for mount in made["mounts"] for option in mount["options"]]

    assert ([{"containerID": 0, "hostID": os.geteuid(), "size": 1}], False, False) == (
        made["linux"]["uidMappings"],
        "gid=5" in options,
        any(mount["type"] == "cgroup" for mount in made["mounts"]),
    )


def test_configurations_share_nothing():
    """Who changes one must not change the next."""
    first = bundle.config_for(args=["sh"])
    first["mounts"][0]["options"].append("changed")
    first["linux"]["resources"]["devices"][0]["allow"] = True
    second = bundle.config_for(args=["sh"])

    assert (
        "changed" in second["mounts"][0]["options"],
        second["linux"]["resources"]["devices"][0]["allow"],
    ) == (
        False,
        False,
    )


def test_bundle_is_a_directory_with_config_json(tmp_path):
    """See bundle.md."""
    path = bundle.write_bundle(tmp_path / "new", bundle.config_for(args=["sh"]))

    assert ("config.json", ["sh"]) == (path.name, json.loads(path.read_text())["process"]["args"])


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("mount -t tmpfs none /tmp", "permission denied"),
        ("busybox unshare -U true", "Operation not permitted"),
        ("busybox reboot -f", "Operation not permitted"),
        ("(true & wait) && echo forked | cat", "forked"),
    ],
)
def test_default_seccomp_profile_refuses_what_is_no_containers_business(tmp_path, script, said):
    """And lets through what any program needs, even with all capabilities that Docker gives."""
    from box import Box

    box = Box(tmp_path, seccomp="default")
    try:
        assert said in box.sh(script)
    finally:
        box.close()


def test_default_seccomp_profile_lets_a_capability_do_its_work():
    """As Docker's does."""
    names = {name for rule in bundle.default_seccomp(["CAP_SYS_ADMIN"])["syscalls"] for name in rule["names"]}

    assert (False, True) == ("mount" in names, "reboot" in names)
