import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnlab import host
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.linux import syscalls
from cnlab.linux.namespaces import (
    KINDS,
    IdMap,
    Namespace,
    members,
    namespaces_of,
    run,
    run_in,
    spawn,
    write_time_offsets,
)
from cnlab.linux.processes import Process, processes, read_process

from .conftest import OWN

HERE = tuple(kind for kind in KINDS if os.path.lexists(f"/proc/self/ns/{kind}"))


@pytest.mark.needs_mntns
@pytest.mark.parametrize("kind", HERE)
def test_child_is_born_in_a_new_namespace_of_the_kind_asked_for_and_no_other(kind):
    """Each kind is a choice of its own; a container is nothing but several of them."""
    with spawn(["sleep", "60"], new=(*OWN, kind)) as child:
        changed = {kind for kind, namespace in child.namespaces.items() if namespace != namespaces_of()[kind]}

    assert changed == {*OWN, kind}


@pytest.mark.needs_mntns
def test_child_is_born_in_all_kinds_at_once():
    """That is what `docker run` asks for."""
    with spawn(["sleep", "60"], new=HERE) as child:
        assert not set(child.namespaces.values()) & set(namespaces_of().values())


def test_kind_that_the_kernel_lacks_is_a_missing_feature(monkeypatch):
    """User-Mode Linux has no time namespaces; EINVAL would leave the reader guessing."""
    monkeypatch.setattr(os.path, "lexists", lambda path: path != "/proc/self/ns/time")

    with pytest.raises(MissingFeature, match="timens: /proc/self/ns has no 'time'"):
        spawn(["true"], new=("time",))


def test_unknown_kind_starts_nothing():
    """The message lists the eight."""
    with pytest.raises(InvalidValue, match="unknown namespace 'network'; the kinds are cgroup, ipc"):
        run(["true"], new=("network",))


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"hostname": "box"}, "uts"), ({"mount_proc": True}, "mnt"), ({"uid_map": [IdMap(0, 0)]}, "user")],
)
def test_option_without_its_namespace_is_refused(options, kind):
    """Without it the option would change the machine."""
    with pytest.raises(InvalidValue, match=f"needs a new {kind} namespace"):
        spawn(["true"], new=(), **options)


@pytest.mark.needs_root
def test_refusal_tells_an_unprivileged_user_about_user_namespaces(inside):
    """EPERM is the first thing that a beginner without root meets."""

    def try_without_privilege() -> None:
        os.setresuid(20001, 20001, 20001)
        try:
            run(["true"], new=("uts",))
        except PermissionError as error:
            print(error, *error.__notes__)

    said = inside(try_without_privilege, new=())

    assert "clone3(CLONE_NEWUTS): Operation not permitted" in said
    assert "add 'user' to new" in said


@pytest.mark.needs_mntns
def test_host_name_is_the_childs_own():
    """Ours is compared before and after by the fixture of this directory."""
    completed = run(["uname", "-n"], new=(*OWN, "uts"), hostname="box")

    assert completed.stdout == "box\n"


@pytest.mark.needs_mntns
def test_run_returns_what_the_command_said_and_its_code():
    """As `subprocess.run` does."""
    completed = run(["sh", "-c", "echo out; echo err >&2; exit 3"], new=(*OWN, "net"))

    assert (completed.stdout, completed.stderr, completed.returncode) == ("out\n", "err\n", 3)


@pytest.mark.needs_mntns
def test_network_namespace_begins_with_a_loopback_that_is_down():
    """Nothing of the host's network is seen."""
    lines = run(["cat", "/proc/net/dev"], new=(*OWN, "net")).stdout.splitlines()

    assert [line.split(":")[0].strip() for line in lines[2:]] == ["lo"]


@pytest.mark.needs_mntns
@pytest.mark.needs_programs("mount")
def test_mounts_inside_are_not_seen_outside(tmp_path):
    """A new mount namespace is a copy, and the copy is private."""
    run(["mount", "-t", "tmpfs", "none", str(tmp_path)], new=(*OWN, "mnt"), check=True)

    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


# Process 1 of a pid namespace: pid_namespaces(7), "The namespace init process".


@pytest.mark.needs_mntns
def test_program_is_process_one_itself():
    """With a shell or a supervisor in between, signals and exit codes would be theirs."""
    with spawn(["sleep", "60"], new=(*OWN, "pid")) as child:
        process = read_process(child.pid)

    assert process.nspids == (child.pid, 1)
    assert process.is_init
    assert process.cmdline == ("sleep", "60")


@pytest.mark.needs_mntns
def test_proc_shows_the_old_namespace_until_it_is_mounted_again():
    """`ps` reads /proc, and /proc belongs to the namespace of whoever mounted it."""
    count = ["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]

    before = int(run(count, new=(*OWN, "pid", "mnt")).stdout)
    after = int(run(count, new=(*OWN, "pid", "mnt"), mount_proc=True).stdout)

    assert after <= 3 < before


@pytest.mark.needs_mntns
def test_process_one_without_a_handler_ignores_sigterm():
    """The kernel protects it from signals that it has not asked for, even from outside."""
    with spawn(["sleep", "60"], new=(*OWN, "pid")) as child:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGKILL)

        assert child.wait(timeout_s=60) == -signal.SIGKILL, "expected SIGTERM, sent first, to do nothing"


@pytest.mark.needs_mntns
def test_process_one_with_a_handler_gets_sigterm():
    """This is why images need an init or an exec form."""
    program = ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"]
    with spawn(program, new=(*OWN, "pid"), capture=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.signal(signal.SIGTERM)

        assert child.wait(timeout_s=60) == 7


@pytest.mark.needs_mntns
def test_process_one_cannot_be_killed_from_inside():
    """Not even by SIGKILL: its death would be the end of the namespace."""
    assert run(["sh", "-c", "kill -9 $$; echo alive"], new=(*OWN, "pid")).stdout == "alive\n"


@pytest.mark.needs_mntns
def test_end_of_process_one_is_the_end_of_all(inside):
    """Also of those that left its process group: the kernel kills by namespace, not by group."""
    program = ["sh", "-c", "setsid sleep 60 & echo begun; wait"]
    with spawn(program, new=(*OWN, "pid"), capture=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        namespace = child.namespaces["pid"]
        wait_until(
            lambda: len(members(processes()).get(namespace, [])) == 2, timeout_s=60, what="setsid to start"
        )
        child.signal(signal.SIGKILL)
        child.wait(timeout_s=60)

    assert namespace not in members(processes())


@pytest.mark.needs_mntns
def test_orphans_are_adopted_by_process_one(inside):
    """And stay zombies until it reaps them."""

    def be_a_careless_init() -> None:
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            os._exit(0) if orphan else signal.pause()
        os.waitpid(middle, 0)
        wait_until(lambda: [p for p in processes() if p.ppid == 1], timeout_s=60, what="the orphan to come")
        orphan = next(process for process in processes() if process.ppid == 1)
        os.kill(orphan.pid, signal.SIGKILL)
        wait_until(lambda: read_process(orphan.pid).is_zombie, timeout_s=60, what="the orphan to end")
        os.waitpid(orphan.pid, 0)
        print(len(processes()))

    with spawn(be_a_careless_init, new=(*OWN, "pid", "mnt"), mount_proc=True, capture=True) as child:
        assert child.stdout is not None
        assert child.stdout.read() == "1\n", child.stderr.read() if child.stderr else ""


@pytest.mark.needs_mntns
def test_zombies_do_not_outlive_their_namespace(inside):
    """When process 1 ends the kernel reaps what it has not."""
    program = ["sh", "-c", "sleep 0.01 & exec sleep 60"]
    with spawn(program, new=(*OWN, "pid")) as child:
        namespace = child.namespaces["pid"]
        wait_until(
            lambda: any(p.is_zombie for p in members(processes()).get(namespace, [])),
            timeout_s=60,
            what="a zombie",
        )

    assert namespace not in members(processes())


@pytest.mark.needs_mntns
def test_unshare_of_a_pid_namespace_does_not_move_the_caller(inside):
    """Its first child is process 1, and when that has ended the namespace takes no other."""

    def unshare_and_fork_twice() -> None:
        before = os.getpid()
        syscalls.unshare(syscalls.CLONE_NEWPID)
        reading, writing = os.pipe()
        first = os.fork()
        if first == 0:
            os.write(writing, b"%d" % os.getpid())
            os._exit(0)
        os.waitpid(first, 0)
        print(os.getpid() == before, os.read(reading, 10).decode())
        try:
            os.fork()
        except OSError as error:
            print(errno.errorcode[error.errno])

    assert inside(unshare_and_fork_twice, new=()) == "True 1\nENOMEM\n"


# User namespaces.


@pytest.mark.needs_userns
def test_caller_is_root_inside_its_user_namespace():
    """Root of what belongs to the namespace, and nobody special elsewhere."""
    completed = run(["sh", "-c", "id -u; id -g; cat /proc/self/setgroups"], new=("user",))

    assert completed.stdout.split()[:2] == ["0", "0"]
    assert completed.stdout.split()[2] == ("allow" if os.geteuid() == 0 else "deny")


@pytest.mark.needs_userns
def test_user_without_a_map_is_the_overflow_user():
    """Nobody has said yet who is who."""
    assert run(["id", "-u"], new=("user",), uid_map=(), gid_map=()).stdout == "65534\n"


@pytest.mark.needs_userns
@pytest.mark.skipif(
    os.stat("/proc/1").st_uid == os.geteuid() != 0, reason="process 1 is the student's own here"
)
def test_root_inside_has_no_power_over_what_belongs_to_an_unmapped_user():
    """Its capabilities count for ids that the map knows, and for nothing else."""
    maps = [IdMap(0, 100_000, 65_536)] if os.geteuid() == 0 else None
    program = ["sh", "-c", "stat -c %u /proc/1; kill -KILL 1"]
    completed = run(program, new=("user",), uid_map=maps, gid_map=maps)

    assert completed.stdout == "65534\n"
    assert "Operation not permitted" in completed.stderr


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_root_of_a_mapped_range_is_somebody_else_outside():
    """What makes a container's root harmless."""
    maps = [IdMap(0, 100_000, 65_536)]
    with spawn(["sleep", "60"], new=("user",), uid_map=maps, gid_map=maps) as child:
        process = read_process(child.pid)

    assert (process.uid, process.gid) == (100_000, 100_000)


@pytest.mark.needs_userns
def test_map_that_the_kernel_refuses_leaves_no_process():
    """Two lines that map the same id twice."""
    with (
        pytest.raises(OSError, match=r"write\(/proc/\d+/uid_map") as caught,
        spawn(["sleep", "60"], new=("user",), uid_map=[IdMap(0, 0), IdMap(0, 1)]),
    ):
        pass

    assert caught.value.errno in (errno.EINVAL, errno.EPERM)


# Entering.


@pytest.mark.needs_mntns
def test_command_runs_in_the_namespaces_of_a_running_process():
    """As `docker exec` does; by default in all in which it differs from us."""
    new = (*OWN, "uts", "pid", "ipc")
    with spawn(["sleep", "60"], new=new, hostname="box") as child:
        completed = run_in(child, ["sh", "-c", "uname -n; readlink /proc/self/ns/ipc; echo $$"])
        name, ipc, pid = completed.stdout.split()

        assert name == "box"
        assert ipc == str(child.namespaces["ipc"])
        assert int(pid) > 1, "expected a number in the child's pid namespace, beside its process 1"


@pytest.mark.needs_mntns
def test_only_the_kinds_asked_for_are_entered():
    """Debugging often wants one namespace of the target and all else of our own."""
    with spawn(["sleep", "60"], new=(*OWN, "uts", "ipc"), hostname="box") as child:
        completed = run_in(
            child.pid, ["sh", "-c", "uname -n; readlink /proc/self/ns/ipc"], kinds=(*OWN, "uts")
        )

    assert completed.stdout == f"box\n{namespaces_of()['ipc']}\n"


@pytest.mark.needs_mntns
def test_nsenter_sees_what_we_see():
    """util-linux decides."""
    with spawn(["sleep", "60"], new=(*OWN, "uts", "net"), hostname="box") as child:
        program = ["sh", "-c", "uname -n; cat /proc/net/dev"]
        flags = ["--user", "--preserve-credentials"] if OWN else []
        theirs = subprocess.run(
            ["nsenter", f"--target={child.pid}", "--uts", "--net", *flags, *program],
            capture_output=True,
            text=True,
            check=True,
        )

        assert run_in(child, program).stdout == theirs.stdout


@pytest.mark.needs_userns
def test_enterer_of_a_user_namespace_is_its_root():
    """Without the change of id it would be nobody there, with all capabilities."""
    with spawn(["sleep", "60"], new=("user",)) as child:
        assert run_in(child, ["id", "-u"]).stdout == "0\n"


def test_namespaces_that_are_shared_are_not_entered_again():
    """The kernel refuses to enter the user namespace that one is in already."""
    with spawn(["sleep", "60"]) as child:
        assert run_in(child, ["echo", "fine"], kinds=KINDS).stdout == "fine\n"


@pytest.mark.needs_mntns
@pytest.mark.parametrize("new", [(), ("pid",)])
def test_death_by_signal_is_told_also_from_inside(new):
    """In a pid namespace somebody stands in between, and passes it on."""
    with spawn(["sleep", "60"], new=(*OWN, *new)) as child:
        assert run_in(child, ["sh", "-c", "kill -9 $$"]).returncode == -9


@pytest.mark.needs_mntns
def test_pid_namespace_is_entered_from_a_program_with_threads():
    """Numpy makes some that the hooks of fork(3) wait for, in a child where they do not exist."""
    code = (
        "import numpy\n"
        "from cnlab.linux.namespaces import run_in, spawn\n"
        f"with spawn(['sleep', '60'], new={(*OWN, 'pid')!r}) as child:\n"
        "    print(run_in(child, ['sh', '-c', 'echo $$']).stdout)\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)

    assert completed.stderr == ""
    assert int(completed.stdout) > 1


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_root_of_a_namespace_is_taken_beside_threads_that_come_and_go():
    """The C library's setresuid waits for threads that are just being made; the child has none of them."""
    code = (
        "import threading\n"
        "from cnlab.linux import children\n"
        "from cnlab.linux.idmaps import IdMap\n"
        "from cnlab.linux.namespaces import run\n"
        "children._ATTEMPTS, children._START_TIMEOUT_S = 1, 60\n"  # another attempt would hide it
        "def churn():\n"
        "    while True:\n"
        "        thread = threading.Thread(target=int)\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "for _ in range(4):\n"
        "    threading.Thread(target=churn, daemon=True).start()\n"
        "maps = [IdMap(0, 100_000, 65_536)]\n"
        "said = {run(['id', '-u'], new=('user',), uid_map=maps, gid_map=maps).stdout for _ in range(50)}\n"
        "print(*said, end='')\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)

    assert (completed.stdout, completed.stderr) == ("0\n", "")


@pytest.mark.needs_mntns
def test_program_that_does_not_exist_inside_is_an_error_here():
    """The same error as outside, from two forks away."""
    with (
        spawn(["sleep", "60"], new=(*OWN, "pid")) as child,
        pytest.raises(FileNotFoundError, match=r"execve\(no-such-program\)"),
    ):
        run_in(child, ["no-such-program"])


def test_process_that_is_gone_cannot_be_entered(gone):
    """One clear line, and its number in it."""
    with pytest.raises(ProcessLookupError, match=rf"pidfd_open\({gone}\): No such process"):
        run_in(gone, ["true"])


def test_unknown_kind_cannot_be_entered():
    """As for new ones."""
    with pytest.raises(InvalidValue, match="unknown namespace 'network'"):
        run_in(os.getpid(), ["true"], kinds=("network",))


# Time.


@pytest.mark.needs_mntns
@pytest.mark.skipif("time" not in HERE, reason="timens: this kernel is built without time namespaces")
def test_time_offsets_move_the_clocks_of_children(inside):
    """A container restored on another machine must not see its clock go backwards."""

    def travel() -> None:
        syscalls.unshare(syscalls.CLONE_NEWTIME)
        write_time_offsets(monotonic_s=1_000_000)
        begun = time.monotonic()
        pid = os.fork()
        if pid == 0:
            print(int(time.monotonic() - begun) // 1000)
            os._exit(0)
        os.waitpid(pid, 0)

    assert inside(travel, new=()) == "1000\n"


# The map.


def test_members_are_sorted_into_the_namespaces_they_are_in():
    """The live map of notebook 01 is this function's result, drawn."""
    shared, own = Namespace("net", 1), Namespace("net", 2)
    first, second, third = (_process(pid, net) for pid, net in ((1, shared), (2, own), (3, shared)))

    assert members([first, second, third]) == {shared: [first, third], own: [second]}


def _process(pid: int, net: Namespace) -> Process:
    return Process(
        pid=pid,
        ppid=0,
        name="x",
        state="S",
        uid=0,
        gid=0,
        nspids=(pid,),
        cgroup="/",
        cmdline=(),
        start_time_s=0.0,
        rss_bytes=0,
        namespaces={"net": net},
    )


@pytest.mark.needs_mntns
def test_child_is_seen_on_the_live_map():
    """A namespace is nowhere listed; it is found by looking at all processes."""
    with spawn(["sleep", "60"], new=(*OWN, "ipc")) as child:
        mapped = members(processes())[child.namespaces["ipc"]]

    assert [process.pid for process in mapped] == [child.pid]


@pytest.mark.needs_mntns
def test_probe_of_the_host_agrees_with_what_can_be_made():
    """`host.require` must not promise what `spawn` cannot keep, nor the other way round."""
    for kind in HERE:
        assert host.probe(f"{kind}ns").is_available
