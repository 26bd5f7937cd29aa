import errno
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from cnlab.linux import syscalls
from cnlab.linux.processes import parse_status


def test_refused_call_names_call_object_and_reason():
    """Whoever reads the message should not need a debugger to know what was refused."""
    with pytest.raises(FileNotFoundError) as caught:
        syscalls.umount("/nowhere/at/all")

    assert str(caught.value) == "[Errno 2] umount(`/nowhere/at/all`): No such file or directory"
    assert caught.value.errno == errno.ENOENT


def test_mount_message_tells_what_goes_where():
    """A mount has four arguments that may be wrong, so the message shows those that were given."""
    with pytest.raises(OSError, match=r"mount\(nosuchfs `a` to `/nowhere` size=1\): "):
        syscalls.mount("a", "/nowhere", "nosuchfs", data="size=1")


def test_flags_are_spelled_as_in_the_kernel():
    """A reader looks a name up in the man page; nobody knows 0x24000000."""
    assert syscalls.flag_names(0x24000000) == "CLONE_NEWUTS|CLONE_NEWPID"


def test_clone3_returns_a_pidfd_that_means_the_child():
    """The descriptor, unlike the number, cannot come to mean another process."""
    pid, pidfd = syscalls.clone3()
    if pid == 0:
        signal.pause()

    try:
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)

    assert os.WTERMSIG(status) == signal.SIGKILL


def test_clone3_child_runs_python_while_threads_want_the_interpreter_lock():
    """The child has one thread only; if it handed the lock to another it would wait for ever."""
    is_over = threading.Event()

    def want_the_lock() -> None:
        while not is_over.is_set():
            pass

    threads = [threading.Thread(target=want_the_lock) for _ in range(2)]
    interval = sys.getswitchinterval()
    for thread in threads:
        thread.start()
    try:
        sys.setswitchinterval(1e-6)
        codes = [_exit_code_of_clone(7) for _ in range(8)]
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        for thread in threads:
            thread.join()

    assert codes == [7] * 8


def _exit_code_of_clone(code: int) -> int:
    pid, pidfd = syscalls.clone3()
    if pid == 0:
        os._exit(sum([code]))
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_clone3_says_which_flags_were_refused():
    """CLONE_NEWPID together with CLONE_THREAD makes no sense, and the kernel says so."""
    with pytest.raises(OSError, match=r"clone3\(CLONE_NEWPID\): Invalid argument"):
        syscalls.clone3(syscalls.CLONE_NEWPID | 0x00010000)


def test_pidfd_of_a_process_that_is_gone_is_refused():
    """A number that nobody has is not the same as a permission that nobody gave."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

    with pytest.raises(ProcessLookupError, match=rf"pidfd_open\({pid}\)"):
        syscalls.pidfd_open(pid)


@pytest.mark.needs_mntns
def test_host_name_is_set_in_a_namespace_of_its_own(inside):
    """The name belongs to the UTS namespace, not to the machine."""

    def rename() -> None:
        syscalls.sethostname("box")
        print(os.uname().nodename)

    assert inside(rename, new=("uts",)) == "box\n"


@pytest.mark.needs_mntns
def test_no_new_privs_is_for_good(inside):
    """Once given up it shows in /proc and stays."""

    def give_up() -> None:
        syscalls.set_no_new_privs()
        print(parse_status(Path("/proc/self/status").read_text())["NoNewPrivs"])

    assert inside(give_up, new=()) == "1\n"


@pytest.mark.needs_mntns
def test_capabilities_are_written_as_they_were_read(inside):
    """The kernel's struct has two halves of 32 bits; none may get lost on the way."""

    def write_back() -> None:
        before = syscalls.capget()
        syscalls.capset(*before)
        assert syscalls.capget() == before

    inside(write_back, new=())
