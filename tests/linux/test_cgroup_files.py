import pytest

from cnlab.errors import InvalidValue
from cnlab.linux.cgroup_files import (
    CgroupEvents,
    CpuMax,
    CpuStat,
    Limits,
    MemoryEvents,
    parse_cpu_max,
    parse_flat_keyed,
    parse_nested_keyed,
    parse_size,
)

CPU_STAT = """usage_usec 1080000
user_usec 1050000
system_usec 30000
nr_periods 53
nr_throttled 52
throttled_usec 4080000
nr_bursts 0
burst_usec 0
"""


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("0", 0),
        ("64K", 65_536),
        ("64M", 67_108_864),
        ("64m", 67_108_864),
        ("64 MiB", 67_108_864),
        ("1.5G", 1_610_612_736),
        ("max", None),
    ],
)
def test_size_is_bytes_or_a_number_with_a_unit(text, size_bytes):
    """The units are powers of 1024, as the kernel's are."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["64X", "", "M", "-1", -1, "64MM", "1e9", "0x10", "64M\n65M"])
def test_other_text_is_no_size(text):
    """The kernel would take "64X" for 64 bytes and let the OOM killer explain."""
    with pytest.raises(InvalidValue) as caught:
        parse_size(text)

    assert str(caught.value) == (
        f"{text!r} is no size; expected bytes, or a number and K, M, G or T like '64M', or 'max'"
    )


def test_cpu_max_reads_what_it_writes():
    """`max` is the absence of a quota, not a number."""
    assert parse_cpu_max("20000 100000\n") == CpuMax(20_000, 100_000)
    assert parse_cpu_max("max 100000\n") == CpuMax(None, 100_000)
    assert parse_cpu_max("50000") == CpuMax(50_000)
    assert str(CpuMax(None)) == "max 100000"
    assert str(CpuMax(20_000)) == "20000 100000"


def test_cpu_max_tells_how_many_cpus_that_is():
    """Kubernetes writes the same as 200m."""
    assert CpuMax(20_000, 100_000).cpus == 0.2
    assert CpuMax(None).cpus == float("inf")


@pytest.mark.parametrize("text", ["", "20 %", "20000 100000 1", "-1 100000", "quota 100000", "20000 x"])
def test_other_text_is_no_cpu_max(text):
    """Version 1's -1 for "no limit" is a usual slip."""
    with pytest.raises(InvalidValue, match=r"is no cpu.max; expected microseconds"):
        parse_cpu_max(text)


@pytest.mark.parametrize(("quota_us", "period_us"), [(999, 100_000), (20_000, 999), (20_000, 1_000_001)])
def test_cpu_max_outside_the_kernels_range_is_refused(quota_us, period_us):
    """EINVAL would not say which of the two."""
    with pytest.raises(InvalidValue, match=r"cpu.max: a (quota|period) of"):
        CpuMax(quota_us, period_us)


def test_flat_keyed_file_is_a_mapping():
    """One key and one number a line."""
    assert parse_flat_keyed("populated 1\nfrozen 0\n") == {"populated": 1, "frozen": 0}


def test_nested_keyed_file_is_a_mapping_of_mappings():
    """Devices first; `max` is no limit."""
    text = "8:16 rbps=2097152 wbps=max riops=max wiops=120\n8:0 rbps=max\n"

    assert parse_nested_keyed(text) == {
        "8:16": {"rbps": 2097152, "wbps": None, "riops": None, "wiops": 120},
        "8:0": {"rbps": None},
    }


def test_cpu_stat_is_read_by_name():
    """Newer kernels add keys; the ones we know keep their meaning."""
    assert CpuStat.parse(CPU_STAT) == CpuStat(1_080_000, 1_050_000, 30_000, 53, 52, 4_080_000)


def test_cpu_stat_without_a_controller_has_never_throttled():
    """Without the cpu controller the file has its first three lines only."""
    assert CpuStat.parse("usage_usec 5\nuser_usec 3\nsystem_usec 2\n") == CpuStat(5, 3, 2, 0, 0, 0)


def test_memory_events_of_an_older_kernel_have_no_group_kills():
    """`oom_group_kill` came with Linux 5.17."""
    text = "low 0\nhigh 0\nmax 67\noom 1\noom_kill 1\n"

    assert MemoryEvents.parse(text) == MemoryEvents(
        low=0, high=0, max=67, oom=1, oom_kill=1, oom_group_kill=0
    )


def test_cgroup_events_tell_whether_somebody_is_there():
    """The file can be polled, this is what one reads then."""
    assert CgroupEvents.parse("populated 1\nfrozen 0\n") == CgroupEvents(populated=1, frozen=0)


def test_limits_become_lines_for_files():
    """Units are resolved here, so that what is written is what will be read back."""
    limits = Limits(
        cpu_max=(20_000, 100_000),
        cpu_weight=300,
        memory_max="64M",
        memory_high="max",
        pids_max=10,
        io_max={"8:0": {"wbps": 1_000_000, "rbps": "max"}},
        oom_group=True,
    )

    assert limits.lines() == [
        ("cpu.max", "20000 100000"),
        ("cpu.weight", "300"),
        ("memory.max", "67108864"),
        ("memory.high", "max"),
        ("memory.oom.group", "1"),
        ("pids.max", "10"),
        ("io.max", "8:0 wbps=1000000 rbps=max"),
    ]


def test_no_limits_write_nothing():
    """None leaves a file as it is."""
    assert Limits().lines() == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"memory_max": "64X"}, "memory_max: '64X' is no size"),
        ({"memory_swap_max": "lots"}, "memory_swap_max: 'lots' is no size"),
        ({"cpu_max": 0.2}, r"cpu_max=0.2; expected \(quota_us, period_us\)"),
        ({"cpu_max": (20_000, 100_000, 1)}, "expected"),
        ({"cpu_weight": 0}, "cpu_weight=0; expected a number from 1 to 10000"),
        ({"cpu_weight": "heavy"}, "cpu_weight='heavy'"),
        ({"pids_max": -1}, "pids_max=-1"),
        ({"pids_max": "64"}, "pids_max='64'"),
        ({"io_max": {"/dev/sda": {"wbps": 1}}}, "'/dev/sda' is no device; expected MAJOR:MINOR"),
        ({"io_max": {"8:0": {"bps": 1}}}, "bps=1; expected rbps, wbps, riops, wiops"),
        ({"io_max": {"8:0": {"wbps": 0}}}, "wbps=0"),
    ],
)
def test_limit_that_no_kernel_takes_is_told_by_name(limits, message):
    """Before anything is made."""
    with pytest.raises(InvalidValue, match=message):
        Limits(**limits).lines()
