import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnlab import host
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.host import Feature
from cnlab.linux.namespaces import spawn


@pytest.fixture
def lacking(monkeypatch) -> None:
    """A machine that lacks two features, and has one."""

    def missing() -> str:
        raise OSError(1, "unshare(CLONE_NEWUSER): Operation not permitted")

    features = {
        "userns": (missing, "ask an administrator"),
        "uml": (missing, "install it"),
        "root": (lambda: "user id 0", ""),
    }
    monkeypatch.setattr(host, "FEATURES", features)
    monkeypatch.delenv("CNLAB_MACHINE_NOTE", raising=False)


@pytest.mark.parametrize("name", host.FEATURES)
def test_every_probe_answers_and_leaves_nothing(name):
    """A probe tries the thing itself, in a place where it leaves no trace."""

    def probe():
        before = _traces()

        feature = host.probe(name)

        assert feature.name == name
        assert feature.detail
        assert feature.is_available or feature.hint
        assert _traces() == before

    # Root looks at all mounts of a namespace of its own: on the machine others mount as they please.
    with spawn(probe, new=["mnt"] if os.geteuid() == 0 else [], capture=True) as child:
        complaints = child.stderr.read()
        assert child.wait(timeout_s=30) == 0, complaints


def _traces() -> tuple[object, ...]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    namespaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    mounts = Path("/proc/self/mountinfo").read_text()
    return children, namespaces, mounts, os.listdir("/proc/self/fd"), os.getcwd()


def test_all_probes_together_are_quick():
    """`require` is the first cell of every notebook."""
    before = os.times()
    host.features()
    after = os.times()

    assert sum(after[:4]) - sum(before[:4]) < 2  # of CPU, of ours and of the children's that try things


def test_unknown_feature_is_told_with_those_that_exist():
    """A typing error must not look like a poor machine."""
    with pytest.raises(InvalidValue, match="unknown feature 'cgroups2'; the names are root, userns, "):
        host.require("cgroups2")


@pytest.mark.usefixtures("lacking")
def test_missing_feature_is_told_with_its_reason_and_a_hint():
    """What, why, and what to do about it."""
    with pytest.raises(MissingFeature) as caught:
        host.require("root", "userns")

    assert str(caught.value) == "userns: [Errno 1] unshare(CLONE_NEWUSER): Operation not permitted"
    assert caught.value.__notes__ == ["Hint: ask an administrator"]


@pytest.mark.usefixtures("lacking")
def test_all_that_is_missing_is_told_at_once():
    """Nobody wants to install one thing only to learn of the next."""
    with pytest.raises(MissingFeature) as caught:
        host.require("userns", "uml")

    assert caught.value.feature == "userns"
    assert caught.value.__notes__[1].startswith("Missing too: uml: ")


@pytest.mark.usefixtures("lacking")
def test_what_is_there_is_not_complained_about():
    """And nothing is returned that one could forget to look at."""
    assert host.require("root") is None
    assert host.require() is None


@pytest.mark.usefixtures("lacking")
def test_reason_why_the_private_kernel_did_not_start_is_in_the_hint(monkeypatch):
    """The notebook still opens then, and its cells should say more than "not here"."""
    monkeypatch.setenv("CNLAB_MACHINE_NOTE", "the private kernel did not start: ptrace is denied")

    assert host.probe("uml").hint == "install it; the private kernel did not start: ptrace is denied"


@pytest.mark.needs_userns
@pytest.mark.as_student
def test_probe_without_privilege_uses_a_user_namespace():
    """What an unprivileged user may do only in a namespace of its own counts as available."""
    assert not host.probe("root").is_available
    assert host.probe("utsns").is_available


def test_probe_with_threads_does_not_warn():
    """Python 3.12 warns of forking with threads; a notebook always has some."""
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    try:
        assert isinstance(host.probe("userns"), Feature)
    finally:
        is_over.set()
        thread.join()


def test_hybrid_host_lacks_cgroup2_even_though_it_is_mounted(monkeypatch, tmp_path):
    """The tree is there, its controllers are bound to version 1: a write would limit nothing."""
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    monkeypatch.setattr(host, "cgroup2_root", lambda: tmp_path)

    assert host.probe("cgroup2").detail == f"{tmp_path} offers hugetlb, not cpu memory pids"


def test_program_is_found_on_the_path_first(monkeypatch, tmp_path):
    """The user's own choice goes before ours."""
    _program(tmp_path / "bin/linux.uml")
    _program(tmp_path / "apt/usr/bin/linux.uml")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert host.find_program("linux.uml") == tmp_path / "bin/linux.uml"


def test_program_is_found_where_packages_are_unpacked_without_root(monkeypatch, tmp_path):
    """`apt` below the environment is the last place to look."""
    _program(tmp_path / "apt/usr/sbin/cnlab-test-program")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert host.find_program("cnlab-test-program") == tmp_path / "apt/usr/sbin/cnlab-test-program"
    assert host.find_program("no-such-program") is None


def test_private_kernel_knows_itself():
    """Inside, nobody needs a second User-Mode Linux; the first says what it is in /proc/cpuinfo."""
    assert host.is_private_kernel("processor\t: 0\nvendor_id\t: User Mode Linux\n")
    assert not host.is_private_kernel()


def test_engine_can_be_started_only_where_nothing_can_be_spoilt(monkeypatch, tmp_path):
    """A Docker Engine changes routes and firewall of its machine: that is for a private kernel."""
    _program(tmp_path / "bin/dockerd")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    said = []
    for is_private in (True, False):
        monkeypatch.setattr(host, "is_ours_to_change", lambda is_private=is_private: is_private)
        said.append(host.probe("docker").detail)

    assert said[0] == f"{tmp_path}/bin/dockerd can be started here"
    assert said[1].startswith(f"no daemon answers at unix://{tmp_path}/docker.sock")


def _program(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_import_is_quick_and_has_no_side_effect():
    """Under 50 ms on top of the interpreter's start, and nothing heavy comes with the kernel's words."""
    code = """
import os, sys, threading, time
before = len(os.listdir("/proc/self/fd"))
begun = time.process_time()
import cnlab
took = time.process_time() - begun
import cnlab.host, cnlab.linux.cgroups
heavy = {"numpy", "asyncio", "matplotlib", "IPython", "zmq"} & set(sys.modules)
print(took, sorted(heavy), threading.active_count(), len(os.listdir("/proc/self/fd")) - before)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True).split(" ", 1)

    assert float(said[0]) < 0.05
    assert said[1] == "[] 1 0\n"


def test_hint_for_time_namespaces_does_not_send_to_the_private_kernel():
    """It has none: User-Mode Linux is built without them."""
    _, hint = host.FEATURES["timens"]

    assert "Cloud Native Lab" not in hint
