"""What runc adds to the specification, and what holds for all: in-process, side by side, without a trace."""

import os
import signal
import threading
from pathlib import Path

import pytest
from box import Box

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.containers.runtime.errors import HookFailed, InvalidConfig, NoSuchContainer, WrongStatus
from cnlab.errors import InvalidValue

pytestmark = pytest.mark.needs_root


def test_exec_is_in_the_namespaces_and_cgroups_of_the_container(box):
    """Beside its first process, with the same limits."""
    box.create("sleep", "100")
    box.start()
    links = "cd /proc/self; readlink ns/mnt ns/pid ns/net ns/uts; cat cgroup"
    code, said = box.exec("sh", "-c", f"{links.replace('self', '1')}; echo --; {links}")
    first, _, second = said.partition("--\n")

    assert (0, first) == (code, second)


def test_exec_has_the_containers_own_process_where_nothing_else_is_said(box):
    """User, environment, capabilities and working directory."""
    box.process.update(user={"uid": 12, "gid": 34}, cwd="/tmp", env=["PATH=/bin", "A=b"])
    box.create("sleep", "100")
    box.start()

    assert (0, "12\n34\n/tmp\nb\n") == box.exec("sh", "-c", "id -u; id -g; pwd; echo $A")


def test_exec_process_object_wins(box):
    """As ``exec --process`` gives it."""
    box.create("sleep", "100")
    box.start()

    assert (0, "7\n") == box.exec("id", "-u", user={"uid": 7, "gid": 7}, capabilities={})


def test_exec_of_a_command_is_enough(box):
    """A list is a command."""
    box.create("sleep", "100")
    box.start()
    with runtime.exec(box.id, ["true"], root=box.root) as process:
        assert 0 == process.wait(timeout_s=60)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("nosuch", r"executable file not found in \$PATH"), ("/nosuch", "no such file or directory")],
)
def test_exec_of_nothing_is_told_before_it_returns(box, argument, message):
    """And no process is left."""
    box.create("sleep", "100")
    box.start()
    with pytest.raises(FileNotFoundError, match=message):
        box.exec(argument)

    assert [box.pid] == runtime.ps(box.id, root=box.root)


def test_exec_in_a_stopped_or_paused_container_is_refused(box):
    """There is nothing to enter, or it would stand still at once."""
    box.create("sleep", "100")
    box.start()
    runtime.pause(box.id, root=box.root)
    with pytest.raises(WrongStatus, match="cannot exec in a paused container"):
        box.exec("true")
    runtime.resume(box.id, root=box.root)
    box.kill()
    box.wait()
    with pytest.raises(WrongStatus, match="cannot exec in a stopped container"):
        box.exec("true")


def test_exec_of_an_impossible_process_is_refused(box):
    """By the same rules as config.json."""
    box.create("sleep", "100")
    box.start()

    with pytest.raises(InvalidConfig, match=r"process\.cwd"):
        box.exec("true", cwd="relative")


def test_exec_left_by_its_block_is_killed(box):
    """A cell that is interrupted leaves nothing running."""
    box.create("sleep", "100")
    box.start()
    with runtime.exec(box.id, ["sleep", "200"], root=box.root) as process:
        pid = process.pid

    assert (False, -signal.SIGKILL) == (os.path.exists(f"/proc/{pid}"), process.returncode)


def test_exec_wait_gives_up_in_time(box):
    """Rather than hold up a notebook for ever."""
    box.create("sleep", "100")
    box.start()
    with runtime.exec(box.id, ["sleep", "200"], root=box.root) as process, pytest.raises(TimeoutError):
        process.wait(timeout_s=0.01)


def test_wait_gives_the_exit_code_again_and_again(box):
    """The kernel tells it once."""
    box.create("sh", "-c", "exit 42")
    box.start()

    assert [42, 42] == [box.wait(), box.wait()]


def test_wait_gives_up_in_time(box):
    """The container goes on."""
    box.create("sleep", "100")
    box.start()
    with pytest.raises(TimeoutError, match=r"still runs after 0\.01 s"):
        runtime.wait(box.id, timeout_s=0.01, root=box.root)

    assert "running" == box.status


def test_run_is_create_start_wait_and_delete(box):
    """For a cell that wants an exit code."""
    box.process["args"] = ["sh", "-c", "exit 42"]
    box.write()

    assert (42, True) == (runtime.run(box.id, str(box.bundle), root=box.root), box.is_gone())


def test_pause_stops_every_process_and_resume_lets_it_go_on(box):
    """Seen by the CPU time that it takes."""
    box.create("sh", "-c", "while :; do echo; done > /dev/null")
    box.start()
    runtime.pause(box.id, root=box.root)
    status = box.status
    first, second = cpu_time(box.pid), cpu_time(box.pid)
    runtime.resume(box.id, root=box.root)
    wait_until(lambda: cpu_time(box.pid) > second, timeout_s=60, what="it to go on")

    assert ("paused", first) == (status, second)


def cpu_time(pid):
    """Return the ticks that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_paused_container_can_be_deleted_by_force(box):
    """A frozen process dies when it thaws."""
    box.create("sleep", "100")
    box.start()
    runtime.pause(box.id, root=box.root)
    box.delete(force=True)

    assert box.is_gone()


def test_resume_of_what_is_not_paused_is_refused(box):
    """And pause of what is not running."""
    box.create("sleep", "100")
    box.start()
    with pytest.raises(WrongStatus, match="running state"):
        runtime.resume(box.id, root=box.root)
    box.kill()
    box.wait()
    with pytest.raises(WrongStatus, match="stopped state"):
        runtime.pause(box.id, root=box.root)


def test_ps_shows_every_process_of_the_container(box):
    """Also of those that have left its session."""
    box.create("sh", "-c", "sleep 100 & sleep 100 & wait")
    box.start()

    assert 3 == len(
        box.wait_for(lambda: len(pids := runtime.ps(box.id, root=box.root)) == 3 and pids, "them")
    )


def test_kill_all_reaches_every_process(box):
    """Without a pid namespace nobody else would end them."""
    box.linux["namespaces"] = [kind for kind in box.linux["namespaces"] if kind["type"] != "pid"]
    box.create("sh", "-c", "sleep 100 & sleep 100 & wait")
    box.start()
    box.wait_for(lambda: len(runtime.ps(box.id, root=box.root)) == 3, "its processes")
    box.kill("KILL", all=True)
    box.wait()

    assert box.wait_for(lambda: runtime.ps(box.id, root=box.root) == [], "their end")


@pytest.mark.parametrize("name", [9, "9", "KILL", "SIGKILL", "sigkill"])
def test_kill_takes_a_signal_by_any_name(box, name):
    """Docker sends numbers, people names."""
    box.create("sleep", "100")
    box.kill(name)

    assert -signal.SIGKILL == box.wait()


def test_kill_with_a_signal_that_nobody_knows_is_refused(box):
    """Not silently TERM."""
    box.create("sleep", "100")

    with pytest.raises(InvalidValue, match="unknown signal 'BREAK'"):
        box.kill("BREAK")


def test_containers_lists_what_is_below_the_root(box):
    """Of one root, and no other's."""
    box.create("sleep", "100")

    assert [box.id] == [container["id"] for container in runtime.containers(root=box.root)]


def test_containers_of_a_root_that_is_not_there_are_none(tmp_path):
    """Nobody has created one yet."""
    assert [] == runtime.containers(root=str(tmp_path / "nowhere"))


def test_delete_by_force_is_silent_where_there_is_nothing(box):
    """containerd calls it after every delete."""
    runtime.delete("never-was", force=True, root=box.root)

    with pytest.raises(NoSuchContainer):
        runtime.delete("never-was", root=box.root)


def test_delete_by_force_kills_what_runs(box):
    """With all its processes."""
    box.create("sh", "-c", "sleep 100 & sleep 100")
    box.start()
    pid = box.pid
    box.delete(force=True)

    assert (False, True) == (os.path.exists(f"/proc/{pid}"), box.is_gone())


def test_container_that_is_to_die_with_its_creator_does(box):
    """A notebook that is killed cannot clean up."""
    box.process["args"] = ["sleep", "100"]
    box.write()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        runtime.create(box.id, str(box.bundle), die_with_parent=True, root=box.root)
        runtime.start(box.id, root=box.root)
        os.write(writing, b"started")
        signal.pause()
    os.read(reading, 7)
    running = box.status
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)

    assert ("running", "stopped") == (
        running,
        box.wait_for(lambda: box.status == "stopped" and box.status, "it"),
    )


def test_many_containers_at_once_from_threads(tmp_path):
    """As a notebook's widgets and cells may: each has its own exit code, and none is left."""
    boxes = []
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        boxes.append(Box(tmp_path / str(number)))
    codes = {}

    def work(number):
        boxes[number].process["args"] = ["sh", "-c", f"exit {number}"]
        boxes[number].write()
        codes[number] = runtime.run(boxes[number].id, str(boxes[number].bundle), root=boxes[number].root)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for box in boxes:
        box.close()

    assert {number: number for number in range(12)} == codes
    assert all(box.is_gone() for box in boxes)


def test_one_of_two_that_start_the_same_container_wins(box):
    """The other is told so."""
    box.create("sleep", "100")
    outcomes = []

    def work():
        try:
            box.start()
            outcomes.append("started")
        except WrongStatus:
            outcomes.append("refused")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["refused", "started"] == sorted(outcomes)


def test_nothing_is_left_of_a_container_in_the_runtimes_process(box):
    """Descriptors, threads, children: a notebook makes many."""
    box.run("true")
    box.delete()
    before = held()
    for _ in range(3):
        box.run("true")
        box.delete()
        box.config["hooks"] = {"createContainer": [{"path": "/nowhere"}]}
        with pytest.raises(HookFailed):
            box.create()
        box.config["hooks"] = {}

    assert before == held()


def held():
    """What this process has: descriptors, threads, and children, which other tests may have too."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return os.listdir("/proc/self/fd"), threading.active_count(), children


def test_signals_are_as_a_program_expects_them(box):
    """Python ignores SIGPIPE and a caller may block others: a program inside must not inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        fields = dict(
            line.split(":\t") for line in box.run("grep", "^Sig[BI]", "/proc/self/status").splitlines()
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    taken = 0b11 << 31  # 32 and 33, which glibc keeps to itself: its posix_spawn has children ignore them

    assert {"SigBlk": 0, "SigIgn": 0} == {name: int(mask, 16) & ~taken for name, mask in fields.items()}


def test_process_of_a_created_container_shows_nothing_of_the_host(box):
    """Who is already inside, by exec, must not reach the host through the descriptors of the waiting
    process."""
    box.create("sleep", "100")
    code, said = box.exec("sh", "-c", "ls /proc/1/fd 2>&1; readlink /proc/1/exe; ls -d /proc/1/root/etc 2>&1")

    assert (1, True) == (code, "ermission denied" in said), said
