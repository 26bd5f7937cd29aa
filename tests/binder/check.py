"""Build what Binder would build and run the course in it as Binder would: ``make binder-check``.

The steps are repo2docker's for a repository with ``binder/environment.yml``: a base system, the user
``jovyan`` (1000), the packages of ``apt.txt``, the environment, the repository, ``postBuild``. Then each
notebook and lab runs in a fresh container under the limits of a pod at mybinder.org, and without any network,
which a pod would have.

Two things differ from Binder, because no container registry and no conda channel are used here:

* the base system is Debian 12 made by mmdebstrap (another release if you name it: ``check.py trixie``), in
  place of Ubuntu's image ``buildpack-deps``;
* the environment is a virtual environment with the pinned packages of ``environment.yml``'s pip section, on
  Debian's Python, in place of the one that conda would make with a Python 3.11 of its own. Its path is the
  same.

Needs root, the registries of Python and Debian, 6 GB of disk, and five to ten minutes. It starts a Docker
daemon of its own, which listens on a socket in a temporary folder, makes no bridge and no firewall rule, and
is gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

import bootstrap
from bootstrap import ROOT
from cnlab.clock import wait_until
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.syscalls import umount

HOME = "/home/jovyan"
PREFIX = "/srv/conda/envs/notebook"
POD = ("--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=2g", "--cpus=1")
CLIENT_CONFIGURATION = (  # how this machine's apt and pip reach their registries: lent to the build, not kept
    *(
        "/etc/apt/apt.conf.d",
        "/etc/pip.conf",
        "/etc/xdg/pip",
        "/etc/ssl/certs",
        "/usr/local/share/ca-certificates",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """How one notebook fared."""

    name: str
    seconds: float
    peak_bytes: int
    problem: str  # "" when all is well


class Docker:
    """A Docker daemon of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the daemon, and stop it at the end of the block."""
        command = [
            *("dockerd", f"--host=unix://{self.socket}", f"--pidfile={self.folder}/pid"),
            *(f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false"),
        ]
        with contextlib.ExitStack() as undo:
            undo.callback(self._unmount)
            log = undo.enter_context(open(self.folder / "log", "wb"))
            daemon = undo.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            undo.callback(daemon.terminate)
            wait_until(lambda: self._answers(daemon), timeout_s=60, what="dockerd to answer")
            yield

    def _unmount(self) -> None:
        """Take away the mounts of its containers' network namespaces, which dockerd leaves behind."""
        for mount in reversed(read_mountinfo()):
            if mount.mount_point.startswith(f"{self.folder}/"):
                umount(mount.mount_point)

    def _answers(self, daemon: subprocess.Popen[bytes]) -> bool:
        if daemon.poll() is not None:
            raise SystemExit(f"dockerd ended:\n{(self.folder / 'log').read_text()[-2000:]}")
        return self.socket.exists() and self.command("version", check=False).returncode == 0

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the client."""
        command = ["docker", f"--host=unix://{self.socket}", *words]
        return subprocess.run(command, check=check, text=True, capture_output=True, timeout=1800)


def main(suite: str = "bookworm") -> int:
    """Build, run, and print a table; 0 when all notebooks and labs went through."""
    if os.geteuid() != 0:
        raise SystemExit("binder-check: start it as root: it makes a system image and runs a Docker daemon")
    if missing := bootstrap.missing_here(["docker.io", "mmdebstrap"]):
        bootstrap.apt_install(missing)
    with tempfile.TemporaryDirectory(prefix="cnlab-binder-") as folder:
        docker = Docker(Path(folder))
        with docker.running():
            import_base_system(docker, suite)
            build(docker)
            notebooks = sorted(ROOT.glob("notebooks/*.ipynb")) + sorted(ROOT.glob("labs/*/*.ipynb"))
            runs = [run(docker, path.relative_to(ROOT)) for path in notebooks]
    print(*(f"\n{one.name}: {one.problem}" for one in runs if one.problem), sep="\n")
    print(table(runs, suite))
    return 1 if any(one.problem for one in runs) else 0


def say(what: str) -> None:
    """Show what goes on and since when."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def import_base_system(docker: Docker, suite: str) -> None:
    """Make a Debian system and give it to Docker as the image `base`."""
    say(f"base system: mmdebstrap {suite}")
    tar = docker.folder / "base.tar"
    extra = "python3,python3-venv,ca-certificates,locales,passwd"
    mmdebstrap = ["mmdebstrap", "--quiet", "--variant=apt", f"--include={extra}", suite, str(tar)]
    subprocess.run(mmdebstrap, check=True)
    docker.command("import", str(tar), "base")
    tar.unlink()


def build(docker: Docker) -> None:
    """Take repo2docker's steps and keep the result as the image `binder`."""
    lent = [f"--volume={path}:{path}:ro" for path in CLIENT_CONFIGURATION if Path(path).exists()]
    passed = [
        f"--env={name}" for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")
    ]
    passed += [f"--env={name}" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ]
    docker.command(
        "run", "--detach", "--name=build", "--network=host", *lent, *passed, "base", "sleep", "infinity"
    )
    packages = bootstrap.package_names((ROOT / "binder/apt.txt").read_text())
    steps = [
        (
            "user jovyan",
            "root",
            f"useradd --create-home --uid 1000 --shell /bin/bash jovyan && install -d -o 1000 {PREFIX}",
        ),
        (
            "apt.txt",
            "root",
            f"apt-get -qq update && apt-get -qq install --no-install-recommends {' '.join(packages)}",
        ),
        (
            "environment.yml",
            "1000",
            f"python3 -m venv {PREFIX} && {PREFIX}/bin/pip install --quiet -r /tmp/pins",
        ),
        ("repository", "1000", f"tar -x -C {HOME} -f /tmp/repository.tar"),
        ("postBuild", "1000", f"cd {HOME} && PATH={PREFIX}/bin:$PATH ./binder/postBuild"),
        ("clean up", "root", "apt-get clean && rm -rf /var/lib/apt/lists/* /tmp/* /root/.cache"),
    ]
    copy_in(docker)
    for name, user, script in steps:
        say(f"build: {name}")
        done = docker.command(
            "exec", f"--user={user}", f"--env=HOME={HOME}", "build", "bash", "-c", script, check=False
        )
        if done.returncode:
            raise SystemExit(f"binder-check: {name} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    path = f"PATH={PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"
    changes = [
        f"--change=ENV {path}",
        f"--change=ENV HOME={HOME}",
        f"--change=WORKDIR {HOME}",
        "--change=USER 1000",
    ]
    docker.command("commit", *changes, "build", "binder")
    docker.command("rm", "--force", "build")


def copy_in(docker: Docker) -> None:
    """Copy the pins into the container, and all files of this checkout that git does not ignore."""
    *_, pip = yaml.safe_load((ROOT / "binder/environment.yml").read_text())["dependencies"]
    pins = docker.folder / "pins"
    pins.write_text("\n".join(pip["pip"]) + "\n")
    tar = docker.folder / "repository.tar"
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(git, cwd=ROOT, check=True, capture_output=True).stdout
    pack = ["tar", "-c", "-f", tar, "--null", "--ignore-failed-read", "--files-from=-"]
    subprocess.run(pack, cwd=ROOT, input=names, check=True)
    for file in (pins, tar):
        docker.command("cp", str(file), f"build:/tmp/{file.name}")


def run(docker: Docker, notebook: Path) -> Run:
    """Execute one notebook in a container under a pod's limits."""
    say(f"run: {notebook}")
    inside = f"{PREFIX}/bin/python", "tests/binder/execute.py", str(notebook)
    done = docker.command("run", "--rm", "--network=none", *POD, "binder", *inside, check=False)
    if done.returncode:
        return Run(notebook.stem, 0, 0, bootstrap.telling_line(done.stderr.splitlines()))
    report = json.loads(done.stdout.splitlines()[-1])
    return Run(notebook.stem, report["seconds"], report["peak_bytes"], report["error"])


def table(runs: Sequence[Run], suite: str) -> str:
    """Return the summary."""
    width = max(len(one.name) for one in runs)
    lines = [f"{'':{width}}{'seconds':>9}{'peak MB':>9}"]
    for one in runs:
        numbers = f"{one.seconds:9.1f}{one.peak_bytes / 1e6:9.0f}"
        lines.append(f"{one.name:{width}}{f'  {one.problem.splitlines()[0]}' if one.problem else numbers}")
    failed = sum(bool(one.problem) for one in runs)
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    lines.append(f"Debian {suite} in Docker on Linux {platform.release()}, {' '.join(POD)}")
    lines.append(f"load of the last 1, 5, 15 minutes on {os.cpu_count()} processors: {load}")
    lines.append(f"{len(runs) - failed} passed, {failed} failed")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
