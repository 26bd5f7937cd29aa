"""Being there when all is over: as a process, a file, a mount, or memory of the kernel."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

SURVIVES = "a process, mount, control group, file or piece of shared memory is left after grading"


@attack(SURVIVES)
def daemon_in_its_own_session(by: Submission) -> None:
    """Fork twice into a session of one's own, with all files closed."""
    by.run("""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 1000)
            while True: time.sleep(1)
        os._exit(0)
    """)


@attack(SURVIVES)
def daemon_that_cannot_be_pinned_down(by: Submission) -> None:
    """Fork again and again, so that whoever reads the pid comes too late; ignore all signals."""
    by.run(
        """
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True:
            try:
                if os.fork(): os._exit(0)
            except OSError: pass
    """,
        after="estimate",
    )


@attack(SURVIVES)
def daemon_started_in_a_check(by: Submission) -> None:
    """Start the daemon only when a check calls."""
    by.answer_all("""
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 1000)
                while True: time.sleep(1)
            os._exit(0)
        return None
    """)


@attack(SURVIVES)
def stopped_daemon(by: Submission) -> None:
    """Leave processes stopped, traced, and zombies."""
    by.run("""
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os.setsid(); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
        if os.fork() == 0: os._exit(0)
    if os.fork() == 0:
        libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
    """)


@attack(SURVIVES)
def daemon_in_namespaces(by: Submission) -> None:
    """Hide the daemon in namespaces of its own, whose init adopts orphans."""
    by.run("""
    if os.fork() == 0:
        libc.prctl(36, 1, 0, 0, 0)
        for flags in (0x10000000 | 0x20000000, 0x10000000, 0x20000000, 0x00020000):
            if libc.unshare(flags) == 0: print("unshared", hex(flags))
        if os.fork() == 0:
            os.setsid()
            libc.prctl(1, 0, 0, 0, 0)
            if os.fork() == 0:
                while True: time.sleep(1)
        os._exit(0)
    """)


@attack(SURVIVES)
def daemon_in_another_control_group(by: Submission) -> None:
    """Move to another control group, where nobody looks for it, or make one."""
    by.run("""
    for path in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)[:50]:
        try: os.write(os.open(path, os.O_WRONLY), b"0"); breach("moved to", path)
        except OSError: pass
    for top in glob.glob("/sys/fs/cgroup/*") + ["/sys/fs/cgroup"]:
        try: os.mkdir(top + "/evil"); os.rmdir(top + "/evil"); breach("made a group in", top)
        except OSError: pass
    """)


@attack(SURVIVES)
def daemon_of_the_system(by: Submission) -> None:
    """Ask others to run something later: cron, at, systemd, D-Bus, shells' start-up files."""
    by.run("""
    line = b"* * * * * touch /tmp/survived\\n"
    for command in (["systemd-run", "--user", "sleep", "1000"], ["at", "now"], ["crontab", "-"], ["batch"]):
        try: subprocess.run(command, input=line, timeout=0.5, capture_output=True)
        except (OSError, subprocess.TimeoutExpired): pass
    for path in (
        "~/.bashrc", "~/.profile", "/etc/cron.d/evil", "/var/spool/cron/evil", "~/.config/autostart/evil",
        "~/.ipython/profile_default/startup/evil.py", "~/.local/lib/python3.11/site-packages/evil.pth",
    ):
        path = os.path.expanduser(path)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True); open(path, "a").write("import evil\\n")
        except OSError: pass
    """)


@attack(SURVIVES)
def files_everywhere(by: Submission) -> None:
    """Leave files wherever one may write."""
    by.run(f"""
    for top in (*"/tmp /var/tmp /dev/shm /dev/mqueue /run /run/lock /var/lock /home . .. /".split(),
                {str(by.known.home)!r}, {str(by.known.course)!r}, sys.prefix, os.path.dirname(np.__file__)):
        for name in ("survivor", ".survivor"):
            try:
                with open(os.path.join(top, name), "w") as file: file.write("left")
                os.chmod(os.path.join(top, name), 0o6777)
            except OSError: pass
    """)


@attack(SURVIVES)
def change_the_environment(by: Submission) -> None:
    """Write into the Python environment that the next submission would run in."""
    by.run("""
    import IPython
    for module in (np, IPython, os, re):
        path = module.__file__
        for target in (path, os.path.join(os.path.dirname(path), "__pycache__", "x.pyc")):
            try: open(target, "ab").close(); breach("may write", target)
            except OSError: pass
        try: os.chmod(path, 0o777); breach("may change", path)
        except OSError: pass
        try: os.utime(path); breach("may touch", path)
        except OSError: pass
    """)


@attack(SURVIVES)
def shared_memory_of_the_kernel(by: Submission) -> None:
    """Leave System V segments, semaphores and queues, POSIX queues, and keys in keyrings."""
    by.run("""
    for number in range(3):
        libc.shmget(0x5000 + number, 4096, 0o1666); libc.semget(0x5000 + number, 1, 0o1666)
        libc.msgget(0x5000 + number, 0o1666)
    libc.mq_open(b"/survivor", os.O_CREAT | os.O_RDWR, 0o666, None)
    for keyring in (-1, -2, -3, -4, -5): libc.syscall(248, b"user", b"survivor", b"x", 1, keyring)
    """)


@attack(SURVIVES)
def mounts(by: Submission) -> None:
    """Mount over the environment, and share what is mounted with others."""
    by.run("""
    for source, target, kind, flags in (
        (b"none", b"/", None, 1 << 20 | 16384), (b"tmpfs", b"/tmp", b"tmpfs", 0),
        (b"/tmp", b"/usr", None, 4096), (b"proc", b"/proc", b"proc", 0), (b"none", b"/", None, 32),
        (b"/etc/passwd", b"/etc/shadow", None, 4096),
    ):
        if libc.mount(source, target, kind, flags, None) == 0: breach("mounted", target)
    if libc.umount2(b"/proc", 2) == 0: breach("unmounted /proc")
    """)


@attack(SURVIVES)
def files_without_a_name(by: Submission) -> None:
    """Keep files that are deleted, passed in messages to oneself, so that no process holds them."""
    by.run("""
    import array
    for _ in range(20):
        a, b = socket.socketpair()
        for _ in range(50):
            fd = os.memfd_create("kept"); os.ftruncate(fd, 1 << 20)
            files = array.array("i", [fd, a.fileno(), b.fileno()])
            try: a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            except OSError: break
            finally: os.close(fd)
        a.close()
    """)


@attack(SURVIVES)
def threads_and_exit_handlers(by: Submission) -> None:
    """Refuse to end: threads that join, exit handlers that wait, objects that fight their deletion."""
    by.run(
        """
    import atexit
    threading.Thread(target=time.sleep, args=(1000,)).start()
    atexit.register(time.sleep, 1000)
    class Undying:
        def __del__(self):
            while True: time.sleep(1)
    undying = [Undying() for _ in range(3)]
    """,
        after="estimate",
    )


@attack(SURVIVES)
def locks_on_shared_files(by: Submission) -> None:
    """Lock files that others need: the environment's, one's own, those that are inherited."""
    by.run(
        """
    import fcntl
    for path in ("/proc/self/exe", np.__file__, "/etc/passwd", "/", ".", "/dev/null"):
        try: fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError: pass
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    """,
        after="estimate",
    )
