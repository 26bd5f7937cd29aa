"""Container runtimes beside each other, each running busybox `true`.

All do the same work: six namespaces, pivot_root, proc, dev, sys, control groups; but for the C program, which
shows what the kernel alone takes for namespaces, mounts and exec.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cnlab import host
from cnlab.containers import runtime

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from dockerd import Dockerd, private_dockerd

ROUNDS = 40
DOCKER_ROUNDS = 12
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def main() -> None:
    """Measure and print."""
    if os.geteuid() != 0:
        print("runtimes                  not measured: they make cgroups, which takes root")
        return
    # crun refuses a host with cgroup v1 and v2 side by side, so in here there is one of them
    alone = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    command = [sys.executable, "-m", "bench.runtime", "runtimes"]
    subprocess.run(["unshare", "--mount", "sh", "-c", alone, "sh", *command], check=True)
    _docker()


def _runtimes() -> None:
    # state belongs on a tmpfs, as /run is; here and there /run is not
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory(dir="/dev/shm") as state:
        bundle = _bundle(Path(work))
        floor = _floor(Path(work))
        run = ["--root", state, "run", "--bundle", str(bundle)]
        contestants: dict[str, Callable[[], object]] = {
            "C: clone3, pivot_root, exec": _command([floor, bundle / "rootfs", "/bin/busybox", "true"]),
            "ours, warm in-process": lambda: runtime.run("bench-inside", str(bundle), root=state),
            "crun run": _command(["crun", *run, "bench-crun"]),
            "cnlab-runtime run": _command([runtime.command(), *run, "bench-command"]),
            "runc run": _command(["runc", *run, "bench-runc"]),
        }
        medians = _in_turns(contestants, ROUNDS)
    crun, runc = medians["crun run"], medians["runc run"]
    for name, seconds in medians.items():
        print(
            f"{name:28} {seconds * 1e3:6.1f} ms  {seconds / crun:5.2f} x crun  {seconds / runc:5.2f} x runc"
        )
    inside, command = medians["ours, warm in-process"], medians["cnlab-runtime run"]
    print(f"  promised: in-process at most 0.5 x crun, is {inside / crun:.2f};", end="")
    print(f" command at most 2.0 x crun, is {command / crun:.2f}, and 1.2 x runc, is {command / runc:.2f}")


def _docker() -> None:
    with private_dockerd(f"--add-runtime=cnlab={runtime.command()}") as engine:
        with tempfile.TemporaryDirectory() as work:
            archive = shutil.make_archive(f"{work}/image", "tar", _rootfs(Path(work)))
            engine.docker("import", archive, "busybox")
        for network in ("none", "bridge"):
            contestants = {name: _docker_run(engine, name, network) for name in ("runc", "cnlab")}
            theirs, ours = _in_turns(contestants, DOCKER_ROUNDS).values()
            times = f"with runc {theirs * 1e3:4.0f} ms  with ours {ours * 1e3:4.0f} ms"
            print(
                f"docker run, network {network:8} {times}  {ours / theirs:.2f} x runc, promised at most 1.15"
            )


def _docker_run(engine: Dockerd, name: str, network: str) -> Callable[[], object]:
    options = ["--rm", "--runtime", name, "--network", network]
    return lambda: engine.docker("run", *options, "busybox", "/bin/busybox", "true")


def _in_turns(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run one after the other, round by round, so that all meet the same weather; medians in seconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()
    for _ in range(rounds):
        for name, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _command(arguments: list[object]) -> Callable[[], object]:
    argv = [str(argument) for argument in arguments]
    argv[0] = shutil.which(argv[0]) or str(host.find_program(argv[0]))
    return lambda: subprocess.run(argv, check=True)


def _rootfs(work: Path) -> Path:
    rootfs = work / "bundle" / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(host.find_program("busybox") or "", rootfs / "bin")
    return rootfs


def _bundle(work: Path) -> Path:
    """What ``runc spec`` writes, with all six namespaces, to the program's end without a terminal."""
    bundle = _rootfs(work).parent
    subprocess.run([str(host.find_program("runc")), "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["/bin/busybox", "true"], "terminal": False}
    config["process"]["capabilities"].pop("ambient")  # which none can have that is not inheritable as well
    config["linux"]["namespaces"] = [{"type": kind} for kind in NAMESPACES]
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


def _floor(work: Path) -> Path:
    source = Path(__file__).with_name("floor.c")
    subprocess.run(["cc", "-O2", "-static", "-o", work / "floor", source], check=True)
    return work / "floor"


if __name__ == "__main__":
    _runtimes()
