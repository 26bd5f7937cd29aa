"""Bundles: from what an image says and a caller wants to the ``config.json`` that a runtime reads.

Interface: `config_for` returns the configuration as the dict that its JSON is, with what Docker gives a
container unless told otherwise; `write_bundle` puts it beside a root file system.

See: runtime-spec, bundle.md and config.md; image-spec, conversion.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnlab.containers.runtime.config import IDS
from cnlab.errors import InvalidValue
from cnlab.linux.capability_names import NAMES, mask_of

Config = dict[str, Any]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
    )
)
DEFAULT_NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup")
MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
READONLY_PATHS = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
DEFAULT_DEVICE_RULES = (
    {"allow": False, "access": "rwm"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
    ),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
)


def _mount(destination: str, fs_type: str, *options: str, source: str = "") -> Config:
    return {
        "destination": destination,
        "type": fs_type,
        "source": source or fs_type,
        "options": list(options),
    }


DEFAULT_MOUNTS = (
    _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
    _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
    _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),
)

_REFUSED = {  # system calls that are no business of a container, but for the capability that makes it one
    "CAP_SYS_ADMIN": (
        *("bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount"),
        *("mount_setattr", "move_mount", "open_tree", "perf_event_open", "pivot_root", "quotactl"),
        *("quotactl_fd", "setns", "swapoff", "swapon", "umount", "umount2", "unshare"),
    ),
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_BOOT": ("kexec_file_load", "kexec_load", "reboot"),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_adjtime", "clock_settime", "settimeofday", "stime"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "move_pages", "set_mempolicy"),
    "": ("_sysctl", "add_key", "keyctl", "request_key", "userfaultfd", "uselib", "vm86", "vm86old"),
}
_CLONE_NAMESPACES = 0x7E02_0000
_ENOSYS = 38


def default_seccomp(capabilities: Iterable[str] = ()) -> Config:
    """Return a seccomp profile that refuses what Docker's refuses to containers with these capabilities.

    Docker lists the three hundred and more calls that are allowed, so that a new one is refused until
    somebody has thought about it. This list is the other way round, to be read.
    """
    held = set(capabilities)
    refused = [name for capability, names in _REFUSED.items() if capability not in held for name in names]
    calls: list[Config] = [{"names": sorted(refused), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    if "CAP_SYS_ADMIN" not in held:
        # A filter sees numbers and no memory: of clone the flags, of clone3 only an address. Without clone3
        # the C library takes clone.
        new = {"index": 0, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        for bit in range(_CLONE_NAMESPACES.bit_length()):
            flag = _CLONE_NAMESPACES & 1 << bit
            if flag:
                args = [new | {"value": flag, "valueTwo": flag}]
                calls.append({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": args})
        calls.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    architectures = {"x86_64": ["X86_64", "X86", "X32"], "aarch64": ["AARCH64", "ARM"]}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures.get(os.uname().machine, [])],
        "syscalls": calls,
    }


def config_for(
    image_config: Mapping[str, Any] | None = None,
    *,
    args: Sequence[str] | None = None,
    env: Iterable[str] | Mapping[str, str] = (),
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    domainname: str | None = None,
    terminal: bool = False,
    rootfs: str = "rootfs",
    readonly: bool = False,
    mounts: Iterable[Mapping[str, Any]] = (),
    namespaces: Iterable[str | Mapping[str, Any]] = DEFAULT_NAMESPACES,
    cap_add: Iterable[str] = (),
    cap_drop: Iterable[str] = (),
    no_new_privileges: bool = True,
    seccomp: str | Mapping[str, Any] | None = "default",
    resources: Mapping[str, Any] | None = None,
    cgroups_path: str | None = None,
    rlimits: Iterable[Mapping[str, Any]] = (),
    sysctl: Mapping[str, str] | None = None,
    oom_score_adj: int | None = None,
    hooks: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    rootless: bool = False,
) -> Config:
    """Return the configuration of a container.

    Args:
        image_config: an image's configuration, whose ``config`` names the program, its environment and user.
        args: the program and its arguments; by default the image's ``Entrypoint`` and ``Cmd``.
        env: further variables, as ``"NAME=value"`` or by name; they win over the image's.
        cwd: working directory.
        user: ``"uid[:gid]"``, or names, which are looked up in `rootfs`.
        hostname: its host name.
        domainname: its NIS domain name.
        terminal: whether it has one.
        rootfs: its root file system, absolute or below the bundle.
        readonly: whether that is read-only.
        mounts: further entries of ``mounts``; one with the destination of a default mount takes its place.
        namespaces: their types, or entries of ``linux.namespaces`` with a ``path``.
        cap_add: capabilities besides `DEFAULT_CAPABILITIES`, with or without ``CAP_``; ``"ALL"`` is all.
        cap_drop: those to leave out, likewise.
        no_new_privileges: whether set-user-ID programs have no effect.
        seccomp: ``"default"``, a profile, or None for none.
        resources: ``linux.resources``; the default rules for devices come first.
        cgroups_path: ``linux.cgroupsPath``.
        rlimits: ``process.rlimits``.
        sysctl: ``linux.sysctl``.
        oom_score_adj: ``process.oomScoreAdj``.
        hooks: ``hooks``.
        annotations: ``annotations``, besides the image's labels.
        rootless: whether an ordinary user is to run it: in a user namespace that maps only his own ids.

    Raises:
        InvalidValue: there is no program, or a name that nobody knows.
    """
    image = (image_config or {}).get("config") or {}
    kinds = [dict(kind) if isinstance(kind, Mapping) else {"type": kind} for kind in namespaces]
    capabilities = _capabilities(cap_add, cap_drop)
    process: Config = {
        "terminal": terminal,
        "user": resolve_user(user or image.get("User") or "0", rootfs),
        "args": _args(image, args),
        "env": _environment(image.get("Env") or [DEFAULT_PATH], env, terminal=terminal),
        "cwd": cwd or image.get("WorkingDir") or "/",
        "capabilities": {name: list(capabilities) for name in ("bounding", "effective", "permitted")},
        "rlimits": [dict(limit) for limit in rlimits],
        "noNewPrivileges": no_new_privileges,
    }
    linux: Config = {
        "namespaces": kinds,
        "resources": {"devices": [dict(rule) for rule in DEFAULT_DEVICE_RULES], **(resources or {})},
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READONLY_PATHS),
    }
    if seccomp is not None:
        linux["seccomp"] = default_seccomp(capabilities) if isinstance(seccomp, str) else dict(seccomp)
    if cgroups_path is not None:
        linux["cgroupsPath"] = cgroups_path
    if sysctl:
        linux["sysctl"] = dict(sysctl)
    if oom_score_adj is not None:
        process["oomScoreAdj"] = oom_score_adj
    config: Config = {
        "ociVersion": "1.2.0",
        "process": process,
        "root": {"path": rootfs, "readonly": readonly},
        "mounts": _mounts(mounts),
        "linux": linux,
        "annotations": {**(image.get("Labels") or {}), **(annotations or {})},
    }
    for name, value in (("hostname", hostname), ("domainname", domainname), ("hooks", hooks)):
        if value:
            config[name] = value
    if rootless:
        _make_rootless(config)
    return config


def write_bundle(directory: str | os.PathLike[str], config: Mapping[str, Any]) -> Path:
    """Write ``config.json`` into `directory`, which is made if it is missing, and return its path."""
    path = Path(directory) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


def resolve_user(user: str, rootfs: str | os.PathLike[str]) -> Config:
    """Return ``process.user`` for ``"user[:group]"``, by the root file system's own passwd and group files.

    Raises:
        InvalidValue: a name that is not there, or a number that is no id.
    """
    name, has_group, group = user.partition(":")
    entries = _read_table(Path(rootfs) / "etc/passwd", 4)
    entry = next((entry for entry in entries if name in (entry[0], entry[2])), None)
    if entry is None and not name.isdecimal():
        raise InvalidValue(
            f"user {name!r}: not in {rootfs}/etc/passwd; expected one of its names, or a number"
        )
    uid = _number(name if entry is None else entry[2], f"user {name!r}")
    if has_group:
        return {"uid": uid, "gid": _group_id(group, rootfs)}
    found: Config = {"uid": uid, "gid": 0 if entry is None else _number(entry[3], f"user {name!r}")}
    members = [
        line
        for line in _read_table(Path(rootfs) / "etc/group", 4)
        if entry and entry[0] in line[3].split(",")
    ]
    if members:
        found["additionalGids"] = sorted({_number(line[2], f"group {line[0]!r}") for line in members})
    return found


def _group_id(group: str, rootfs: str | os.PathLike[str]) -> int:
    for entry in _read_table(Path(rootfs) / "etc/group", 3):
        if group in (entry[0], entry[2]):
            return _number(entry[2], f"group {group!r}")
    if not group.isdecimal():
        raise InvalidValue(
            f"group {group!r}: not in {rootfs}/etc/group; expected one of its names, or a number"
        )
    return _number(group, f"group {group!r}")


def _number(text: str, where: str) -> int:
    """Read an id. The last number of 32 bits is none: a process that asks for it stays what it is, root."""
    if not text.isdecimal() or int(text) not in IDS:
        raise InvalidValue(f"{where} has the id {text!r}; expected a number from 0 to {IDS[-1]}")
    return int(text)


def _read_table(path: Path, columns: int) -> list[list[str]]:
    """Read a file like ``/etc/passwd``; a link that leads out of the image is not followed."""
    if path.is_symlink() or not path.is_file():
        return []
    lines = path.read_text(errors="replace").splitlines()
    return [entry for line in lines if len(entry := line.split(":")) >= columns]


def _args(image: Mapping[str, Any], args: Sequence[str] | None) -> list[str]:
    if args is not None:
        return list(args)
    found = [*(image.get("Entrypoint") or ()), *(image.get("Cmd") or ())]
    if not found:
        raise InvalidValue("no program: pass args, as the image names neither Entrypoint nor Cmd")
    return found


def _environment(
    image: Iterable[str], env: Iterable[str] | Mapping[str, str], *, terminal: bool
) -> list[str]:
    own = [f"{name}={value}" for name, value in env.items()] if isinstance(env, Mapping) else list(env)
    variables = [*image, *(["TERM=xterm"] if terminal else []), *own]
    by_name = {variable.partition("=")[0]: variable for variable in variables}
    return list(by_name.values())


def _capabilities(added: Iterable[str], dropped: Iterable[str]) -> tuple[str, ...]:
    held = set(DEFAULT_CAPABILITIES)
    plus, minus = _named(added), _named(dropped)
    held = (set() if minus == set(NAMES) else held) - minus | plus
    return tuple(name for name in NAMES if name in held)


def _named(capabilities: Iterable[str]) -> set[str]:
    names = {f"CAP_{name.upper().removeprefix('CAP_')}" for name in capabilities}
    if "CAP_ALL" in names:
        return set(NAMES)
    mask_of(*names)
    return names


def _mounts(added: Iterable[Mapping[str, Any]]) -> list[Config]:
    own = [dict(mount) for mount in added]
    replaced = {mount["destination"] for mount in own}
    kept = [mount for mount in DEFAULT_MOUNTS if mount["destination"] not in replaced]
    return [mount | {"options": list(mount["options"])} for mount in kept] + own


def _make_rootless(config: Config) -> None:
    """Change `config` to what an ordinary user may do, whose only id is root inside."""
    linux = config["linux"]
    if not any(kind["type"] == "user" for kind in linux["namespaces"]):
        linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    linux["resources"].pop("devices", None)  # the kernel keeps device nodes from him anyway
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
    for mount in config["mounts"]:
        mount["options"] = [option for option in mount.get("options") or () if option != "gid=5"]
