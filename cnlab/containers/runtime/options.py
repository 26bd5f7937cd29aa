"""Options of the command line: which there are, and how they are read.

Interface: ``Options(OF_COMMAND["create"])``, then `Options.take` for the words of the command line.

See: runc(8), and its page for each command.
"""

from __future__ import annotations

from cnlab.errors import InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What an option takes; or a text, why it is refused.
_FLAG, _VALUE, _MANY = range(3)
GLOBAL: dict[str, int | str] = {
    "--root": _VALUE,
    "--log": _VALUE,
    "--log-format": _VALUE,
    "--criu": _VALUE,
    "--rootless": _VALUE,
    "--debug": _FLAG,
    "--systemd-cgroup": _FLAG,
    "--help": _FLAG,
    "--version": _FLAG,
}
_CREATE: dict[str, int | str] = {
    "--bundle": _VALUE,
    "--console-socket": _VALUE,
    "--pid-file": _VALUE,
    "--preserve-fds": _VALUE,
    "--no-new-keyring": _FLAG,
    "--no-pivot": "the root is changed by pivot_root(2) alone, lest the container find the host's",
}
OF_COMMAND: dict[str, dict[str, int | str]] = {
    "create": _CREATE,
    "delete": {"--force": _FLAG},
    "events": {"--stats": _FLAG, "--interval": _VALUE},
    "exec": {
        "--process": _VALUE,
        "--console-socket": _VALUE,
        "--pid-file": _VALUE,
        "--cwd": _VALUE,
        "--user": _VALUE,
        "--env": _MANY,
        "--cap": _MANY,
        "--additional-gids": _MANY,
        "--preserve-fds": _VALUE,
        "--tty": _FLAG,
        "--detach": _FLAG,
        "--no-new-privs": _FLAG,
        "--apparmor": _VALUE,
        "--process-label": _VALUE,
        "--cgroup": "the process goes to the container's own groups",
        "--ignore-paused": "resume the container first",
    },
    "features": {},
    "kill": {"--all": _FLAG},
    "list": {"--format": _VALUE, "--quiet": _FLAG},
    "pause": {},
    "ps": {"--format": _VALUE},
    "resume": {},
    "run": _CREATE | {"--detach": _FLAG, "--keep": _FLAG, "--no-subreaper": _FLAG},
    "spec": {"--bundle": _VALUE, "--rootless": _FLAG},
    "start": {},
    "state": {},
    "update": {
        "--resources": _VALUE,
        "--blkio-weight": _VALUE,
        "--cpu-period": _VALUE,
        "--cpu-quota": _VALUE,
        "--cpu-share": _VALUE,
        "--cpu-burst": _VALUE,
        "--cpu-idle": _VALUE,
        "--cpu-rt-period": _VALUE,
        "--cpu-rt-runtime": _VALUE,
        "--cpuset-cpus": _VALUE,
        "--cpuset-mems": _VALUE,
        "--memory": _VALUE,
        "--memory-reservation": _VALUE,
        "--memory-swap": _VALUE,
        "--pids-limit": _VALUE,
        "--l3-cache-schema": "no resctrl file system is supported",
        "--mem-bw-schema": "no resctrl file system is supported",
    },
}
_SHORT = {
    "-a": "--all",
    "-b": "--bundle",
    "-d": "--detach",
    "-e": "--env",
    "-f": "--force",
    "-g": "--additional-gids",
    "-h": "--help",
    "-p": "--process",
    "-q": "--quiet",
    "-r": "--resources",
    "-t": "--tty",
    "-u": "--user",
    "-v": "--version",
}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_OTHER_SHORT = {("list", "-f"): "--format", ("ps", "-f"): "--format", ("exec", "-c"): "--cap"}


class UsageError(InvalidValue):
    """The command line is not one of runc's."""


class Options:
    """Options of the command line, by their long names without hyphens: None, True, a text or several."""

    def __init__(self, known: dict[str, int | str]) -> None:
        self._known = known
        self._given: dict[str, Any] = {}

    def take(self, arguments: list[str], command: str) -> None:
        """Take options from the front of `arguments`, up to the first word that is none."""
        while arguments and arguments[0].startswith("-") and arguments[0] != "-":
            name, has_value, value = arguments.pop(0).partition("=")
            if name == "--":
                return
            name = "--" + name.lstrip("-") if len(name) > 2 else name
            name = _OTHER_SHORT.get((command, name)) or _SHORT.get(name, name)
            if name not in self._known:
                raise UsageError(
                    f"{command}: unknown option {name}; expected {' '.join(self._known) or 'none'}"
                )
            self._take_one(name, value if has_value else None, arguments, command)

    def _take_one(self, name: str, value: str | None, arguments: list[str], command: str) -> None:
        kind = self._known[name]
        if isinstance(kind, str):
            raise UsageError(f"{command}: {name} is not supported: {kind}")
        if kind == _FLAG:
            self._given[name] = value != "false"
            return
        if value is None:
            if not arguments:
                raise UsageError(f"{command}: option {name} needs a value")
            value = arguments.pop(0)
        if kind == _MANY:
            self._given.setdefault(name, []).append(value)
        else:
            self._given[name] = value

    def __getitem__(self, name: str) -> Any:
        return self._given.get(f"--{name}")

    def number(self, name: str) -> int | None:
        """Return the value as a number."""
        text = self[name]
        try:
            return None if text is None else int(text)
        except ValueError:
            raise UsageError(f"option --{name}: {text!r} is no number") from None

    def size(self, name: str) -> int | None:
        """Return the value as a number of bytes: ``"1048576"``, or with a unit ``"1024k"``, ``"1M"``."""
        text = self[name]
        if text is None:
            return None
        number = text.lower().removesuffix("b").removesuffix("i")
        unit = _UNITS.get(number[-1:], 1)
        try:
            return int(number[:-1] if unit > 1 else number) * unit
        except ValueError:
            raise UsageError(f"option --{name}: {text!r} is no number of bytes") from None
