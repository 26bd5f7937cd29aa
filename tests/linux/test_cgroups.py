"""Groups with their kernel: these run wherever cgroup v2 is, on the host or in the private kernel."""

import errno
import os
import signal
import sys
import time

import pytest

from cnlab.clock import wait_until
from cnlab.errors import MissingFeature
from cnlab.linux.cgroups import Cgroup, CpuMax, cgroup_of, controllers, root_of_cgroup2
from cnlab.linux.namespaces import run_in

pytestmark = pytest.mark.needs_cgroup2

NAME = f"cnlab-test-{os.getpid()}"  # nobody else makes groups of that name
BUSY = ["sh", "-c", "while :; do :; done"]
# Fills 64 MiB, page by page, and says so when it could.
GREEDY = [sys.executable, "-ISc", "print(len(bytearray(b'x') * (64 << 20)))"]


def test_group_is_made_with_its_block_and_removed_with_it():
    """Nothing is cleaned up by name."""
    with Cgroup(NAME) as group:
        assert (group.path / "cgroup.procs").exists()

    assert not group.path.exists()


def test_group_is_removed_after_an_error_together_with_its_processes():
    """A run that dies half-way leaves neither."""
    with (
        pytest.raises(RuntimeError, match="half-way"),
        Cgroup(NAME) as group,
        group.spawn(["sleep", "60"]),
    ):
        raise RuntimeError("half-way")

    assert not group.path.exists()


def test_process_is_born_in_the_group():
    """Moved in later, it would have run without limits until then."""
    with Cgroup(NAME) as group, group.spawn(["sleep", "60"]) as child:
        assert group.pids() == [child.pid]
        assert group.processes()[0].cgroup == f"/{NAME}"
        assert group.pids_current == 1


def test_limits_are_in_the_files():
    """The kernel's files are the truth, the object only writes them."""
    with Cgroup(NAME, cpu_max=(20_000, 100_000), memory_max="64M", pids_max=10) as group:
        assert (group.path / "cpu.max").read_text() == "20000 100000\n"
        assert (group.path / "memory.max").read_text() == f"{64 << 20}\n"
        assert (group.path / "pids.max").read_text() == "10\n"
        assert group.cpu_max == CpuMax(20_000, 100_000)
        assert group.memory_max_bytes == 64 << 20


def test_limits_can_be_changed_and_taken_away_while_it_runs():
    """A slider in the notebook does just this."""
    with Cgroup(NAME, cpu_max=(20_000, 100_000), memory_max="64M") as group:
        group.set(cpu_max="max", pids_max="max", memory_high=1 << 20)

        assert group.cpu_max == CpuMax(None, 100_000)
        assert group.memory_max_bytes == 64 << 20, "expected what was left out to stay"
        assert group.read("memory.high") == f"{1 << 20}\n"


def test_limit_that_the_kernel_refuses_leaves_no_group():
    """A device that does not exist."""
    with pytest.raises(OSError, match=r"write\(.*io.max, '250:250 wbps=1'\)") as caught:
        Cgroup(NAME, io_max={"250:250": {"wbps": 1}}).__enter__()

    assert caught.value.errno == errno.ENODEV
    assert not (root_of_cgroup2() / NAME).exists()


def test_second_group_of_a_name_is_refused_and_the_first_stays():
    """Two notebooks must not pull the floor from under each other."""
    with Cgroup(NAME) as group, group.spawn(["sleep", "60"]) as child:
        with pytest.raises(FileExistsError, match=rf"mkdir\(.*/{NAME}\): File exists"):
            Cgroup(NAME).__enter__()

        assert group.pids() == [child.pid]


def test_group_that_somebody_else_removed_is_no_error():
    """What should be gone is gone."""
    with Cgroup(NAME) as group:
        group.path.rmdir()


# CPU.


def test_quota_holds_the_group_back():
    """A fifth of a CPU, and cpu.stat keeps the evidence."""
    with Cgroup(NAME, cpu_max=(20_000, 100_000)) as group, group.spawn(BUSY):
        before, begun = group.cpu_stat(), time.monotonic()
        enough = before.nr_throttled + 10
        wait_until(
            lambda: group.cpu_stat().nr_throttled >= enough, timeout_s=100, what="ten throttled periods"
        )
        stat, seconds = group.cpu_stat(), time.monotonic() - begun

    assert stat.throttled_usec > before.throttled_usec
    assert stat.nr_periods >= stat.nr_throttled
    assert (stat.usage_usec - before.usage_usec) / 1e6 / seconds < 0.35


def test_weight_divides_a_contended_cpu():
    """Three to one, and only when both want it."""
    cpu = min(os.sched_getaffinity(0))

    def work() -> None:
        os.sched_setaffinity(0, {cpu})
        while True:
            pass

    with (
        Cgroup(f"{NAME}-heavy", cpu_weight=300) as heavy,
        Cgroup(f"{NAME}-light", cpu_weight=100) as light,
        heavy.spawn(work),
        light.spawn(work),
    ):

        def is_three_to_one() -> bool:
            used, others = heavy.cpu_stat().usage_usec, light.cpu_stat().usage_usec
            return others > 700_000 and 2 < used / others < 4.5

        # The scheduler keeps to the weights in the long run; a busy host makes its steps coarse.
        wait_until(
            is_three_to_one, timeout_s=100, what="three times as much CPU time for three times the weight"
        )


# Memory.


def test_memory_beyond_the_limit_is_answered_by_the_oom_killer():
    """Exit by SIGKILL, 137 in a shell, and memory.events tells it from a stop timeout."""
    with Cgroup(NAME, memory_max="24M", memory_swap_max=0) as group:
        completed = group.run(GREEDY)
        events = group.memory_events()

    assert completed.returncode == -signal.SIGKILL
    assert events.oom_kill == 1
    assert events.max > 0


def test_memory_within_the_limit_is_given():
    """The same program, a larger limit."""
    with Cgroup(NAME, memory_max="128M") as group:
        assert group.run(GREEDY).stdout == f"{64 << 20}\n"
        assert group.memory_events().oom_kill == 0
        assert group.memory_peak_bytes > 64 << 20


@pytest.mark.parametrize(("oom_group", "survives"), [(False, True), (True, False)])
def test_oom_killer_takes_one_process_or_the_whole_group(oom_group, survives):
    """memory.oom.group is the difference between a lost worker and a restarted container."""
    program = ["sh", "-c", '"$@"; echo survived', "sh", *GREEDY]
    with Cgroup(NAME, memory_max="24M", memory_swap_max=0, oom_group=oom_group) as group:
        completed = group.run(program)

    assert ("survived" in completed.stdout) is survives


def test_page_cache_counts_as_memory_of_the_group():
    """memory.current is more than what programs hold; memory.stat says what it is."""
    with Cgroup(NAME, memory_max="64M") as group, group.spawn(["sleep", "60"]):
        stat = group.memory_stat()

        assert {"anon", "file"} <= set(stat)
        assert group.memory_current_bytes >= stat["anon"]


# Processes.


def test_fork_beyond_the_limit_is_refused():
    """EAGAIN in the child, and pids.events counts it."""
    program = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"]
    with Cgroup(NAME, pids_max=5) as group:
        completed = group.run(program)
        events = group.pids_events()

    assert "Cannot fork" in completed.stderr
    assert events.max >= 1


def test_fork_bomb_stays_inside_and_ends_with_the_block():
    """It refills as fast as one kills; cgroup.kill takes all at once."""
    bomb = ["sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 60"]
    with Cgroup(NAME, pids_max=30) as group, group.spawn(bomb, capture=True):
        wait_until(lambda: group.pids_events().max > 0, timeout_s=60, what="the bomb to hit its limit")

        assert group.pids_current <= 30

    assert not group.path.exists()


# Freezer, kill, events.


def test_frozen_group_uses_no_cpu_until_it_is_thawed():
    """Not even to die of SIGTERM."""
    with Cgroup(NAME) as group, group.spawn(BUSY):
        group.freeze()
        frozen = group.cpu_stat().usage_usec

        assert group.events().frozen
        assert group.cpu_stat().usage_usec == frozen

        group.thaw()
        wait_until(lambda: group.cpu_stat().usage_usec > frozen, timeout_s=60, what="the group to run again")


def test_frozen_group_ends_with_its_block():
    """Version 1 holds SIGKILL back until the thaw; version 2 does not."""
    with Cgroup(NAME) as group, group.spawn(["sleep", "60"]):
        group.freeze()

    assert not group.path.exists()


def test_kill_reaches_groups_below():
    """A container may have made groups of its own."""
    with (
        Cgroup(NAME) as group,
        Cgroup("inner", parent=group) as inner,
        inner.spawn(["sleep", "60"]) as child,
    ):
        assert group.events().populated
        group.kill()

        assert child.wait(timeout_s=60) == -signal.SIGKILL
        assert not group.events().populated


def test_groups_that_the_processes_made_are_removed_too():
    """mkdir is all it takes."""
    with Cgroup(NAME) as group:
        (group.path / "one/two").mkdir(parents=True)

    assert not group.path.exists()


# The tree.


def test_child_group_has_the_controllers():
    """Each level must hand them on in cgroup.subtree_control."""
    with Cgroup(NAME) as group, Cgroup("inner", parent=group, memory_max="10M") as inner:
        assert {"cpu", "memory", "pids"} <= set(inner.controllers)
        assert inner.path == group.path / "inner"


def test_controller_that_the_level_above_keeps_is_missing():
    """A group made by hand, under a parent that enables nothing."""
    with Cgroup(NAME) as group:
        plain = group.path / "plain"
        plain.mkdir()

        assert controllers(plain) == ()
        with pytest.raises(MissingFeature, match=f"{plain} offers no controller, not memory"):
            Cgroup("demo", parent=plain, memory_max="10M").__enter__()
        assert list(plain.glob("*/")) == []


def test_group_has_processes_or_controllers_below_never_both():
    """The "no internal processes" rule; only the root is free of it."""
    with Cgroup(NAME) as group, group.spawn(["sleep", "60"]):
        with pytest.raises(
            OSError, match=r"cgroup.subtree_control, '\+cpu.*Device or resource busy"
        ) as caught:
            Cgroup("inner", parent=group).__enter__()

        assert caught.value.errno == errno.EBUSY
        assert "only the root may have both" in caught.value.__notes__[0]


def test_caller_in_its_own_group_is_not_killed_by_its_end():
    """The famous snippet writes $$ to cgroup.procs; the notebook must survive it."""
    before = cgroup_of()
    with Cgroup(NAME) as group:
        (group.path / "cgroup.procs").write_text(str(os.getpid()))
        assert cgroup_of() == group.path

    assert cgroup_of() == before


def test_process_that_is_gone_cannot_be_moved(gone):
    """One line with its number."""
    no_such = rf"cgroup.procs, '{gone}'\): No such process"
    with Cgroup(NAME) as group, pytest.raises(ProcessLookupError, match=no_such):
        group.add(gone)


def test_cgroup_namespace_begins_at_the_group():
    """The child must see its own group as the root, not that of who started it."""
    with Cgroup(NAME) as group:
        completed = group.run(["cat", "/proc/self/cgroup"], new=("cgroup",))

    assert completed.stdout.splitlines()[-1] == "0::/"


def test_entering_namespaces_does_not_enter_the_group():
    """`docker exec` has to do both."""
    with Cgroup(NAME) as group, group.spawn(["sleep", "60"], new=("pid",)) as child:
        completed = run_in(child, ["cat", "/proc/self/cgroup"])

    assert NAME not in completed.stdout


def test_io_stat_is_a_mapping_by_device():
    """Which devices there are is the machine's affair."""
    with Cgroup(NAME) as group:
        group.run(["cat", "/etc/hostname"])

        assert all(":" in device for device in group.io_stat())


def test_proc_self_cgroup_of_a_child_names_the_group():
    """What a program can find out about itself."""
    with Cgroup(NAME) as group:
        lines = group.run(["cat", "/proc/self/cgroup"]).stdout.splitlines()

    assert lines[-1] == f"0::/{NAME}"
