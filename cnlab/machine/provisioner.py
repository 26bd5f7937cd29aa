"""What Jupyter calls to start, stop and signal a kernel whose spec names ``cnlab-provisioner``.

jupyter_client finds the class by its entry point. For each start of a kernel it calls ``pre_launch``,
``launch_kernel``, then ``poll``, ``send_signal``, ``terminate``, ``kill``, ``wait`` as with any local
process, and ``cleanup`` at the end. The process it sees is the launcher, which stands for the whole machine;
so nothing but the launch is different here.

The environment variable CNLAB_MACHINE chooses: ``uml`` the private kernel or an error; ``host`` this host
itself, for machines that are made to be thrown away; ``none`` an ordinary Python kernel. Unset: the private
kernel, or where it cannot start an ordinary one, in which `cnlab.host.require` says why (CNLAB_MACHINE_NOTE).
"""

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Integer
from traitlets.config import SingletonConfigurable

from cnlab.errors import InvalidValue, MachineError
from cnlab.machine import uml
from cnlab.machine.launcher import describe, remove_memory_directory

MODES = ("uml", "host", "none")
BOOT_TIMEOUT_S = 60.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Machine:
    """A running launcher, its control socket, and what the machine was started for."""

    process: "subprocess.Popen[bytes]"
    control: socket.socket
    memory_directory: Path
    key: tuple[str, int]  # notebook directory, MiB of memory

    def close(self) -> None:
        """End the machine; the launcher does so when this socket closes."""
        self.control.close()
        self.process.wait()
        remove_memory_directory(self.memory_directory)


def start_machine(work: str, memory_mib: int, cage_without: Collection[str] | None = None) -> Machine:
    """Start a launcher for the notebook directory `work`; the machine boots meanwhile.

    It is caged unless `cage_without` is None: by all parts of `cnlab.machine.cage` but those.

    Raises:
        MachineError: no User-Mode Linux, or no room for its memory.
    """
    uml.find()
    memory = Path(tempfile.mkdtemp(prefix="cnlab-", dir=uml.find_memory_directory(memory_mib << 20)))
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(theirs.fileno()), work, str(memory_mib), str(memory)]
        arguments += [] if cage_without is None else [",".join(cage_without)]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnlab.machine.launcher", *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    ours.setblocking(False)
    return Machine(process, ours, memory, (work, memory_mib))


class SpareMachines(SingletonConfigurable):
    """Machines booted ahead for the next start in the same directory."""

    limit = Integer(0, config=True, help="How many booted machines a long-lived server keeps ready: 0 or 1.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._spare: Machine | None = None

    def take(self, key: tuple[str, int]) -> Machine | None:
        """Return the spare for `key`; a spare for something else is ended, it holds memory."""
        spare, self._spare = self._spare, None
        if spare is None or (spare.key == key and spare.process.poll() is None):
            return spare
        spare.close()
        return None

    def refill(self, key: tuple[str, int]) -> None:
        """Boot a spare for `key`, if spares are wanted and there is none."""
        if self.limit > 0 and self._spare is None:
            with contextlib.suppress(MachineError):  # no room for a second machine is no error
                self._spare = start_machine(*key)

    def close(self) -> None:
        """End the spare."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None


class PrivateKernelProvisioner(LocalProvisioner):
    """Runs the kernel spec's command as root inside a private Linux kernel."""

    memory_mib = Integer(  # room for Docker Engine and its images; the host gives only what is touched
        1024, config=True, help="Memory of the private kernel, MiB."
    )
    spare_delay_s = Integer(
        3, config=True, help="Seconds after a start until the next machine is booted ahead."
    )

    _machine: Machine | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the machine, wait until it has booted, and start the kernel's Python in it."""
        env = kwargs["env"]
        mode = env.get("CNLAB_MACHINE", "")
        if mode and mode not in MODES:
            raise InvalidValue(f"CNLAB_MACHINE={mode!r}: expected one of {', '.join(MODES)}, or nothing")
        if mode in ("", "uml"):
            try:
                return await self._launch_in_machine(cmd, kwargs.get("cwd") or os.getcwd(), env)
            except MachineError as error:
                if mode == "uml":
                    raise
                self.log.warning("cnlab: no private kernel, starting an ordinary one: %s", describe(error))
                env["CNLAB_MACHINE_NOTE"] = describe(error)
        return await super().launch_kernel(cmd, **kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        """Let go of the machine; a restart gets a new one."""
        if self._machine is not None:
            self._machine.control.close()
            self._machine = None
        await super().cleanup(restart=restart)

    async def _launch_in_machine(self, cmd: list[str], cwd: str, env: dict[str, str]) -> KernelConnectionInfo:
        spares = SpareMachines.instance(parent=self)
        key = (os.path.realpath(cwd), self.memory_mib)
        machine = spares.take(key) or start_machine(*key)
        try:
            await _wait_until_booted(machine)
            assert self.parent is not None
            file = self.parent.connection_file
            request = {
                "argv": ["{connection_file}" if word == file else word for word in cmd],
                "env": guest_environment(env),
                "cwd": key[0],
                "connection_file": file,
            }
            _send(machine.control, request)
        except BaseException:
            machine.close()
            raise
        self._machine, self.process = machine, machine.process
        self.pid = self.pgid = machine.process.pid
        asyncio.get_running_loop().call_later(self.spare_delay_s, spares.refill, key)
        return self.connection_info


def guest_environment(env: dict[str, str]) -> dict[str, str]:
    """Return the guest's environment: the host's but for what names the host's user and places."""
    foreign = ("JPY_", "XDG_", "SSH_", "SUDO_", "DBUS_", "DOCKER_")
    kept = {name: value for name, value in env.items() if not name.startswith(foreign) and name != "TMPDIR"}
    path = [*kept.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    kept |= {
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "PATH": ":".join(dict.fromkeys(filter(None, path))),
    }
    kept["CNLAB_MACHINE"] = "uml"
    kept["JPY_PARENT_PID"] = "1"  # ipykernel's word for a parent that does not die
    fonts = Path(
        sys.prefix, "var/matplotlib"
    )  # a font cache made ahead: making it takes seconds in the guest
    if fonts.is_dir():
        kept.setdefault("MPLCONFIGDIR", str(fonts))
    return kept


async def _wait_until_booted(machine: Machine) -> None:
    """Wait for the launcher's first word.

    Raises:
        MachineError: the machine did not start; the message says why.
    """
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while not (line := _first_word(machine)):
        if time.monotonic() > deadline:
            raise _no_answer(BOOT_TIMEOUT_S)
        await asyncio.sleep(_POLL_S)
    _check_booted(machine, line)


def wait_until_booted(machine: Machine, timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Do the same where nobody else has something to do meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (line := _first_word(machine)):
        if not select.select([machine.control], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise _no_answer(timeout_s)
    _check_booted(machine, line)


def _first_word(machine: Machine) -> bytes:
    """Return the launcher's first line once all of it is there, else nothing."""
    try:
        line = machine.control.recv(1 << 16, socket.MSG_PEEK)
    except BlockingIOError:
        return b""
    if not line:
        status = machine.process.wait()
        raise MachineError(
            f"the launcher of the private kernel ended with status {status} before it had booted"
        )
    end = line.find(b"\n") + 1
    return machine.control.recv(end) if end else b""


def _check_booted(machine: Machine, line: bytes) -> None:
    remove_memory_directory(machine.memory_directory)
    message = json.loads(line)
    if message["type"] == "failed":
        raise MachineError(message["reason"])


def _no_answer(timeout_s: float) -> MachineError:
    return MachineError(f"the private kernel did not answer within {timeout_s:.0f} s")


def _send(control: socket.socket, request: dict[str, Any]) -> None:
    control.setblocking(True)
    try:
        control.sendall(json.dumps(request).encode() + b"\n")
    finally:
        control.setblocking(False)
