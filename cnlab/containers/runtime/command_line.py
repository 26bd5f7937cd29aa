"""The command ``cnlab-runtime``: runc's command line, in front of the functions of this package.

    cnlab-runtime [--root DIR] [--log FILE] [--log-format text|json] COMMAND [OPTION ...] [ID] [ARGUMENT ...]

An error is one line on standard error, and one in the log: Docker shows the last error there to its user.

See: runc(8); `operations` for what the commands do.
"""

from __future__ import annotations

import os
import sys

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.options import GLOBAL, OF_COMMAND, Options, UsageError
from cnlab.errors import CnlabError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn


class Log:
    """The log that ``--log`` asks for, one line a message: text, or JSON as Docker wants it."""

    def __init__(self, path: str | None, form: str | None) -> None:
        self._path = path
        self._is_json = form == "json"

    def write(self, level: str, message: str) -> None:
        """Add a line."""
        if self._path is None:
            return
        import time

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"time={now} level={level} msg={documents.text_of(message)}"
        if self._is_json:
            line = documents.text_of({"level": level, "msg": message, "time": now})
        try:
            with open(self._path, "a") as file:
                file.write(line + "\n")
        except OSError as error:
            print(f"cnlab-runtime: --log {self._path}: {error.strerror}", file=sys.stderr)

    def warning(self, message: str) -> None:
        """Add a warning."""
        self.write("warning", message)


def run_as_program() -> NoReturn:
    """Run the command line and end at once: there is nothing to tidy up that the kernel does not."""
    code = main()
    try:
        sys.stdout.flush()
    finally:
        os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    everywhere = Options(GLOBAL)
    log = Log(None, None)
    try:
        everywhere.take(arguments, "cnlab-runtime")
        log = Log(everywhere["log"], everywhere["log-format"])
        return _run(everywhere, arguments, log)
    except (CnlabError, OSError) as error:
        message = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    except Exception as error:  # a fault of ours: its kind and place help who reports it
        import traceback

        message = f"{type(error).__name__}: {error} ({_place(traceback.extract_tb(error.__traceback__))})"
    log.write("error", message)
    print(f"cnlab-runtime: {message}", file=sys.stderr)
    return 1


def _place(frames: Any) -> str:
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"


def _run(everywhere: Options, arguments: list[str], log: Log) -> int:
    if everywhere["version"]:
        return _version()
    if everywhere["help"] or not arguments:
        print(__doc__ + "\nCommands: " + " ".join(_COMMANDS))
        return 0 if everywhere["help"] else 1
    if everywhere["systemd-cgroup"]:
        raise UsageError("--systemd-cgroup: systemd is not asked for cgroups here; use the cgroupfs driver")
    command = arguments.pop(0)
    if command not in _COMMANDS:
        raise UsageError(f"unknown command {command!r}; expected one of {', '.join(_COMMANDS)}")
    options = Options(OF_COMMAND[command])
    options.take(arguments, command)
    if command not in ("exec", "ps"):  # what comes after the id is theirs to understand
        rest = arguments[1:]
        options.take(rest, command)
        arguments[1:] = rest
    return _COMMANDS[command](options, arguments, everywhere["root"], log) or 0


def _id(arguments: list[str], command: str, *, at_most: int = 1) -> str:
    if not arguments:
        raise UsageError(f"{command}: needs the id of a container")
    if len(arguments) > at_most:
        raise UsageError(f"{command}: {arguments[at_most]!r} is one argument too many")
    return arguments[0]


def _create(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import creation

    creation.create(
        _id(arguments, "create"),
        options["bundle"] or ".",
        console_socket=options["console-socket"],
        pid_file=options["pid-file"],
        preserve_fds=_preserved(options),
        new_keyring=not options["no-new-keyring"],
        root=root,
        warn=log.warning,
    )


def _preserved(options: Options) -> int:
    return (options.number("preserve-fds") or 0) + int(os.environ.get("LISTEN_FDS") or 0)


def _start(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    operations.start(_id(arguments, "start"), root=root, warn=log.warning)


def _run_container(options: Options, arguments: list[str], root: str | None, log: Log) -> int:
    from cnlab.containers.runtime import foreground

    return foreground.run(
        _id(arguments, "run"),
        options["bundle"] or ".",
        console_socket=options["console-socket"],
        pid_file=options["pid-file"],
        preserve_fds=_preserved(options),
        new_keyring=not options["no-new-keyring"],
        detach=bool(options["detach"]),
        keep=bool(options["keep"]),
        adopts_orphans=not options["no-subreaper"],
        root=root,
        warn=log.warning,
    )


def _exec(options: Options, arguments: list[str], root: str | None, log: Log) -> int:
    from cnlab.containers.runtime import foreground

    container_id = _id(arguments, "exec", at_most=1 << 30)
    return foreground.exec_(
        container_id,
        _process(options, container_id, arguments[1:], root),
        console_socket=options["console-socket"],
        pid_file=options["pid-file"],
        preserve_fds=_preserved(options),
        detach=bool(options["detach"]),
        root=root,
        warn=log.warning,
    )


def _process(options: Options, container_id: str, args: list[str], root: str | None) -> dict[str, Any]:
    """Return the ``process`` object that the options of ``exec`` describe."""
    if options["process"]:
        process: dict[str, Any] = documents.read(options["process"])
        return process
    from cnlab.containers.runtime.store import Record

    own = Record.load(container_id, root).config.get("process") or {}
    process = {"args": args[1:] if args[:1] == ["--"] else args, "terminal": bool(options["tty"])}
    process["env"] = [*(own.get("env") or ()), *(options["env"] or ())]
    if options["cwd"]:
        process["cwd"] = options["cwd"]
    if options["user"]:
        process["user"] = _user(options["user"], options["additional-gids"] or ())
    if options["cap"]:
        sets = own.get("capabilities") or {}
        names = ("bounding", "effective", "permitted")
        process["capabilities"] = sets | {name: [*(sets.get(name) or ()), *options["cap"]] for name in names}
    if options["no-new-privs"]:
        process["noNewPrivileges"] = True
    for option, name in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if options[option]:
            process[name] = options[option]
    return process


def _user(user: str, groups: Sequence[str]) -> dict[str, Any]:
    uid, _, gid = user.partition(":")
    for number in (uid, gid or "0", *groups):
        if not number.isdecimal():
            raise UsageError(
                f"exec: {number!r} is no user or group; expected a number, as in --user 1000:1000"
            )
    return {"uid": int(uid), "gid": int(gid or 0), "additionalGids": [int(group) for group in groups]}


def _state(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    _print_json(operations.state(_id(arguments, "state"), root=root))


def _kill(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    container_id = _id(arguments, "kill", at_most=2)
    signal = arguments[1] if len(arguments) > 1 else "TERM"
    operations.kill(container_id, signal, all=bool(options["all"]), root=root)


def _delete(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    operations.delete(_id(arguments, "delete"), force=bool(options["force"]), root=root, warn=log.warning)


def _pause(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    operations.pause(_id(arguments, "pause"), root=root)


def _resume(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    operations.resume(_id(arguments, "resume"), root=root)


def _update(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    operations.update(_id(arguments, "update"), _resources(options), root=root)


def _resources(options: Options) -> dict[str, Any]:
    """Return ``linux.resources`` as the options of ``update`` give them."""
    source = options["resources"]
    if source is not None:
        resources = documents.parse(sys.stdin.read()) if source == "-" else documents.read(source)
        if not isinstance(resources, dict):
            raise UsageError("update: --resources: expected an object")
        return resources
    cpu = {
        "shares": options.number("cpu-share"),
        "burst": options.number("cpu-burst"),
        "idle": options.number("cpu-idle"),
        "realtimePeriod": options.number("cpu-rt-period"),
        "realtimeRuntime": options.number("cpu-rt-runtime"),
        "quota": options.number("cpu-quota"),
        "period": options.number("cpu-period"),
        "cpus": options["cpuset-cpus"],
        "mems": options["cpuset-mems"],
    }
    memory = {
        "limit": options.size("memory"),
        "reservation": options.size("memory-reservation"),
        "swap": options.size("memory-swap"),
    }
    groups = {
        "cpu": cpu,
        "memory": memory,
        "pids": {"limit": options.number("pids-limit")},
        "blockIO": {"weight": options.number("blkio-weight")},
    }
    given = {name: {k: v for k, v in group.items() if v is not None} for name, group in groups.items()}
    return {name: group for name, group in given.items() if group}


def _ps(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    pids = operations.ps(_id(arguments, "ps", at_most=1 << 30), root=root)
    if options["format"] == "json":
        print(documents.text_of(pids))
        return
    import subprocess

    done = subprocess.run(["ps", *(arguments[1:] or ["-ef"])], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(f"ps: ps {' '.join(arguments[1:])}: exit code {done.returncode}")
    header, *rows = done.stdout.splitlines()
    if "PID" not in header.split():
        raise UsageError("ps: the options must leave the column PID, by which processes are chosen")
    column = header.split().index("PID")
    shown = [row for row in rows if row.split()[column] in map(str, pids)]
    print("\n".join((header, *shown)))


def _list(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime import operations

    states = operations.containers(root=root)
    if options["quiet"]:
        print("".join(f"{state['id']}\n" for state in states), end="")
    elif options["format"] == "json":
        print(documents.text_of(states))
    else:
        names = ("id", "pid", "status", "bundle", "created")
        rows = [[name.upper() for name in names], *([str(state[name]) for name in names] for state in states)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _events(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    import time

    from cnlab.containers.runtime import operations
    from cnlab.containers.runtime.errors import WrongStatus

    container_id = _id(arguments, "events")
    interval_s = float((options["interval"] or "5s").removesuffix("s"))
    while True:
        try:
            data = operations.stats(container_id, root=root)
        except WrongStatus:
            if options["stats"]:
                raise
            return
        print(documents.text_of({"type": "stats", "id": container_id, "data": data}), flush=True)
        if options["stats"]:
            return
        time.sleep(interval_s)


def _features(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers.runtime.known import features

    _print_json(features())


def _spec(options: Options, arguments: list[str], root: str | None, log: Log) -> None:
    from cnlab.containers import bundle

    directory = options["bundle"] or "."
    path = os.path.join(directory, "config.json")
    if os.path.exists(path):
        raise UsageError(f"spec: {path} exists: remove it first")
    config = bundle.config_for(args=["sh"], terminal=True, rootless=bool(options["rootless"]), readonly=True)
    with open(path, "w") as file:
        file.write(_indented(config))


def _version() -> int:
    import cnlab
    from cnlab.containers.runtime.store import VERSION

    print(f"cnlab-runtime version {cnlab.__version__}\nspec: {VERSION}")
    return 0


def _print_json(value: Any) -> None:
    print(_indented(value), end="")


def _indented(value: Any) -> str:
    import json

    return json.dumps(value, indent=2) + "\n"


_COMMANDS: dict[str, Callable[[Options, list[str], str | None, Log], int | None]] = {
    "create": _create,
    "delete": _delete,
    "events": _events,
    "exec": _exec,
    "features": _features,
    "kill": _kill,
    "list": _list,
    "pause": _pause,
    "ps": _ps,
    "resume": _resume,
    "run": _run_container,
    "spec": _spec,
    "start": _start,
    "state": _state,
    "update": _update,
}
