"""A notebook on the private kernel, as JupyterLab, nbclient, papermill and nbgrader use it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from notebook import Notebook

from cnlab.clock import wait_until

pytestmark = [pytest.mark.needs_uml, pytest.mark.as_student]


def test_student_is_root_in_a_linux_of_their_own() -> None:
    """An unprivileged user gets what no pod gives: root, cgroup v2 with controllers, an own host name."""
    with Notebook() as notebook:
        cell = notebook.run(
            "import os; print(os.getuid(), os.uname().nodename, open('/proc/self/cgroup').read().strip());"
            "print(open('/sys/fs/cgroup/cgroup.controllers').read())"
        )

    assert cell.text.split() == ["0", "cnlab", "0::/notebook", "cpu", "io", "memory", "pids"]
    assert os.getuid() != 0


def test_the_usual_tools_work() -> None:
    """What a student types first must not end with "Unable to get system boot time"."""
    commands = [["ps", "aux"], ["ps", "-ef"], ["vmstat", "-s"]]
    with Notebook() as notebook:
        cell = notebook.run(
            "import subprocess\n"
            f"[subprocess.run(command, capture_output=True).returncode for command in {commands}]"
        )

    assert cell.text == "[0, 0, 0]"


def test_firewall_tools_mean_the_one_that_this_kernel_has() -> None:
    """There is no nftables inside; people and Docker call ``iptables``, whichever the host means by it."""
    with Notebook() as notebook:
        cell = notebook.run(
            "import subprocess\n"
            "def said(*command): return subprocess.run(command, capture_output=True, text=True).stdout\n"
            "print('legacy' in said('iptables', '--version'), 'MASQUERADE' in said('sh', '-c',"
            "    'iptables -t nat -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE && iptables-save'))"
        )

    assert cell.text.split() == ["True", "True"]


def test_user_namespace_can_have_a_proc_of_its_own() -> None:
    """Rootless containers begin so; the kernel refuses where a part of the only /proc is covered."""
    with Notebook() as notebook:
        cell = notebook.run(
            "from cnlab.linux import namespaces\n"
            "kinds = ('user', 'mnt', 'pid')\n"
            "print(namespaces.run(['cat', '/proc/1/comm'], new=kinds, mount_proc=True, check=True).stdout)"
        )

    assert cell.text.strip() == "cat"


def test_daemons_find_run_at_both_its_names() -> None:
    """Clients of the Docker Engine look for its socket in /var/run."""
    with Notebook() as notebook:
        cell = notebook.run("import os; open('/run/mark', 'w').close(); os.path.exists('/var/run/mark')")

    assert cell.text == "True"


def test_only_the_notebooks_directory_keeps_what_is_written() -> None:
    """Work is kept and belongs to the user; all else, the rest of home too, is thrown away."""
    Path("course").mkdir()
    with Notebook("course") as notebook:
        cell = notebook.run(
            "import sys; from pathlib import Path\n"
            "for place in ('.', '/usr', '/etc', sys.prefix, '..', '/tmp'):\n"
            "    Path(place, 'mark').write_text('x')"
        )

    assert cell.error == ""
    assert Path("course/mark").stat().st_uid == os.getuid()
    assert not Path("mark").exists()
    assert not Path("/tmp/mark").exists()


def test_restart_is_a_new_machine() -> None:
    """Nothing a student breaks survives: files, mounts, cgroups and the interpreter are as new."""
    with Notebook() as notebook:
        notebook.run("import os; os.mkdir('/sys/fs/cgroup/left'); open('/etc/left', 'w'); left = 1")
        boot = notebook.run("print(open('/proc/sys/kernel/random/boot_id').read())").text
        notebook.restart()
        cell = notebook.run(
            "from pathlib import Path; 'left' in globals(),"
            "[path for path in ('/etc/left', '/sys/fs/cgroup/left') if Path(path).exists()]"
        )
        boot_after = notebook.run("print(open('/proc/sys/kernel/random/boot_id').read())").text

    assert cell.text == "(False, [])"
    assert boot != boot_after


@pytest.mark.parametrize(
    "work",
    [
        "open('begun', 'w').close()\nwhile True: pass",
        "import time; open('begun', 'w').close(); time.sleep(600)",
        "import os; os.system('touch begun; sleep 600'); raise KeyboardInterrupt",
    ],
)
def test_interrupt_reaches_a_busy_loop_a_sleep_and_a_child(work: str) -> None:
    def interrupt() -> None:
        wait_until(Path("begun").exists, timeout_s=60, what="the work to begin")
        notebook.manager.interrupt_kernel()

    with Notebook() as notebook, ThreadPoolExecutor(1) as front_end:
        clicked = front_end.submit(interrupt)
        cell = notebook.run(work)  # who is not interrupted is at work when the time for a cell is up
        clicked.result()
        alive = notebook.run("'alive'").text

    assert cell.error.startswith("KeyboardInterrupt")
    assert alive == "'alive'"


def test_input_asks_the_front_end() -> None:
    with Notebook() as notebook:
        cell = notebook.run("print(input('name? ')[::-1])", stdin="unshare")

    assert cell.text.strip() == "erahsnu"


def test_widgets_talk_both_ways() -> None:
    """A slider moved in the browser is a comm message to the kernel; its new value comes back as one."""
    with Notebook() as notebook:
        cell = notebook.run("import ipywidgets; slider = ipywidgets.IntSlider(); slider.comm.comm_id")
        opened = [message for message in cell.messages if message["msg_type"] == "comm_open"]
        notebook.client.shell_channel.send(
            notebook.client.session.msg(
                "comm_msg",
                {"comm_id": cell.text.strip("'"), "data": {"method": "update", "state": {"value": 42}}},
            )
        )
        value = notebook.run("slider.value").text

    assert opened
    assert value == "42"


def test_fifty_megabytes_of_output_arrive_whole() -> None:
    with Notebook() as notebook:
        cell = notebook.run("for _ in range(50): print('x' * 999_999)", timeout_s=60)

    assert len(cell.text) == 50_000_000


def test_a_cell_of_five_megabytes_runs() -> None:
    with Notebook() as notebook:
        cell = notebook.run(f"text = {'y' * 5_000_000!r}; len(text)", timeout_s=60)

    assert cell.text == "5000000"


def test_several_kernels_run_at_once_even_in_one_directory() -> None:
    """Two notebooks of one directory share its files, and nothing else."""
    with Notebook() as one, Notebook() as two:
        one.run("import socket; socket.sethostname('one'); open('shared', 'w').write('from one')")
        cell = two.run("import socket; print(socket.gethostname(), open('shared').read())")

    assert cell.text.strip() == "cnlab from one"


def test_a_path_with_spaces_is_a_path() -> None:
    Path("my course, part 1").mkdir()
    with Notebook("my course, part 1") as notebook:
        notebook.run("open('mark', 'w')")

    assert Path("my course, part 1/mark").exists()
