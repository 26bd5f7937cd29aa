"""The bundle's ``config.json``: read it, and refuse early what could only fail half-way.

The configuration stays the dict that its JSON is; it is read by the names of the specification everywhere.
Unknown properties are ignored, as the specification asks; unknown values are not.

See: runtime-spec, config.md and config-linux.md.
"""

from __future__ import annotations

import os

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.errors import InvalidConfig
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
_NEED_A_MOUNT_NAMESPACE = ("maskedPaths", "readonlyPaths", "rootfsPropagation")
_NO_DEVICE_NUMBERS = "p"


def load(bundle: str) -> Config:
    """Read and check the configuration in the directory `bundle`.

    Raises:
        InvalidConfig: it breaks a rule of the specification, or asks for what this runtime does not do.
    """
    path = os.path.join(bundle, "config.json")
    try:
        config = documents.read(path)
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}; a bundle is a directory with config.json") from None
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path}: expected an object")
    check(config)
    return config


def check(config: Config) -> None:
    """Raise `InvalidConfig` for the first thing that is wrong with `config`."""
    _check_version(config)
    root = _object(config, "root", is_required=True)
    _string(root, "path", "root.path")
    linux = _object(config, "linux")
    kinds = _check_namespaces(linux)
    _check_mounts(config, linux, kinds)
    _check_devices(linux)
    _check_id_mappings(linux, kinds)
    _check_unsupported(linux)
    for name in ("hostname", "domainname"):
        if config.get(name) and "uts" not in kinds:
            raise InvalidConfig(
                f"{name}: needs a uts namespace in linux.namespaces, or the host would get it"
            )
    _check_hooks(_object(config, "hooks"))
    if config.get("process") is not None:
        check_process(config["process"])


def check_process(process: Any, where: str = "process") -> None:
    """Raise `InvalidConfig` for the first thing that is wrong with a ``process`` object."""
    if not isinstance(process, dict):
        raise InvalidConfig(f"{where}: expected an object")
    args = process.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(arg, str) for arg in args):
        raise InvalidConfig(f"{where}.args: expected at least one string")
    if not _string(process, "cwd", f"{where}.cwd").startswith("/"):
        raise InvalidConfig(f"{where}.cwd: {process['cwd']!r} is no absolute path")
    for variable in process.get("env") or ():
        if not isinstance(variable, str):
            raise InvalidConfig(f"{where}.env: {variable!r} is no string")
    user = _object(process, "user")
    for name in ("uid", "gid"):
        if not isinstance(user.get(name, 0), int) or user.get(name, 0) < 0:
            raise InvalidConfig(f"{where}.user.{name}: {user[name]!r} is no id")
    _check_rlimits(process, where)


def _check_rlimits(process: Config, where: str) -> None:
    seen = set()
    for limit in process.get("rlimits") or ():
        name = limit.get("type")
        if name not in RLIMITS:
            raise InvalidConfig(
                f"{where}.rlimits: unknown type {name!r}; expected one of {', '.join(RLIMITS)}"
            )
        if name in seen:
            raise InvalidConfig(f"{where}.rlimits: {name} is there twice")
        seen.add(name)
        if not isinstance(limit.get("soft"), int) or not isinstance(limit.get("hard"), int):
            raise InvalidConfig(f"{where}.rlimits: {name} needs the numbers soft and hard")


def _check_version(config: Config) -> None:
    version = _string(config, "ociVersion", "ociVersion")
    numbers = version.partition("-")[0].partition("+")[0].split(".")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise InvalidConfig(f"ociVersion: {version!r} is no version; expected something like '1.0.2'")
    if numbers[0] != "1":
        raise InvalidConfig(f"ociVersion: {version!r} is not supported; {VERSION_MIN} to {VERSION_MAX} are")


def _check_namespaces(linux: Config) -> set[str]:
    kinds: set[str] = set()
    for namespace in linux.get("namespaces") or ():
        kind = namespace.get("type")
        if kind not in FLAGS:
            raise InvalidConfig(
                f"linux.namespaces: unknown type {kind!r}; expected one of {', '.join(FLAGS)}"
            )
        if kind in kinds:
            raise InvalidConfig(f"linux.namespaces: {kind!r} is there twice")
        path = namespace.get("path")
        if path and not path.startswith("/"):
            raise InvalidConfig(f"linux.namespaces: {path!r} is no absolute path")
        kinds.add(kind)
    if linux.get("timeOffsets") and "time" not in kinds:
        raise InvalidConfig("linux.timeOffsets: needs a time namespace in linux.namespaces")
    return kinds


def _check_mounts(config: Config, linux: Config, kinds: set[str]) -> None:
    mounts = config.get("mounts") or ()
    for mount in mounts:
        _string(mount, "destination", "mounts: destination")
        options = mount.get("options") or ()
        if "idmap" in options or "ridmap" in options or mount.get("uidMappings"):
            raise InvalidConfig(f"mounts: {mount['destination']}: mounts with mapped ids are not supported")
        if ("bind" in options or "rbind" in options) and not mount.get("source"):
            raise InvalidConfig(f"mounts: {mount['destination']}: a bind mount needs a source")
    if "mount" in kinds:
        return
    asked = ["mounts"] if mounts else [f"linux.{name}" for name in _NEED_A_MOUNT_NAMESPACE if linux.get(name)]
    if asked:
        raise InvalidConfig(
            f"{asked[0]}: needs a mount namespace in linux.namespaces, or the host would get it"
        )


def _check_devices(linux: Config) -> None:
    for device in linux.get("devices") or ():
        path = _string(device, "path", "linux.devices: path")
        if device.get("type") not in ("c", "b", "u", "p"):
            raise InvalidConfig(
                f"linux.devices: {path}: unknown type {device.get('type')!r}; expected c, b, u or p"
            )
        numbers = (device.get("major"), device.get("minor"))
        if device["type"] != _NO_DEVICE_NUMBERS and not all(isinstance(number, int) for number in numbers):
            raise InvalidConfig(f"linux.devices: {path}: needs the numbers major and minor")


def _check_id_mappings(linux: Config, kinds: set[str]) -> None:
    for name in ("uidMappings", "gidMappings"):
        mappings = linux.get(name) or ()
        if mappings and "user" not in kinds:
            raise InvalidConfig(f"linux.{name}: needs a user namespace in linux.namespaces")
        for mapping in mappings:
            if not all(isinstance(mapping.get(key), int) for key in ("containerID", "hostID", "size")):
                raise InvalidConfig(f"linux.{name}: {mapping} needs containerID, hostID and size")


def _check_unsupported(linux: Config) -> None:
    for name, reason in (
        ("intelRdt", "no resctrl file system is supported"),
        ("netDevices", "let a createRuntime hook move network devices"),
        ("memoryPolicy", "NUMA policies are not supported"),
    ):
        if linux.get(name):
            raise InvalidConfig(f"linux.{name}: {reason}")


def _check_hooks(hooks: Config) -> None:
    for name in HOOKS:
        for hook in hooks.get(name) or ():
            if not _string(hook, "path", f"hooks.{name}: path").startswith("/"):
                raise InvalidConfig(f"hooks.{name}: {hook['path']!r} is no absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and (not isinstance(timeout, int) or timeout <= 0):
                raise InvalidConfig(f"hooks.{name}: a timeout of {timeout!r}; expected seconds, more than 0")


def _object(parent: Config, name: str, *, is_required: bool = False) -> Config:
    value = parent.get(name)
    if value is None and not is_required:
        return {}
    if not isinstance(value, dict):
        raise InvalidConfig(f"{name}: expected an object" + (", got none" if value is None else ""))
    return value


def _string(parent: Config, name: str, where: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidConfig(f"{where}: expected a string, got {'none' if value is None else repr(value)}")
    return value
