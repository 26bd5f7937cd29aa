import pytest

from cnlab.containers.runtime import resources
from cnlab.containers.runtime.resources import device_line, for_v1, for_v2, weight_of_shares
from cnlab.errors import InvalidValue

DEVICE = {"major": 8, "minor": 0}


def files(settings):
    return {file: line for _, file, line in settings}


def test_memory_is_translated_for_both_versions():
    """Version 1 counts memory and swap together, version 2 apart."""
    given = {"memory": {"limit": 32 << 20, "swap": 48 << 20, "reservation": 8 << 20}}

    assert files(for_v1(given)) == {
        "memory.limit_in_bytes": str(32 << 20),
        "memory.memsw.limit_in_bytes": str(48 << 20),
        "memory.soft_limit_in_bytes": str(8 << 20),
    }
    assert files(for_v2(given)) == {
        "memory.swap.max": str(16 << 20),
        "memory.max": str(32 << 20),
        "memory.low": str(8 << 20),
    }


def test_cpu_is_translated_for_both_versions():
    given = {"cpu": {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0-1", "idle": 0}}

    assert files(for_v1(given)) == {
        "cpu.shares": "512",
        "cpu.cfs_period_us": "50000",
        "cpu.cfs_quota_us": "20000",
        "cpu.idle": "0",
        "cpuset.cpus": "0-1",
    }
    assert files(for_v2(given)) == {
        "cpu.weight": "20",
        "cpu.max": "20000 50000",
        "cpu.idle": "0",
        "cpuset.cpus": "0-1",
    }


def test_period_goes_before_quota():
    """The kernel checks a quota against the period that stands."""
    order = [file for _, file, _ in for_v1({"cpu": {"quota": 1000, "period": 2000}})]

    assert order == ["cpu.cfs_period_us", "cpu.cfs_quota_us"]


def test_absent_null_and_zero_leave_a_limit_as_it_is():
    """Docker sends zeros for what the user did not ask for."""
    given = {"memory": {"limit": 0, "swap": None}, "cpu": {"shares": 0, "quota": 0}, "pids": {"limit": 0}}
    given |= {"blockIO": {"weight": 0, "weightDevice": []}, "network": None, "hugepageLimits": None}

    assert for_v1(given) == []
    assert for_v2(given) == []


def test_minus_one_takes_a_limit_away():
    given = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}

    assert files(for_v2(given)) == {
        "memory.max": "max",
        "memory.swap.max": "max",
        "cpu.max": "max 100000",
        "pids.max": "max",
    }
    assert files(for_v1(given))["memory.limit_in_bytes"] == "-1"


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (10**9, 10_000)]
)
def test_shares_become_weight_on_the_scale_of_runc(shares, weight):
    """The same config.json must weigh the same under another runtime."""
    assert weight_of_shares(shares) == weight


def test_block_io_is_translated_for_both_versions():
    given = {"blockIO": {"throttleReadBpsDevice": [DEVICE | {"rate": 1000}], "weight": 500}}

    assert files(for_v1(given)) == {"blkio.bfq.weight": "500", "blkio.throttle.read_bps_device": "8:0 1000"}
    assert files(for_v2(given)) == {"io.bfq.weight": "500", "io.max": "8:0 rbps=1000"}


def test_io_weight_falls_back_to_the_files_of_other_schedulers():
    """BFQ may not be built in."""
    assert resources.alternative("blkio.bfq.weight", "500") == ("blkio.weight", "500")
    assert resources.alternative("io.bfq.weight", "1000") == ("io.weight", "default 10000")
    assert resources.alternative("io.bfq.weight", "8:0 10") == ("io.weight", "8:0 1")
    assert resources.alternative("memory.max", "1") is None


def test_remaining_controllers_are_translated():
    given = {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}],
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}},
    }
    network = {"network": {"classID": 0x100001, "priorities": [{"name": "eth0", "priority": 500}]}}

    assert files(for_v1(given | network)) == {
        "hugetlb.2MB.limit_in_bytes": str(4 << 20),
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10000",
        "net_cls.classid": str(0x100001),
        "net_prio.ifpriomap": "eth0 500",
    }
    assert files(for_v2(given)) == {
        "hugetlb.2MB.max": str(4 << 20),
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10000",
    }


def test_unified_comes_last_and_so_wins():
    """Spec: the files in it are written as they are."""
    settings = for_v2(
        {"memory": {"limit": 1 << 20}, "unified": {"memory.max": "2097152", "cgroup.freeze": "0"}}
    )

    assert settings[-2:] == [("memory", "memory.max", "2097152"), ("cgroup", "cgroup.freeze", "0")]


def test_unified_lines_are_written_one_by_one():
    """The specification's own example has several devices in a text, and the kernel takes one at a time."""
    settings = for_v2({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}})

    assert settings == [("io", "io.max", "8:0 rbps=1"), ("io", "io.max", "8:16 rbps=2")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"memory": {"limit": 64 << 20, "swap": 32 << 20}},
            "memory.swap is 33554432, memory and swap; expected",
        ),
        ({"memory": {"limit": "64M"}}, "limit is '64M'; expected a whole number"),
        ({"memory": {"swappiness": 101}}, "swappiness is 101; expected 0 to 100"),
        ({"memory": [1]}, r"linux.resources.memory is \[1\]; expected an object"),
        ({"cpu": {"period": 2_000_000}}, "cpu.period is 2000000 us; expected 1000 to 1000000"),
        ({"memory": {"limit": -2}}, "memory.limit is -2; expected -1 or more"),
        ({"cpu": {"shares": -1}}, "cpu.shares is -1; expected 0 or more"),
        ({"pids": {"limit": -2}}, "pids.limit is -2; expected -1 or more"),
        ({"cpu": {"quota": 20_000, "burst": 20_001}}, "burst is 20001 us; expected no more than the quota"),
        ({"unified": {"../memory.max": "1"}}, "expected names of files, with texts"),
        ({"unified": {"memory.max": 1}}, "expected names of files, with texts"),
        ({"devices": [{"allow": True, "type": "x"}]}, "expected type a, b or c"),
        ({"devices": [{"allow": True, "access": "x"}]}, "access of r, w, m"),
    ],
)
def test_wrong_resources_are_told_before_anything_is_made(given, said):
    with pytest.raises(InvalidValue, match=said):
        resources.check(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"memory": {"swap": 64 << 20}}, "set memory.limit too"),
        ({"memory": {"swappiness": 10}}, "swappiness: cgroup v2 has no such setting"),
        ({"memory": {"disableOOMKiller": True}}, "disableOOMKiller: cgroup v2 has no such"),
        ({"cpu": {"realtimeRuntime": 1000}}, "realtimeRuntime: cgroup v2 has no such setting"),
    ],
)
def test_what_version_2_lacks_is_told(given, said):
    """A limit that nobody holds would be a lie."""
    with pytest.raises(InvalidValue, match=said):
        for_v2(given)


def test_unified_is_refused_in_version_1():
    with pytest.raises(InvalidValue, match=r"linux\.resources\.unified names files of cgroup v2"):
        for_v1({"unified": {"memory.max": "1"}})


def test_device_rules_are_lines_of_version_1():
    assert device_line({"allow": False, "access": "rwm"}) == "a"
    assert device_line({"type": "c", "major": 136, "minor": -1, "access": "rw"}) == "c 136:* rw"
    assert device_line({"type": "b", "major": 8}) == "b 8:* rwm"


def test_lines_for_the_same_file_stay_together():
    """In the order of the rules: a later one may revoke what an earlier one grants."""
    deny, null, zero = (
        {"allow": False},
        {"type": "c", "major": 1, "minor": 3},
        {"type": "c", "major": 1, "minor": 5},
    )
    rules = [deny, {"allow": True, **null}, {"allow": True, **zero}, {"allow": False, **zero, "access": "w"}]

    assert resources.device_lines(rules) == [
        (False, ["a"]),
        (True, ["c 1:3 rwm", "c 1:5 rwm"]),
        (False, ["c 1:5 w"]),
    ]


def test_devices_of_the_spec_are_always_allowed():
    """Spec: the runtime supplies /dev/null and so on; without rules nothing is restricted."""
    lines = [device_line(rule) for rule in resources.devices({"devices": [{"allow": False}]})]

    assert lines[0] == "a"
    assert {"c 1:3 rwm", "c 1:9 rwm", "c 5:2 rwm", "c 136:* rwm"} < set(lines)
    assert resources.devices({"devices": []}) == []
