"""``cnlab-runtime``: runc's command line, its log, its exit codes, the foreground."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.containers.runtime.options import OF_COMMAND, Options, UsageError
from cnlab.containers.runtime.store import Record

root_only = pytest.mark.needs_root
has_version_1 = pytest.mark.skipif(
    not Path("/sys/fs/cgroup/memory").is_dir(), reason="the cgroup trees here are not of version 1"
)


def test_options_may_stand_before_and_after_the_id_in_both_spellings():
    """Docker writes ``--flag value``, people ``--flag=value`` and short ones."""
    options = Options(OF_COMMAND["create"])
    words = ["--bundle=/b", "-pid-file", "/p"]
    options.take(words, "create")
    rest = ["--console-socket", "/s"]
    options.take(rest, "create")

    assert ("/b", "/p", "/s") == tuple(options[name] for name in ("bundle", "pid-file", "console-socket"))


def test_option_that_nobody_knows_is_refused_with_those_that_are_known():
    """A misspelt option must not be taken for an argument."""
    with pytest.raises(UsageError, match="unknown option --forse; expected --force"):
        Options(OF_COMMAND["delete"]).take(["--forse"], "delete")


def test_short_option_means_what_it_means_to_its_command():
    """``-f`` is --force for delete and --format for list, as in runc."""
    deletes, lists = Options(OF_COMMAND["delete"]), Options(OF_COMMAND["list"])
    deletes.take(["-f"], "delete")
    lists.take(["-f", "json"], "list")

    assert (True, "json") == (deletes["force"], lists["format"])


def test_option_that_needs_a_number_says_so():
    """The words come from people too."""
    options = Options(OF_COMMAND["update"])
    options.take(["--memory", "lots"], "update")

    with pytest.raises(UsageError, match="'lots' is no number"):
        options.number("memory")


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("-1", -1), ("64m", 64 << 20), ("64MB", 64 << 20), ("1GiB", 1 << 30), ("2k", 2048)],
)
def test_memory_may_have_a_unit(text, size):
    """As runc takes it."""
    options = Options(OF_COMMAND["update"])
    options.take(["--memory", text], "update")

    assert size == options.size("memory")


@root_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--no-pivot", "a"],
            "--no-pivot is not supported: the root is changed by pivot_root(2) alone",
        ),
        (["create", "a", "--no-pivot"], "--no-pivot is not supported"),
        (["exec", "--cgroup", "below", "a", "true"], "--cgroup is not supported: the process goes to"),
        (["exec", "--ignore-paused", "a", "true"], "--ignore-paused is not supported: resume the container"),
        (["update", "--l3-cache-schema", "L3:0=f", "a"], "no resctrl file system"),
        (["update", "--memory", "lots", "a"], "option --memory: 'lots' is no number of bytes"),
        (["explode"], "unknown command 'explode'"),
        (["start", "a", "b"], "'b' is one argument too many"),
        (["--systemd-cgroup", "list"], "use the cgroupfs driver"),
        (["kill", "a", "NOSUCH"], "unknown signal 'NOSUCH'"),
    ],
)
def test_command_line_that_makes_no_sense_is_answered_in_one_line(box, arguments, message):
    """What, and what to do; no traceback."""
    done = box.command(*arguments)

    assert (1, 1) == (done.returncode, done.stderr.count("\n"))
    assert message in done.stderr


def test_version_names_the_specification(box):
    """containerd asks for it."""
    assert box.command("--version").stdout.splitlines()[-1] == "spec: 1.2.1"


@root_only
def test_error_is_the_last_line_of_the_json_log(box, tmp_path):
    """Docker shows it to its user."""
    log = tmp_path / "log.json"
    box.command("--log", str(log), "--log-format", "json", "start", "nobody")
    line = json.loads(log.read_text().splitlines()[-1])

    assert ("error", "container 'nobody' does not exist") == (line["level"], line["msg"])


@root_only
def test_warning_goes_to_the_log(box, tmp_path):
    """“… MUST be logged as a warning by the runtime.”"""
    box.process["capabilities"]["effective"].append("CAP_NOSUCH")
    box.write()
    log = tmp_path / "log.json"
    done = box.command("--log", str(log), "--log-format", "json", "run", box.id)

    assert (0, "warning") == (done.returncode, json.loads(log.read_text())["level"])


@root_only
def test_create_start_kill_delete_is_what_containerd_does(box, tmp_path):
    """Each call is a process of its own; the pid file is how the shim learns the pid."""
    box.process["args"] = ["sleep", "100"]
    box.write()
    calls = [
        box.command(
            "create", "--bundle", str(box.bundle), "--pid-file", str(tmp_path / "pid"), box.id, **detached()
        ),
        box.command("start", box.id),
    ]
    pid = int((tmp_path / "pid").read_text())
    running = json.loads(box.command("state", box.id).stdout)
    calls += [box.command("kill", box.id, "9")]
    box.wait_for(lambda: box.status == "stopped", "its end")
    calls += [box.command("delete", box.id), box.command("delete", "--force", box.id)]

    assert [0] * 5 == [call.returncode for call in calls], calls
    assert ("running", pid) == (running["status"], running["pid"])


def detached():
    """Streams for a container that outlives the command: the command's own pipes would stay open."""
    return {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@root_only
def test_run_ends_as_the_program_ends(box):
    """The exit code is the container's."""
    box.process["args"] = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    box.write()
    done = box.command("run", box.id)

    assert (7, "out\n", "err\n", True) == (done.returncode, done.stdout, done.stderr, box.is_gone())


@root_only
def test_run_of_a_program_that_a_signal_ends_gives_the_shells_code(box):
    """128 and the number."""
    box.process["args"] = ["sh", "-c", "kill -KILL $$; sleep 100"]
    box.linux["namespaces"] = [kind for kind in box.linux["namespaces"] if kind["type"] != "pid"]
    box.write()

    assert 128 + signal.SIGKILL == box.command("run", box.id).returncode


@root_only
def test_run_hands_signals_on(box):
    """Who stops the runtime stops the container."""
    box.process["args"] = [
        "sh",
        "-c",
        "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
    ]
    box.write()
    command = [runtime.command(), "--root", box.root, "run", box.id]
    with subprocess.Popen(command, cwd=box.bundle, stdout=subprocess.PIPE, text=True) as process:
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()

    assert ("ready\n", "bye\n", 3, True) == (ready, said, process.returncode, box.is_gone())


@root_only
def test_run_reaps_orphans_of_a_container_without_a_pid_namespace(box):
    """They become children of the runtime, the nearest subreaper; none may stay a zombie or keep it
    waiting."""
    box.linux["namespaces"] = [kind for kind in box.linux["namespaces"] if kind["type"] != "pid"]
    there = "kill -0 $(cat /tmp/orphan) 2>/dev/null"  # a zombie is still there
    script = f"(sh -c 'echo orphan' & echo $! > /tmp/orphan); while {there}; do sleep 0.01; done"
    box.process["args"] = ["sh", "-c", script]
    box.write()

    assert (0, "orphan\n") == (lambda done: (done.returncode, done.stdout))(box.command("run", box.id))


@root_only
def test_run_detached_leaves_the_container_running(box):
    """Until somebody deletes it."""
    box.process["args"] = ["sleep", "100"]
    box.write()
    done = box.command("run", "--detach", box.id, **detached())

    assert (0, "running") == (done.returncode, box.status)


@root_only
def test_list_and_ps_show_what_runs(box):
    """As tables for people and as JSON for programs."""
    box.create("sleep", "100")
    box.start()
    table = box.command("list").stdout.splitlines()
    found = json.loads(box.command("list", "--format", "json").stdout)
    pids = json.loads(box.command("ps", "--format", "json", box.id).stdout)

    assert (["ID", "PID", "STATUS", "BUNDLE", "CREATED"], [box.id], [box.pid], f"{box.id}\n") == (
        table[0].split(),
        [container["id"] for container in found],
        pids,
        box.command("list", "-q").stdout,
    )


@root_only
def test_ps_shows_processes_of_the_container_alone(box):
    """As runc does it: all options of ps(1) choose columns, none chooses other processes."""
    box.create("sleep", "100")
    box.start()
    box.wait_for(lambda: Path(f"/proc/{box.pid}/cmdline").read_text(), "execve to show the arguments")
    tables = [box.command("ps", box.id, *options).stdout.splitlines() for options in ([], ["-ef"], ["aux"])]
    columns = box.command("ps", box.id, "-o", "args,pid").stdout.split()

    for header, *rows in tables:
        assert ([str(box.pid)], True) == (
            [row.split()[header.split().index("PID")] for row in rows],
            rows[0].endswith("sleep 100"),
        )
    assert ["UID", "PID", "PPID"] == tables[0][0].split()[:3]
    assert ["COMMAND", "PID"] == columns[:2]


@root_only
def test_ps_without_the_column_that_it_chooses_by_is_refused(box):
    """Better than to show all."""
    box.create("sleep", "100")
    done = box.command("ps", box.id, "-eo", "args")

    assert (1, "", True) == (done.returncode, done.stdout, "must leave the column PID" in done.stderr)


@root_only
@pytest.mark.parametrize("options", [("--user", "root"), ("--user", "0:-1"), ("--user", "4294967295")])
def test_exec_as_nobody_who_can_be_is_refused(box, options):
    """It would be root, or a traceback."""
    box.create("sleep", "100")
    box.start()
    done = box.command("exec", *options, box.id, "id")

    assert (1, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "expected a number" in done.stderr


UPDATES = (
    (["--memory", "64m", "--memory-swap", "96m"], "memory.limit_in_bytes", "67108864"),
    (["--memory", "64m", "--memory-swap", "96m"], "memory.memsw.limit_in_bytes", "100663296"),
    (["--memory-reservation", "33554432"], "memory.soft_limit_in_bytes", "33554432"),
    (["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu.cfs_quota_us", "20000"),
    (["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu.cfs_period_us", "50000"),
    (["--cpu-quota", "20000", "--cpu-burst", "10000"], "cpu.cfs_burst_us", "10000"),
    (["--cpu-share", "512"], "cpu.shares", "512"),
    (["--cpu-idle", "1"], "cpu.idle", "1"),
    (["--cpuset-cpus", "0"], "cpuset.cpus", "0"),
    (["--cpuset-mems", "0"], "cpuset.mems", "0"),
    (["--pids-limit", "44"], "pids.max", "44"),
)


@root_only
@has_version_1
@pytest.mark.parametrize(("options", "file", "line"), UPDATES, ids=[file for _, file, _ in UPDATES])
def test_update_option_is_in_the_file_of_the_group(box, options, file, line):
    """Each option of people's is the limit that it names."""
    box.create("sleep", "100")
    done = box.command("update", *options, box.id)
    groups = Record.load(box.id, box.root).cgroups
    path = Path(groups.directory_of(file.partition(".")[0]), file)
    if not path.exists():
        pytest.skip(f"this kernel has no {file}")

    assert (0, "", line) == (done.returncode, done.stderr, path.read_text().strip())


@root_only
def test_update_takes_json_from_standard_input(box):
    """Docker's way; the options are people's."""
    box.create("sleep", "100")
    first = box.command("update", "--resources", "-", box.id, stdin=None, input='{"pids": {"limit": 33}}')
    by_json = limit_of(box)
    second = box.command("update", "--pids-limit", "44", box.id)

    assert (0, "33", 0, "44") == (first.returncode, by_json, second.returncode, limit_of(box))


def limit_of(box):
    """Return pids.max of the container, as `exec` sees it."""
    return box.exec("sh", "-c", "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null")[
        1
    ].strip()


@root_only
def test_events_prints_statistics(box):
    """``docker stats`` in raw."""
    box.create("sleep", "100")
    box.start()
    event = json.loads(box.command("events", "--stats", box.id).stdout)

    assert ("stats", box.id, 1) == (event["type"], event["id"], event["data"]["pids"]["current"])


@root_only
def test_exec_runs_one_more_process_with_its_exit_code(box):
    """In the foreground, with the container's environment and more."""
    box.create("sleep", "100")
    box.start()
    done = box.command(
        "exec", "--env", "MORE=1", "--cwd", "/tmp", box.id, "sh", "-c", "pwd; echo $MORE $PATH; exit 6"
    )

    assert (6, f"/tmp\n1 {box.process['env'][0].removeprefix('PATH=')}\n") == (done.returncode, done.stdout)


@root_only
def test_exec_detached_returns_when_the_program_runs(box, tmp_path):
    """The shim waits for the pid file."""
    box.create("sleep", "100")
    box.start()
    process = {"args": ["sleep", "200"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    options = ["--process", str(tmp_path / "process.json"), "--detach", "--pid-file", str(tmp_path / "pid")]
    done = box.command("exec", *options, box.id, **detached())
    pid = int((tmp_path / "pid").read_text())
    shown = box.wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_text(), "execve to show the arguments")

    assert (0, "sleep\x00200\x00") == (done.returncode, shown)


@root_only
def test_spec_writes_a_configuration_that_runs(box, tmp_path):
    """A bundle to begin with, as ``runc spec`` makes one."""
    (tmp_path / "new").mkdir()
    first = box.command("spec", cwd=tmp_path / "new")
    second = box.command("spec", cwd=tmp_path / "new")
    config = json.loads((tmp_path / "new/config.json").read_text())

    assert (0, 1, ["sh"], True) == (
        first.returncode,
        second.returncode,
        config["process"]["args"],
        config["process"]["terminal"],
    )


@root_only
def test_command_imports_nothing_that_is_slow(box):
    """Each of these would cost more than a tenth of a container's start."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import cnlab.containers.runtime.command_line, cnlab.containers.runtime.foreground;"
        "print(*sys.modules)"
    )
    root = os.path.dirname(
        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(runtime.__file__))))
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program, root], capture_output=True, text=True, check=True
    )
    slow = {
        "typing",
        "dataclasses",
        "pathlib",
        "argparse",
        "json",
        "re",
        "enum",
        "subprocess",
        "socket",
        "functools",
    }

    assert set() == slow & set(done.stdout.split())


def test_most_commands_do_without_ctypes():
    """Docker calls four commands for a container, and three of them make nothing that is new."""
    program = "import sys; sys.path.insert(0, sys.argv[1]);"
    program += "import cnlab.containers.runtime.operations; print(*sys.modules)"
    root = Path(runtime.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-IS", "-c", program, root], capture_output=True, text=True, check=True
    )

    assert not {"ctypes", "_ctypes", "struct", "cnlab.linux.seccomp"} & set(done.stdout.split())


@root_only
def test_stub_with_a_blank_in_its_path_goes_through_a_shell(tmp_path):
    """A ``#!`` line ends at the first blank."""
    from cnlab.containers.runtime import install

    (tmp_path / "my python").symlink_to(sys.executable)
    text = install.script(str(tmp_path / "my python"), str(install._PACKAGE.parent))
    install.write(tmp_path / "cnlab-runtime", text)
    done = subprocess.run(
        [tmp_path / "cnlab-runtime", "--version"], capture_output=True, text=True, check=False
    )

    assert "spec: 1.2.1" in done.stdout, done.stderr


@root_only
def test_killed_runtime_leaves_nothing_that_delete_cannot_take_away(box):
    """A create that dies half-way, here in a hook, leaves a directory and cgroups, which delete --force
    removes."""
    box.config["hooks"] = {"createRuntime": [box.hook(f"echo $$ > {box.bundle}/hook; exec sleep 100")]}
    box.write()
    command = [runtime.command(), "--root", box.root, "create", box.id]
    with subprocess.Popen(command, cwd=box.bundle, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: (box.bundle / "hook").exists(), timeout_s=60, what="the hook")
        during = box.status
        process.kill()
    os.kill(int((box.bundle / "hook").read_text()), signal.SIGKILL)
    done = box.command("delete", "--force", box.id)

    assert ("creating", 0, True) == (during, done.returncode, box.is_gone())
