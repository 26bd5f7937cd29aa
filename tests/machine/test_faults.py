"""What students do to a machine, and what happens to it: one clear message, nothing lost, nothing left."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest
from leftovers import own_files
from notebook import Notebook
from student import Student

from cnlab.clock import wait_until

pytestmark = [pytest.mark.needs_uml]

RUN_ALONE = (
    "import subprocess, sys; subprocess.run([sys.executable, '-IS', '-c', {program!r}], capture_output=True)"
)


@pytest.mark.as_student
def test_kill_9_1_does_nothing_because_init_has_no_handler_for_it() -> None:
    """The kernel keeps the signal from the init of its own pid namespace; the notebook goes on."""
    with Notebook() as notebook:
        cell = notebook.run("import os\nfor number in (9, 15, 2, 1): os.kill(1, number)\n'alive'")

    assert cell.text == "'alive'"


@pytest.mark.as_student
def test_guest_reads_more_files_than_a_shell_may_have_open() -> None:
    """The host's file stays open for each: a long notebook found its libraries unreadable."""
    read = """
import itertools, pathlib, sys
files = [*itertools.islice(pathlib.Path(sys.prefix).rglob("*.py"), 1500)]
len([file.open("rb").read(1) for file in files])
"""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, allowed[1]))
    try:
        with Notebook() as notebook:
            cell = notebook.run(read)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)

    assert cell.text == "1500"


@pytest.mark.as_student
def test_a_fork_bomb_ends_in_eagain_and_the_notebook_goes_on() -> None:
    """pids.max of the notebook's cgroup stops it; what it made is gone with `kill`."""
    bomb = """
import os, signal
children = []
try:
    while len(children) < 2000:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except OSError as error:
    print(type(error).__name__, len(children) < 250)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
    with Notebook() as notebook:
        cell = notebook.run(f"{RUN_ALONE.format(program=bomb)}.stdout", timeout_s=90)
        alive = notebook.run("'alive'").text

    assert cell.text == repr(b"BlockingIOError True\n")
    assert alive == "'alive'"


@pytest.mark.as_student
def test_a_child_that_takes_all_memory_is_killed_and_the_notebook_goes_on() -> None:
    hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    with Notebook(memory_mib=160) as notebook:
        cell = notebook.run(f"{RUN_ALONE.format(program=hog)}.returncode", timeout_s=60)
        alive = notebook.run("'alive'").text

    assert cell.text == "-9"
    assert alive == "'alive'"


@pytest.mark.as_student
def test_a_notebook_that_takes_all_memory_is_named_and_restarts(capfd: pytest.CaptureFixture[str]) -> None:
    """The kernel dies, the server's log says of what, and a restart is a new machine."""
    with Notebook(memory_mib=160) as notebook:
        notebook.client.execute("x = []\nwhile True: x.append(bytearray(1 << 20))")
        wait_until(lambda: not notebook.manager.is_alive(), timeout_s=60, what="the kernel to die")
        notebook.restart()
        alive = notebook.run("'alive'").text

    assert "its private kernel ran out of memory" in capfd.readouterr().err
    assert alive == "'alive'"


@pytest.mark.as_student
def test_a_read_only_directory_is_an_error_of_the_write_alone() -> None:
    Path("handout").mkdir()
    Path("handout/data").write_text("given")
    Path("handout").chmod(0o555)
    with Notebook("handout") as notebook:
        read = notebook.run("open('data').read()").text
        cell = notebook.run("open('answer', 'w')")

    assert read == "'given'"
    assert cell.error.startswith("PermissionError: [Errno 13] Permission denied: 'answer'")


@pytest.mark.needs_root
def test_a_full_disk_is_an_error_of_the_write_that_met_it(student: Student) -> None:
    """The guest's page cache must not swallow it: a student who saw no error would lose the work."""
    small = student.home / "small"
    small.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=64k,mode=755,uid={student.uid}", "small", small], check=True
    )
    try:
        done = student.run(
            [
                student.python,
                "-c",
                "from notebook import Notebook\n"
                "with Notebook('small') as notebook:\n"
                '    print(notebook.run(\'open("big", "wb").write(bytes(1 << 20))\').error)\n'
                "    print(notebook.run('1 + 1').text)\n",
            ],
            env={"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
        )
    finally:
        subprocess.run(["umount", small], check=True)

    assert done.stdout.splitlines() == ["OSError: [Errno 28] No space left on device", "2"]


@pytest.mark.as_student
def test_guest_root_cannot_reach_what_the_user_can() -> None:
    """hostfs can be mounted again by guest root; Landlock around User-Mode Linux is what stops it."""
    Path("private").mkdir()
    Path("private/key").write_text("secret")
    Path("course").mkdir()
    attack = f"""
import os
from cnlab.linux import syscalls
os.mkdir('/mnt/host')
syscalls.mount('none', '/mnt/host', 'hostfs', data={os.getcwd()!r})
for action in (lambda: open('/mnt/host/private/key').read(), lambda: os.listdir('/mnt/host'),
               lambda: open('/mnt/host/planted', 'w'), lambda: os.mkdir('/mnt/host/dir')):
    try:
        print('reached', action())
    except PermissionError as error:
        print('refused')
"""
    with Notebook("course") as notebook:
        cell = notebook.run(attack)

    assert cell.error == ""
    assert cell.text.split() == ["refused"] * 4
    assert sorted(path.name for path in Path().iterdir() if not path.name.startswith(".")) == [
        "course",
        "private",
        "tmp",
    ]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.as_student
@pytest.mark.parametrize("victim", ["launcher", "guard", "linux.uml", "process 1", "the notebook's process"])
def test_killing_any_process_of_a_machine_ends_the_machine(victim: str) -> None:
    """`kill -9` from outside, by an out-of-memory killer for one: no process and no file stay."""
    before = own_files()
    notebook = Notebook()
    notebook.__enter__()
    launcher = notebook.launcher_pid
    uml, guard = _children(launcher)
    guests = _children(uml)  # the guest's processes, as the host has them
    machine = [launcher, uml, guard, *guests]
    victims = {"launcher": launcher, "guard": guard, "linux.uml": uml, "process 1": guests[0]}
    os.kill(victims.get(victim, guests[-1]), 9)
    notebook.client.execute("1 + 1")  # the guest notices a missing process when it wants to run it

    def gone() -> bool:
        notebook.manager.is_alive()  # reaps the launcher, as the server's poll does
        return not any(Path(f"/proc/{pid}/exe").is_symlink() and _runs(pid) for pid in machine)

    wait_until(gone, timeout_s=60, what="the machine to end")
    notebook.client.stop_channels()
    notebook.manager.shutdown_kernel(now=True)

    assert own_files() == before


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_killing_the_server_ends_its_machines(student: Student) -> None:
    """Also the spare that nobody uses yet."""
    server = student.popen(
        [
            student.python,
            "-c",
            "import time\nfrom notebook import Notebook\n"
            "from cnlab.machine.provisioner import SpareMachines\n"
            "with Notebook() as notebook:\n"
            "    spares = SpareMachines.instance()\n    spares.limit = 1\n    spares.refill(('/tmp', 512))\n"
            "    print('up', flush=True)\n    time.sleep(600)\n",
        ],
        env={"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout.readline() == "up\n"
    assert len(student.processes()) > 5
    server.kill()
    server.wait()
    server.stdout.close()

    wait_until(lambda: not student.processes(), timeout_s=60, what="the machines to end")
    assert list(student.home.glob("tmp/*")) == []
