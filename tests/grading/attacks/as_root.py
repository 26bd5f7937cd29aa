"""Being root in a lab that needs root: of one's own namespaces in a private kernel, not of that kernel.

The checks stand outside of them, as root of the machine; the machine may serve another submission next.
"""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

LEAVES = "the student's root becomes the machine's, or reaches what is outside of it"
REACHES = "a program that a check starts as root reaches its tester, or what that uses"
OTHERS = ("mean", "shout", "answer")


@attack(LEAVES)
def mount_the_host(by: Submission) -> None:
    """Mount the host's file system, as root of such a machine can, and its disks and debugging files."""
    by.run(f"""
    secrets = {[str(by.known.gradebook), str(by.known.home / "secret.txt")]!r}
    os.makedirs("/tmp/host", exist_ok=True)
    for kind in b"hostfs hppfs debugfs tracefs securityfs configfs binfmt_misc 9p ext4".split():
        if libc.mount(b"none", b"/tmp/host", kind, 0, b"/" if kind == b"hostfs" else None) == 0:
            breach("mounted", kind)
            for path in secrets: look("/tmp/host" + path)
    for path in secrets: look(path)
    for device in ((98, 0), (1, 1), (1, 2), (10, 234)):
        try:
            os.mknod("/tmp/device", 0o60666, os.makedev(*device))
            os.open("/tmp/device", os.O_RDONLY)
            breach("opened", device)
        except OSError: pass
    """)


@attack(LEAVES)
def programs_of_the_kernel(by: Submission) -> None:
    """Name a program that the kernel runs as its own root: at crashes, for modules, for devices."""
    by.run("""
    paths = (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
        "/sys/kernel/uevent_helper", "/proc/sysrq-trigger", "/proc/sys/fs/binfmt_misc/register",
    )
    def attempt(prefix):
        for path in paths:
            try:
                fd = os.open(prefix + path, os.O_WRONLY)
                os.write(fd, b"|/tmp/evil"); os.close(fd); breach("wrote", prefix + path)
            except OSError: pass
    attempt("")
    os.makedirs("/tmp/p", exist_ok=True)
    if libc.mount(b"proc", b"/tmp/p", b"proc", 0, None) == 0:
        paths = tuple(path.removeprefix("/proc") for path in paths if path.startswith("/proc"))
        attempt("/tmp/p")
    """)


@attack(LEAVES)
def load_into_the_kernel(by: Submission) -> None:
    """Load a module, another kernel, or programs into the kernel; reboot it; set its clock."""
    by.run("""
    def allowed(name, *arguments):
        if libc.syscall(*arguments) >= 0: breach(name)
        elif ctypes.get_errno() not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL):
            breach(name, "may be called:", os.strerror(ctypes.get_errno()))
    allowed("init_module", 175, None, 0, None)
    allowed("finit_module", 313, -1, None, 0)
    allowed("kexec_load", 246, 0, -1, None, -1)
    allowed("bpf", 321, 5, (ctypes.c_uint32 * 32)(2, 4, 8, 1), 128)
    allowed("settimeofday", 164, None, None)
    allowed("swapon", 167, b"/nonexistent", 0)
    allowed("open_by_handle_at", 304, os.open("/", os.O_RDONLY), struct.pack("IiQ", 8, 1, 2), 0)
    """)


@attack(LEAVES)
def processes_of_the_machine(by: Submission) -> None:
    """Look for processes outside of one's own, read them, and enter their namespaces."""
    code = """
    for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        for part in ("environ", "cmdline", "maps"): look(f"/proc/{name}/{part}")
        for path in ("/proc/jobs", "/root/secret.txt"): look(f"/proc/{name}/root" + path)
        try: command = open(f"/proc/{name}/cmdline").read()
        except OSError: continue
        if "cnlab.grading.workers.inside" in command or "guest" in command: breach("sees", command)
        for kind in ("mnt", "pid", "user", "net"):
            try:
                fd = os.open(f"/proc/{name}/ns/{kind}", os.O_RDONLY)
                mine = os.stat(f"/proc/self/ns/{kind}").st_ino
                if os.fstat(fd).st_ino != mine and os.fork() == 0:
                    if libc.setns(fd, 0) == 0 and os.path.exists("/work"): breach("entered", kind, name)
                    os._exit(0)
            except OSError: pass
    """
    by.run(f"def prowl():{code}")
    by.run("prowl()")
    by.answer("mean", "prowl()\nreturn None")


@attack(LEAVES)
def groups_of_the_machine(by: Submission) -> None:
    """Raise one's own limits, and leave for a control group above."""
    by.run("""
    os.makedirs("/tmp/groups", exist_ok=True)
    libc.mount(b"none", b"/tmp/groups", b"cgroup2", 0, None)
    for top in ("/sys/fs/cgroup", "/tmp/groups"):
        for file, value in (("memory.max", b"max"), ("pids.max", b"max"), ("../cgroup.procs", b"0")):
            try:
                fd = os.open(os.path.join(top, file), os.O_WRONLY)
                os.write(fd, value); breach("wrote", top, file)
            except OSError: pass
    """)


@attack(LEAVES)
def soil_the_machine(by: Submission) -> None:
    """Leave mounts, links, groups, processes, files and settings for the next submission."""
    by.run(f"""
    secret = {by.known.secrets["channel"]!r}
    for top in (*"/ /tmp /var/tmp /dev/shm /run /root /etc /work /mnt /usr/local".split(), sys.prefix):
        try: open(os.path.join(top, "message"), "w").write(secret)
        except OSError: pass
    for command in ("ip link add survivor type bridge", "ip netns add survivor", "hostname survivor",
                    "mount -t tmpfs none /mnt", "mkdir -p /sys/fs/cgroup/survivor", "setsid sleep 1000 &",
                    "sysctl -w net.ipv4.ip_forward=1", "iptables -N survivor", "modprobe dummy"):
        subprocess.run(["sh", "-c", command], capture_output=True)
    """)


@attack(LEAVES)
def find_soil_in_the_machine(by: Submission) -> None:
    """Look for what another submission has left in the machine."""
    by.run("""
    for top in (*"/ /tmp /var/tmp /dev/shm /run /root /etc /work /mnt /usr/local".split(), sys.prefix):
        look(os.path.join(top, "message"))
    if "survivor" in open("/proc/net/dev").read() + os.uname().nodename: breach("found a survivor")
    for path in ("/sys/fs/cgroup/survivor", "/run/netns/survivor"):
        if os.path.exists(path): breach("found", path)
    """)


@attack(LEAVES, may_lose=True)
def exhaust_the_machine(by: Submission) -> None:
    """Fork and take memory without end as root, also where one is the first process and kills all others."""
    by.run(
        """
    for _ in range(3):
        if os.fork() == 0:
            hog = []
            try:
                while True: hog.append(b"x" * (16 << 20))
            finally: os._exit(1)
    try: os.kill(-1, signal.SIGTERM)
    except OSError: pass
    while True:
        try: os.fork()
        except OSError: break
    """,
        after="answer",
    )


@attack(LEAVES)
def fake_the_kernel(by: Submission) -> None:
    """Mount something else over /proc, /sys and the libraries that checks use."""
    by.run(
        """
    for target in (b"/proc", b"/sys", b"/sys/fs/cgroup", b"/usr/lib", b"/tmp", sys.prefix.encode(), b"/"):
        libc.mount(b"tmpfs", target, b"tmpfs", 0, None)
    """,
        after="answer",
    )


@attack(REACHES, earns=OTHERS)
def trace_the_tester_as_root(by: Submission) -> None:
    """Trace the tester with all the rights that it has itself; read its memory, take its descriptors."""
    by.write_program("""
    for fd in range(3, 1024):
        try: os.fstat(fd)
        except OSError: continue
        breach("has descriptor", fd)
    parent = os.getppid()
    for request in (16, 0x4206):
        if libc.ptrace(request, parent, 0, 0) == 0: breach("traces its parent")
    libc.syscall.restype = ctypes.c_long
    room = ctypes.create_string_buffer(64)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 64)
    for name in ("process_vm_readv", "process_vm_writev"):
        if getattr(libc, name)(parent, vector, 1, vector, 1, 0) >= 0: breach(name)
    for mode in (os.O_RDONLY, os.O_RDWR):
        try: os.close(os.open(f"/proc/{parent}/mem", mode)); breach("opened the memory of its parent")
        except OSError: pass
    for name in ("environ", "maps", "auxv"): look(f"/proc/{parent}/{name}")
    for name in ("fd", "map_files", "root", "cwd"):
        try: breach("sees", name, os.listdir(f"/proc/{parent}/{name}"))
        except OSError: pass
    pidfd = libc.syscall(434, parent, 0)
    for number in range(64):
        if pidfd >= 0 and libc.syscall(438, pidfd, number, 0) >= 0: breach("took descriptor", number)
    """)


@attack(REACHES, earns=OTHERS)
def cover_what_checks_use(by: Submission) -> None:
    """Lay a file system of one's own over the programs and modules that checks use, or take one away."""
    by.write_program("""
    python = os.path.dirname(os.__file__)
    for target in ("/usr/bin", "/usr/lib", python, sys.prefix, "/proc", "/usr/src", "/etc", "/tmp", "/"):
        if libc.mount(b"tmpfs", target.encode(), b"tmpfs", 0, None) == 0: breach("covered", target)
        if libc.mount(b"/tmp", target.encode(), None, 4096, None) == 0: breach("bound over", target)
        if libc.umount2(target.encode(), 2) == 0: breach("took away", target)
    if libc.mount(None, b"/", None, 1 << 18 | 1 << 20, None) == 0: breach("shares its mounts")
    fd = os.open(f"/proc/{os.getppid()}/ns", os.O_RDONLY | os.O_DIRECTORY)
    try: breach("can enter", libc.setns(os.open("mnt", os.O_RDONLY, dir_fd=fd), 0))
    except OSError: pass
    """)
