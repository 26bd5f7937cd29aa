import contextlib
import errno
import os
import select
import signal
import subprocess
import sys

import pytest

from cnlab.clock import wait_until
from cnlab.linux import children, syscalls
from cnlab.linux.children import complete, start
from cnlab.linux.processes import parse_status, processes, read_process


def _said(child) -> str:
    return child.stdout.read()


def test_exit_code_is_the_programs_own():
    """Neither the way to execve nor the end of the block may change it."""
    with start(["sh", "-c", "exit 42"]) as child:
        assert child.wait(timeout_s=60) == 42


def test_program_shows_its_name_when_the_block_begins():
    """execve(2) closes our report before it shows the new arguments; the map must not show the old."""
    for _ in range(20):
        with start(["sleep", "60"]) as child:
            process = read_process(child.pid)

            assert (process.name, process.cmdline) == ("sleep", ("sleep", "60"))


def test_death_by_signal_is_a_negative_code():
    """As in `subprocess`: 137 is what a shell makes of it."""
    with start(["sleep", "60"]) as child:
        child.signal(signal.SIGKILL)

        assert child.wait(timeout_s=60) == -9


def test_child_that_hangs_before_its_program_is_replaced(tmp_path, monkeypatch):
    """A clone beside busy threads may copy a lock that nobody will release; the program still runs, once."""
    monkeypatch.setattr(children, "_START_TIMEOUT_S", 3)
    hung = tmp_path / "hung"

    def hang_once() -> None:
        if not hung.exists():
            hung.write_text(str(os.getpid()))
            signal.pause()

    with start(["sh", "-c", "echo ran; exit 3"], in_child=hang_once, capture=True) as child:
        assert _said(child) == "ran\n"
        assert child.wait(timeout_s=60) == 3
    assert not os.path.exists(f"/proc/{hung.read_text()}")


def test_function_runs_in_the_child():
    """Its result is the exit code; its process is not ours."""

    def work() -> int:
        print(os.getpid())
        return 5

    with start(work, capture=True) as child:
        assert int(_said(child)) == child.pid
        assert child.wait() == 5


def test_function_that_fails_tells_why_and_exits_with_one():
    """The traceback goes where an ordinary Python program's would go."""

    def fail() -> None:
        raise RuntimeError("on purpose")

    with start(fail, capture=True) as child:
        assert "RuntimeError: on purpose" in child.stderr.read()
        assert child.wait() == 1


def test_function_may_exit_as_a_program_does():
    """`sys.exit` must not climb up into the parent's code."""
    with start(lambda: sys.exit(3)) as child:
        assert child.wait() == 3


def test_program_that_does_not_exist_is_an_error_here():
    """The execve happens in the child, but the caller must hear of it."""
    with pytest.raises(FileNotFoundError) as caught, start(["no-such-program"]):
        pass

    assert str(caught.value) == "[Errno 2] execve(no-such-program): No such file or directory"


def test_failed_preparation_is_an_error_here():
    """The errno crosses the process boundary."""

    def prepare() -> None:
        syscalls.umount("/nowhere")

    with pytest.raises(OSError, match=r"umount\(`/nowhere`\)") as caught, start(["true"], in_child=prepare):
        pass

    assert caught.value.errno in (errno.ENOENT, errno.EPERM)


def test_bug_in_preparation_is_told_with_its_traceback():
    """Not every error is the kernel's."""

    def prepare() -> None:
        raise KeyError("a bug")

    with pytest.raises(ChildProcessError, match="KeyError: 'a bug'"), start(["true"], in_child=prepare):
        pass


def test_child_that_waits_is_killed_when_the_parent_fails():
    """A run that dies half-way leaves no process; the fixture of this directory counts them."""
    pids = []

    def fail(pid: int) -> None:
        pids.append(pid)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"), start(["sleep", "60"], in_parent=fail):
        pass

    with pytest.raises(ProcessLookupError):
        read_process(pids[0])


def test_end_of_block_kills_what_the_child_has_started():
    """A shell's background jobs are in its process group."""
    with start(["sh", "-c", "sleep 60 & echo $!; wait"], capture=True) as child:
        background = int(child.stdout.readline())

    wait_until(lambda: not _is_alive(background), timeout_s=60, what="the background job to end")


def _is_alive(pid: int) -> bool:
    try:
        return not read_process(pid).is_zombie
    except ProcessLookupError:
        return False


def test_child_dies_with_a_parent_that_is_killed():
    """A notebook kernel that is shot cannot run its finally clauses."""
    code = (
        "import time; from cnlab.linux.children import start\n"
        "with start(['sleep', '60']) as child:\n    print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pidfd = syscalls.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)

            assert ended.poll(60_000), "the child outlived its parent"
        finally:
            os.close(pidfd)


def test_child_starts_without_the_parents_signal_handlers():
    """A handler is the parent's code; as process 1 the child would even be hurt by signals because of it."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with start(["cat", "/proc/self/status"], capture=True) as child:
            caught = parse_status(_said(child))["SigCgt"]
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert int(caught, 16) == 0


def test_function_starts_without_the_parents_signal_handlers():
    """The same holds where there is no execve to reset them."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with start(lambda: signal.pause()) as child:
            child.signal(signal.SIGTERM)

            assert child.wait(timeout_s=60) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_child_reads_nothing_from_us():
    """A program that asks for input must not hang, or take the notebook's."""
    with start(["cat"]) as child:
        assert child.wait(timeout_s=60) == 0


def test_environment_and_working_directory_are_the_childs_own(tmp_path):
    """Both are set in the child alone."""
    program = ["sh", "-c", 'echo "$COLOUR $(pwd)"']
    with start(program, env={"COLOUR": "green", "PATH": os.defpath}, cwd=tmp_path, capture=True) as child:
        assert _said(child) == f"green {tmp_path}\n"


def test_working_directory_that_does_not_exist_is_an_error_here():
    """One line that names the directory."""
    with pytest.raises(FileNotFoundError, match="'/nowhere'"), start(["true"], cwd="/nowhere"):
        pass


def test_wait_says_when_the_time_is_up():
    """And the child lives on until the block ends."""
    with start(["sleep", "60"]) as child:
        with pytest.raises(TimeoutError, match=f"process {child.pid} still runs after 0.01 s"):
            child.wait(timeout_s=0.01)
        assert child.poll() is None


def test_signal_to_a_child_that_has_ended_does_nothing():
    """Its number may long be somebody else's; the pidfd never is."""
    with start(["true"]) as child:
        child.wait()
        child.signal(signal.SIGKILL)

        assert child.returncode == 0


def test_child_that_somebody_else_has_reaped_leaves_nothing():
    """A learner's `os.waitpid(-1, 0)` takes whatever ends first."""
    with start(["true"]) as child:
        os.waitpid(child.pid, 0)
        with pytest.raises(ChildProcessError):
            child.wait(timeout_s=60)


def _complete(argv, *, timeout_s=20.0, check=False):
    with start(argv, capture=True) as child:
        return complete(child, argv, timeout_s=timeout_s, check=check)


def test_output_larger_than_a_pipe_is_read_whole():
    """A pipe holds 64 KiB; who waits for the end before reading waits for ever."""
    completed = _complete(["sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"])

    assert (len(completed.stdout), len(completed.stderr)) == (3_000_000, 3_000_000)


def test_background_job_that_holds_the_pipe_does_not_hold_us():
    """The end of the command is the end, not the end of all that inherited its output."""
    assert _complete(["sh", "-c", "echo begun; sleep 60 &"]).stdout == "begun\n"


def test_command_that_takes_too_long_is_killed_and_what_it_said_is_kept():
    """What it said is often the only trace of why."""
    ours = f"61.{os.getpid()}"  # nobody else sleeps so long
    argv = ["sh", "-c", f"echo begun; sleep {ours}"]
    with start(argv, capture=True) as child:
        select.select([child.stdout], [], [])
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            complete(child, argv, timeout_s=0.01, check=False)

    assert caught.value.output == "begun\n"
    wait_until(
        lambda: not [process for process in processes() if process.cmdline == ("sleep", ours)],
        timeout_s=60,
        what="the end of what was killed with it",
    )


def test_function_may_fork_where_libraries_have_threads():
    """Numpy makes some that the hooks of fork(3) wait for, in a child where they do not exist."""
    code = """
import os
import numpy
from cnlab.linux.children import start

def fork_and_wait():
    pid = os.fork()
    if pid == 0:
        os._exit(6)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

with start(fork_and_wait) as child:
    print(child.wait(timeout_s=60))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=100) == "6\n"


def test_failure_is_an_error_only_when_asked():
    """As in `subprocess.run`."""
    assert _complete(["false"]).returncode == 1
    with pytest.raises(subprocess.CalledProcessError):
        _complete(["false"], check=True)


def test_many_children_at_once_are_told_apart():
    """Their descriptors and reports must not mix."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(start(["sh", "-c", f"exit {n}"])) for n in range(8)]

        assert [child.wait(timeout_s=60) for child in children] == list(range(8))
