"""What a process says is kept, in order and to the last word."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
from pathlib import Path

from cnlab.containers.container.output import Output


def test_streams_are_kept_apart_and_together():
    """`docker logs` shows both; a pipeline wants one."""
    output = Output()
    with output.given() as ends:
        _, stdout, stderr = ends["stdio"]
        script = "echo one; echo two >&2; echo three"
        subprocess.run(["sh", "-c", script], stdout=stdout, stderr=stderr, check=True)
    output.begin()
    output.close()

    assert output.read(stderr=False) == b"one\nthree\n"
    assert output.read(stdout=False) == b"two\n"
    assert sorted(output.read().split()) == [b"one", b"three", b"two"]


def test_more_than_a_pipe_holds_arrives_whole():
    """The process must not wait for somebody to ask for its logs."""
    output = Output()
    with output.given() as ends:
        writer = subprocess.Popen(["head", "-c", "1000000", "/dev/zero"], stdout=ends["stdio"][1])
    output.begin()
    assert writer.wait(timeout=60) == 0
    output.close()

    assert len(output.read()) == 1_000_000


def test_follower_gets_what_was_said_and_what_comes():
    """And stops at the end."""
    output = Output()
    with output.given() as ends:
        writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=ends["stdio"][1])
    output.begin()
    assert writer.stdin is not None
    followed: list[bytes] = []
    follower = threading.Thread(target=lambda: followed.extend(output.follow()))
    follower.start()
    writer.stdin.write(b"hello")
    writer.stdin.close()
    writer.wait()
    follower.join(timeout=60)

    assert b"".join(followed) == b"hello"


def test_terminal_is_received_read_and_resized(tmp_path: Path):
    """A runtime sends the terminal's other end through the console socket; its end of file is EIO."""
    output = Output(tmp_path / "console")
    ours, theirs = pty.openpty()
    with output.given() as ends, socket.socket(socket.AF_UNIX) as sender:
        sender.connect(ends["console_socket"])
        socket.send_fds(sender, [b"ptmx"], [ours])
        os.close(ours)
    output.begin()
    output.resize(33, 99)
    size = os.get_terminal_size(theirs)
    os.write(theirs, b"hello\n")
    os.close(theirs)
    output.close()

    assert (size.lines, size.columns) == (33, 99)
    assert output.read() == b"hello\r\n"


def test_process_that_could_not_be_made_leaves_nothing_open():
    """A notebook makes many, and some with a typing error."""
    before = os.listdir("/proc/self/fd")
    try:
        with Output().given():
            raise FileNotFoundError("no such program")
    except FileNotFoundError:
        pass

    assert os.listdir("/proc/self/fd") == before
