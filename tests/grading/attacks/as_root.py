"""Being root in a lab that needs root: of one's own namespaces in a private kernel, not of that kernel.

The checks stand outside of them, as root of the machine; the machine may serve another submission next.
"""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

LEAVES = "the student's root becomes the machine's, or reaches what is outside of it"


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
