"""Runtime specification, config-linux.md: namespaces, devices, cgroups path, sysctl, seccomp, paths.

Each docstring quotes the sentence that the test holds the runtime to. Limits of cgroups have their own tests.
"""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from cnlab.containers import runtime
from cnlab.containers.runtime.errors import InvalidConfig
from cnlab.errors import InvalidValue
from cnlab.linux import namespaces as spaces
from cnlab.linux.mounts import parse_mountinfo

pytestmark = pytest.mark.needs_root

FILES = {"mount": "mnt", "network": "net"}
KINDS = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")


def namespace_of(box, kind):
    """Return the container's namespace, as the host sees it."""
    return os.readlink(f"/proc/{box.pid}/ns/{FILES.get(kind, kind)}")


def own_namespace(kind):
    """Return the runtime's namespace."""
    return os.readlink(f"/proc/self/ns/{FILES.get(kind, kind)}")


def kinds_in(box):
    """Return the types of namespaces in the configuration."""
    return [namespace["type"] for namespace in box.linux["namespaces"]]


def add_user_namespace(box, outside=100_000):
    """Put the container into a user namespace and its files under an owner who is root there."""
    box.linux["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        box.linux[name] = [{"containerID": 0, "hostID": outside, "size": 65536}]
    for directory, names, files in os.walk(box.rootfs):
        for name in (directory, *(f"{directory}/{name}" for name in (*names, *files))):
            os.chown(name, outside, outside, follow_symlinks=False)
    for directory in (box.bundle, *box.bundle.parents):
        if directory == Path(tempfile.gettempdir()):
            break
        directory.chmod(directory.stat().st_mode | 0o055)


# Default filesystems


def test_default_filesystems_should_be_made_available(box):
    """“The following filesystems SHOULD be made available in each container's filesystem.”"""
    mounted = {m.mount_point: m.fs_type for m in parse_mountinfo(box.run("cat", "/proc/self/mountinfo"))}

    assert {
        "/proc": "proc",
        "/sys": "sysfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
    }.items() <= mounted.items()


# Namespaces


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "user"])
def test_namespaces_without_a_path_must_be_new(box, kind):
    """“If path is not specified, the runtime MUST create a new container namespace of type type.”"""
    if kind not in kinds_in(box):
        box.linux["namespaces"].append({"type": kind})
    box.create("sleep", "100")
    box.start()

    assert own_namespace(kind) != namespace_of(box, kind)


def test_namespaces_of_users_are_new_too(box):
    """A user namespace comes with its maps, or nobody is anybody in it."""
    add_user_namespace(box)
    box.create("sleep", "100")

    assert own_namespace("user") != namespace_of(box, "user")


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "cgroup", "time"])
def test_namespaces_with_a_path_must_be_entered(box, kind):
    """“The runtime MUST place the container process in the namespace associated with that path.”"""
    with spaces.spawn(["sleep", "100"], new=[FILES.get(kind, kind)]) as other:
        path = f"/proc/{other.pid}/ns/{FILES.get(kind, kind)}"
        box.linux["namespaces"] = [ns for ns in box.linux["namespaces"] if ns["type"] != kind]
        box.linux["namespaces"].append({"type": kind, "path": path})
        box.create("sleep", "100")
        box.start()

        assert os.readlink(path) == namespace_of(box, kind)
        box.close()


def test_namespaces_of_another_container_can_be_shared(box, tmp_path):
    """As the containers of a Pod share them: among them a user namespace, which the others belong to."""
    from box import Box

    add_user_namespace(box)
    box.create("sleep", "100")
    box.start()
    (tmp_path / "second").mkdir()
    second = Box(tmp_path / "second")
    try:
        add_user_namespace(second)
        shared = ("user", "network", "ipc", "uts", "pid")
        second.linux["namespaces"] = [{"type": "mount"}] + [
            {"type": kind, "path": f"/proc/{box.pid}/ns/{FILES.get(kind, kind)}"} for kind in shared
        ]
        for name in ("uidMappings", "gidMappings"):
            del second.linux[name]
        del second.config["hostname"]
        second.config["mounts"] = [m for m in second.config["mounts"] if m["type"] != "cgroup"]
        second.create("sleep", "100")
        second.start()

        assert [namespace_of(box, kind) for kind in shared] == [namespace_of(second, kind) for kind in shared]
    finally:
        second.close()


def test_namespaces_with_a_path_of_another_type_must_be_refused(box):
    """“The runtime MUST generate an error if path is not associated with a namespace of type type.”"""
    for namespace in box.linux["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = "/proc/self/ns/uts"

    with pytest.raises(OSError, match="setns"):
        box.create()

    assert box.is_gone()


@pytest.mark.parametrize("path", ["/nowhere", "relative"])
def test_namespaces_with_a_path_to_nothing_must_be_refused(box, path):
    """“This value MUST be an absolute path in the runtime mount namespace.”"""
    box.linux["namespaces"].append({"type": "time", "path": path})

    with pytest.raises((OSError, InvalidConfig), match=path):
        box.create()

    assert box.is_gone()


@pytest.mark.parametrize("kind", ["network", "ipc", "cgroup", "pid"])
def test_namespaces_that_are_not_listed_must_be_inherited(box, kind):
    """“If a namespace type is not specified in the namespaces array, the container MUST inherit the runtime
    namespace of that type.”"""
    box.linux["namespaces"] = [ns for ns in box.linux["namespaces"] if ns["type"] != kind]
    box.create("sleep", "100")
    box.start()

    assert own_namespace(kind) == namespace_of(box, kind)


def test_namespaces_must_not_be_listed_twice(box):
    """“If a namespaces field contains duplicated namespaces with same type, the runtime MUST generate an
    error.”"""
    box.linux["namespaces"].append({"type": "pid"})

    with pytest.raises(InvalidConfig, match="pid is there twice"):
        box.create()


def test_namespaces_process_is_number_1_of_a_new_pid_namespace(box):
    """Nothing stands between the container's program and its role as init."""
    assert "1\n" == box.sh("echo $$")


def test_namespaces_without_a_mount_namespace_get_a_changed_root(box):
    """The container then sees the host's mounts below its root only, and none is made for it."""
    box.linux["namespaces"] = [{"type": "pid"}, {"type": "uts"}]
    box.linux["maskedPaths"], box.linux["readonlyPaths"], box.config["mounts"] = [], [], []

    assert "bin\ndev\netc\nproc\nsys\ntmp\n" == box.run("ls", "/")


def test_namespaces_without_a_mount_namespace_take_no_mounts(box):
    """They would be the host's."""
    box.linux["namespaces"] = [{"type": "pid"}, {"type": "uts"}]

    with pytest.raises(InvalidConfig, match="mounts: needs a mount namespace"):
        box.create()


def test_namespaces_new_network_has_its_loopback_up(box):
    """As with runc: a program that talks to itself does not care for the network's set-up."""
    assert "UP,LOWER_UP" in box.sh("cat /sys/class/net/lo/flags; cat /sys/class/net/lo/operstate").replace(
        "0x9\n", "UP,LOWER_UP "
    )


# User namespace mappings


def test_user_namespace_mappings_are_written(box):
    """“uidMappings describes the user namespace uid mappings from the host to the container.”"""
    add_user_namespace(box)

    assert "0 100000 65536\n0 100000 65536" == "\n".join(
        " ".join(line.split())
        for line in box.run("cat", "/proc/self/uid_map", "/proc/self/gid_map").splitlines()
    )


def test_user_namespace_root_is_nobody_special_outside(box):
    """What it makes belongs to the user that root inside is outside."""
    add_user_namespace(box)
    box.sh("id -u; touch /made")

    assert ("0\n", 100_000) == (box.said, (box.rootfs / "made").stat().st_uid)


def test_user_namespace_mappings_need_a_user_namespace(box):
    """They would describe nothing."""
    box.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]

    with pytest.raises(InvalidConfig, match="needs a user namespace"):
        box.create()


# Offset for time namespace


def test_time_offset_is_set(box):
    """“timeOffsets sets the offset for Time Namespace.”"""
    box.linux["namespaces"].append({"type": "time"})
    box.linux["timeOffsets"] = {"boottime": {"secs": 604800, "nanosecs": 0}, "monotonic": {"secs": 172800}}
    with open("/proc/uptime") as file:
        host = float(file.read().split()[0])
    inside = float(box.run("cat", "/proc/uptime").split()[0])

    assert 604800 == round((inside - host) / 60) * 60


# Devices


def test_devices_must_be_available(box):
    """“devices lists devices that MUST be available in the container.”"""
    box.linux["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 12, "gid": 34},
        {"path": "/anywhere/pipe", "type": "p"},
        {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5},
        {"path": "/dev/block", "type": "b", "major": 7, "minor": 0},
    ]
    paths = "/dev/mine /anywhere/pipe /dev/unbuffered /dev/block"

    assert (
        "character special file 1:3 640 12 34\nfifo 0:0 666 0 0\n"
        "character special file 1:5 666 0 0\nblock special file 7:0 666 0 0\n"
    ) == box.sh(f"stat -c '%F %t:%T %a %u %g' {paths}")


def test_devices_file_that_is_something_else_must_be_refused(box):
    """“If a file already exists at path that does not match the requested device, the runtime MUST generate
    an error.”"""
    (box.rootfs / "etc/device").write_text("a file\n")
    box.linux["devices"] = [{"path": "/etc/device", "type": "c", "major": 1, "minor": 3}]

    with pytest.raises(FileExistsError, match="something else is there"):
        box.create()

    assert "a file\n" == (box.rootfs / "etc/device").read_text()


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ],
)
def test_default_devices_must_be_supplied(box, name, numbers):
    """“In addition to any devices configured with this setting, the runtime MUST also supply” them."""
    assert f"character special file {numbers} 666\n" == box.run("stat", "-c", "%F %t:%T %a", f"/dev/{name}")


def test_default_devices_are_supplied_in_a_user_namespace(box):
    """Nobody may make device nodes there, so the host's are shown."""
    add_user_namespace(box)

    assert "1:3\n" == box.sh("echo > /dev/null && stat -c %t:%T /dev/null")


def test_default_devices_ptmx_must_be_the_container_s_own(box):
    """“/dev/ptmx: a bind-mount or symlink of the container's /dev/pts/ptmx.”"""
    assert "pts/ptmx\n" == box.run("readlink", "/dev/ptmx")


# Dev symbolic links and file descriptors (runtime-linux.md)


def test_dev_symbolic_links_must_be_made(box):
    """“Runtimes MUST create the following symlinks if the source file exists after processing mounts.”"""
    links = box.sh("for name in fd stdin stdout stderr; do readlink /dev/$name; done")

    assert "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n" == links


def test_dev_symbolic_links_need_their_source(box):
    """Without /proc they would lead nowhere."""
    box.config["mounts"] = [mount for mount in box.config["mounts"] if mount["destination"] != "/proc"]
    box.linux["maskedPaths"] = box.linux["readonlyPaths"] = []

    assert "fd" not in box.run("ls", "/dev").split()


def test_file_descriptors_are_the_standard_streams_alone(box):
    """“By default, only the stdin, stdout and stderr file descriptors are kept open for the application.”"""
    with open("/etc/passwd") as held:
        os.set_inheritable(held.fileno(), True)

        assert "0\n1\n2\n3\n" == box.run("ls", "/proc/self/fd")  # 3 is the directory that ls reads


def test_file_descriptors_can_be_passed_on(box):
    """“The runtime MAY pass additional file descriptors to the application to support features such as socket
    activation.”"""
    box.process["args"] = ["sh", "-c", "echo passed >&3"]
    box.write()
    command = [runtime.command(), "--root", box.root, "run", "--preserve-fds", "1", box.id]
    subprocess.run(["sh", "-c", '"$@" 3> said', "sh", *command], cwd=box.bundle, check=True, timeout=30)

    assert "passed\n" == (box.bundle / "said").read_text()


# Cgroups path


def test_cgroups_path_absolute_must_be_relative_to_the_mount_point(box):
    """“In the case of an absolute path, the runtime MUST take the path to be relative to the cgroups mount
    point.”"""
    box.linux["cgroupsPath"] = f"/{box.id}/inner"
    box.create("sleep", "100")
    with open(f"/proc/{box.pid}/cgroup") as file:
        paths = {line.rstrip().split(":", 2)[2] for line in file}
    box.close()

    assert f"/{box.id}/inner" in paths
    assert box.is_gone()


def test_cgroups_path_must_lead_to_the_same_place_each_time(box):
    """“The runtime MUST consistently attach to the same place in the cgroups hierarchy given the same value
    of cgroupsPath.”"""
    box.linux["cgroupsPath"] = f"relative-{box.id}"
    found = []
    for _ in range(2):
        box.create("sleep", "100")
        with open(f"/proc/{box.pid}/cgroup") as file:
            found.append(file.read())
        box.delete(force=True)

    assert found[0] == found[1]


def test_cgroups_path_that_is_invalid_must_be_refused(box):
    """“Runtimes MAY consider certain cgroupsPath values to be invalid, and MUST generate an error if this
    is the case.”"""
    box.linux["cgroupsPath"] = "/../../escape"

    with pytest.raises(InvalidValue):
        box.create()


# IntelRdt, memory policy, network devices: what is not there


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("intelRdt", {"closID": "group"}),
        ("memoryPolicy", {"mode": "MPOL_LOCAL"}),
        ("netDevices", {"eth0": {}}),
        ("mountLabel", "system_u:object_r:container_file_t:s0"),
    ],
)
def test_properties_that_cannot_be_applied_must_be_refused(box, name, value):
    """“If no mounted resctrl pseudo-filesystem is available in the runtime mount namespace, the runtime
    MUST generate an error.” The same goes for whatever else this runtime does not do."""
    box.linux[name] = value

    with pytest.raises(InvalidConfig, match=f"linux.{name}"):
        box.create()


# Control groups


@pytest.mark.parametrize("is_allowed", [True, False])
def test_allowed_device_list_must_be_applied_in_order(box, is_allowed):
    """“The runtime MUST apply entries in the listed order”: the last that matches counts."""
    messages = {"type": "c", "major": 1, "minor": 11}
    box.linux["devices"] = [{"path": "/dev/messages"} | messages]
    box.linux["resources"]["devices"] = [
        {"allow": False},
        {"allow": not is_allowed, "access": "w"} | messages,
        {"allow": is_allowed, "access": "w"} | messages,
    ]
    said = box.sh(": > /dev/messages && echo opened")

    assert ("opened\n" if is_allowed else "Operation not permitted") in said


def test_cpu_burst_must_be_no_larger_than_the_quota(box):
    """“This value MUST be no larger than any positive quota (runtimes MAY generate an error).”"""
    box.linux["resources"]["cpu"] = {"quota": 20_000, "burst": 30_000}

    with pytest.raises(InvalidValue, match=r"cpu\.burst is 30000 us"):
        box.create()


# Sysctl


def test_sysctl_is_set_inside_and_only_there(box):
    """“sysctl allows kernel parameters to be modified at runtime for the container.”"""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        host = file.read()
    box.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77"}

    assert "77\n" == box.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        assert host == file.read()


# Seccomp


def test_seccomp_refuses_what_the_profile_refuses(box):
    """“Seccomp configuration allows one to configure actions to take for matched syscalls.”"""
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }

    assert "mkdir: can't create directory '/new': Operation not supported\n" == box.run("mkdir", "/new")


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_seccomp_holds_with_and_without_no_new_privileges(box, no_new_privileges):
    """Without it the filter has to be loaded while there still is the right to."""
    box.process["noNewPrivileges"] = no_new_privileges
    box.process["user"] = {"uid": 1000, "gid": 1000}
    box.process["capabilities"] = {}
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}

    assert "Seccomp:\t2\n" == box.run("grep", "^Seccomp:", "/proc/self/status")


@pytest.mark.parametrize(
    "fault",
    [
        {"defaultAction": "SCMP_ACT_MAYBE"},
        {"architectures": ["SCMP_ARCH_PDP11"]},
        {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_MAYBE"}]},
        {"syscalls": [{"names": [], "action": "SCMP_ACT_ERRNO"}]},
        {"defaultErrnoRet": 5},
        {"flags": ["SECCOMP_FILTER_FLAG_NOSUCH"]},
        {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/tmp/agent.sock"},
    ],
    ids=str,
)
def test_seccomp_profile_that_makes_no_sense_must_be_refused(box, fault):
    """“names MUST contain at least one entry. When the action doesn't support an errno, the runtime MUST
    print and error and fail.”"""
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"} | fault

    with pytest.raises(InvalidValue, match="seccomp"):
        box.create()

    assert box.is_gone()


# Rootfs mount propagation


@pytest.mark.parametrize(
    ("value", "shown"),
    [("shared", "shared"), ("slave", ""), ("private", ""), ("unbindable", "unbindable")],
)
def test_rootfs_mount_propagation_is_that_of_the_root(box, value, shown):
    """“Its value is either shared, slave, private or unbindable.”"""
    box.linux["rootfsPropagation"] = value
    root = next(m for m in parse_mountinfo(box.run("cat", "/proc/self/mountinfo")) if m.mount_point == "/")

    assert shown == "".join(name.partition(":")[0] for name in root.propagation if "master" not in name)


@pytest.mark.parametrize(("value", "is_seen"), [("slave", True), ("private", False)])
def test_rootfs_mount_propagation_slave_hears_of_the_host_s_mounts(box, tmp_path, value, is_seen):
    """“If something is mounted on the host it will also appear in the container, but not the other way
    around.”"""
    shared = tmp_path / "shared"
    (shared / "later").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        run = subprocess.run
        run(["mount", "-t", "tmpfs", "tmpfs", shared], check=True)
        stack.callback(run, ["umount", "-R", shared], check=True)
        run(["mount", "--make-shared", shared], check=True)
        (shared / "later").mkdir()
        box.linux["rootfsPropagation"] = value
        box.config["mounts"].append({"destination": "/data", "source": str(shared), "options": ["rbind"]})
        box.create("sleep", "100")
        box.start()
        run(["mount", "-t", "tmpfs", "tmpfs", shared / "later"], check=True)
        with open(f"/proc/{box.pid}/mountinfo") as file:
            found = "/data/later" in {line.split()[4] for line in file}
        box.delete(force=True)

    assert is_seen == found


# Masked and read-only paths


def test_masked_paths_cannot_be_read(box):
    """“maskedPaths will mask over the provided paths inside the container so that they cannot be read.”"""
    (box.rootfs / "etc/secret").write_text("secret\n")
    (box.rootfs / "etc/secrets").mkdir()
    (box.rootfs / "etc/secrets/one").write_text("secret\n")
    box.linux["maskedPaths"] = ["/etc/secret", "/etc/secrets", "/etc/not-there"]

    assert "" == box.sh("cat /etc/secret; ls /etc/secrets")


def test_masked_paths_cannot_be_written_to_either(box):
    """A masked directory is no place to leave things."""
    (box.rootfs / "etc/secrets").mkdir()
    box.linux["maskedPaths"] = ["/etc/secrets"]

    assert "Read-only file system" in box.sh("touch /etc/secrets/new")


def test_readonly_paths_cannot_be_written(box):
    """“readonlyPaths will set the provided paths as readonly inside the container.”"""
    (box.rootfs / "etc/file").write_text("old\n")
    box.linux["readonlyPaths"] = ["/etc", "/not-there"]

    assert "old\n" == box.sh("echo new > /etc/file; cat /etc/file").splitlines(keepends=True)[-1]


@pytest.mark.parametrize("name", ["maskedPaths", "readonlyPaths"])
def test_masked_and_readonly_paths_must_be_absolute(box, name):
    """“The values MUST be absolute paths in the container namespace.”"""
    box.linux[name] = ["proc/kcore"]

    with pytest.raises(InvalidConfig, match=f"linux.{name}: 'proc/kcore' is no absolute path"):
        box.create()


def test_masked_path_does_not_show_a_device_of_the_image_s_own(box):
    """A masked path shows the null device; an image that brings another /dev/null must not choose what it
    shows."""
    box.config["mounts"] = [
        mount for mount in box.config["mounts"] if not mount["destination"].startswith("/dev")
    ]
    os.mknod(box.rootfs / "dev/null", 0o20666, os.makedev(1, 5))
    (box.rootfs / "etc/secret").write_text("secret\n")
    box.linux["maskedPaths"] = ["/etc/secret"]

    assert "1:3\n" == box.run("stat", "-c", "%t:%T", "/etc/secret")


# Personality


def test_personality_linux32_shows_a_32_bit_processor(box):
    """“LINUX32 will set the uname system call to show a 32 bit CPU type, such as i686.”"""
    box.linux["personality"] = {"domain": "LINUX32"}
    (box.rootfs / "bin/uname").symlink_to("busybox")
    native = os.uname().machine

    assert {"x86_64": "i686", "aarch64": "armv8l"}.get(native, native) == box.run("uname", "-m").strip()


def test_session_keyring_is_the_container_s_own(box):
    """Keys of whoever starts a container are not for the container."""
    box.config["mounts"].append({"destination": "/proc/keys", "source": "/proc/keys", "options": ["bind"]})
    box.linux["maskedPaths"] = []

    assert f"_ses.{box.id}" in box.run("cat", "/proc/keys")
