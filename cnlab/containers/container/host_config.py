"""What the Docker SDK's words for a container mean as parts of an OCI ``config.json``.

`Options` are the words, each function translates a group of them; nothing is made or changed. What a word
means is what ``docker run`` takes it for; defaults are Docker's but for the network, which is none.

See: OCI runtime-spec, config.md and config-linux.md; ``docker.models.containers`` of the Docker SDK.
"""

import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from cnlab.containers import bundle
from cnlab.containers.network import Network
from cnlab.containers.network.ports import Ports
from cnlab.errors import InvalidValue
from cnlab.linux import capability_names
from cnlab.linux.idmaps import IdMap

Json = dict[str, Any]
CPU_PERIOD_US = 100_000
INIT = "/sbin/docker-init"
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_KINDS = {"pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net"}  # the spec's word and /proc's


class Options(TypedDict, total=False):
    """What may be said of a container beside its image and command."""

    name: str
    hostname: str  # by default the short id
    domainname: str
    entrypoint: str | Sequence[str]  # in place of the image's
    environment: Mapping[str, str] | Sequence[str]  # in addition to the image's
    working_dir: str
    user: str | int  # name or number, and perhaps :group
    labels: Mapping[str, str]
    tty: bool
    init: bool  # a small process 1 that reaps, docker-init
    stop_signal: str

    volumes: Mapping[str, Mapping[str, str]] | Sequence[str]  # {"/host": {"bind": "/in", "mode": "ro"}}
    tmpfs: Mapping[str, str]  # {"/run": "size=1m"}
    devices: Sequence[str]  # "/dev/fuse:/dev/fuse:rwm"
    read_only: bool

    network: Network
    ports: Ports  # published by `network`
    network_mode: str  # "none", "host" or "container:NAME"
    pid_mode: str  # "host" or "container:NAME"
    ipc_mode: str
    uts_mode: str
    id_map: Sequence[IdMap]  # a user namespace with these users and groups

    mem_limit: int | str  # bytes, or text like "64m"
    mem_reservation: int | str
    memswap_limit: int | str  # memory and swap together
    nano_cpus: int  # 1_000_000_000 is one CPU
    cpu_shares: int
    cpuset_cpus: str
    pids_limit: int
    ulimits: Sequence[Mapping[str, Any]]  # [{"Name": "nofile", "Soft": 64, "Hard": 64}]
    oom_score_adj: int

    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    privileged: bool
    security_opt: Sequence[str]  # "no-new-privileges", "seccomp=unconfined", "seccomp=FILE"
    sysctls: Mapping[str, str]

    hooks: Mapping[str, Sequence[Json]]  # the runtime-spec's, not Docker's


def require_known(options: Options) -> None:
    """Refuse a word that there is not, and words that need or exclude each other.

    Raises:
        TypeError: as a call with such an argument would.
        InvalidValue: the words make no sense together.
    """
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        raise TypeError(
            f"a container has no option {', '.join(unknown)}; there are {', '.join(Options.__annotations__)}"
        )
    if "network" in options and "network_mode" in options:
        raise InvalidValue("network and network_mode: a container has one or the other")
    if options.get("ports") and "network" not in options:
        raise InvalidValue("ports: a network publishes them, so pass network=Network(...) too")


def parse_bytes(size: int | str) -> int:
    """Read a number of bytes as Docker writes it: ``67108864`` or ``"64m"``; -1 is no limit."""
    match = re.fullmatch(r"(-1|\d+)\s*([bkmg]?)b?", str(size).lower())
    if match is None:
        raise InvalidValue(f"{size!r} is no size; expected bytes, or a number with b, k, m or g like '64m'")
    return int(match[1]) * _UNITS[match[2]]


def arguments(image_config: Json, command: str | Sequence[str] | None, options: Options) -> list[str]:
    """Return what is executed: entrypoint and command, each the caller's or else the image's.

    A new entrypoint leaves the image's command out, as it was meant for the old one.
    """
    image = image_config.get("config") or {}
    entrypoint = options.get("entrypoint")
    first = words(entrypoint) if entrypoint is not None else image.get("Entrypoint") or []
    rest = words(command) if command is not None else []
    if command is None and entrypoint is None:
        rest = image.get("Cmd") or []
    if not [*first, *rest]:
        raise InvalidValue("no command: the image names none, so give one")
    return [*((INIT, "--") if options.get("init") else ()), *first, *rest]


def words(command: str | Sequence[str]) -> list[str]:
    """Split a command as a shell would, unless it is split already."""
    return shlex.split(command) if isinstance(command, str) else list(command)


def variables(given: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Return environment variables as ``NAME=value``."""
    return [f"{name}={value}" for name, value in given.items()] if isinstance(given, Mapping) else list(given)


def mounts(options: Options) -> list[Json]:
    """Return the mounts that volumes and tmpfs ask for."""
    return [*_binds(options.get("volumes") or ()), *_tmpfs(options.get("tmpfs") or {})]


def bind(source: str, destination: str, mode: str = "rw") -> Json:
    """Return the bind mount of a file or directory of the host."""
    options = ["rbind", *(word for word in mode.split(",") if word not in ("", "z", "Z"))]
    if not any(word in _PROPAGATION for word in options):
        options.append("rprivate")
    return {"type": "bind", "source": source, "destination": destination, "options": options}


_PROPAGATION = ("shared", "rshared", "slave", "rslave", "private", "rprivate")


def _binds(volumes: Mapping[str, Mapping[str, str]] | Sequence[str]) -> Iterator[Json]:
    if isinstance(volumes, Mapping):
        parts = [(source, how["bind"], how.get("mode", "rw")) for source, how in volumes.items()]
    else:
        parts = [_volume(text) for text in volumes]
    for source, destination, mode in parts:
        if not Path(destination).is_absolute():
            raise InvalidValue(f"volume {source}:{destination}: a path inside the container begins with /")
        if not Path(source).exists():
            raise InvalidValue(f"volume {source}:{destination}: there is no {source} here; make it first")
        yield bind(str(Path(source).resolve()), destination, mode)


def _volume(text: str) -> tuple[str, str, str]:
    source, colon, rest = text.partition(":")
    if not colon:
        raise InvalidValue(f"volume {text!r}: expected '/path/here:/path/inside' and perhaps ':ro'")
    destination, _, mode = rest.partition(":")
    return source, destination, mode or "rw"


def _tmpfs(tmpfs: Mapping[str, str]) -> Iterator[Json]:
    for destination, words_ in tmpfs.items():
        options = ["nosuid", "nodev", "noexec", *filter(None, words_.split(","))]
        yield {"type": "tmpfs", "source": "tmpfs", "destination": destination, "options": options}


def devices(options: Options) -> list[Json]:
    """Return the device nodes to make, as they are here, ``linux.devices``.

    Raises:
        InvalidValue: there is no such device here.
    """
    found = []
    for here, inside, _ in _devices(options):
        node = os.stat(here)
        kind = "c" if stat.S_ISCHR(node.st_mode) else "b" if stat.S_ISBLK(node.st_mode) else ""
        if not kind:
            raise InvalidValue(f"device {here}: this is none; expected one like '/dev/fuse:/dev/fuse:rwm'")
        numbers = {"major": os.major(node.st_rdev), "minor": os.minor(node.st_rdev)}
        found.append({"path": inside, "type": kind, **numbers, "fileMode": stat.S_IMODE(node.st_mode)})
    return found


def device_rules(options: Options) -> list[Json]:
    """Return ``linux.resources.devices``, which may be used: what Docker allows, and what is asked for."""
    if options.get("privileged"):
        return [{"allow": True, "access": "rwm"}]
    asked_for = zip(devices(options), _devices(options), strict=True)
    return [
        *bundle.DEFAULT_DEVICE_RULES,
        *(
            {"allow": True, "access": access, **{key: node[key] for key in ("type", "major", "minor")}}
            for node, (_, _, access) in asked_for
        ),
    ]


def _devices(options: Options) -> Iterator[tuple[str, str, str]]:
    """Split ``/dev/here:/dev/inside:rwm``, of which the first part is enough."""
    for text in options.get("devices") or ():
        here, _, rest = text.partition(":")
        inside, _, access = rest.partition(":")
        yield here, inside or here, access or "rwm"


def resources(options: Options) -> Json:
    """Return the cgroup limits, ``linux.resources``."""
    memory = {
        spec: parse_bytes(options[word])  # type: ignore[literal-required]
        for word, spec in (
            ("mem_limit", "limit"),
            ("mem_reservation", "reservation"),
            ("memswap_limit", "swap"),
        )
        if options.get(word) is not None
    }
    cpu: Json = {}
    if "nano_cpus" in options:
        cpu |= {"period": CPU_PERIOD_US, "quota": options["nano_cpus"] * CPU_PERIOD_US // 1_000_000_000}
    if "cpu_shares" in options:
        cpu["shares"] = options["cpu_shares"]
    if "cpuset_cpus" in options:
        cpu["cpus"] = options["cpuset_cpus"]
    pids = {"limit": options["pids_limit"]} if "pids_limit" in options else {}
    return {name: part for name, part in (("memory", memory), ("cpu", cpu), ("pids", pids)) if part}


def namespaces(options: Options, pid_of: Callable[[str], int]) -> list[str | Json]:
    """Return the namespaces to make or to join; those of the host are left out.

    Args:
        options: the words.
        pid_of: process 1 of the container of that name.
    """
    found: list[str | Json] = ["mount", "cgroup"]
    for kind in ("network", "pid", "ipc", "uts"):
        mode = str(options.get(f"{kind}_mode") or "private")
        if mode.startswith("container:"):
            pid = pid_of(mode.removeprefix("container:"))
            found.append({"type": kind, "path": f"/proc/{pid}/ns/{_KINDS[kind]}"})
        elif mode in ("private", "none"):
            found.append(kind)
        elif mode != "host":
            raise InvalidValue(f"{kind}_mode={mode!r}: expected 'host', 'container:NAME' or nothing")
    if options.get("id_map"):
        found.append("user")
    return found


def rlimits(options: Options) -> list[Json]:
    """Return the resource limits of the processes."""
    return [
        {
            "type": f"RLIMIT_{str(limit['Name']).upper()}",
            "soft": _rlimit(limit.get("Soft", limit.get("Hard"))),
            "hard": _rlimit(limit.get("Hard", limit.get("Soft"))),
        }
        for limit in options.get("ulimits") or ()
    ]


def _rlimit(amount: int | None) -> int | None:
    """Return no limit, Docker's -1, as the kernel's number without a sign."""
    return 2**64 - 1 if amount == -1 else amount


def seccomp(options: Options) -> "str | Json | None":
    """Return the seccomp profile: "default", None for none, or what is in the file that is named."""
    if options.get("privileged"):
        return None
    chosen: str | Json | None = "default"
    for word in options.get("security_opt") or ():
        name, _, value = word.replace(":", "=", 1).partition("=")
        if name == "seccomp":
            chosen = None if value == "unconfined" else json.loads(Path(value).read_text())
        elif name != "no-new-privileges":
            raise InvalidValue(f"security_opt {word!r}: expected 'no-new-privileges' or 'seccomp=…'")
    return chosen


def has_no_new_privileges(options: Options) -> bool:
    """Whether set-user-ID programs add nothing."""
    return any(re.split("[=:]", word)[0] == "no-new-privileges" for word in options.get("security_opt") or ())


def id_mappings(maps: Iterable[IdMap]) -> list[Json]:
    """Return ``linux.uidMappings`` or ``linux.gidMappings``."""
    return [{"containerID": m.inside, "hostID": m.outside, "size": m.count} for m in maps]


def config(
    image_config: Json,
    args: Sequence[str],
    options: Options,
    *,
    container_id: str,
    rootfs: Path,
    files: Mapping[str, Path],
    pid_of: Callable[[str], int],
) -> Json:
    """Return the ``config.json`` of a container.

    Args:
        image_config: the image's config document.
        args: from `arguments`.
        options: the words.
        container_id: its id, of which its host name and cgroup are made.
        rootfs: its root file system.
        files: what of the host it shall see beside its volumes: path inside to path here.
        pid_of: process 1 of the container of a name.
    """
    hostname = None if options.get("uts_mode") else options.get("hostname") or container_id[:12]
    environment = [f"HOSTNAME={hostname}"] * bool(hostname) + variables(options.get("environment") or ())
    is_privileged = bool(options.get("privileged"))
    made = bundle.config_for(
        image_config,
        args=args,
        env=environment,
        cwd=options.get("working_dir"),
        user=str(options["user"]) if "user" in options else None,
        hostname=hostname,
        domainname=options.get("domainname"),
        terminal=bool(options.get("tty")),
        readonly=bool(options.get("read_only")),
        mounts=[*mounts(options), *(bind(str(here), inside) for inside, here in files.items())],
        rootfs=str(rootfs),
        cap_add=["ALL"] if is_privileged else options.get("cap_add") or (),
        cap_drop=options.get("cap_drop") or (),
        resources={**resources(options), "devices": device_rules(options)},
        namespaces=namespaces(options, pid_of),
        seccomp=seccomp(options),
        cgroups_path=f"/cnlab/{container_id}",
        hooks=options.get("hooks"),
        annotations=options.get("labels"),
        no_new_privileges=has_no_new_privileges(options),
        rlimits=rlimits(options),
        sysctl=options.get("sysctls"),
        oom_score_adj=options.get("oom_score_adj"),
    )
    made["process"]["user"] = with_own_group(made["process"]["user"])
    linux = made["linux"]
    linux["devices"] = devices(options)
    if id_map := options.get("id_map"):
        linux |= {"uidMappings": id_mappings(id_map), "gidMappings": id_mappings(id_map)}
    if is_privileged:
        linux |= {"maskedPaths": [], "readonlyPaths": []}
    return made


def with_own_group(user: Json) -> Json:
    """Return a ``process.user`` whose group is one of its additional ones too.

    Where it is not, a file's entry for "others" may give what that for its group withholds: CVE-2022-36109.
    """
    return {**user, "additionalGids": sorted({user["gid"], *user.get("additionalGids", ())})}


def exec_process(
    process: Json,
    args: Sequence[str],
    *,
    environment: Mapping[str, str] | Sequence[str] = (),
    cwd: str | None = None,
    user: Json | None = None,
    tty: bool = False,
    privileged: bool = False,
) -> Json:
    """Return a ``process`` for `exec_run`: like the container's own but for what is given."""
    by_name = {line.partition("=")[0]: line for line in (*process.get("env", ()), *variables(environment))}
    given = {"args": list(args), "terminal": tty, "env": list(by_name.values())}
    if cwd is not None:
        given["cwd"] = cwd
    if user is not None:
        given["user"] = with_own_group(user)
    if privileged:
        sets = ("bounding", "effective", "permitted")
        given["capabilities"] = {name: list(capability_names.NAMES) for name in sets}
    return {**process, **given}
