"""The worker inside a private kernel: takes jobs, runs them as the machine's root, says what is left of each.

The machine's process 1 forks it and runs it as a module; see `cnlab.machine.guest`. It listens where the
relay connects the host's socket to, and ends with that connection. A job has a sandbox of its own in here
(flavour ``root``), so that one machine serves many. What would tell a later job of an earlier one is
counted before and after: processes, mounts, groups, links, kernel modules, files of temporary directories.
"""

import gc
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from cnlab.clock import wait_until
from cnlab.grading.attempt import execution
from cnlab.grading.workers import machine
from cnlab.linux import cgroups, mounts, processes
from cnlab.linux.rtnetlink import Rtnetlink
from cnlab.machine import guest

_SETTLE_S = 3.0  # the kernel takes a namespace apart after its last process is gone
_KTHREADD = 2
_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root")

# The kernel loads modules for its own root only, and these programs would ask for them from inside.
_WARM_UP = (
    ("iptables", "-t", "nat", "-S"),
    ("iptables", "-t", "filter", "-S"),
    ("iptables", "-t", "mangle", "-S"),
    ("ip6tables", "-S"),
    ("modprobe", "-a", "veth", "bridge", "overlay", "xt_MASQUERADE", "xt_addrtype", "xt_nat", "xt_tcpudp"),
    (
        "modprobe",
        "-a",
        "xt_conntrack",
        "xt_comment",
        "xt_multiport",
        "xt_mark",
        "xt_REDIRECT",
        "br_netfilter",
    ),
)


def main() -> None:
    """Serve the one connection that the relay makes."""
    for command in _WARM_UP:
        subprocess.run(command, capture_output=True, check=False)
    Path.home().joinpath(".ipython").mkdir(exist_ok=True)  # or the fork server makes it, later
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(guest.port_path(guest.JOBS))
        listener.listen(1)
        connection, _ = listener.accept()
    with connection:
        serve(connection, execution.run_job)


def serve(connection: socket.socket, run: Callable[[execution.Job], execution.Result]) -> None:
    """Run each job that comes, until the other side closes."""
    before: set[str] = set()
    while True:
        try:
            job = execution.Job.from_json(machine.receive(connection).decode())
        except EOFError:
            return
        before = before or census()
        result = run(job)
        left = leftovers(before)
        machine.send(connection, json.dumps({"result": result.to_json(), "left": left}).encode())
        gc.collect()


def leftovers(before: set[str]) -> list[str]:
    """Wait until all is as it was before, and return what is more or less."""
    try:
        wait_until(lambda: census() == before, timeout_s=_SETTLE_S, poll_s=0.05)
    except TimeoutError:
        return sorted(census() ^ before)
    return []


def census() -> set[str]:
    """Name all in this machine that a job could leave: one text for each thing."""
    root = cgroups.root_of_cgroup2()
    with Rtnetlink() as ip:
        links = [f"link {link.name}" for link in ip.links()]
    return {
        *_strangers(processes.processes()),
        *(f"mount {mount.fs_type} at {mount.mount_point}" for mount in mounts.read_mountinfo()),
        *(f"group {path.relative_to(root)}" for path in root.rglob("*/")),
        *links,
        *(f"file {os.path.join(place, name)}" for place in _PLACES for name in os.listdir(place)),
    }


def _strangers(found: Iterable[processes.Process]) -> set[str]:
    """Name the processes that are neither the kernel's nor the machine's nor descend from this worker."""
    by_pid = {process.pid: process for process in found}

    def is_ours(process: processes.Process | None) -> bool:
        while process is not None and process.pid not in (1, os.getpid()):
            process = by_pid.get(process.ppid)
        return process is not None and process.pid == os.getpid()

    return {
        f"process {process.name} ({process.pid})"
        for process in by_pid.values()
        if process.pid not in (1, _KTHREADD) and process.ppid != _KTHREADD and not is_ours(process)
    }


if __name__ == "__main__":
    main()
