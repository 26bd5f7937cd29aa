"""What students get wrong in lab 1, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "looks at its own links": Mistake(
        task="namespaces-of",
        changes={'f"/proc/{pid}/ns"': '"/proc/self/ns"'},
        loses="check-namespaces-of",
        says="the links of that pid",
    ),
    "unshares the caller": Mistake(
        task="start",
        instead="""
        syscalls.unshare(flags_for(*kinds))
        pid = os.fork()
        if pid == 0:
            try:
                os.execvp(argv[0], argv)
            finally:
                os._exit(127)
        return pid
        """,
        loses="check-start-leaves-the-caller",
        says="got a caller that moved to new ['ipc', 'uts']",
    ),
    "comes back when execvp fails": Mistake(
        task="start",
        instead="""
        pid = os.fork()
        if pid == 0:
            syscalls.unshare(flags_for(*kinds))
            os.execvp(argv[0], argv)
        return pid
        """,
        loses="check-start-exec-fails",
        says="got 70",
    ),
    "renames before it unshares": Mistake(
        task="own-hostname",
        instead="""
        syscalls.sethostname(name)
        syscalls.unshare(syscalls.CLONE_NEWUTS)
        """,
        loses="check-own-hostname-only",
        says="got 'box'",
    ),
    "mounts in a copy that is still shared": Mistake(
        task="own-tmpfs",
        changes={'syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)': "pass"},
        loses="check-own-tmpfs-stays-inside",
        says="got ['tmpfs']",
    ),
    "shows the old proc again": Mistake(
        task="own-proc",
        changes={'mount("proc", "/proc", "proc")': 'mount("/proc", "/proc", flags=syscalls.MS_BIND)'},
        loses="check-own-proc",
        says="expected process 1 alone in /proc",
    ),
    "returns minus the signal's number": Mistake(
        task="init",
        changes={"return code if code >= 0 else 128 - code": "return code"},
        loses="check-init-exit-status",
        says="got -15",
    ),
    "waits for its own child only": Mistake(
        task="init",
        changes={"os.wait()": "os.waitpid(command, 0)"},
        loses="check-init-reaps",
        says="'sleep (Z)'",
    ),
    "has no handler for SIGTERM": Mistake(
        task="init",
        changes={"signal.signal(signal.SIGTERM, lambda number, frame: os.kill(command, number))": "pass"},
        loses="check-init-passes-sigterm",
        says="got ''",
    ),
    "writes a map line by line": Mistake(
        task="write-id-maps",
        instead="""
        for file, lines in (("uid_map", uid_map), ("gid_map", gid_map)):
            for inside, outside, count in lines:
                Path(f"/proc/{pid}/{file}").write_text(f"{inside} {outside} {count}")
        """,
        loses="check-uid-map",
        says="got PermissionError",
    ),
    "forgets the groups": Mistake(
        task="write-id-maps",
        changes={'("gid_map", gid_map)': '("gid_map", [])'},
        loses="check-gid-map",
        says="got []",
    ),
    "believes that unshare moves it into a pid namespace": Mistake(
        task="isolate",
        changes={
            "flags_for(*kinds)": 'flags_for(*(kind for kind in kinds if kind != "pid"))',
            "os._exit(init(argv))": "syscalls.unshare(syscalls.CLONE_NEWPID)",
        },
        is_alone=True,
        loses="check-isolate-namespaces",
        says="got ['ipc', 'uts']",
    ),
    "renames the machine": Mistake(
        task="isolate",
        changes={"pid, _ =": "if hostname:\n    syscalls.sethostname(hostname)\npid, _ ="},
        loses="check-isolate-hostname",
        says="got ['box', 'box']",
    ),
    "does not become user 0": Mistake(
        task="isolate",
        changes={"os.setresuid(0, 0, 0)": "pass"},
        loses="check-isolate-root",
        says="['Uid:', '0', '0', '0', '0']",
    ),
    "leaves the old proc mounted": Mistake(
        task="isolate",
        changes={'syscalls.mount("proc", "/proc", "proc")': "pass"},
        loses="check-isolate-proc",
        says="processes of its pid namespace, got",
    ),
}
