"""The command `cnlab` as a person at a terminal meets it."""

import json
import os
import pty
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cnlab import cli

COMMAND = Path(sysconfig.get_path("scripts"), "cnlab")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command with its output piped."""
    env = {**os.environ, **environment}
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=env, check=False)


def run_on_terminal(*arguments: str, **environment: str) -> str:
    """Run the installed command with its output on a terminal, and return that output."""
    terminal, child_side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **environment}
    with subprocess.Popen([COMMAND, *arguments], stdout=child_side, env=env):
        os.close(child_side)
        shown = b""
        try:
            while chunk := os.read(terminal, 65536):
                shown += chunk
        except OSError:  # EIO: the last process that had the terminal open has ended
            pass
    os.close(terminal)
    return shown.decode()


def test_doctor_exits_with_1_when_what_the_notebooks_need_is_missing(tmp_path):
    """Scripts and the classroom's set-up look at the exit code, people at the table."""
    machine = tmp_path / "sitecustomize.py"
    machine.write_text("import cnlab.host as host\nhost.find_program = lambda name: None\n")

    answer = run("doctor", PYTHONPATH=str(tmp_path))

    assert (1, True) == (answer.returncode, "NO" in answer.stdout)
    assert "make lab" in answer.stdout


def test_doctor_piped_is_plain():
    """Escape sequences in a file or a bug report help nobody."""
    assert "\033" not in run("doctor").stdout


def test_doctor_on_a_terminal_has_colours():
    """A red NO is found at a glance."""
    assert "\033[32myes" in run_on_terminal("doctor", NO_COLOR="")


def test_doctor_respects_no_color():
    """The convention that NO_COLOR, when not empty, turns colours off wherever they come from."""
    assert "\033" not in run_on_terminal("doctor", NO_COLOR="1")


def test_doctor_as_json_says_what_the_exit_code_says():
    """One truth for people and programs."""
    answer = run("doctor", "--json")

    assert json.loads(answer.stdout)["is_ready"] == (answer.returncode == 0)


def test_unknown_option_is_refused_in_one_line():
    """A typing mistake must not be taken for JupyterLab's argument."""
    answer = run("doctor", "--jsn")

    assert 2 == answer.returncode
    assert "cnlab: error: unrecognized arguments: --jsn" == answer.stderr.splitlines()[-1]


def test_lab_passes_further_arguments_on(monkeypatch):
    """`make lab LAB_ARGS="--no-browser"` works on machines without a screen."""
    started = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: started.append((argv, env["PATH"])))
    monkeypatch.setattr(cli, "CHECKOUT", Path("/course"))
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/usr/bin")
    cli.main(["lab", "--no-browser", "--port", "8890"])

    command = [
        *(sys.executable, "-m", "jupyterlab", "--ServerApp.root_dir=/course"),
        *("--LabApp.default_url=/lab/tree/notebooks/00-welcome.ipynb", "--LabApp.extension_manager=readonly"),
        *("--no-browser", "--port", "8890"),
    ]
    assert [(command, f"{Path(sys.executable).parent}:/usr/bin")] == started


def test_lab_keeps_what_jupyter_writes_inside_the_checkout(monkeypatch):
    """Removing the folder removes the course; who has a configuration of their own names it."""
    monkeypatch.delenv("JUPYTER_CONFIG_DIR", raising=False)
    monkeypatch.setenv("JUPYTER_DATA_DIR", "/mine")
    environments = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: environments.append(env))
    cli.main(["lab"])

    assert [(f"{sys.prefix}/var/jupyter/config", "/mine")] == [
        (env["JUPYTER_CONFIG_DIR"], env["JUPYTER_DATA_DIR"]) for env in environments
    ]


def test_lab_outside_a_checkout_says_so(monkeypatch, tmp_path, capsys):
    """Installed as a wheel, the package has no notebooks with it."""
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path)

    assert 1 == cli.main(["lab"])
    assert "run it from a checkout" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["matplotlib", "jupyter_client", "cnlab.doctor"])
def test_command_imports_nothing_heavy_before_it_must(module):
    """`cnlab` answers at once; what a sub-command needs is imported by that sub-command."""
    code = f"import sys, cnlab.cli; sys.exit({module!r} in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
