"""System calls that a sandbox must not allow, each tried for real."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

ALLOWED = "a call succeeds that the sandbox must refuse"


@attack(ALLOWED)
def make_namespaces(by: Submission) -> None:
    """Make user, mount, network and other namespaces: the way to most holes in kernels."""
    by.run("""
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x02000000, 0x80):
        if os.fork() == 0:
            if libc.unshare(flag) == 0: breach("unshared", hex(flag))
            os._exit(0)
        os.wait()
    libc.syscall.restype = ctypes.c_long
    pid = libc.syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    if pid > 0: breach("cloned into a user namespace")
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = libc.syscall(435, arguments, 64)
    if pid == 0: os._exit(0)
    if pid > 0: breach("clone3 into a user namespace")
    """)


@attack(ALLOWED)
def become_somebody_else(by: Submission) -> None:
    """Become another user, root of the host, or regain capabilities."""
    by.run("""
    status = open("/proc/self/status").read()
    if int(re.search(r"CapEff:\\t(\\w+)", status)[1], 16): breach("has capabilities")
    if "NoNewPrivs:\\t1" not in status: breach("may gain capabilities")
    mine = os.getresuid()
    for call in (os.setuid, os.seteuid, os.setgid):
        for number in (0, 1, 1000, 65534):
            if number in os.getresuid() + os.getresgid(): continue
            try: call(number); breach("became", number)
            except OSError: pass
    try: os.setgroups([0]); breach("joined groups")
    except OSError: pass
    """)


@attack(ALLOWED)
def administer_the_machine(by: Submission) -> None:
    """Set clock and names, swap, reboot, load modules, account: what belongs to root of the host.

    The arguments are such that nothing comes of a call that is allowed.
    """
    by.run("""
    def allowed(name, *arguments):
        if libc.syscall(*arguments) >= 0: breach(name)
        elif ctypes.get_errno() not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            breach(name, "may be called:", os.strerror(ctypes.get_errno()))
    allowed("settimeofday", 164, None, None)
    allowed("adjtimex", 159, (ctypes.c_long * 40)(0x8000))
    allowed("sethostname", 170, b"evil", 4)
    allowed("setdomainname", 171, b"evil", 4)
    allowed("swapon", 167, b"/nonexistent", 0)
    allowed("swapoff", 168, b"/nonexistent")
    allowed("reboot", 169, 0xFEE1DEAD, 672274793, 0, None)
    allowed("init_module", 175, None, 0, None)
    allowed("finit_module", 313, -1, None, 0)
    allowed("delete_module", 176, b"nonexistent", 0o4000)
    allowed("kexec_load", 246, 0, -1, None, -1)
    allowed("acct", 163, b"/nonexistent")
    allowed("iopl", 172, 3)
    allowed("ioperm", 173, 0x80, 1, 1)
    allowed("syslog", 103, 3, ctypes.create_string_buffer(100), 100)
    allowed("pivot_root", 155, b"/nonexistent", b"/nonexistent")
    allowed("umount2", 166, b"/nonexistent", 0)
    allowed("chroot", 161, b"/")
    """)


@attack(ALLOWED)
def calls_with_a_history(by: Submission) -> None:
    """Use the calls that kernel exploits begin with: bpf, perf, userfaultfd, io_uring, keyrings, fanotify."""
    by.run("""
    def allowed(name, *arguments):
        result = libc.syscall(*arguments)
        if result >= 0: breach(name, result)
    allowed("bpf", 321, 0, (ctypes.c_uint32 * 32)(2, 4, 8, 1), 128)
    perf = (ctypes.c_uint32 * 32)(1, 128)
    allowed("perf_event_open", 298, perf, 0, -1, -1, 0)
    allowed("userfaultfd", 323, 0o2000000)
    allowed("userfaultfd in user mode", 323, 1)
    allowed("io_uring_setup", 425, 4, ctypes.create_string_buffer(120))
    allowed("add_key", 248, b"user", b"evil", b"x", 1, -3)
    allowed("keyctl", 250, 0, -3, 1)
    allowed("request_key", 249, b"user", b"evil", b"x", -3)
    allowed("fanotify_init", 300, 0, 0)
    allowed("fsopen", 430, b"tmpfs", 0)
    allowed("open_tree", 428, -100, b"/", 1)
    allowed("mount_setattr", 442, -100, b"/", 0x8000, (ctypes.c_uint64 * 4)(1), 32)
    allowed("move_mount", 429, -100, b"/tmp", -100, b"/", 0)
    allowed("kcmp", 312, 1, os.getpid(), 0, 0, 0)
    allowed("move_pages", 279, 1, 0, None, None, None, 0)
    allowed("personality", 135, 0x0040000)
    libc.syscall(135, 0)
    """)


@attack(ALLOWED)
def raw_sockets(by: Submission) -> None:
    """Open sockets of families that the kernel's holes were in, and raw ones."""
    by.run("""
    for family, kind, protocol in (
        (17, 3, 3), (2, 3, 1), (10, 3, 58), (38, 5, 0), (40, 1, 0), (16, 3, 12), (31, 3, 1), (29, 3, 1),
        (15, 3, 2), (44, 3, 0), (9, 5, 0), (30, 5, 0),
    ):
        try: socket.socket(family, kind, protocol); breach("socket", family, kind, protocol)
        except OSError: pass
    """)


@attack(ALLOWED)
def terminal_input(by: Submission) -> None:
    """Type on the instructor's terminal, as `TIOCSTI` and `TIOCLINUX` allow."""
    by.run("""
    import fcntl, termios
    for path in ("/dev/tty", "/dev/console", "/dev/pts/0", "/proc/self/fd/0", "/proc/self/fd/1", "/dev/ptmx"):
        try: fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError: continue
        if os.isatty(fd) and path != "/dev/ptmx": breach("has a terminal", path)
        for request in (termios.TIOCSTI, 0x541C):
            try: fcntl.ioctl(fd, request, b"x"); breach("typed on", path)
            except OSError: pass
        os.close(fd)
    """)


@attack(ALLOWED)
def files_of_the_kernel(by: Submission) -> None:
    """Write where the kernel looks for programs to run as root: core patterns, modprobe, release agents."""
    by.run("""
    for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
        "/sys/kernel/uevent_helper", "/proc/sysrq-trigger", "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/yama/ptrace_scope", "/proc/1/oom_score_adj", "/proc/self/uid_map",
        "/proc/self/setgroups", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
        "/proc/sys/fs/binfmt_misc/register", "/sys/power/state", "/proc/irq/0/smp_affinity",
        "/sys/fs/cgroup/cgroup.procs",
    ):
        for how in (os.O_WRONLY, os.O_WRONLY | os.O_APPEND):
            try: fd = os.open(path, how)
            except OSError: continue
            try:
                if path.startswith("/proc/self"): os.write(fd, b"0 0 1")
                breach("may write", path)
            except OSError: pass
            finally: os.close(fd)
    try:
        os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000")
        breach("is not killed for want of memory")
    except OSError: pass
    """)


@attack(ALLOWED)
def other_machine_modes(by: Submission) -> None:
    """Call through the 32-bit and x32 tables, which a filter may have forgotten."""
    by.run("""
    import mmap
    libc.syscall.restype = ctypes.c_long
    if os.fork() == 0:
        if libc.syscall(0x40000000 + 39) > 0: breach("x32 works")
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        # mov eax, 20 (getpid in the 32-bit table); int 0x80; ret
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        if call() == os.getpid(): breach("the 32-bit table works")
        os._exit(0)
    os.wait()
    """)
