"""Using up time, memory, processes, disk, or the reader's patience."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

HURTS = "the run hangs, the machine suffers, or others lose marks"
RIGHT = ("mean", "shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def fork_bomb(by: Submission) -> None:
    """Fork until nothing forks any more."""
    by.run(
        """
    while True:
        try: os.fork()
        except OSError: pass
    """,
        after="check-shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def fork_bomb_of_shells(by: Submission) -> None:
    """Let shells start shells, each in a session of its own."""
    by.run(
        """subprocess.run(["/bin/sh", "-c", "b() { setsid sh -c 'sleep 1000' & b | b & }; b"])""",
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def thread_bomb(by: Submission) -> None:
    """Start threads without end."""
    by.run(
        "while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", after="shout"
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def memory_hog(by: Submission) -> None:
    """Take memory until there is no more."""
    by.run("hog = []\nwhile True: hog.append(bytearray(os.urandom(1 << 20)) * 16)", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def memory_hogs_together(by: Submission) -> None:
    """Take memory in many processes, each a little, and in shared memory."""
    by.run(
        """
    import mmap
    for _ in range(40):
        if os.fork() == 0:
            try:
                kept = mmap.mmap(-1, 200 << 20); kept.write(b"x" * (200 << 20))
                fd = os.memfd_create("hog"); os.write(fd, b"x" * (200 << 20))
            finally:
                time.sleep(30); os._exit(0)
    os.wait()
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def memory_in_a_check(by: Submission) -> None:
    """Take all memory only when a check calls."""
    by.answer("square", "hog = []\nwhile True: hog.append(b'x' * (64 << 20))")


@attack(HURTS, earns=RIGHT, may_lose=True)
def memory_of_the_kernel(by: Submission) -> None:
    """Fill pipes and sockets, whose memory belongs to no process."""
    by.run(
        """
    import fcntl
    kept = []
    try:
        while True:
            pair = socket.socketpair(); pipe = os.pipe(); kept += [pair, pipe]
            for end in (pair[0].fileno(), pipe[1]):
                os.set_blocking(end, False)
                try: fcntl.fcntl(end, 1031, 1 << 20)
                except OSError: pass
                try:
                    while True: os.write(end, b"x" * 65536)
                except BlockingIOError: pass
    except OSError as error: print(error)
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def disk_hog(by: Submission) -> None:
    """Write files until the disk is full, beside the notebook, in /tmp, in /dev/shm."""
    by.run(
        """
    written = 0
    for name in ("hog", "/tmp/hog", "/dev/shm/hog", "/var/tmp/hog", os.path.expanduser("~/hog")):
        try:
            with open(name, "wb") as file:
                while written < 6 << 30: written += file.write(b"x" * (8 << 20))
        except OSError as error: print(name, error)
    if written >= 6 << 30: breach("wrote six gigabytes")
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def inode_hog(by: Submission) -> None:
    """Make empty files, directories and links without end, deep and wide."""
    by.run(
        """
    made = 0
    try:
        while True:
            os.mkdir("d"); os.chdir("d")
            for number in range(200):
                os.close(os.open(f"{number}-" + "n" * 240, os.O_CREAT | os.O_WRONLY)); made += 1
            if made > 2_000_000: breach("made two million files"); break
    except OSError as error: print(made, error)
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def sparse_hog(by: Submission) -> None:
    """Make a file of a petabyte, and write far beyond the end of another."""
    by.run(
        """
    with open("sparse", "wb") as file:
        try: file.truncate(1 << 50)
        except OSError as error: print(error)
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def open_all_files(by: Submission) -> None:
    """Open files until no more can be opened, and keep them."""
    by.run(
        """
    kept = []
    try:
        while len(kept) < 1 << 20: kept.append(os.open("/dev/null", os.O_RDONLY))
        breach("opened a million files")
    except OSError as error: print(error)
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def endless_loop(by: Submission) -> None:
    """Loop for ever in a cell."""
    by.run("while True: pass", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def endless_loop_in_a_check(by: Submission) -> None:
    """Loop for ever when called."""
    by.answer("square", "while True: pass")


@attack(HURTS, earns=RIGHT, may_lose=True)
def ignore_interrupts(by: Submission) -> None:
    """Ignore SIGINT, SIGTERM and all else that can be ignored, and swallow KeyboardInterrupt."""
    by.run(
        """
    for number in range(1, 64):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
    while True:
        try: time.sleep(1000)
        except BaseException: pass
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def loop_in_c(by: Submission) -> None:
    """Compute in C where no interrupt is looked at: a number of a billion digits, a regular expression."""
    by.run("""re.match(r"(a+)+$", "a" * 64 + "b")""", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def sleep_for_ever(by: Submission) -> None:
    """Wait for input that does not come, then for a lock that nobody gives back."""
    by.run(
        """
    try: input("password? ")
    except Exception as error: print(error)
    lock = threading.Lock(); lock.acquire(); lock.acquire()
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def stop_oneself(by: Submission) -> None:
    """Stop one's own process and group, so that it neither ends nor answers."""
    by.run("os.kill(os.getpid(), signal.SIGSTOP)", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def stop_in_a_check(by: Submission) -> None:
    """Stop the process when a check calls."""
    by.answer("square", "os.kill(os.getpid(), 19)\nreturn 1", above="import os")


@attack(HURTS, earns=RIGHT, may_lose=True)
def end_the_process(by: Submission) -> None:
    """End the process in the middle of the notebook, in a way that looks like success."""
    by.run("os._exit(0)", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def end_the_process_in_a_check(by: Submission) -> None:
    """End the process with success, or by a signal, when a check calls."""
    by.answer("square", "import os\nos._exit(0)")
    by.answer("invert", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    by.answer("refuse", "import ctypes\nctypes.string_at(0)")


@attack(HURTS, earns=RIGHT, may_lose=True)
def kill_all(by: Submission) -> None:
    """Send every signal to every process."""
    code = """
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        for pid in (1, os.getppid(), 0 - os.getppid(), *range(2, 400)):
            if pid != os.getpid():
                try: os.kill(pid, number)
                except OSError: pass
    try: os.kill(-1, signal.SIGKILL)
    except OSError: pass
    """
    by.run(code, after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def kill_all_in_a_check(by: Submission) -> None:
    """Send signals to all processes but one's own while a check waits, then answer wrongly."""
    by.answer(
        "square",
        """
        import os, signal
        for pid in range(1, 400):
            if pid != os.getpid():
                for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                    try: os.kill(pid, number)
                    except OSError: pass
        return None
    """,
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def crash_and_dump(by: Submission) -> None:
    """Crash with a core file as large as it gets."""
    by.run(
        """
    import resource
    try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError): pass
    if os.fork() == 0:
        kept = bytearray(50 << 20); ctypes.string_at(0)
    os.wait()
    if glob.glob("core*") + glob.glob("/tmp/core*"): breach("left a core file")
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def overflow_the_stack(by: Submission) -> None:
    """Recurse without limit."""
    by.run(
        """
    sys.setrecursionlimit(1 << 30)
    def deep(n): return deep(n + 1)
    deep(0)
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def one_long_line(by: Submission) -> None:
    """Print a line that does not end."""
    by.run("while True: sys.stdout.write('x' * (1 << 20))", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def output_of_commands(by: Submission) -> None:
    """Let commands and raw writes flood all streams."""
    by.run(
        """
    for fd in (1, 2):
        if os.fork() == 0: os.dup2(fd, 1); os.execvp("yes", ["yes"])
    try:
        while True: os.write(2, b"y" * 65536); os.write(1, b"n" * 65536)
    except OSError: pass
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def many_displays(by: Submission) -> None:
    """Display a little thing a hundred thousand times, and clear it as often."""
    by.run(
        """
    from IPython.display import clear_output, display
    for number in range(100_000): display({"text/plain": str(number)}, raw=True, display_id=str(number))
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def huge_figure(by: Submission) -> None:
    """Draw a figure of gigapixels."""
    by.run(
        """
    import matplotlib.pyplot as plt
    plt.figure(figsize=(600, 600), dpi=100); plt.plot([1, 2]); plt.show()
    """,
        after="shout",
    )


@attack(HURTS, earns=RIGHT, may_lose=True)
def huge_exception(by: Submission) -> None:
    """Raise an exception with a message of 200 MB, caused by ten thousand others."""
    by.run(
        """
    error = None
    for _ in range(10_000):
        following = ValueError("x"); following.__cause__ = error; error = following
    raise ValueError("x" * 200_000_000) from error
    """,
        after="shout",
    )
    by.answer("square", "raise ValueError('x' * 200_000_000)")


@attack(HURTS, earns=RIGHT, may_lose=True)
def exception_that_loops(by: Submission) -> None:
    """Raise exceptions whose text never ends, or that raise when they are shown."""
    above = """
    class Bad(Exception):
        def __str__(self):
            while True: pass
        __repr__ = __str__
    class Worse(Exception):
        def __str__(self): raise Worse
        args = property(lambda self: 1 / 0)
    """
    by.answer("estimate", "raise Bad", above=above)
    by.answer("refuse", "raise Worse", above=above)


@attack(HURTS, earns=RIGHT, may_lose=True)
def huge_answers(by: Submission) -> None:
    """Return texts, numbers, lists and arrays that fill the memory of who reads them."""
    by.answer("square", "return 1 << 400_000_000")
    by.answer("refuse", "return 'x' * 600_000_000")
    by.answer("invert", "return np.broadcast_to(0.0, (1 << 40,))")
    by.answer("estimate", "return [[0.0] * 1000] * 1_000_000")


@attack(HURTS, earns=RIGHT, may_lose=True)
def bottomless_answers(by: Submission) -> None:
    """Return lists within lists, one that holds itself, and mappings that never end."""
    above = """
    def nested(depth):
        value = []
        for _ in range(depth): value = [value]
        return value
    class Endless(dict):
        def items(self):
            while True: yield 1, 1
        __iter__ = keys = lambda self: iter(int, 1)
    """
    by.answer("square", "return nested(100_000)", above=above)
    by.answer("refuse", "loop = []; loop.append(loop); return loop")
    by.answer("invert", "return Endless(a=1)")
    by.answer("estimate", "return iter(int, 1)")


@attack(HURTS, earns=RIGHT, may_lose=True)
def chatter_in_checks(by: Submission) -> None:
    """Print without end from within the function that a check calls."""
    by.answer("square", "while True: print('x' * 100_000)")
    by.answer("refuse", "import sys\nfor _ in range(100_000): print('x', file=sys.stderr)\nreturn ''")


@attack(HURTS, earns=RIGHT, may_lose=True)
def many_slow_cells(by: Submission) -> None:
    """Stay just below the limit of a cell, in as many cells as it takes."""
    for _ in range(40):
        by.run("time.sleep(0.5)", after="shout")


@attack(HURTS, earns=RIGHT, may_lose=True)
def lower_priorities(by: Submission) -> None:
    """Ask for real-time scheduling, a high priority and more than the limits."""
    by.run("""
    import resource
    for attempt in (
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
        lambda: resource.setrlimit(resource.RLIMIT_NICE, (40, 40)),
    ):
        try: attempt(); breach("got its way")
        except (OSError, ValueError): pass
    for name in ("AS", "NPROC", "FSIZE", "NOFILE", "CPU", "CORE", "MEMLOCK"):
        kind = getattr(resource, f"RLIMIT_{name}")
        soft, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY: continue
        try: resource.setrlimit(kind, (hard + 1, hard + 1)); breach("raised", name)
        except (OSError, ValueError): pass
    """)


@attack(HURTS, earns=RIGHT, may_lose=True)
def fork_bomb_that_a_check_starts(by: Submission) -> None:
    """Fork until nothing forks any more, beside the tester."""
    by.write_program("""
    while True:
        try: os.fork()
        except OSError: pass
    """)


@attack(HURTS, earns=RIGHT, may_lose=True)
def memory_hogs_that_a_check_starts(by: Submission) -> None:
    """Take memory in many processes, each a little."""
    by.write_program("""
    for _ in range(40):
        if os.fork() == 0: break
    hog = bytearray(os.urandom(1 << 20)) * 100
    while True: time.sleep(1)
    """)


@attack(HURTS, earns=RIGHT, may_lose=True)
def flood_whoever_reads(by: Submission) -> None:
    """Print more than a tester can hold, faster than it looks at the time."""
    by.write_program("""
    text = b"x" * (1 << 20)
    while True: os.write(1, text)
    """)


@attack(HURTS, earns=RIGHT, may_lose=True)
def keep_whoever_reads_waiting(by: Submission) -> None:
    """End at once, and leave a process that holds the other end of the pipe open."""
    by.write_program("""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
        while True: time.sleep(1)
    """)
