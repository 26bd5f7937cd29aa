"""Set up the course in this checkout: a Python environment in `.venv` and the system programs it needs.

    python3 bootstrap.py            what `make lab` needs
    python3 bootstrap.py --tests    also what `make test` needs
    python3 bootstrap.py --lock     write requirements.lock and the two environment.yml anew

Needs nothing but a Python's standard library. Each step leaves a stamp in `.venv/var/stamps` with the hash of
what it was made from: a step that is done costs nothing the second time, one that was interrupted is done
again, and one whose inputs changed (a `git pull`) is brought up to date.

With root, or sudo that asks no password, apt-get installs the packages of binder/apt.txt. Without, they are
downloaded and unpacked below `.venv/apt`, where `cnlab.host.find_program` and the private kernel find them:
nothing is left outside the checkout.
"""

from __future__ import annotations  # old interpreters must get as far as the message about their age

import argparse
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin/python"
PIP = (f"{VENV_PYTHON}", "-m", "pip")
PIP_INSTALL = (*PIP, "install", "--disable-pip-version-check", "--root-user-action=ignore")
OLDEST_PYTHON = (3, 11)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SetupError(Exception):
    """A step could not be done; the message says which one, why, and what to do."""


def fingerprint(*paths: Path) -> str:
    """Return one hash of the names and contents of files and of all that is in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [path, *sorted(path.rglob("*"))]:
            digest.update(f"{file}\0".encode() + (file.read_bytes() if file.is_file() else b"") + b"\0")
    return digest.hexdigest()


def once(step: str, key: str, work: Callable[[], None]) -> bool:
    """Do `work` unless `step`'s stamp says it was done for the same `key`; return whether it was done now."""
    stamp = VENV / "var/stamps" / step
    if stamp.is_file() and stamp.read_text() == key:
        return False
    stamp.unlink(missing_ok=True)
    work()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    return True


def say(message: str) -> None:
    """Tell the person at the terminal what goes on."""
    print(f"bootstrap: {message}", flush=True)


def environment(**changes: str) -> dict[str, str]:
    """Return our environment for child processes, less what would keep them from filling `.venv`."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PATH": f"{kept.get('PATH', '')}:{SYSTEM_PATH}", "LC_ALL": "C.UTF-8", **changes}


def run(command: Sequence[str], what: str, *, cwd: Path = ROOT, **env: str) -> str:
    """Run a command to its end, showing its latest line on a terminal, and return its output.

    Raises:
        SetupError: It failed; the message ends in the line of its output that tells most.
    """
    width = shutil.get_terminal_size().columns - 1
    is_terminal = sys.stdout.isatty()
    lines = []
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                if is_terminal:
                    print(f"\r\033[K  {line.strip()}"[: width + 4], end="", flush=True)
        except BaseException:
            process.terminate()  # an interrupted run leaves nobody working in .venv
            raise
    if is_terminal:
        print("\r\033[K", end="", flush=True)
    if process.returncode:
        raise SetupError(f"{what}: {telling_line(lines)}")
    return "".join(lines)


def telling_line(lines: Iterable[str]) -> str:
    """Pick the line of a failed command's output that a person should read first."""
    written = [line.strip() for line in lines if line.strip()]
    errors = [line for line in written if re.match(r"(E:|error|ERROR|npm error|.*Error:)", line)]
    return (errors or written or ["it failed and said nothing"])[-1]


class Interpreter(NamedTuple):
    """A Python on this machine."""

    path: str
    version: tuple[int, int]
    has_ensurepip: bool  # Debian ships it apart, in python3-venv
    is_public: bool  # other users can run it, so that tests can play an unprivileged student


def is_public(path: Path) -> bool:
    """Say whether users other than the owner can reach and read this file or folder."""
    reachable = all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
    return reachable and bool(path.stat().st_mode & 0o004)


def inspect(path: str) -> Interpreter | None:
    """Ask an interpreter about itself; None when it does not run."""
    question = (
        "import importlib.util, json, os, sys; print(json.dumps([os.path.realpath(sys.executable),"
        "sys.base_prefix, sys.version_info[:2], importlib.util.find_spec('ensurepip') is not None]))"
    )
    try:
        answer = subprocess.run(
            [path, "-I", "-c", question], capture_output=True, text=True, timeout=30, check=True, cwd="/"
        )
        executable, prefix, version, has_ensurepip = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    public = is_public(Path(executable)) and is_public(Path(prefix))
    return Interpreter(executable, (version[0], version[1]), has_ensurepip, public)


def choose(interpreters: Sequence[Interpreter]) -> Interpreter:
    """Choose the first interpreter that is new enough, rather one that every user can run.

    Raises:
        SetupError: None is new enough; says which there are and how to get one.
    """
    usable = [one for one in interpreters if one.version >= OLDEST_PYTHON]
    if not usable:
        found = ", ".join(f"{one.version[0]}.{one.version[1]} ({one.path})" for one in interpreters) or "none"
        raise SetupError(
            f"Python 3.11 or newer is needed; found {found}. Debian 12, Ubuntu 24.04 and later: "
            "apt-get install python3 python3-venv. Ubuntu 22.04: apt-get install python3.11 python3.11-venv. "
            "Or name one: PYTHON=/path/to/python make lab"
        )
    return next((one for one in usable if one.is_public), usable[0])


def find_interpreter() -> Interpreter:
    """Return $PYTHON if given, else the best of the system's interpreters and those on PATH."""
    if os.environ.get("PYTHON"):
        names = [shutil.which(os.environ["PYTHON"]) or os.environ["PYTHON"]]
    else:
        minors = ["3", *(f"3.{minor}" for minor in range(20, OLDEST_PYTHON[1] - 1, -1))]
        names = [f"/usr/bin/python{minor}" for minor in minors]
        names += [found for found in (shutil.which(f"python{minor}") for minor in minors) if found]
        names += [sys.executable]
    found = [inspect(name) for name in dict.fromkeys(names) if os.access(name, os.X_OK)]
    return choose([one for one in found if one])


def is_usable_environment() -> bool:
    """Say whether `.venv` still runs (an upgrade may take its Python away) and is of $PYTHON, if given."""
    asked = shutil.which(os.environ.get("PYTHON", ""))
    return os.access(VENV_PYTHON, os.X_OK) and (not asked or VENV_PYTHON.resolve() == Path(asked).resolve())


def make_environment() -> None:
    """Make `.venv` anew, with pip in it."""
    python = find_interpreter()
    say(f"making .venv with Python {python.version[0]}.{python.version[1]} ({python.path})")
    if not python.has_ensurepip and apt_command() is not None:
        apt_install([f"python{python.version[0]}.{python.version[1]}-venv"])
        python = python._replace(has_ensurepip=True)
    bare = [] if python.has_ensurepip else ["--without-pip"]
    run([python.path, "-m", "venv", "--clear", *bare, f"{VENV}"], "cannot make .venv")
    if bare:
        unpack_privately(["python3-pip-whl"])
        wheel = next((VENV / "apt/usr/share/python-wheels").glob("pip-*.whl"))
        run(
            [f"{VENV_PYTHON}", f"{wheel}/pip", "install", "--no-index", f"{wheel}"],
            "cannot install pip into .venv",
        )


def install_python_packages() -> None:
    """Install the pinned packages and the course's own, which stays editable, into `.venv`."""
    say(f"installing {len(locked())} Python packages (a minute or two the first time)")
    what = "cannot install the Python packages (is this machine online? run it again to go on)"
    run([*PIP_INSTALL, "-r", f"{ROOT}/requirements.lock"], what)
    run([*PIP_INSTALL, "--no-deps", "--no-build-isolation", "-e", f"{ROOT}"], "cannot install cnlab itself")


def warm_up() -> None:
    """Compile our modules and list matplotlib's fonts: a private kernel would do both at every start."""
    run([f"{VENV_PYTHON}", "-m", "compileall", "-q", f"{ROOT}/cnlab"], "cannot compile cnlab")
    list_fonts = [f"{VENV_PYTHON}", "-c", "import matplotlib.font_manager"]
    run(list_fonts, "cannot list matplotlib's fonts", MPLCONFIGDIR=f"{VENV}/var/matplotlib", MPLBACKEND="agg")


def package_names(text: str) -> list[str]:
    """Read an apt.txt: one package a line, `#` starts a comment."""
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def missing(names: Sequence[str], installed: Iterable[str], programs: Iterable[str] = ()) -> list[str]:
    """Return the packages to install: neither installed nor there already as a program of that name."""
    there = {*installed, *programs}
    return [name for name in names if name not in there]


def to_unpack(simulation: str) -> list[str]:
    """Return the packages that `apt-get --simulate install` would install, dependencies first.

    Its lines read `Inst iproute2 (6.1.0-3 Debian:12/stable [amd64])`; an upgrade has the old version first.
    """
    return re.findall(r"^Inst (\S+)", simulation, flags=re.MULTILINE)


def missing_here(names: Sequence[str]) -> list[str]:
    """Return the packages that this machine still lacks."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = [line.split()[0] for line in answer.splitlines() if line.endswith(" installed")]
    search = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    return missing(names, installed, [name for name in names if shutil.which(name, path=search)])


def apt_command() -> list[str] | None:
    """Return the words before `apt-get` that make it root, or None where we may not be root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def apt_install(names: Sequence[str]) -> None:
    """Install packages into the system; root only."""
    say(f"installing with apt-get: {' '.join(names)}")
    apt = [*(apt_command() or []), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    install = [*apt, "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", *names]
    try:
        run(install, "apt-get install")
    except SetupError:  # no package lists yet, or older than the archive
        run([*apt, "update"], "cannot update apt's package lists (is this machine online?)")
        run(install, f"cannot install {' '.join(names)}")


def unpack_privately(names: Sequence[str]) -> None:
    """Download packages with what they depend on and unpack them below `.venv/apt`; needs no root."""
    say(f"unpacking into .venv/apt: {' '.join(names)}")
    own = VENV / "var/apt"
    for folder in ("lists/partial", "archives/partial", "debs"):
        (own / folder).mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-q", "-y", "-o", f"Dir::Cache={own}"]
    own_lists = [*apt, "-o", f"Dir::State::Lists={own / 'lists'}"]
    try:
        debs = download(apt, names, own / "debs")
    except SetupError:  # no package lists yet, or older than the archive: fetch our own
        run([*own_lists, "update"], "cannot fetch apt's package lists (is this machine online?)")
        debs = download(own_lists, names, own / "debs")
    for deb in debs:
        unpack(deb, VENV / "apt")
    shutil.rmtree(own)


def download(apt: Sequence[str], names: Sequence[str], folder: Path) -> list[Path]:
    """Fetch the packages that installing `names` would bring, and return the files."""
    options = ["--no-install-recommends", "--simulate", "install"]
    wanted = to_unpack(run([*apt, *options, *names], f"cannot resolve {' '.join(names)}"))
    if wanted:
        run([*apt, "download", *wanted], f"cannot download {' '.join(wanted)}", cwd=folder)
    return sorted(folder.glob("*.deb"))


def unpack(deb: Path, root: Path) -> None:
    """Unpack one package below `root`, whose /bin, /sbin and /lib are links into /usr as on today's Debian.

    `dpkg -x` would put a folder in place of the link; tar can be told not to.
    """
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", f"{deb}"], stdout=subprocess.PIPE) as archive:
        tar = ["tar", "-x", "-C", f"{root}", "--keep-directory-symlink", "--no-same-owner"]
        unpacked = subprocess.run(tar, stdin=archive.stdout, capture_output=True, text=True)
    if archive.returncode or unpacked.returncode:
        raise SetupError(f"cannot unpack {deb.name}: {telling_line(unpacked.stderr.splitlines())}")


def install_programs(names: Sequence[str]) -> None:
    """Bring the system packages `names` by the best way this machine and user have."""
    if not shutil.which("apt-get", path=SYSTEM_PATH):
        say(f"this machine has no apt-get; install what these Debian packages hold: {' '.join(names)}")
        return
    wanted = missing_here(names)
    if wanted and apt_command() is not None:
        apt_install(wanted)
    elif wanted:
        unpack_privately(wanted)


def locked() -> list[str]:
    """Return the lines `name==version` of requirements.lock."""
    return package_names((ROOT / "requirements.lock").read_text())


def write_lock() -> None:
    """Resolve pyproject.toml's dependencies to today's versions and write every file that lists them."""
    say("resolving the newest versions that fit together")
    report = VENV / "var/resolved.json"
    wanted = [f"{ROOT}[test,lint,book]", "hatchling"]
    resolve = [*PIP_INSTALL, "--dry-run", "--ignore-installed", "--report", f"{report}", *wanted]
    run(resolve, "cannot resolve the dependencies")
    packages = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    pins = sorted((f"{one['name']}=={one['version']}" for one in packages), key=str.lower)
    pins = [pin for pin in pins if not pin.startswith("cnlab==")]
    (ROOT / "requirements.lock").write_text(
        "\n".join(["# written by `make lock` from pyproject.toml", *pins, ""])
    )
    for path in (ROOT / "environment.yml", ROOT / "binder/environment.yml"):
        path.write_text(conda_environment(pins))


def conda_environment(pins: Sequence[str]) -> str:
    """Return environment.yml: the same pins for conda users and for Binder, which reads binder/ only."""
    head = """\
# written by `make lock`; binder/environment.yml is the same file
name: cnlab
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""
    return head + "".join(f"      - {pin}\n" for pin in pins)


def set_up(*, tests: bool) -> None:
    """Bring `.venv` and the system programs up to date with the files that name them."""
    if not is_usable_environment():
        shutil.rmtree(VENV / "var/stamps", ignore_errors=True)
    once("venv", f"{VENV}", make_environment)
    python_inputs = [ROOT / "requirements.lock", ROOT / "pyproject.toml", ROOT / "cnlab/machine/kernelspec"]
    once("python", fingerprint(*python_inputs), install_python_packages)
    once("warm", fingerprint(ROOT / "requirements.lock", *sorted((ROOT / "cnlab").rglob("*.py"))), warm_up)
    for path in [ROOT / "binder/apt.txt"] + ([ROOT / "tests/apt.txt"] if tests else []):
        names = package_names(path.read_text())
        once(f"{path.parent.name}-apt", fingerprint(path), functools.partial(install_programs, names))
    if tests:
        once("npm", fingerprint(ROOT / "tests/browser/package-lock.json"), install_node_packages)


def install_node_packages() -> None:
    """Install what the browser test drives Chromium with."""
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    run(npm, "cannot install the browser test's Node packages", cwd=ROOT / "tests/browser")


def main() -> int:
    """Run the command line; 0 when all is set up, 1 with one clear line when not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tests", action="store_true", help="also install what the tests need")
    parser.add_argument("--lock", action="store_true", help="write the lists of pinned versions anew")
    options = parser.parse_args()
    os.umask(0o022)  # other users may run what is installed here
    started = time.monotonic()
    checkout = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(checkout, fcntl.LOCK_EX)  # a second run waits for the first; the lock goes with the process
    try:
        if options.lock:
            write_lock()
        set_up(tests=options.tests)
    except SetupError as problem:
        say(str(problem))
        return 1
    except KeyboardInterrupt:
        say("interrupted; run it again to go on")
        return 130
    if time.monotonic() - started > 5:
        say(f"ready after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
