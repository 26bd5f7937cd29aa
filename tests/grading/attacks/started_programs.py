"""A program that the student wrote and a check starts by itself: it is a child of the tester."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

OTHERS = ("mean", "shout", "invert", "refuse", "square", "answer", "estimate")
REACHES = "a program that a check starts reaches its tester, other submissions or the machine"
STAYS = "what a check started is there when all is graded"


@attack(REACHES, earns=OTHERS)
def kill_the_tester(by: Submission) -> None:
    """Kill and stop one's parent, its process group, and all whom numbers can be guessed of."""
    by.write_program("""
    for pid in (1, os.getppid(), *range(2, 400)):
        if pid == os.getpid(): continue
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            try: os.kill(pid, number)
            except OSError: continue
            if pid not in (1, os.getppid()): breach("can signal", pid)
    if os.getppid() == 0: breach("the parent has ended")
    if os.fork() == 0: os.kill(0, signal.SIGKILL)
    """)


@attack(REACHES, earns=OTHERS)
def kill_all_from_a_program(by: Submission) -> None:
    """Kill whoever may be killed: the grader runs elsewhere on this machine."""
    by.write_program("""
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGCONT):
        try: os.kill(-1, number); breach("signalled others")
        except ProcessLookupError: pass
    """)


@attack(REACHES, earns=OTHERS)
def trace_the_tester(by: Submission) -> None:
    """Trace the parent, read and write its memory by all ways there are, take its descriptors."""
    by.write_program("""
    parent = os.getppid()
    for request in (16, 0x4206):
        if libc.ptrace(request, parent, 0, 0) == 0: breach("traces its parent")
    libc.syscall.restype = ctypes.c_long
    room = ctypes.create_string_buffer(64)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 64)
    for name in ("process_vm_readv", "process_vm_writev"):
        if getattr(libc, name)(parent, vector, 1, vector, 1, 0) >= 0: breach(name)
    for pid in {1, parent, *(int(name) for name in os.listdir("/proc") if name.isdigit())} - {os.getpid()}:
        for mode in (os.O_RDONLY, os.O_RDWR):
            try: os.close(os.open(f"/proc/{pid}/mem", mode)); breach("opened the memory of", pid)
            except OSError: pass
        for name in ("fd", "map_files", "task"):
            try: breach("sees", name, os.listdir(f"/proc/{pid}/{name}"))
            except OSError: pass
    pidfd = libc.syscall(434, parent, 0)
    for number in range(64):
        if pidfd >= 0 and libc.syscall(438, pidfd, number, 0) >= 0: breach("took descriptor", number)
    """)


@attack(REACHES, earns=OTHERS)
def speak_for_the_tester(by: Submission) -> None:
    """Write what a tester says of a passed check into every descriptor and socket within reach."""
    by.write_program("""
    import json
    said = json.dumps({"done": None, "fault": "", "doing": "", "pid": 0, "is_late": False}).encode()
    message = struct.pack("!I", len(said)) + said
    for fd in range(3, 1024):
        try: os.fstat(fd)
        except OSError: continue
        breach("has descriptor", fd)
        os.write(fd, message * 20)
    os.write(1, message); os.write(2, message)
    try: names = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
    except OSError: names = []
    for name in names:
        end = socket.socket(socket.AF_UNIX)
        try: end.connect(name.replace("@", chr(0))); breach("connected to", name)
        except OSError: pass
    """)


@attack("a secret is read, even if it goes nowhere", earns=OTHERS)
def read_from_a_program(by: Submission) -> None:
    """Read the gradebook, hidden tests, other submissions and the instructor's home."""
    paths = [
        by.known.gradebook, by.known.home / "secret.txt", by.known.course / "source" / "hw" / "hw.ipynb",
        by.known.course / "submitted" / "honest" / "hw" / "hw.ipynb", by.known.course / ".cnlab",
    ]  # fmt: skip
    by.write_program(f"""
for path in {[str(path) for path in paths]!r}:
    for root in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../../../.."):
        look(root + path)
        if os.path.exists(root + path): breach("sees", root + path)
for name, value in os.environ.items(): search(name + "=" + value, "environment")
for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"): look(path)
for top in ("/home", "/tmp", "/var", "/run", "/dev/shm", "/root", "/mnt"):
    for at, names, files in os.walk(top):
        if "site-packages" in at or "/lib/python" in at: names.clear(); continue
        for file in files: look(os.path.join(at, file), 1 << 16)
""")


@attack(REACHES, earns=OTHERS)
def prepare_for_later_checks(by: Submission) -> None:
    """Change what the tester or a later program would take: modules, settings, limits, mounts."""
    by.write_program("""
    lie = "import builtins; builtins.print = lambda *a, **k: None"
    places = [".", "/", "/etc", "/usr/bin", "/usr/local/bin", os.path.dirname(os.__file__), *sys.path]
    for place in places:
        for name in ("numpy.py", "subprocess.py", "sitecustomize.py", "lie.pth", "sh"):
            try: open(os.path.join(place, name), "w").write(lie)
            except OSError: continue
            if os.path.realpath(place) != os.getcwd(): breach("wrote to", place)
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches"):
        try: open(path, "r+").close(); breach("opened", path)
        except OSError: pass
    if libc.mount(b"/tmp", b"/usr/bin", None, 4096, None) == 0: breach("mounted")
    for flag in (0x10000000, 0x00020000, 0x40000000):
        if libc.unshare(flag) == 0: breach("unshared", hex(flag))
    for group in glob.glob("/sys/fs/cgroup/*"): breach("sees", group)
    """)


@attack(STAYS, earns=OTHERS)
def daemon_of_a_program(by: Submission) -> None:
    """Leave the session by setsid, fork twice, close all files, ignore all signals, and stay."""
    by.write_program("""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            os.closerange(0, 1000)
            while True: time.sleep(1)
        os._exit(0)
    """)


@attack(STAYS, earns=OTHERS, may_lose=True)
def daemons_of_a_program_that_multiply(by: Submission) -> None:
    """Fork on and on, so that no list of processes is ever complete, beside all checks that follow."""
    by.write_program("""
    if os.fork() == 0:
        os.setsid()
        os.closerange(0, 1000)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if os.fork(): os._exit(0)
            except OSError: pass
    """)


@attack("the network of the machine is reached", earns=OTHERS)
def call_out_from_a_program(by: Submission) -> None:
    """Speak to the machine's network, and to sockets of services on it."""
    by.write_program("""
    if [name for _, name in socket.if_nameindex() if name != "lo"]: breach("has interfaces")
    for family, address in ((socket.AF_INET, ("192.0.2.1", 53)), (socket.AF_INET6, ("2001:db8::1", 53))):
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            try: end.connect(address); breach("has a route to", address)
            except OSError: pass
    for family, protocol in ((16, 9), (17, 0), (40, 0)):
        try: socket.socket(family, socket.SOCK_RAW, protocol).close(); breach("has family", family)
        except OSError: pass
    """)
