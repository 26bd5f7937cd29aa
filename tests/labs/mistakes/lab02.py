"""What students get wrong in lab 2, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "keeps numbers as text": Mistake(
        task="flat-keyed",
        changes={"int(value)": "value"},
        loses="check-flat-keyed",
        says="'max': '14'",
    ),
    "enables no controllers": Mistake(
        task="make-group",
        changes={'Path(parent, "cgroup.subtree_control").write_text("+cpu +memory +pids")': "pass"},
        loses="check-make-group-controllers",
        says="got []",
    ),
    "enables the controllers in the group as well": Mistake(
        task="make-group",
        changes={
            "path.mkdir()": 'path.mkdir()\nPath(path, "cgroup.subtree_control").write_text("+memory +pids")'
        },
        loses="check-make-group-takes-processes",
        says="got 'Device or resource busy'",
    ),
    "takes the weight for a limit": Mistake(
        task="set-limits",
        changes={
            '"cpu.max"': '"cpu.weight"',
            'f"{round(cpu * period_us)} {period_us}"': "str(round(cpu * 100))",
        },
        loses="check-cpu-limit",
        says="got max from 'max 100000'",
    ),
    "takes memory.high for the limit": Mistake(
        task="set-limits",
        changes={'"memory.max"': '"memory.high"'},
        loses="check-memory-limit",
        says="'memory.high': '67108864'",
    ),
    "makes room for the shell": Mistake(
        task="set-limits",
        changes={"str(pids)": "str(pids + 1)"},
        loses="check-pids-limit",
        says="'pids.max': '21'",
    ),
    "goes into the group itself": Mistake(
        task="start",
        instead="""
        Path(group, "cgroup.procs").write_text("0")
        pid = os.fork()
        if pid == 0:
            try:
                os.execvp(argv[0], argv)
            finally:
                os._exit(127)
        return pid
        """,
        loses="check-start-leaves-the-caller",
        says="got it in /check",
    ),
    "starts first and moves the job afterwards": Mistake(
        task="start",
        instead="""
        import subprocess
        job = subprocess.Popen(argv)
        Path(group, "cgroup.procs").write_text(str(job.pid))
        return job.pid
        """,
        loses="check-start-before-exec",
        says="got [['sleep', '2405']]",
    ),
    "never enters the group": Mistake(
        task="start",
        changes={'Path(group, "cgroup.procs").write_text("0")': "pass"},
        loses="check-start-in-group",
        says="/notebook",
    ),
    "takes use for waiting": Mistake(
        task="throttling",
        changes={"throttled_usec": "usage_usec"},
        loses="check-throttling",
        says="for the kernel's clock runs on",
    ),
    "counts how often the limit was met": Mistake(
        task="how-it-ended",
        changes={'events["oom_kill"]': 'events["max"]'},
        loses="check-oom-killed",
        says="'oom_kills':",
    ),
    "takes every 137 for out of memory": Mistake(
        task="how-it-ended",
        changes={"status == 128 + signal.SIGKILL and oom_kills": "status == 137"},
        loses="check-killed-is-not-oom",
        says="got {'end': 'oom-killed', 'oom_kills': 0}",
    ),
    "takes every OOM kill for the end": Mistake(
        task="how-it-ended",
        instead="""
        events = dict(line.split() for line in Path(group, "memory.events").read_text().splitlines())
        oom_kills = int(events["oom_kill"])
        end = "oom-killed" if oom_kills else "exited" if status <= 128 else "killed"
        return {"end": end, "oom_kills": oom_kills}
        """,
        loses="check-oom-of-a-child",
        says="with status 0 and 1 OOM kills",
    ),
    "kills one process and removes the group": Mistake(
        task="end",
        instead="""
        first = Path(group, "cgroup.procs").read_text().split()[0]
        os.kill(int(first), signal.SIGKILL)
        os.rmdir(group)
        """,
        loses="check-end",
        says="got OSError",
    ),
    "forgets the limit of processes": Mistake(
        task="run-job",
        changes={'"pids_max": pids': '"pids_max": None'},
        loses="check-bomb-stays-inside",
        says="processes of the bomb at any time, got",
    ),
    "takes its own kill for the job's status": Mistake(
        task="run-job",
        changes={"status = None": "status = 137"},
        loses="check-time-is-up",
        says="'timed_out': False",
    ),
    "reports how often the limit was met": Mistake(
        task="run-job",
        changes={"group.memory_events().oom_kill": "group.memory_events().max"},
        loses="check-report-of-oom",
        says="expected 1 OOM kill",
    ),
    "gives the job a weight": Mistake(
        task="run-job",
        changes={
            'limits["cpu_max"] = (round(cpu * 100_000), 100_000)': 'limits["cpu_weight"] = round(cpu * 100)'
        },
        loses="check-report-of-throttling",
        says="more than 0 throttled periods",
    ),
    "lets an error of the start pass": Mistake(
        task="run-job",
        changes={"    except FileNotFoundError:\n        status = 127\n": ""},
        loses="check-nothing-is-left",
        says="got FileNotFoundError",
    ),
}
