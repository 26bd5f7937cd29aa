"""How bootstrap.py decides what to do, and that it can unpack a Debian package without root."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import bootstrap
from bootstrap import Environment, Interpreter, SetupError

SYSTEM = Interpreter("/usr/bin/python3.11", (3, 11), has_ensurepip=True, is_public=True)
PRIVATE = Interpreter("/root/own/bin/python3.13", (3, 13), has_ensurepip=True, is_public=False)
OLD = Interpreter("/usr/bin/python3.9", (3, 9), has_ensurepip=True, is_public=True)


def names_of(requirements: list[str]) -> set[str]:
    """Return normalised project names; see the PyPA's specification of names."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", line)[0]).lower() for line in requirements}


def test_python_that_everyone_can_run_is_preferred():
    """An environment on a Python below a 0700 home serves its owner only, not a test that plays a student."""
    assert SYSTEM == bootstrap.choose([PRIVATE, SYSTEM])


def test_private_python_is_better_than_none():
    """On a machine whose own Python is old, the user's newer one will do."""
    assert PRIVATE == bootstrap.choose([OLD, PRIVATE])


def test_old_python_is_refused_with_the_way_out():
    """The message names what was found and the command that helps."""
    with pytest.raises(SetupError, match=r"found 3\.9 \(/usr/bin/python3\.9\).*apt-get install python3"):
        bootstrap.choose([OLD])


def test_program_below_a_closed_home_is_not_public(tmp_path):
    """What counts is every folder on the way, not the file's own bits alone."""
    home = tmp_path / "home"
    program = home / "bin/python3"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    home.chmod(0o700)

    assert not bootstrap.is_public(program)


def test_this_python_describes_itself():
    """The question put to an interpreter is one that real interpreters answer."""
    interpreter = bootstrap.inspect(sys.executable)

    assert interpreter is not None
    assert (os.path.realpath(sys.executable), sys.version_info[:2]) == (interpreter.path, interpreter.version)


def test_program_that_is_no_python_is_passed_over():
    """A broken shim on PATH must not end the set-up."""
    assert bootstrap.inspect("/bin/false") is None


def test_packages_already_there_are_not_installed():
    """The common case on a development machine: nothing to do."""
    assert ["user-mode-linux"] == bootstrap.missing(["iproute2", "user-mode-linux"], ["iproute2"])


def test_program_got_by_other_means_counts_as_its_package():
    """Node from elsewhere brings an npm that conflicts with Debian's."""
    assert [] == bootstrap.missing(["nodejs", "npm"], ["nodejs"], ["npm"])


def test_engine_of_another_make_counts_as_docker(monkeypatch, tmp_path):
    """Docker's own packages would have to go to make room for Debian's."""
    (tmp_path / "dockerd").touch(mode=0o755)
    monkeypatch.setattr(bootstrap, "SYSTEM_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=""))

    assert [] == bootstrap.missing_here(["docker.io"])


@pytest.fixture
def steps(monkeypatch) -> list[tuple[str, list[str]]]:
    """A machine with apt-get and root on which nothing is installed, and what is done to it."""
    done: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name)
    monkeypatch.setattr(bootstrap, "missing_here", list)
    monkeypatch.setattr(bootstrap, "as_root", lambda: [])
    monkeypatch.setattr(bootstrap, "apt_install", lambda names: done.append(("apt", names)))
    monkeypatch.setattr(bootstrap, "unpack_privately", lambda names, root: done.append(("unpack", names)))
    return done


def test_no_daemon_is_started_on_the_machine_of_somebody_with_sudo(steps):
    """Setting up a course must not leave a root service on a laptop."""
    bootstrap.install_programs(Environment(bootstrap.ROOT), ["docker.io", "iproute2"])

    assert [("apt", ["iproute2"]), ("unpack", ["docker.io"])] == steps


def test_who_runs_the_tests_gets_the_engine_installed(steps):
    """They run it on the host, where a program without its libraries beside it does not start."""
    bootstrap.install_programs(Environment(bootstrap.ROOT), ["docker.io", "podman"], daemons=True)

    assert [("apt", ["docker.io", "podman"])] == steps


def test_package_that_would_push_out_another_is_unpacked_for_us_alone(monkeypatch, steps):
    """`busybox-static` and `busybox` exclude each other, and the system may need the second."""

    def refuse(names: list[str]) -> None:
        raise SetupError("cannot install it: E: Packages need to be removed but remove is disabled.")

    monkeypatch.setattr(bootstrap, "apt_install", refuse)
    bootstrap.install_programs(Environment(bootstrap.ROOT), ["busybox-static"])

    assert [("unpack", ["busybox-static"])] == steps


def test_without_root_everything_is_unpacked(monkeypatch, steps):
    """A student's account is enough."""
    monkeypatch.setattr(bootstrap, "as_root", lambda: None)
    bootstrap.install_programs(Environment(bootstrap.ROOT), ["docker.io", "iproute2"])

    assert [("unpack", ["docker.io", "iproute2"])] == steps


def test_simulation_tells_what_to_download():
    """Dependencies come along, upgrades too; `Conf` lines and apt's prose do not."""
    simulation = (
        "NOTE: This is only a simulation!\n"
        "Inst libelf1 [0.187-1] (0.188-2.1 Debian:12.1/stable [amd64])\n"
        "Inst iproute2 (6.1.0-3 Debian:12/stable [amd64]) []\n"
        "Conf iproute2 (6.1.0-3 Debian:12/stable [amd64])\n"
    )

    assert ["libelf1", "iproute2"] == bootstrap.to_unpack(simulation)


def test_apt_list_may_hold_comments():
    """repo2docker reads the same file and skips them too."""
    assert ["iproute2", "procps"] == bootstrap.package_names("# why\niproute2  # ip\n\nprocps\n")


def test_step_done_for_the_same_inputs_is_not_done_again(tmp_path):
    """This is what makes a second `make lab` instant."""
    env = Environment(tmp_path)
    done = []
    for key in ("a", "a", "b"):
        env.once("step", key, lambda key=key: done.append(key))

    assert ["a", "b"] == done


def test_step_that_failed_is_done_again(tmp_path):
    """Switched off half-way, the set-up goes on where it stopped."""
    env = Environment(tmp_path)
    with pytest.raises(ZeroDivisionError):
        env.once("step", "a", lambda: 1 // 0)

    assert env.once("step", "a", lambda: None)


def test_fingerprint_changes_with_a_file_in_a_folder(tmp_path):
    """A changed kernelspec must be installed anew."""
    (tmp_path / "kernel.json").write_text("{}")
    before = bootstrap.fingerprint(tmp_path)
    (tmp_path / "kernel.json").write_text('{"argv": []}')

    assert bootstrap.fingerprint(tmp_path) != before


def test_failed_command_is_reported_by_the_line_that_tells_most():
    """pip and apt write pages; a person reads one line."""
    script = "echo Reading lists; echo 'E: Unable to locate package nonesuch'; echo Done; exit 100"
    with pytest.raises(SetupError, match=r"^cannot install: E: Unable to locate package nonesuch$"):
        bootstrap.run(["sh", "-c", script], "cannot install")


def test_child_processes_may_write_bytecode(monkeypatch):
    """Modules left uncompiled would be compiled in every private kernel again, slowly."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in bootstrap.environment()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb, which this machine lacks")
def test_package_with_files_outside_usr_lands_in_usr(tmp_path):
    """Older packages still hold /bin and /sbin; the private kernel lays one /usr over another."""
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    fields = (
        "Package: small",
        "Version: 1",
        "Architecture: all",
        "Maintainer: a <a@example.org>",
        "Description: b",
    )
    (content / "DEBIAN/control").write_text("\n".join(fields) + "\n")
    for name in ("sbin/small", "usr/bin/tiny"):
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).touch()
    deb = tmp_path / "small.deb"
    subprocess.run(["dpkg-deb", "--build", content, deb], check=True, capture_output=True)
    bootstrap.unpack(deb, tmp_path / "apt")

    assert (tmp_path / "apt/sbin").is_symlink()
    found = {
        str(path.relative_to(tmp_path / "apt"))
        for path in (tmp_path / "apt/usr").rglob("*")
        if path.is_file()
    }
    assert {"usr/sbin/small", "usr/bin/tiny"} == found


def test_two_runs_at_once_take_turns(monkeypatch, tmp_path):
    """`make lab` in two terminals must not fill one environment twice at the same time."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])

    def set_up(env: Environment, *, hub: bool, tests: bool) -> None:
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)

    monkeypatch.setattr(bootstrap, "set_up", set_up)

    assert 0 == bootstrap.main()


@pytest.mark.parametrize(("answer", "words"), [(0, ["sudo", "-n"]), (1, None)])
def test_sudo_counts_when_it_asks_no_password(monkeypatch, tmp_path, answer, words):
    """A set-up that stops for a password in the middle is worse than one that does without root."""
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\nexit {answer}\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert words == bootstrap.as_root()


def test_without_npm_tests_are_set_up_but_for_the_browser(monkeypatch, tmp_path, capsys):
    """Only root can install it; all else can still be tested."""
    for step in ("install_python_packages", "warm_up", "install_programs", "install_kernel"):
        monkeypatch.setattr(bootstrap, step, lambda *_, **__: None)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    bootstrap.set_up(Environment(tmp_path), hub=False, tests=True)

    assert "no npm, which only root can install" in capsys.readouterr().out


def test_machine_without_apt_is_told_what_to_install(monkeypatch, capsys):
    """Other distributions work too; only their package manager is not ours to drive."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    bootstrap.install_programs(Environment(bootstrap.ROOT), ["user-mode-linux", "iproute2"])

    assert "no apt-get" in capsys.readouterr().out


def test_system_without_user_mode_linux_takes_debians(monkeypatch, tmp_path):
    """Ubuntu, the base of Binder's images, does not build the package."""

    def install(env: Environment, names: list[str]) -> None:
        raise SetupError(f"cannot resolve {names[0]}: E: Unable to locate package {names[0]}")

    taken = []
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap, "install_programs", install)
    monkeypatch.setattr(bootstrap, "unpack_from_debian", lambda name, root: taken.append((name, root)))
    bootstrap.install_kernel(Environment(tmp_path))

    assert [("user-mode-linux", tmp_path / "apt")] == taken


def test_failure_for_another_reason_is_not_taken_for_a_missing_package(monkeypatch, tmp_path):
    """Offline, a second attempt elsewhere would only hide the first one's message."""

    def install(env: Environment, names: list[str]) -> None:
        raise SetupError("cannot fetch apt's package lists: E: Temporary failure resolving")

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(bootstrap, "install_programs", install)

    with pytest.raises(SetupError, match="Temporary failure"):
        bootstrap.install_kernel(Environment(tmp_path))


def test_debootstrap_says_where_debian_is():
    """It is asked so that no address of an archive need be written down, and grow old, here."""
    script = '#!/bin/sh\nVERSION=1\nDEF_MIRROR="http://debian.example/debian"\nDEF_HTTPS_MIRROR="https://x"\n'

    assert "http://debian.example/debian" == bootstrap.debian_mirror(script)


def test_every_dependency_is_locked():
    """A dependency that is not in the lock would come in whatever version is newest that day."""
    project = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]

    assert set() == names_of(wanted) - names_of(bootstrap.locked())


def test_lock_holds_names_and_exact_versions_only():
    """Where packages come from is for each machine's own configuration to say."""
    assert [] == [line for line in bootstrap.locked() if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]


def test_installed_versions_are_the_locked_ones():
    """Otherwise the tests would prove another environment than the one a student gets."""
    freeze = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True
    ).stdout
    installed = set(freeze.lower().replace("_", "-").split())

    assert set() == {pin for pin in bootstrap.locked() if pin.lower().replace("_", "-") not in installed}
