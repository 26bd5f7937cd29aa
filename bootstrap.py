"""Set up the course in this checkout: a Python environment in `.venv` and the system programs it needs.

    python3 bootstrap.py             what `make lab` needs
    python3 bootstrap.py --hub       also what `make hub` needs: the proxy in front of JupyterHub, and Node
    python3 bootstrap.py --tests     also what `make test` needs
    python bootstrap.py --active     the same in the environment of the Python that runs this: conda, Binder
    python3 bootstrap.py --lock      write requirements.lock and the two environment.yml anew

Needs nothing but a Python's standard library. Each step leaves a stamp in `.venv/var/stamps` with the hash of
what it was made from: a step that is done costs nothing the second time, one that was interrupted is done
again, and one whose inputs changed (a `git pull`) is brought up to date.

With root, or sudo that asks no password, apt-get installs the packages of binder/apt.txt, but none that would
start a daemon or push out another package. These, and without root all of them, are downloaded and unpacked
below `.venv/apt`, where `cnlab.host.find_program` and the private kernel find them: then nothing is left
outside the checkout. `--tests` is for machines of developers: it installs Docker Engine like all else.
"""

from __future__ import annotations  # old interpreters must get as far as the message about their age

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
UML = "user-mode-linux"
UML_SUITE = "bookworm"  # the Debian release whose User-Mode Linux we test with, for systems that have none
DAEMONS = {"docker.io": "dockerd", "containerd": "containerd", "prometheus": "prometheus"}
"""Packages that start a daemon when they are installed, and its program, which others may have brought."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SetupError(Exception):
    """A step could not be done; the message says which one, why, and what to do."""


class Environment(NamedTuple):
    """A Python environment that the course lives in."""

    prefix: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return f"{self.prefix}/bin/python"

    @property
    def pip_install(self) -> list[str]:
        """Install something into it."""
        quiet = ("--disable-pip-version-check", "--root-user-action=ignore")
        return [self.python, "-m", "pip", "install", *quiet]

    @property
    def apt(self) -> Path:
        """Where Debian packages are unpacked; `cnlab.host` and the private kernel look there."""
        return self.prefix / "apt"

    def once(self, step: str, key: str, work: Callable[[], None]) -> bool:
        """Do `work` unless `step`'s stamp says it was done for `key` already; say whether it was done now."""
        stamp = self.prefix / "var/stamps" / step
        if stamp.is_file() and stamp.read_text() == key:
            return False
        stamp.unlink(missing_ok=True)
        work()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key)
        return True


VENV = Environment(ROOT / ".venv")


def fingerprint(*paths: Path) -> str:
    """Return one hash of the names and contents of files and of all that is in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [path, *sorted(path.rglob("*"))]:
            digest.update(f"{file}\0".encode() + (file.read_bytes() if file.is_file() else b"") + b"\0")
    return digest.hexdigest()


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


def is_usable(env: Environment) -> bool:
    """Say whether it still runs (an upgrade may take its Python away) and is of $PYTHON, if given."""
    asked = shutil.which(os.environ.get("PYTHON", ""))
    its_own = Path(env.python).resolve()
    return os.access(env.python, os.X_OK) and (not asked or its_own == Path(asked).resolve())


def make_environment(env: Environment) -> None:
    """Make it anew, with pip in it."""
    python = find_interpreter()
    version = f"{python.version[0]}.{python.version[1]}"
    say(f"making {env.prefix} with Python {version} ({python.path})")
    if not python.has_ensurepip and as_root() is not None:
        apt_install([f"python{version}-venv"])
        python = python._replace(has_ensurepip=True)
    bare = [] if python.has_ensurepip else ["--without-pip"]
    run([python.path, "-m", "venv", "--clear", *bare, f"{env.prefix}"], "cannot make the environment")
    if bare:
        unpack_privately(["python3-pip-whl"], env.apt)
        wheel = next(env.apt.glob("usr/share/python-wheels/pip-*.whl"))
        install = [env.python, f"{wheel}/pip", "install", "--no-index", f"{wheel}"]
        run(install, "cannot install pip")


def install_python_packages(env: Environment) -> None:
    """Install the pinned packages and the course's own, which stays editable."""
    say(f"installing {len(locked())} Python packages (a minute or two the first time)")
    what = "cannot install the Python packages (is this machine online? run it again to go on)"
    run([*env.pip_install, "-r", f"{ROOT}/requirements.lock"], what)
    editable = ["--no-deps", "--no-build-isolation", "--editable", f"{ROOT}"]
    run([*env.pip_install, *editable], "cannot install cnlab itself")


def warm_up(env: Environment) -> None:
    """Compile our modules and list matplotlib's fonts: a private kernel would do both at every start.

    And write the command `cnlab-runtime`, whose start must not cost what pip's wrapper of a module costs.
    """
    run([env.python, "-m", "compileall", "-q", f"{ROOT}/cnlab"], "cannot compile cnlab")
    run([env.python, "-m", "cnlab.containers.runtime.install"], "cannot write cnlab-runtime")
    list_fonts = [env.python, "-c", "import matplotlib.font_manager"]
    cache = f"{env.prefix}/var/matplotlib"
    run(list_fonts, "cannot list matplotlib's fonts", MPLCONFIGDIR=cache, MPLBACKEND="agg")


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
    programs = [name for name in names if shutil.which(DAEMONS.get(name, name), path=search)]
    return missing(names, installed, programs)


def as_root() -> list[str] | None:
    """Return the words that make a command run as root, or None where we may not."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def apt_install(names: Sequence[str]) -> None:
    """Install packages into the system; root only."""
    say(f"installing with apt-get: {' '.join(names)}")
    apt = [*(as_root() or []), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    install = [*apt, "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"]
    install += ["--no-remove", *names]
    try:
        run(install, "apt-get install")
    except SetupError:  # no package lists yet, or older than the archive
        run([*apt, "update"], "cannot update apt's package lists (is this machine online?)")
        run(install, f"cannot install {' '.join(names)}")


def unpack_privately(names: Sequence[str], root: Path, *, with_dependencies: bool = True) -> None:
    """Download packages and unpack them below `root`; needs no root's rights."""
    say(f"unpacking for us alone, without root: {' '.join(names)}")
    with apt_folder(root) as own:
        apt = private_apt(own)
        own_lists = [*apt, "-o", f"Dir::State::Lists={own}/lists"]
        try:
            download(apt, names, own, with_dependencies=with_dependencies)
        except SetupError:  # no package lists yet, or older than the archive: fetch our own
            run([*own_lists, "update"], "cannot fetch apt's package lists (is this machine online?)")
            download(own_lists, names, own, with_dependencies=with_dependencies)
        unpack_all(own, root)


def unpack_from_debian(name: str, root: Path) -> None:
    """Unpack a package that Debian has, and this system, derived from it, has not.

    Where Debian's archive is and by which keys it signs, two packages of the derived system say.
    """
    say(f"this system has no {name}: taking Debian's")
    with apt_folder(root) as own:
        unpack_privately(["debootstrap", "debian-archive-keyring"], own / "tools", with_dependencies=False)
        mirror = debian_mirror((own / "tools/usr/sbin/debootstrap").read_text())
        keyring = own / "tools/usr/share/keyrings/debian-archive-keyring.gpg"
        sources = own / "sources.list"
        sources.write_text(f"deb [signed-by={keyring}] {mirror} {UML_SUITE} main\n")
        apt = [*private_apt(own), "-o", f"Dir::State::Lists={own}/lists"]
        apt += ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-"]
        run([*apt, "update"], "cannot fetch Debian's package lists (is this machine online?)")
        download(apt, [name], own, with_dependencies=False)
        unpack_all(own, root)


@contextmanager
def apt_folder(root: Path) -> Iterator[Path]:
    """Make a folder beside `root` for apt to work in, for as long as the block lasts."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="apt-") as own:
        yield Path(own)


def private_apt(own: Path) -> list[str]:
    """Return an apt-get that writes below `own` only."""
    for folder in ("lists/partial", "archives/partial"):
        (own / folder).mkdir(parents=True)
    return ["apt-get", "-q", "-y", "-o", f"Dir::Cache={own}"]


def download(apt: Sequence[str], names: Sequence[str], folder: Path, *, with_dependencies: bool) -> None:
    """Fetch packages, and what installing them would bring along here."""
    if with_dependencies:
        simulate = [*apt, "--no-install-recommends", "--simulate", "install", *names]
        names = to_unpack(run(simulate, f"cannot resolve {' '.join(names)}"))
    if names:
        run([*apt, "download", *names], f"cannot download {' '.join(names)}", cwd=folder)


def unpack_all(folder: Path, root: Path) -> None:
    """Unpack what `download` fetched."""
    for deb in sorted(folder.glob("*.deb")):
        unpack(deb, root)


def debian_mirror(debootstrap: str) -> str:
    """Return the address of Debian's archive, which debootstrap knows: it says `DEF_MIRROR="..."`."""
    found = re.search(r'^DEF_MIRROR="?([^"\s]+)', debootstrap, flags=re.MULTILINE)
    if not found:
        raise SetupError("this debootstrap does not say where Debian's archive is")
    return found.group(1)


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


def install_programs(env: Environment, names: Sequence[str], *, daemons: bool = False) -> None:
    """Bring the system packages `names` by the best way this machine and user have.

    Packages that start a daemon are installed into the system only if `daemons` may be.
    """
    if not shutil.which("apt-get", path=SYSTEM_PATH):
        say(f"this machine has no apt-get; install what these Debian packages hold: {' '.join(names)}")
        return
    wanted = missing_here(names)
    ours = wanted if as_root() is None else [name for name in wanted if name in DAEMONS and not daemons]
    if others := [name for name in wanted if name not in ours]:
        try:
            apt_install(others)
        except SetupError as problem:
            if "remove is disabled" not in str(problem):
                raise
            ours = wanted  # they do not get along with what somebody has installed here
    if ours:
        unpack_privately(ours, env.apt)


def install_kernel(env: Environment) -> None:
    """Bring User-Mode Linux, the private kernel of the notebooks; Debian has it, Ubuntu has not."""
    if platform.machine() != "x86_64":
        say(f"User-Mode Linux runs on x86-64 processors only, this one is {platform.machine()}")
        return
    try:
        install_programs(env, [UML])
    except SetupError as problem:
        if not re.search("Unable to locate package|no installation candidate", str(problem)):
            raise
        unpack_from_debian(UML, env.apt)


def locked() -> list[str]:
    """Return the lines `name==version` of requirements.lock."""
    return package_names((ROOT / "requirements.lock").read_text())


def write_lock() -> None:
    """Resolve pyproject.toml's dependencies to today's versions and write every file that lists them."""
    say("resolving the newest versions that fit together")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "resolved.json")
        wanted = [f"{ROOT}[hub,cluster,test,lint,book]", "hatchling"]
        resolve = [*VENV.pip_install, "--dry-run", "--ignore-installed", "--report", f"{report}", *wanted]
        run(resolve, "cannot resolve the dependencies")
        resolved = json.loads(report.read_text())["install"]
    packages = [one["metadata"] for one in resolved]
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


def set_up(env: Environment, *, hub: bool, tests: bool) -> None:
    """Bring an environment and the system's programs up to date with the files that name them."""
    if env == VENV:
        if not is_usable(env):
            shutil.rmtree(env.prefix / "var/stamps", ignore_errors=True)
        env.once("venv", f"{env.prefix}", lambda: make_environment(env))
    copied = sorted((ROOT / "cnlab").rglob("*.json"))  # pyproject.toml's shared data
    python_inputs = [ROOT / "requirements.lock", ROOT / "pyproject.toml", *copied]
    env.once("python", fingerprint(*python_inputs), lambda: install_python_packages(env))
    warm_inputs = [ROOT / "requirements.lock", *sorted((ROOT / "cnlab").rglob("*.py"))]
    env.once("warm", fingerprint(*warm_inputs), lambda: warm_up(env))
    for path in ([ROOT / "tests/apt.txt"] if tests else []) + [ROOT / "binder/apt.txt"]:
        names = package_names(path.read_text())
        install = partial(install_programs, env, names, daemons=path.parent.name == "tests")
        env.once(f"{path.parent.name}-apt", fingerprint(path), install)
    env.once("uml", UML_SUITE, lambda: install_kernel(env))
    if hub and not shutil.which("npm"):
        install_node()
    folders = (["grading"] if hub or tests else []) + (["tests/browser"] if tests else [])
    if folders and not shutil.which("npm", path=environment()["PATH"]):
        say("no npm, which only root can install: what needs the hub's proxy or a browser is not tested")
        folders = []
    for folder in folders:
        step = f"npm-{folder.replace('/', '-')}"
        install = partial(install_node_packages, ROOT / folder)
        env.once(step, fingerprint(ROOT / folder / "package-lock.json"), install)


def install_node() -> None:
    """Install Node into the system: unpacked elsewhere, Debian's does not find its own modules."""
    if as_root() is None:
        raise SetupError(
            "the hub's proxy needs Node 18 or newer and npm; as root: apt-get install nodejs npm"
        )
    apt_install(["nodejs", "npm"])


def install_node_packages(folder: Path) -> None:
    """Install what a package-lock.json names: the hub's proxy, what the tests drive Chromium with."""
    npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    run(npm, f"cannot install the Node packages of {folder.relative_to(ROOT)}", cwd=folder)


def main() -> int:
    """Run the command line; 0 when all is set up, 1 with one clear line when not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hub", action="store_true", help="also install what the hub needs")
    parser.add_argument("--tests", action="store_true", help="also install what the tests need")
    parser.add_argument("--active", action="store_true", help="fill the running Python's environment")
    parser.add_argument("--lock", action="store_true", help="write the lists of pinned versions anew")
    options = parser.parse_args()
    os.umask(0o022)  # other users may run what is installed here
    started = time.monotonic()
    checkout = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(checkout, fcntl.LOCK_EX)  # a second run waits for the first; the lock goes with the process
    try:
        if options.lock:
            write_lock()
        env = Environment(Path(sys.prefix)) if options.active else VENV
        set_up(env, hub=options.hub, tests=options.tests)
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
