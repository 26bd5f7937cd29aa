"""Terminals: made in the container, handed to whoever waits at the console socket, or joined to ours."""

import array
import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios

import pytest

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.containers.runtime.errors import InvalidConfig

pytestmark = pytest.mark.needs_root


class Holder:
    """Waits at a console socket, as a container manager does, and holds the terminal that comes."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self.terminal = -1
        self.said = b""

    def receive(self):
        connection, _ = self._socket.accept()
        with connection:
            name, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        self.terminal = array.array("i", ancillary[0][2])[0]
        return name.decode()

    def read(self):
        """Return all that is shown until nobody has the other end any more."""
        while True:
            try:
                self.said += os.read(self.terminal, 4096)
            except OSError:
                return self.said.decode().replace("\r\n", "\n")

    def close(self):
        self._socket.close()
        if self.terminal >= 0:
            os.close(self.terminal)


@pytest.fixture
def holder(tmp_path):
    holder = Holder(tmp_path / "console.sock")
    yield holder
    holder.close()


def test_terminal_comes_to_the_console_socket(box, holder):
    """The container's manager holds it, long after the runtime has ended."""
    box.process["terminal"] = True
    box.create("sh", "-c", "tty; echo typed $(head -n 1)", console_socket=holder.path)
    name = holder.receive()
    box.start()
    os.write(holder.terminal, b"hello\n")

    assert ("/dev/pts/0", "hello\n/dev/pts/0\ntyped hello\n") == (
        name,
        "\n".join(sorted(holder.read().splitlines(), key="hello /dev/pts/0 typed hello".index)) + "\n",
    )


def test_terminal_is_the_containers_console(box, holder):
    """“/dev/console is set up if terminal is enabled in the config by bind mounting the pseudoterminal.”"""
    box.process["terminal"] = True
    box.create("stat", "-c", "%t:%T", "/dev/console", "/dev/pts/0", console_socket=holder.path)
    holder.receive()
    box.start()

    assert "88:0\n88:0\n" == holder.read()


def test_terminal_has_the_size_that_is_asked_for(box, holder):
    """“consoleSize specifies the console size in characters of the terminal.”"""
    box.process.update({"terminal": True, "consoleSize": {"height": 33, "width": 77}})
    box.create("stty", "size", console_socket=holder.path)
    holder.receive()
    box.start()

    assert "33 77\n" == holder.read()


def test_terminal_is_the_controlling_one(box, holder):
    """Only so does control-C reach the program."""
    box.process["terminal"] = True
    box.create(
        "sh",
        "-c",
        "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.01; done",
        console_socket=holder.path,
    )
    holder.receive()
    box.start()
    wait_until(lambda: b"ready" in holder.said or more(holder), timeout_s=60, what="the trap")
    os.write(holder.terminal, b"\x03")

    assert (4, True) == (box.wait(), "interrupted" in holder.read())


def more(holder):
    """Read a little; nothing is said yet."""
    if select.select([holder.terminal], [], [], 0.1)[0]:
        holder.said += os.read(holder.terminal, 4096)
    return b"ready" in holder.said


def test_terminal_belongs_to_the_user(box, holder):
    """Or the user could not open it again."""
    box.process.update({"terminal": True, "user": {"uid": 1000, "gid": 1000}})
    box.create("sh", "-c", "stat -c %u $(tty); echo again > /dev/tty", console_socket=holder.path)
    holder.receive()
    box.start()

    assert "1000\nagain\n" == holder.read()


def test_terminal_without_a_console_socket_is_refused(box):
    """Nobody would hold it."""
    box.process["terminal"] = True

    with pytest.raises(InvalidConfig, match="needs a console socket"):
        box.create()

    assert box.is_gone()


def test_console_socket_without_a_terminal_is_refused(box, holder):
    """Somebody would wait for ever."""
    with pytest.raises(InvalidConfig, match="nothing comes to the console socket"):
        box.create(console_socket=holder.path)


def test_console_socket_that_nobody_listens_at_is_an_error(box, tmp_path):
    """With the path in it."""
    box.process["terminal"] = True

    with pytest.raises(FileNotFoundError, match="connect"):
        box.create(console_socket=str(tmp_path / "nobody"))

    assert box.is_gone()


def test_exec_has_a_terminal_of_its_own(box, holder):
    """As for docker exec -it."""
    box.create("sleep", "100")
    box.start()
    process = {"args": ["tty"], "terminal": True}
    with runtime.exec(box.id, process, console_socket=holder.path, root=box.root) as started:
        holder.receive()

        assert ("/dev/pts/0\n", 0) == (holder.read(), started.wait(timeout_s=60))


def in_terminal(box, *arguments, typed=b""):
    """Run the command in a terminal of ours, and return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 12, 34, 0, 0))
    before = termios.tcgetattr(theirs)
    command = [runtime.command(), "--root", box.root, *arguments]
    with subprocess.Popen(command, cwd=box.bundle, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.write(ours, typed)
        code = process.wait(timeout=60)
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        os.close(ours)
    assert before == after, "expected the settings of our terminal to be given back"
    return code, shown.decode().replace("\r\n", "\n")


def test_run_in_the_foreground_joins_the_terminals(box):
    """Its size is ours, and ours is as before when it ends."""
    box.process.update({"terminal": True, "args": ["sh", "-c", "stty size; tty; exit 5"]})
    box.write()

    assert (5, "12 34\n/dev/pts/0\n") == in_terminal(box, "run", box.id)


def test_run_in_the_foreground_hands_on_what_is_typed(box):
    """Once: the container's terminal echoes, ours does not."""
    box.process.update({"terminal": True, "args": ["sh", "-c", "read line; echo read $line"]})
    box.write()
    code, shown = in_terminal(box, "run", box.id, typed=b"hello\n")

    assert (0, "read hello") == (code, shown.splitlines()[-1])


def test_exec_in_the_foreground_joins_the_terminals(box):
    """``cnlab-runtime exec -t``."""
    box.create("sleep", "100")
    box.start()

    assert (0, "12 34\n") == in_terminal(box, "exec", "--tty", box.id, "stty", "size")
