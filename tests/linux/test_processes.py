import os
import subprocess
from pathlib import Path

import pytest

from cnlab.linux.namespaces import spawn
from cnlab.linux.processes import parse_stat, parse_status, processes, read_process

from .conftest import OWN

STAT = "42 (a) b (c) R 1 42 42 0 -1 4194560 79 0 0 0 0 0 0 0 20 0 1 0 123456 2998272 383"


def test_name_may_contain_blanks_and_parentheses():
    """Anybody may call a program `a) b (c`; counting columns from the left breaks on it."""
    name, fields = parse_stat(STAT)

    assert name == "a) b (c"
    assert fields[:2] == ["R", "1"]
    assert fields[19] == "123456"


def test_status_is_read_by_key():
    """Lines come and go with kernel versions, keys do not change."""
    text = "Name:\tsleep\nPid:\t42\nNSpid:\t42\t1\n"

    assert parse_status(text) == {"Name": "sleep", "Pid": "42", "NSpid": "42\t1"}


def test_own_process_is_as_we_know_it():
    """`self` is a process like any other."""
    process = read_process()

    assert (process.pid, process.ppid) == (os.getpid(), os.getppid())
    assert (process.uid, process.gid) == (os.geteuid(), os.getegid())
    assert process.state == "R"
    assert process.rss_bytes > 1_000_000
    assert 0 < process.start_time_s <= float(Path("/proc/uptime").read_text().split()[0])


@pytest.mark.needs_programs("ps")
def test_ps_sees_the_same_process():
    """procps decides."""
    with spawn(["sleep", "60"]) as child:
        columns = ["ps", "-o", "pid=,ppid=,stat=,uid=,comm=", "-p", str(child.pid)]
        pid, ppid, state, uid, name = subprocess.check_output(columns, text=True).split()
        ours = read_process(child.pid)

    assert (ours.pid, ours.ppid, ours.uid, ours.name) == (int(pid), int(ppid), int(uid), name)
    assert ours.state == state[0]


@pytest.mark.needs_mntns
def test_process_has_a_number_in_each_pid_namespace_it_is_seen_from():
    """NSpid: ours first, its own last."""
    with spawn(["sleep", "60"], new=(*OWN, "pid")) as child:
        assert read_process(child.pid).nspids[-1] == 1


def test_process_that_is_gone_is_told_in_one_line(gone):
    """FileNotFoundError would talk of a file that nobody asked for."""
    with pytest.raises(ProcessLookupError) as caught:
        read_process(gone)

    assert caught.value.strerror == f"read(/proc/{gone}/stat): no process {gone}; it may have ended"


def test_all_processes_are_listed_by_number():
    """We are one of them."""
    pids = [process.pid for process in processes()]

    assert pids == sorted(pids)
    assert os.getpid() in pids


def test_processes_that_end_while_we_look_are_left_out(monkeypatch):
    """Between the listing and the reading anything may happen."""
    monkeypatch.setattr(os, "listdir", lambda _: [str(os.getpid()), "999999999", "cpuinfo"])

    assert [process.pid for process in processes()] == [os.getpid()]


def test_process_can_be_a_key():
    """Widgets keep state by process."""
    process = read_process()

    assert {process: "here"}[process] == "here"


def test_command_line_that_is_no_text_can_still_be_printed():
    """Anybody may pass any bytes; a notebook's output must be UTF-8."""
    with spawn(["sh", "-c", "sleep 60; :", os.fsdecode(b"\xff")]) as child:
        cmdline = read_process(child.pid).cmdline

    assert cmdline[-1].encode() == "\ufffd".encode()
