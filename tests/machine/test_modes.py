"""CNLAB_MACHINE chooses the machine, and each choice that cannot be had says so."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest
from leftovers import own_files
from notebook import Notebook

from cnlab.errors import InvalidValue, MachineError
from cnlab.machine.provisioner import guest_environment

pytestmark = [pytest.mark.needs_uml, pytest.mark.as_student]


def _deny_ptrace() -> None:
    """Load a seccomp filter that answers ptrace(2) with EPERM, as hardened container hosts do."""
    load_nr, is_ptrace, allow, refuse = (
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 101),
            (0x06, 0, 0, 0x7FFF0000),
            (0x06, 0, 0, 0x00050001),
        )
    )
    code = ctypes.create_string_buffer(load_nr + is_ptrace + refuse + allow)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0


def test_without_ptrace_the_reason_is_said() -> None:
    """And the attempt leaves nothing of its own behind."""
    before = own_files()
    _deny_ptrace()

    with pytest.raises(MachineError, match="does not let a process trace its children"), Notebook():
        pass
    assert own_files() == before


def test_where_nothing_is_asked_for_an_ordinary_kernel_opens_and_cells_say_why() -> None:
    """The notebook still opens; `require` names what is missing and what stood in the way."""
    _deny_ptrace()
    del os.environ["CNLAB_MACHINE"]
    with Notebook() as notebook:
        cell = notebook.run("import os; from cnlab import host; print(os.getuid()); host.require('cgroup2')")
        notes = notebook.run("try: host.require('cgroup2')\nexcept Exception as e: print(e.__notes__)").text

    assert cell.text.split() == [str(os.getuid())]
    assert cell.error.startswith("MissingFeature: cgroup2")
    assert "does not let a process trace its children" in notes


def test_none_is_an_ordinary_kernel() -> None:
    os.environ["CNLAB_MACHINE"] = "none"
    with Notebook() as notebook:
        cell = notebook.run("import os; print(os.uname().release)")

    assert cell.text.strip() == platform.release()


def test_host_is_this_host() -> None:
    os.environ["CNLAB_MACHINE"] = "host"
    with Notebook() as notebook:
        cell = notebook.run("import os; print(os.uname().release, os.environ['CNLAB_MACHINE'])")

    assert cell.text.split() == [platform.release(), "host"]


def test_an_unknown_machine_is_refused_with_the_known_ones() -> None:
    os.environ["CNLAB_MACHINE"] = "qmeu"

    with pytest.raises(InvalidValue, match="'qmeu': expected one of uml, host, none"), Notebook():
        pass


def test_a_system_directory_is_refused() -> None:
    with pytest.raises(MachineError, match="notebook's directory is /usr"), Notebook("/usr"):
        pass


def test_what_names_the_hosts_user_and_services_stays_outside() -> None:
    """A DOCKER_HOST of the host is no address inside, where an engine of one's own runs."""
    kept = guest_environment({"DOCKER_HOST": "unix:///run/user/1000/docker.sock", "USER": "ann", "LANG": "C"})

    assert "DOCKER_HOST" not in kept
    assert (kept["USER"], kept["LANG"]) == ("root", "C")
