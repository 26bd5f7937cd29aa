"""Runtime specification, config.md: version, root, mounts, process, user, names, hooks, annotations.

Each docstring quotes the sentence that the test holds the runtime to.
"""

import json
import os
import resource

import pytest

from cnlab.containers import runtime
from cnlab.containers.runtime.errors import HookFailed, InvalidConfig
from cnlab.linux.capabilities import NAMES, names_in
from cnlab.linux.mounts import parse_mountinfo
from cnlab.linux.processes import parse_status

pytestmark = pytest.mark.needs_root

PID_FROM_STATE = "sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def mounts_of(box):
    """Return the container's mounts by mount point, the last one of each."""
    return {mount.mount_point: mount for mount in parse_mountinfo(box.run("cat", "/proc/self/mountinfo"))}


def status_of(box):
    """Return /proc/self/status of the container's process."""
    return parse_status(box.run("cat", "/proc/self/status"))


# Specification version


@pytest.mark.parametrize("version", ["1.0", "one", "1.0.x", "", "v1.0.0"])
def test_specification_version_must_be_semantic(box, version):
    """“ociVersion MUST be in SemVer v2.0.0 format.”"""
    box.config["ociVersion"] = version

    with pytest.raises(InvalidConfig, match="ociVersion"):
        box.create()


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0+build", "1.2.1", "1.99.0"])
def test_specification_version_is_compatible_within_the_major_version(box, version):
    """“Retains forward and backward compatibility within major versions.”"""
    box.config["ociVersion"] = version

    assert "hello\n" == box.run("echo", "hello")


def test_specification_version_of_another_major_is_refused(box):
    """“Runtimes MUST generate an error when invalid or unsupported values are encountered.”"""
    box.config["ociVersion"] = "2.0.0"

    with pytest.raises(InvalidConfig, match="not supported"):
        box.create()


# Root


@pytest.mark.parametrize("missing", ["root", "path"])
def test_root_is_required(box, missing):
    """“On all other platforms, this field is REQUIRED" and so is its path.”"""
    if missing == "root":
        del box.config["root"]
    else:
        del box.config["root"]["path"]

    with pytest.raises(InvalidConfig, match=f"{missing}: is missing"):
        box.create()


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_root_path_is_absolute_or_relative_to_the_bundle(box, is_absolute):
    """“path is either an absolute path or a relative path to the bundle.”"""
    box.config["root"]["path"] = str(box.rootfs) if is_absolute else "rootfs"
    box.run("touch", "/made-inside")

    assert (box.rootfs / "made-inside").exists()


def test_root_path_must_exist(box):
    """“A directory MUST exist at the path declared by the field.”"""
    box.config["root"]["path"] = "nowhere"

    with pytest.raises(InvalidConfig, match="nowhere is no directory"):
        box.create()


def test_root_readonly_must_be_read_only_inside(box):
    """“If true then the root filesystem MUST be read-only inside the container.”"""
    box.config["root"]["readonly"] = True

    assert "touch: /file: Read-only file system\n" == box.run("touch", "/file")


def test_root_is_writable_by_default(box):
    """“Defaults to false.”"""
    del box.config["root"]["readonly"]
    box.run("touch", "/file")

    assert (box.rootfs / "file").exists()


# Mounts


def test_mounts_must_be_mounted_in_the_listed_order(box):
    """“The runtime MUST mount entries in the listed order.”"""
    box.config["mounts"] += [
        {"destination": "/data", "type": "tmpfs", "source": "first"},
        {"destination": "/data/inner", "type": "tmpfs", "source": "second"},
        {"destination": "/data/inner", "type": "tmpfs", "source": "third"},
    ]
    mounted = parse_mountinfo(box.run("cat", "/proc/self/mountinfo"))

    assert ["first", "second", "third"] == [m.source for m in mounted if m.mount_point.startswith("/data")]


def test_mounts_relative_destination_must_be_relative_to_the_root(box):
    """“It MAY be a relative path, in which case it MUST be interpreted as relative to "/".”"""
    box.config["mounts"].append({"destination": "data/deep", "type": "tmpfs", "source": "tmpfs"})

    assert "/data/deep" in mounts_of(box)


@pytest.mark.parametrize("option", ["bind", "rbind"])
def test_mounts_bind_source_is_relative_to_the_bundle(box, option):
    """“Path values for bind mounts are either absolute or relative to the bundle. A mount is a bind mount
    if it has either bind or rbind in the options.”"""
    (box.bundle / "data").mkdir(parents=True)
    (box.bundle / "data/file").write_text("from outside\n")
    box.config["mounts"].append({"destination": "/data", "source": "data", "options": [option]})

    assert "from outside\n" == box.run("cat", "/data/file")


def test_mounts_bind_of_a_file_makes_a_file_to_mount_on(box):
    """The rootfs of an image rarely has what a caller wants to show there."""
    (box.bundle / "motd").write_text("hello\n")
    box.config["mounts"].append({"destination": "/etc/new/motd", "source": "motd", "options": ["bind", "ro"]})

    assert "hello\n" == box.run("cat", "/etc/new/motd")


def test_mounts_destination_cannot_lead_out_of_the_root(box, tmp_path):
    """A link in an image must not make the runtime mount over the host's files."""
    (box.rootfs / "escape").symlink_to(tmp_path)
    (box.rootfs / "up").symlink_to("../../../../../../../../.." + str(tmp_path))
    for name in ("escape", "up"):
        box.config["mounts"].append({"destination": f"/{name}/made", "type": "tmpfs", "source": "tmpfs"})

    with pytest.raises(FileExistsError, match="escape"):
        box.create()

    assert not (tmp_path / "made").exists()


OPTIONS = {  # option: (options given, what the mount table then says, and what it does not)
    "ro": ((), "ro", "rw"),
    "rw": (("ro",), "rw", "ro"),
    "nosuid": ((), "nosuid", ""),
    "suid": (("nosuid",), "rw", "nosuid"),
    "nodev": ((), "nodev", ""),
    "dev": (("nodev",), "rw", "nodev"),
    "noexec": ((), "noexec", ""),
    "exec": (("noexec",), "rw", "noexec"),
    "noatime": ((), "noatime", "relatime"),
    "atime": (("noatime",), "relatime", "noatime"),
    "nodiratime": ((), "nodiratime", ""),
    "diratime": (("nodiratime",), "rw", "nodiratime"),
    "relatime": ((), "relatime", ""),
    "strictatime": ((), "rw", "relatime"),
    "nostrictatime": (("strictatime",), "relatime", ""),
    "norelatime": ((), "rw", "noatime"),
    "nosymfollow": ((), "nosymfollow", ""),
    "symfollow": (("nosymfollow",), "rw", "nosymfollow"),
    "sync": ((), "sync", ""),
    "async": (("sync",), "rw", "sync"),
    "dirsync": ((), "dirsync", ""),
    "lazytime": ((), "lazytime", ""),
    "nolazytime": (("lazytime",), "rw", "lazytime"),
    "iversion": ((), "rw", ""),
    "noiversion": ((), "rw", ""),
    "silent": ((), "rw", ""),
    "loud": ((), "rw", ""),
    "defaults": ((), "rw", "nosuid"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_linux_mount_options_must_be_implemented(box, option):
    """“Runtimes MUST/SHOULD/MAY implement the following option strings for Linux.”"""
    before, shown, hidden = OPTIONS[option]
    options = [*before, option]
    box.config["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options}
    )
    mount = mounts_of(box)["/data"]
    found = (
        {*mount.options, *mount.super_options} if "sync" in option or "lazy" in option else {*mount.options}
    )

    assert (shown in found, hidden in found) == (True, False), found


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "noatime"])
def test_linux_mount_options_hold_for_bind_mounts_too(box, tmp_path, option):
    """The kernel ignores them in the call that binds."""
    options = ["bind", option]
    box.config["mounts"].append({"destination": "/data", "source": str(tmp_path), "options": options})

    assert option in mounts_of(box)["/data"].options


def test_linux_mount_options_remount_changes_what_is_mounted(box):
    """“remount: MUST.”"""
    box.config["mounts"] += [
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro"]},
    ]

    assert "ro" in mounts_of(box)["/data"].options


PROPAGATION = {
    "private": (),
    "rprivate": (),
    "shared": ("shared",),
    "rshared": ("shared",),
    "slave": (),
    "rslave": (),
    "unbindable": ("unbindable",),
    "runbindable": ("unbindable",),
}


@pytest.mark.parametrize("option", PROPAGATION)
def test_linux_mount_options_set_the_propagation(box, tmp_path, option):
    """“Bind mount propagation: MUST.”"""
    options = ["rbind", option]
    box.config["mounts"].append({"destination": "/data", "source": str(tmp_path), "options": options})
    found = mounts_of(box)["/data"].propagation

    assert PROPAGATION[option] == tuple(name.partition(":")[0] for name in found)


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
    ],
)
def test_linux_mount_options_that_are_recursive_reach_the_mounts_below(box, option, shown):
    """“These AT_RECURSIVE options need kernel 5.12 or later.”"""
    box.config["mounts"] += [
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/data/below", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/copy", "source": f"{box.rootfs}/data", "options": ["rbind", option]},
    ]
    mounted = mounts_of(box)

    assert (True, True) == tuple(shown in mounted[path].options for path in ("/copy", "/copy/below"))


def test_linux_mount_options_tmpcopyup_begins_with_what_was_there(box):
    """“tmpcopyup: copy up the contents to a tmpfs.”"""
    (box.rootfs / "etc/deep").mkdir()
    (box.rootfs / "etc/deep/file").write_text("copied\n")
    os.chown(box.rootfs / "etc/deep/file", 12, 34)
    options = ["tmpcopyup"]
    box.config["mounts"].append(
        {"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options}
    )

    assert "copied\n12 34\n" == box.sh("cat /etc/deep/file; stat -c '%u %g' /etc/deep/file; rm -r /etc/deep")
    assert (box.rootfs / "etc/deep/file").exists()


def test_linux_mount_options_that_are_unknown_go_to_the_file_system(box):
    """“Runtimes SHOULD treat unknown options as filesystem-specific ones.”"""
    options = ["size=64k", "mode=700"]
    box.config["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": options}
    )

    assert {"size=64k", "mode=700"} <= {*mounts_of(box)["/data"].super_options}


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_linux_mount_options_for_mapped_ids_must_be_refused_without_a_user_namespace(box, tmp_path, option):
    """“If there are no uidMappings and gidMappings specified and the container isn't using user namespaces,
    an error MUST be returned.”"""
    options = ["bind", option]
    box.config["mounts"].append({"destination": "/data", "source": str(tmp_path), "options": options})

    with pytest.raises(InvalidConfig, match="mapped ids"):
        box.create()


# Process


def test_process_console_size_must_be_ignored_without_a_terminal(box):
    """“Runtimes MUST ignore consoleSize if terminal is false or unset.”"""
    box.process["consoleSize"] = {"height": 10, "width": 20}

    assert "hello\n" == box.run("echo", "hello")


def test_process_cwd_is_the_working_directory(box):
    """“cwd is the working directory that will be set for the executable.”"""
    box.process["cwd"] = "/tmp"

    assert "/tmp\n" == box.run("pwd")


def test_process_cwd_must_be_absolute(box):
    """“This value MUST be an absolute path.”"""
    box.process["cwd"] = "tmp"

    with pytest.raises(InvalidConfig, match=r"process\.cwd"):
        box.create()


def test_process_env_is_the_environment(box):
    """“env with the same semantics as IEEE Std 1003.1-2008's environ.”"""
    box.process["env"] = ["PATH=/bin", "HOME=/tmp", "GREETING=a=b c"]

    assert "PATH=/bin\nHOME=/tmp\nGREETING=a=b c\n" == box.run("env")


def test_process_args_needs_at_least_one_entry(box):
    """“At least one entry is REQUIRED.”"""
    box.process["args"] = []

    with pytest.raises(InvalidConfig, match=r"process\.args"):
        box.create()


def test_process_args_are_found_as_execvp_does(box):
    """“That entry is used with the same semantics as execvp's file”: by PATH, unless there is a slash."""
    (box.rootfs / "opt").mkdir()
    (box.rootfs / "opt/greet").write_text("#!/bin/sh\necho from opt\n")
    (box.rootfs / "opt/greet").chmod(0o755)
    box.process["env"] = ["PATH=/nowhere:/opt:/bin"]

    assert "from opt\n" == box.run("greet")


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ("nosuch", FileNotFoundError, r"executable file not found in \$PATH"),
        ("/nosuch", FileNotFoundError, "no such file or directory"),
        ("/etc/plain", PermissionError, "permission denied"),
        ("/proc/self/exe", PermissionError, "permission denied: it is the runtime itself"),
    ],
)
def test_process_args_that_cannot_be_executed_fail_at_create(box, program, error, message):
    """Docker knows these messages and chooses the exit codes 127 and 126 by them."""
    (box.rootfs / "etc/plain").write_text("text\n")

    with pytest.raises(error, match=message):
        box.create(program)


def test_process_that_the_kernel_does_not_execute_fails_at_start(box):
    """What only execve(2) can find out still reaches the caller."""
    (box.rootfs / "bin/garbage").write_bytes(b"\x00garbage")
    (box.rootfs / "bin/garbage").chmod(0o755)
    box.create("garbage")

    with pytest.raises(OSError, match="exec /bin/garbage: exec format error"):
        box.start()


# POSIX process


def test_posix_process_rlimits_must_match(box):
    """“rlim.rlim_cur MUST match the configured value. rlim.rlim_max MUST match the configured value.”"""
    box.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    limits = box.sh("grep -e 'Max open files' -e 'Max core' /proc/self/limits").split()

    assert ["0", "0", "512", "1024"] == [word for word in limits if word.isdecimal()]


def test_posix_process_rlimits_of_an_unknown_type_must_be_refused(box):
    """“The runtime MUST generate an error for any values which cannot be mapped to a relevant kernel
    interface.”"""
    box.process["rlimits"] = [{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]

    with pytest.raises(InvalidConfig, match="RLIMIT_NOSUCH"):
        box.create()


def test_posix_process_rlimits_must_not_name_a_type_twice(box):
    """“If rlimits contains duplicated entries with same type, the runtime MUST generate an error.”"""
    box.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2

    with pytest.raises(InvalidConfig, match="RLIMIT_CORE is there twice"):
        box.create()


@pytest.mark.parametrize("name", [name for name in dir(resource) if name.startswith("RLIMIT_")])
def test_posix_process_rlimits_have_the_numbers_of_the_kernel(name):
    """The runtime has a table of its own; Python's is the judge."""
    from cnlab.containers.runtime.config import RLIMITS

    if name != "RLIMIT_OFILE":  # BSD's word for NOFILE
        assert getattr(resource, name) == RLIMITS.index(name)


# Linux process


def test_linux_process_capabilities_are_those_named(box):
    """“capabilities is an object containing arrays that specifies the sets of capabilities for the
    process.”"""
    box.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    box.process["user"] = {"uid": 1000, "gid": 1000}
    status = status_of(box)
    sets = {
        name: names_in(int(status[name], 16)) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")
    }

    assert {
        "CapBnd": {"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"},
        "CapPrm": {"CAP_KILL"},  # execve leaves an ordinary user what is ambient
        "CapEff": {"CAP_KILL"},
        "CapInh": {"CAP_KILL"},
        "CapAmb": {"CAP_KILL"},
    } == sets


def test_linux_process_without_capabilities_has_none(box):
    """What is not asked for is not given."""
    del box.process["capabilities"]
    status = status_of(box)

    assert {"0000000000000000"} == {
        status[name] for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")
    }


def test_linux_process_capabilities_that_cannot_be_granted_must_be_warned_of(box):
    """“Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST
    be logged as a warning by the runtime.”"""
    box.process["capabilities"]["effective"].append("CAP_TIME_TRAVEL")
    box.run("true")

    assert ["CAP_TIME_TRAVEL"] == [
        word for warning in box.warnings for word in warning.split() if "CAP" in word
    ]


def test_linux_process_gets_every_capability_that_the_runtime_has(box):
    """Requested capabilities are cut to the bounding set of the runtime, which may lack some itself."""
    box.process["capabilities"] = {name: list(NAMES) for name in ("bounding", "effective", "permitted")}
    with open("/proc/self/status") as file:
        ours = parse_status(file.read())["CapBnd"]

    assert ours == status_of(box)["CapEff"]


@pytest.mark.parametrize("is_set", [False, True])
def test_linux_process_no_new_privileges(box, is_set):
    """“Setting noNewPrivileges to true prevents the process from gaining additional privileges.”"""
    box.process["noNewPrivileges"] = is_set

    assert str(int(is_set)) == status_of(box)["NoNewPrivs"]


def test_linux_process_oom_score_must_be_set(box):
    """“If oomScoreAdj is set, the runtime MUST set oom_score_adj to the given value.”"""
    box.process["oomScoreAdj"] = 321

    assert "321\n" == box.run("cat", "/proc/self/oom_score_adj")


def test_linux_process_oom_score_must_not_be_changed_otherwise(box):
    """“If oomScoreAdj is not set, the runtime MUST NOT change the value of oom_score_adj.”"""
    with open("/proc/self/oom_score_adj") as file:
        ours = file.read()

    assert ours == box.run("cat", "/proc/self/oom_score_adj")


def test_linux_process_scheduler_is_set(box):
    """“scheduler is an object describing the scheduler properties for the process.”"""
    box.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    stat = box.run("cat", "/proc/self/stat").rpartition(")")[2].split()

    assert ("7", str(os.SCHED_BATCH)) == (stat[16], stat[38])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheduler", {"policy": "SCHED_MAGIC"}),
        ("ioPriority", {"class": "IOPRIO_CLASS_MAGIC", "priority": 0}),
    ],
)
def test_linux_process_unknown_values_must_be_refused(box, name, value):
    """“Runtimes MUST generate an error when invalid or unsupported values are encountered.”"""
    box.process[name] = value

    with pytest.raises(InvalidConfig, match="MAGIC"):
        box.create()


def test_linux_process_io_priority_is_set(box):
    """“ioPriority configures the I/O priority settings for the container's processes.”"""
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 4}
    box.create("sleep", "100")
    box.start()

    assert "idle" == box.command_on_host("ionice", "-p", str(box.pid)).strip()


def test_linux_process_exec_cpu_affinity_is_set(box):
    """“execCPUAffinity specifies CPU affinity used to execute the process. This setting is not applicable to
    the container's init process”: an exec runs on the final CPUs, and the runtime where it was."""
    own = os.sched_getaffinity(0)
    last = max(own)
    box.process["execCPUAffinity"] = {"initial": str(min(own)), "final": str(last)}
    box.create("sleep", "100")
    box.start()
    said = box.exec("grep", "Cpus_allowed_list", "/proc/self/status")

    assert (0, f"Cpus_allowed_list:\t{last}\n") == said
    assert (own, own) == (os.sched_getaffinity(box.pid), os.sched_getaffinity(0))


@pytest.mark.parametrize("when", ["initial", "final"])
def test_linux_process_exec_cpu_affinity_to_a_cpu_that_is_not_there_must_be_refused(box, when):
    """The kernel knows which there are."""
    box.create("sleep", "100")
    box.start()

    with pytest.raises(OSError, match=f"execCPUAffinity.{when}: sched_setaffinity"):
        box.exec("true", execCPUAffinity={when: "8191"})


# User


def test_user_ids_umask_and_groups_are_those_of_the_process(box):
    """“uid, gid, umask, additionalGids: in the container namespace.”"""
    box.process["user"] = {"uid": 12, "gid": 34, "umask": 0o027, "additionalGids": [56, 78]}
    box.config["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
    )
    said = box.sh(
        "grep -e ^Uid -e ^Gid -e ^Groups -e ^Umask /proc/self/status; touch /data/f; stat -c %a /data/f"
    )

    assert "Umask: 0027 Uid: 12 12 12 12 Gid: 34 34 34 34 Groups: 56 78 640" == " ".join(said.split())


def test_user_umask_is_not_changed_unless_given(box):
    """“If unspecified, the umask should not be changed from the calling process' umask.”"""
    before = os.umask(0o045)
    try:
        assert "0045" == status_of(box)["Umask"]
    finally:
        os.umask(before)


NO_IDS = (2**32 - 1, 2**32, 2**32 + 1, 2**64 - 1, -1, -2)
NO_USERS = (
    *({name: number} for name in ("uid", "gid") for number in NO_IDS),
    *({"additionalGids": [5, number]} for number in NO_IDS),
    *({"umask": mask} for mask in (-1, 0o1000)),
)


@pytest.mark.parametrize("user", NO_USERS, ids=str)
def test_user_ids_that_are_none_must_be_refused(box, user):
    """“Runtimes MUST generate an error when invalid or unsupported values are encountered”: -1 of 32 bits
    would leave the process root, and a greater number be cut to another."""
    box.process["user"] = {"uid": 1000, "gid": 1000} | user

    with pytest.raises(InvalidConfig, match=rf"process\.user\.{next(iter(user))}: expected a number from 0"):
        box.create()


def test_user_ids_that_are_none_must_be_refused_of_exec_too(box):
    """Its process object comes from elsewhere."""
    box.create("sleep", "100")
    box.start()

    for user in NO_USERS:
        with pytest.raises(InvalidConfig, match=r"process\.user"):
            box.exec("true", user=user)


def test_user_ids_go_up_to_the_last(box):
    """All that the kernel takes for an id is one."""
    last = 2**32 - 2
    box.process["user"] = {"uid": last, "gid": last, "additionalGids": [last]}

    assert f"{last} {last} {last}" == box.sh("echo $(id -u) $(id -g) $(id -G | grep -o '[0-9]*$')").strip()


# Hostname and domain name


def test_hostname_is_seen_inside_and_only_there(box):
    """“hostname specifies the container's hostname as seen by processes running inside the container.”"""
    box.config["hostname"] = "mrsdalloway"
    host = os.uname().nodename

    assert ("mrsdalloway\n", host) == (box.run("cat", "/proc/sys/kernel/hostname"), os.uname().nodename)


def test_domainname_is_seen_inside(box):
    """“domainname specifies the container's domainname as seen by processes running inside the container.”"""
    box.config["domainname"] = "foobarbaz.test"

    assert "foobarbaz.test\n" == box.run("cat", "/proc/sys/kernel/domainname")


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_hostname_of_the_host_is_never_set(box, name):
    """Without a uts namespace of the container's own it would be the host's name."""
    box.linux["namespaces"] = [kind for kind in box.linux["namespaces"] if kind["type"] != "uts"]
    box.config = {key: value for key, value in box.config.items() if key != "hostname"} | {name: "mine"}

    with pytest.raises(InvalidConfig, match="uts namespace"):
        box.create()


# Hooks


def log_hooks(box):
    """Give every kind of hook two hooks that write what they see to a log; return a reader of the log."""
    log = box.bundle / "log"
    (box.rootfs / "log").mkdir()
    inside = "read state; echo $0 $(hostname) $(readlink /proc/self/ns/uts) $state >> /log/log"
    outside = f"read state; echo $0 $(hostname) $(readlink /proc/self/ns/uts) $state >> {box.rootfs}/log/log"
    box.config["hooks"] = {}
    for name in HOOKS:
        script = inside if name == "startContainer" else outside
        hook = box.hook(script)
        box.config["hooks"][name] = [hook | {"args": ["sh", "-c", script, f"{name}-{n}"]} for n in (1, 2)]
        if name == "startContainer":
            for hook in box.config["hooks"][name]:
                hook["env"] = ["PATH=/bin"]
    log = box.rootfs / "log/log"
    return lambda: [line.split(" ", 3) for line in log.read_text().splitlines()]


def test_hooks_must_be_called_in_order(box):
    """“Hooks MUST be called in the listed order. The prestart hooks MUST be called before the createRuntime
    hooks. The createContainer hooks MUST be called after the createRuntime hooks.”"""
    read = log_hooks(box)
    box.run("true")
    box.delete()

    assert [f"{name}-{n}" for name in HOOKS for n in (1, 2)] == [name for name, *_ in read()]


def test_hooks_must_be_executed_in_the_namespace_that_is_theirs(box):
    """“The createContainer and startContainer hooks MUST be executed in the container namespace", all
    others "in the runtime namespace".”"""
    read = log_hooks(box)
    host = os.readlink("/proc/self/ns/uts")
    box.run("true")
    box.delete()

    assert {name for name, _, namespace, _ in read() if namespace != host} == {
        f"{name}-{n}" for name in ("createContainer", "startContainer") for n in (1, 2)
    }


def test_hooks_must_be_passed_the_state_over_stdin(box):
    """“The state of the container MUST be passed to hooks over stdin so that they may do work appropriate
    to the current state of the container.”"""
    read = log_hooks(box)
    pid = box.create("sleep", "100")["pid"]
    box.start()
    box.kill()
    box.wait()
    box.delete()
    states = {name.partition("-")[0]: json.loads(state) for name, _, _, state in read()}

    assert {
        "prestart": ("creating", pid),
        "createRuntime": ("creating", pid),
        "createContainer": ("creating", 1),  # "it is the pid as seen by the container"
        "startContainer": ("created", 1),
        "poststart": ("running", pid),
        "poststop": ("stopped", 0),
    } == {name: (state["status"], state["pid"]) for name, state in states.items()}
    assert {box.id} == {state["id"] for state in states.values()}


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_hooks_of_create_must_run_before_pivot_root(box, name):
    """“… but before the pivot_root or any equivalent operation has been executed”: the container's process
    still sees the host's files, and its own mounts among them."""
    process = "self" if name == "createContainer" else f"$({PID_FROM_STATE})"
    script = (
        f"cd /proc/{process} && test -e root{box.bundle}/config.json && grep -q {box.rootfs}/proc mountinfo"
    )
    box.config["hooks"] = {name: [box.hook(script)]}
    box.create()

    assert "created" == box.status


def test_hooks_can_give_the_new_network_namespace_an_interface(box):
    """“They provide an opportunity to customize the container (e.g. the network namespace could be
    specified in this hook)”: as Docker does it."""
    script = f"nsenter -t $({PID_FROM_STATE}) -n ip link set lo mtu 1234"
    box.config["hooks"] = {"prestart": [box.hook(script)]}

    assert "1234\n" == box.run("cat", "/sys/class/net/lo/mtu")


def test_hooks_start_container_path_must_resolve_in_the_container(box):
    """“The startContainer hooks' path MUST resolve in the container namespace.”"""
    (box.rootfs / "only-here").write_text("#!/bin/sh\ntouch /hooked\n")
    (box.rootfs / "only-here").chmod(0o755)
    box.config["hooks"] = {"startContainer": [{"path": "/only-here"}]}
    box.run("true")

    assert (box.rootfs / "hooked").exists()


def test_hooks_poststart_must_run_after_the_program_was_executed(box):
    """“The poststart hooks MUST be called after the user-specified process is executed but before the start
    operation returns.”"""
    script = f"cat /proc/$({PID_FROM_STATE})/cmdline > {box.bundle}/log"
    box.config["hooks"] = {"poststart": [box.hook(script)]}
    box.create("sleep", "100")
    box.start()

    assert "sleep\x00100\x00" == (box.bundle / "log").read_text()


def test_hooks_poststop_must_run_after_the_container_was_deleted(box):
    """“The poststop hooks MUST be called after the container is deleted but before the delete operation
    returns.”"""
    script = f"ls {box.root} > {box.bundle}/log"
    box.config["hooks"] = {"poststop": [box.hook(script)]}
    box.run("true")
    box.delete()

    assert "" == (box.bundle / "log").read_text()


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_path_must_be_absolute(box, name):
    """“This specification extends the IEEE standard in that path MUST be absolute.”"""
    box.config["hooks"] = {name: [{"path": "sh"}]}

    with pytest.raises(InvalidConfig, match=f"hooks.{name}: 'sh' is no absolute path"):
        box.create()


@pytest.mark.parametrize("timeout", [0, -1])
def test_hooks_timeout_must_be_greater_than_zero(box, timeout):
    """“If set, timeout MUST be greater than zero.”"""
    box.config["hooks"] = {"prestart": [{"path": "/bin/true", "timeout": timeout}]}

    with pytest.raises(InvalidConfig, match="more than 0"):
        box.create()


def test_hooks_timeout_aborts_the_hook(box):
    """“timeout is the number of seconds before aborting the hook.”"""
    box.config["hooks"] = {"prestart": [box.hook("exec sleep 100", timeout=1)]}

    with pytest.raises(HookFailed, match="timeout of 1 s"):
        box.create()

    assert box.is_gone()


def test_hooks_have_only_the_environment_that_is_given(box):
    """“env with the same semantics as IEEE Std 1003.1-2008's environ”: the runtime's own stays with it."""
    box.config["hooks"] = {
        "prestart": [{"path": "/usr/bin/env", "env": ["KEY=value"], "args": ["env", "sh", "-c", "exit 3"]}]
    }

    with pytest.raises(HookFailed, match="exit code"):
        box.create()

    hook = {
        "path": "/bin/sh",
        "args": ["sh", "-c", f"cat /proc/$$/environ > {box.bundle}/log"],
        "env": ["KEY=value"],
    }
    box.config["hooks"] = {"prestart": [hook]}
    box.create()
    assert "KEY=value\x00" == (box.bundle / "log").read_text()


# Annotations, extensibility, valid values


def test_annotations_values_must_be_strings(box):
    """“Values MUST be strings. Values MAY be an empty string.”"""
    box.config["annotations"] = {"org.example.count": 3}

    with pytest.raises(InvalidConfig, match=r"annotations\.org\.example\.count: expected a string, got 3"):
        box.create()


def test_annotations_that_are_unknown_must_be_handled_like_unknown_properties(box):
    """“Runtimes MUST handle unknown annotation keys like any other unknown property.”"""
    box.config["annotations"] = {"org.opencontainers.future": "", "a": "b"}
    box.create()

    assert {"org.opencontainers.future": "", "a": "b"} == box.state()["annotations"]


def test_extensibility_unknown_properties_must_be_ignored(box):
    """“Runtimes MAY log unknown properties but MUST otherwise ignore them.”"""
    for part in (box.config, box.linux, box.process, box.config["mounts"][0]):
        part["ext.example"] = {"any": ["thing"]}

    assert "hello\n" == box.run("echo", "hello")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("process.terminal", "yes"),
        ("process.user.uid", "root"),
        ("process.env", ["A=b", 1]),
        ("mounts", {"destination": "/"}),
        ("linux.namespaces", [{"type": "cpu"}]),
        ("linux.devices", [{"path": "/dev/x", "type": "z"}]),
        ("linux.rootfsPropagation", "sideways"),
        ("linux.personality", {"domain": "MULTICS"}),
        ("hooks.prestart", [{"args": ["x"]}]),
        ("process.consoleSize", {"height": -1, "width": 80}),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": -1, "hard": -1}]),
        ("process.oomScoreAdj", 1001),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": -1}),
        ("linux.devices", [{"path": "/dev/x", "type": "c", "major": -1, "minor": 0}]),
        ("linux.devices", [{"path": "/dev/x", "type": "p", "uid": 2**32 - 1}]),
        ("linux.uidMappings", [{"containerID": 0, "hostID": -1, "size": 1}]),
        ("linux.timeOffsets", {"boottime": {"nanosecs": -1}}),
        ("process.execCPUAffinity", {"initial": "1-0"}),
        ("process.execCPUAffinity", {"final": "all"}),
        *(
            ("process.scheduler", {"policy": "SCHED_OTHER", name: value})
            for name, value in (
                ("flags", ["SCHED_FLAG_RESET_ON_FORK"]),
                *(("runtime", 1000), ("deadline", 1000), ("period", 1000)),
            )
        ),
        *(
            ("mounts", [{"destination": "/x", name: [{"containerID": 0, "hostID": 1, "size": 1}]}])
            for name in ("uidMappings", "gidMappings")
        ),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "opaque"}),
        ("annotations", {"": "value"}),
    ],
)
def test_valid_values_are_all_that_is_taken(box, path, value):
    """“Runtimes MUST generate an error when invalid or unsupported values are encountered”: one that says
    where."""
    part = box.config
    *parents, name = path.split(".")
    for parent in parents:
        part = part.setdefault(parent, {})
    part[name] = value

    with pytest.raises(InvalidConfig, match=path.split(".")[0]) as error:
        box.create()

    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ociVersion": "1.0.0"', "nonsense"])
def test_configuration_that_is_no_json_object_is_refused_in_one_line(box, text):
    """An empty or half-written file is what a caller's crash leaves."""
    box.write()
    (box.bundle / "config.json").write_text(text)

    with pytest.raises(InvalidConfig, match=r"config\.json"):
        runtime.create(box.id, str(box.bundle), root=box.root)
