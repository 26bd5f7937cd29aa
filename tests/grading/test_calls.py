"""A function is called where it can do no harm, and what goes wrong is said in words."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.grading import notebook
from cnlab.grading.calls import calling, exit_status, find_process, running
from cnlab.linux import syscalls
from cnlab.linux.nsfs import namespaces_of


def add(one, two):
    """Add."""
    return one + two


def test_result_is_what_the_function_returns():
    """Plain data goes in and comes out."""
    with calling(add, [1, {"a": b"x"}], [None]) as call:
        assert call.result() == [1, {"a": b"x"}, None]


def test_path_comes_back_as_text():
    """Students return a Path where the text of one is asked for; both are right."""
    with calling(Path, "/sys/fs") as call:
        assert call.result(str) == "/sys/fs"


def test_function_runs_elsewhere_and_its_process_stays_for_inspection():
    """What it does to its own process does not happen to the caller."""
    with calling(os.chdir, "/") as call:
        call.result()

        assert os.readlink(f"/proc/{call.pid}/cwd") == "/"
        assert call.pid != os.getpid()
    assert not Path(f"/proc/{call.pid}").exists()


def test_exception_becomes_a_failure_with_the_line_it_came_from():
    """A student's mistake is told in the form of every failed check, not as a crash of the check."""

    def read_a_file():
        return open("/no/such/file").read()

    with calling(read_a_file) as call, pytest.raises(AssertionError) as caught:
        call.result()

    assert str(caught.value).startswith("expected read_a_file() to return, got FileNotFoundError: ")
    assert "look at the line it came from" in str(caught.value)
    assert 'return open("/no/such/file").read()' in str(caught.value)


def test_value_of_another_type_is_a_failure():
    """Who forgets to return something reads that, and not a TypeError from inside of the check."""
    with (
        calling(add, 1, 2) as call,
        pytest.raises(AssertionError, match=r"expected add\(1, 2\) to return dict, got 3; look"),
    ):
        call.result(dict)


def test_value_that_is_no_plain_data_is_a_failure():
    """Objects stay in the process that made them."""
    with (
        calling(object) as call,
        pytest.raises(AssertionError, match=r"expected object\(\) to return plain data .* got <object"),
    ):
        call.result()


def test_function_that_never_returns_fails_by_a_deadline():
    """A loop without an end costs one check, and not the rest of the notebook."""
    with (
        calling(time.sleep, 600) as call,
        pytest.raises(
            AssertionError, match=r"expected sleep\(600\) to return within 0\.2 s, got nothing; look"
        ),
    ):
        call.result(timeout_s=0.2)


def test_function_that_ends_its_process_is_a_failure():
    """os._exit and execve in the wrong branch of a fork are what beginners do."""
    with (
        calling(os._exit, 3) as call,
        pytest.raises(AssertionError, match=r"got a process that ended with exit status 3; look at fork"),
    ):
        call.result()


def test_second_process_that_comes_back_is_ended():
    """After a fork without an exec there are two; only the first one answers."""
    with calling(os.fork) as call:
        child = call.result(int)

        assert child > 0
        assert exit_status(child) == 70


def test_what_the_function_prints_is_kept_from_the_notebook(capfd):
    """nbgrader takes anything on stderr for a failure, and a warning is none."""
    with calling(os.system, "echo out; echo err >&2") as call:
        call.result()

        assert call.output.split() == ["out", "err"]
    assert capfd.readouterr() == ("", "")


def leave_a_daemon():
    """Start a process that leaves its parent and its session."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.execvp("sleep", ["sleep", "7001"])
        os._exit(0)


def test_leaving_the_block_ends_what_the_function_started():
    """Also what has changed its session and its parent."""
    with calling(leave_a_daemon) as call:
        call.result()
        find_process("sleep", "7001")

    wait_until(lambda: not running("sleep", "7001"), timeout_s=20, what="the daemon to end")


def test_process_that_is_not_there_is_a_failure():
    """A check that waits for a command says which."""
    with pytest.raises(
        AssertionError, match=r"expected a process that runs `sleep 7002`, got none .* look at"
    ):
        find_process("sleep", "7002", timeout_s=0.1)


def fail_in_a_child():
    """Fork a child that cannot become its command."""
    if os.fork() == 0:
        os.execvp("/no/such/command", ["sleep", "7003"])


def test_process_that_a_call_did_not_start_comes_with_what_was_printed():
    """The reason is what the child said before it died."""
    with calling(fail_in_a_child) as call:
        call.result()
        wait_until(lambda: "FileNotFoundError" in call.output, timeout_s=20)
        with pytest.raises(AssertionError) as caught:
            call.find_process("sleep", "7003", timeout_s=0)

    assert "expected a process that runs `sleep 7003`, got none" in str(caught.value)
    assert "got FileNotFoundError" in str(caught.value)


@pytest.mark.needs_userns
def test_function_is_process_1_of_a_new_pid_namespace():
    """An init can be tested as what it is."""
    with calling(os.getpid, new=("user", "pid", "mnt")) as call:
        assert call.result() == 1


def test_caller_that_cannot_start_a_process_is_told_why(monkeypatch):
    """A notebook that has unshared its own pid namespace cannot fork any more: ENOMEM, of all things."""

    def clone3(flags=0, **options):
        raise OSError(12, "clone3(0x0): Cannot allocate memory")

    monkeypatch.setattr(syscalls, "clone3", clone3)
    with (
        pytest.raises(
            AssertionError, match=r"expected this notebook to start a process, got .*; look whether"
        ),
        calling(add, 1, 2),
    ):
        pass


def each(function, factor, *calls):
    """Call a function once for each list of arguments."""
    return [factor * function(*arguments) for arguments in calls]


def test_helper_of_the_check_goes_between():
    """A locked cell may call the function in a way of its own; messages still speak of the function."""
    with calling(add, (1, 2), (3, 4), by=(each, 10)) as call:
        assert call.result() == [30, 70]
    with (
        calling(add, (1, None), by=(each, 1)) as call,
        pytest.raises(AssertionError, match=r"expected add\(\(1, None\)\) to return, got TypeError"),
    ):
        call.result()


@pytest.mark.needs_userns
def test_home_of_a_call_is_where_the_notebook_is():
    """A function that moves its process is told apart from one that moves nothing."""
    with calling(syscalls.unshare, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWUTS) as call:
        call.result()
        there = namespaces_of(call.pid)

        assert call.home == namespaces_of()
        assert [kind for kind in call.home if there[kind] != call.home[kind]] == ["user", "uts"]


@pytest.mark.needs_userns
def test_bystander_is_a_command_in_namespaces_of_its_own():
    """Checks need somebody whom a student's function can look at."""
    with notebook.bystander(["sleep", "7004"], new=("user", "net")) as other:
        there, home = namespaces_of(other.pid), namespaces_of()

        assert running("sleep", "7004") == [other.pid]
        assert [kind for kind in home if there[kind] != home[kind]] == ["net", "user"]
        assert Path(f"/proc/{other.pid}/uid_map").read_text() == ""
    assert running("sleep", "7004") == []


def test_bystander_in_a_new_pid_namespace_is_refused():
    """It would be its parent there, and the check would look at the wrong process."""
    with pytest.raises(InvalidValue, match="does not enter a pid namespace that it makes"):
        notebook.bystander(["sleep", "7005"], new=("pid",))
