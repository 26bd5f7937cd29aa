"""The bundle's ``config.json``: read it, and refuse early what could only fail half-way.

The configuration stays the dict that its JSON is; it is read by the names of the specification everywhere.
Unknown properties are ignored, as the specification asks; unknown values are not.

See: runtime-spec, config.md and config-linux.md.
"""

from __future__ import annotations

import os

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.errors import InvalidConfig
from cnlab.containers.runtime.mount_options import PROPAGATION
from cnlab.containers.runtime.namespaces import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]

VERSION_MIN, VERSION_MAX = "1.0.0", "1.2.1"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
RLIMITS = tuple(  # by the kernel's numbers
    "RLIMIT_" + name
    for name in (
        *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS"),
        *("SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
    )
)
PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
SCHEDULERS = ("SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE", "SCHED_FIFO", "SCHED_RR")
DEVICE_TYPES = ("c", "b", "u", "p")
_MAX_CPUS = 8192  # CONFIG_NR_CPUS is no greater

# A user or group. The last of 32 bits is none: setresuid(2) takes it for "leave as it is", and that is root.
IDS = range(2**32 - 1)

# The shape of a value: a type; (a,), one of these; a range, a number in it; [shape], a list; {"name": shape},
# an object, where "name!" has to be there and "*" is any other name.
_HOOK = {"path!": str, "args": [str], "env": [str], "timeout": int}
_ID_MAPPING = {"containerID!": IDS, "hostID!": IDS, "size!": range(1, 2**32)}
_LIMIT = range(2**64)
_PROCESS = {
    "terminal": bool,
    "consoleSize": {"height!": range(2**16), "width!": range(2**16)},
    "cwd!": str,
    "env": [str],
    "args!": [str],
    "user": {"uid": IDS, "gid": IDS, "umask": range(0o1000), "additionalGids": [IDS]},
    "capabilities": {"*": [str]},
    "rlimits": [{"type!": RLIMITS, "soft!": _LIMIT, "hard!": _LIMIT}],
    "noNewPrivileges": bool,
    "oomScoreAdj": range(-1000, 1001),
    "scheduler": {"policy!": SCHEDULERS, "nice": range(-20, 20), "priority": range(100)},
    "ioPriority": {"class!": tuple(IO_CLASSES), "priority": range(8)},
    "execCPUAffinity": {"initial": str, "final": str},
    "apparmorProfile": str,
    "selinuxLabel": str,
}
_CONFIG = {
    "ociVersion!": str,
    "root!": {"path!": str, "readonly": bool},
    "mounts": [{"destination!": str, "type": str, "source": str, "options": [str]}],
    "process": _PROCESS,
    "hostname": str,
    "domainname": str,
    "hooks": {name: [_HOOK] for name in HOOKS},
    "annotations": {"*": str},
    "linux": {
        "namespaces": [{"type!": tuple(FLAGS), "path": str}],
        "uidMappings": [_ID_MAPPING],
        "gidMappings": [_ID_MAPPING],
        "timeOffsets": {"*": {"secs": int, "nanosecs": range(1_000_000_000)}},
        "devices": [
            {
                "type!": DEVICE_TYPES,
                "path!": str,
                "major": range(2**12),
                "minor": range(2**20),
                "fileMode": range(2**32),
                "uid": IDS,
                "gid": IDS,
            }
        ],
        "cgroupsPath": str,
        "resources": {"*": object},
        "rootfsPropagation": ("", *PROPAGATION),
        "seccomp": {"defaultAction!": str, "syscalls": [{"names!": [str], "action!": str}]},
        "sysctl": {"*": str},
        "maskedPaths": [str],
        "readonlyPaths": [str],
        "mountLabel": str,
        "personality": {"domain!": tuple(PERSONALITIES)},
    },
}


def load(bundle: str) -> Config:
    """Read and check the configuration in the directory `bundle`.

    Raises:
        InvalidConfig: it breaks a rule of the specification, or asks for what this runtime does not do.
    """
    path = os.path.join(bundle, "config.json")
    try:
        config: Config = documents.read(path)
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}; a bundle is a directory with config.json") from None
    check(config)
    return config


def check(config: Config) -> None:
    """Raise `InvalidConfig` for the first thing that is wrong with `config`."""
    _match(config, _CONFIG, "config.json")
    _check_version(config["ociVersion"])
    linux = config.get("linux") or {}
    kinds = _check_namespaces(linux)
    _check_mounts(config, linux, kinds)
    for device in linux.get("devices") or ():
        if device["type"] != "p" and None in (device.get("major"), device.get("minor")):
            raise InvalidConfig(f"linux.devices: {device['path']}: needs the numbers major and minor")
    for name in ("hostname", "domainname"):
        if config.get(name) and "uts" not in kinds:
            raise InvalidConfig(
                f"{name}: needs a uts namespace in linux.namespaces, or the host would get it"
            )
    for name, hooks in (config.get("hooks") or {}).items():
        for hook in hooks or () if name in HOOKS else ():
            _check_hook(hook, f"hooks.{name}")
    for name in ("maskedPaths", "readonlyPaths"):
        for path in linux.get(name) or ():
            if not path.startswith("/"):
                raise InvalidConfig(f"linux.{name}: {path!r} is no absolute path")
    _check_unsupported(linux)
    if "" in (config.get("annotations") or {}):
        raise InvalidConfig("annotations: a key is empty")
    if config.get("process") is not None:
        _check_process(config["process"])


def check_process(process: Any) -> None:
    """Raise `InvalidConfig` for the first thing that is wrong with a ``process`` object by itself."""
    _match(process, _PROCESS, "process")
    _check_process(process)


def _match(value: Any, shape: Any, where: str) -> None:
    """Raise `InvalidConfig` unless `value` has the `shape`."""
    if isinstance(shape, dict):
        _expect(isinstance(value, dict), where, "an object", value)
        _match_object(value, shape, where)
    elif isinstance(shape, list):
        _expect(isinstance(value, list), where, "a list", value)
        for item in value:
            _match(item, shape[0], where)
    elif isinstance(shape, tuple):
        _expect(value in shape, where, f"one of {', '.join(filter(None, shape))}", value)
    elif isinstance(shape, range):
        is_right = isinstance(value, int) and not isinstance(value, bool) and value in shape
        _expect(is_right, where, f"a number from {shape[0]} to {shape[-1]}", value)
    else:
        is_right = isinstance(value, shape) and (shape is not int or not isinstance(value, bool))
        _expect(
            is_right, where, {str: "a string", int: "a number", bool: "true or false"}.get(shape, ""), value
        )


def _match_object(value: Config, shape: Config, where: str) -> None:
    place = "" if where == "config.json" else f"{where}."
    for name, inner in shape.items():
        if name == "*":
            for key, item in value.items():
                _match(item, inner, f"{place}{key}")
        elif value.get(name.rstrip("!")) is not None:
            _match(value[name.rstrip("!")], inner, f"{place}{name.rstrip('!')}")
        elif name.endswith("!"):
            raise InvalidConfig(f"{place}{name[:-1]}: is missing")


def _expect(is_right: bool, where: str, what: str, value: Any) -> None:
    if not is_right:
        raise InvalidConfig(f"{where}: expected {what}, got {documents.text_of(value)}")


def _check_version(version: str) -> None:
    numbers = version.partition("-")[0].partition("+")[0].split(".")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise InvalidConfig(f"ociVersion: {version!r} is no version; expected something like '1.0.2'")
    if numbers[0] != "1":
        raise InvalidConfig(f"ociVersion: {version!r} is not supported; {VERSION_MIN} to {VERSION_MAX} are")


def _check_process(process: Config) -> None:
    if not process["args"]:
        raise InvalidConfig("process.args: expected at least one string")
    if not process["cwd"].startswith("/"):
        raise InvalidConfig(f"process.cwd: {process['cwd']!r} is no absolute path")
    _refuse_twice([limit["type"] for limit in process.get("rlimits") or ()], "process.rlimits")
    for name in ("flags", "runtime", "deadline", "period"):
        if (process.get("scheduler") or {}).get(name):
            raise InvalidConfig(f"process.scheduler.{name}: only policy, nice and priority are supported")
    for when in ("initial", "final"):
        affinity(process, when)


def affinity(process: Config, when: str) -> set[int]:
    """Return the CPUs that ``process.execCPUAffinity`` names, ``initial`` or ``final``; none means any.

    Raises:
        InvalidConfig: it is no list like ``"0-3,7"``.
    """
    text = (process.get("execCPUAffinity") or {}).get(when) or ""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < _MAX_CPUS):
            raise InvalidConfig(f"process.execCPUAffinity.{when}: {text!r}; expected CPUs like '0-3,7'")
        found.update(range(int(first), int(last) + 1))
    return found


def _check_namespaces(linux: Config) -> set[str]:
    namespaces = linux.get("namespaces") or ()
    kinds = [namespace["type"] for namespace in namespaces]
    _refuse_twice(kinds, "linux.namespaces")
    for namespace in namespaces:
        path = namespace.get("path")
        if path and not path.startswith("/"):
            raise InvalidConfig(f"linux.namespaces: {path!r} is no absolute path")
    for name, kind in (("timeOffsets", "time"), ("uidMappings", "user"), ("gidMappings", "user")):
        if linux.get(name) and kind not in kinds:
            raise InvalidConfig(f"linux.{name}: needs a {kind} namespace in linux.namespaces")
    return set(kinds)


def _refuse_twice(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidConfig(f"{where}: {name} is there twice")


def _check_mounts(config: Config, linux: Config, kinds: set[str]) -> None:
    for mount in config.get("mounts") or ():
        options = mount.get("options") or ()
        if "idmap" in options or "ridmap" in options or mount.get("uidMappings") or mount.get("gidMappings"):
            raise InvalidConfig(f"mounts: {mount['destination']}: mounts with mapped ids are not supported")
        if ("bind" in options or "rbind" in options) and not mount.get("source"):
            raise InvalidConfig(f"mounts: {mount['destination']}: a bind mount needs a source")
    if "mount" in kinds:
        return
    wanted = {"mounts": config.get("mounts")}
    for name in ("maskedPaths", "readonlyPaths", "rootfsPropagation"):
        wanted[f"linux.{name}"] = linux.get(name)
    for where, value in wanted.items():
        if value:
            raise InvalidConfig(
                f"{where}: needs a mount namespace in linux.namespaces, or the host would get it"
            )


def _seccomp_actions(profile: Config) -> set[str]:
    return {
        profile.get("defaultAction", ""),
        *(rule.get("action", "") for rule in profile.get("syscalls") or ()),
    }


def _check_hook(hook: Config, where: str) -> None:
    if not hook["path"].startswith("/"):
        raise InvalidConfig(f"{where}: {hook['path']!r} is no absolute path")
    if hook.get("timeout") is not None and hook["timeout"] <= 0:
        raise InvalidConfig(f"{where}: a timeout of {hook['timeout']}; expected seconds, more than 0")


def _check_unsupported(linux: Config) -> None:
    for name, reason in (
        ("intelRdt", "no resctrl file system is supported"),
        ("netDevices", "let a createRuntime hook move network devices"),
        ("memoryPolicy", "NUMA policies are not supported"),
        ("mountLabel", "SELinux labels of mounts are not supported"),
    ):
        if linux.get(name):
            raise InvalidConfig(f"linux.{name}: {reason}")
    seccomp = linux.get("seccomp") or {}
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise InvalidConfig("linux.seccomp.listenerMetadata: needs a listenerPath, to which it goes")
    if "SCMP_ACT_NOTIFY" in _seccomp_actions(seccomp):
        raise InvalidConfig("linux.seccomp: SCMP_ACT_NOTIFY is not supported")
    if (linux.get("personality") or {}).get("flags"):
        raise InvalidConfig("linux.personality.flags: there are none that are supported")
