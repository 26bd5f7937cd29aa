import os
import signal
import subprocess
import sys

from cnlab.clock import wait_until
from cnlab.containers.network.last_will import LastWill

DIE = """
import os, signal, sys
from cnlab.containers.network.last_will import LastWill
with LastWill(f"echo executed >{sys.argv[1]}"):
    os.kill(os.getpid() if sys.argv[2] == "process" else 0, signal.SIGKILL)
"""


def test_will_is_executed_when_its_process_is_killed(tmp_path):
    """Nobody else is left who could."""
    note = tmp_path / "note"
    subprocess.run([sys.executable, "-c", DIE, note, "process"])

    assert wait_until(lambda: note.exists() and note.read_text(), timeout_s=60) == "executed\n"


def test_will_is_executed_when_the_process_group_is_killed(tmp_path):
    """So Jupyter ends a kernel; the shell that waits must not be of the group."""
    note = tmp_path / "note"
    subprocess.run([sys.executable, "-c", DIE, note, "group"], start_new_session=True)

    assert wait_until(lambda: note.exists() and note.read_text(), timeout_s=60) == "executed\n"


def test_will_is_revoked_at_the_end_of_the_block(tmp_path):
    """Who lives cleans up himself, and the shell is gone."""
    note = tmp_path / "note"
    with LastWill(f"echo executed >{note}") as will:
        shell = will._shell.pid

    assert not note.exists()
    assert not os.path.exists(f"/proc/{shell}")


def test_signal_zero_finds_the_shell_alive(tmp_path):
    """Not that the tests above pass because it never ran."""
    with LastWill("true") as will:
        will._shell.send_signal(signal.SIGCONT)

        assert will._shell.poll() is None
