"""Looking for what is not one's own: hidden checks, gradebook, homes, the work and the processes of others.

Each looks twice: in a cell of its own, and from within a function that a check calls.
"""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

READS = "a secret is read, even if it goes nowhere"


def _everywhere(by: Submission, code: str) -> None:
    """Look in a cell, and again while a check runs."""
    by.run(f"def steal():\n{_indented(code)}\nsteal()")
    by.answer("mean", "steal()\nreturn None")


def _indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.strip("\n").splitlines())


@attack(READS)
def read_known_paths(by: Submission) -> None:
    """Open the gradebook, the source with its hidden tests, the home and others' work by their paths."""
    paths = [
        by.known.gradebook, by.known.home / "secret.txt", by.known.home / ".ssh" / "id_rsa",
        by.known.course / "source" / "hw" / "hw.ipynb",
        by.known.course / "submitted" / "honest" / "hw" / "hw.ipynb",
        by.known.course / "autograded" / "honest" / "hw" / "hw.ipynb", by.known.course / ".cnlab",
    ]  # fmt: skip
    roots = ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/cwd/../../../../../../../..")
    _everywhere(
        by,
        f"""
for path in {[str(path) for path in paths]!r}:
    for root in {roots!r}:
        look(root + path)
        if os.path.isdir(root + path): breach("sees", root + path)
""",
    )


@attack(READS)
def walk_the_file_system(by: Submission) -> None:
    """Read what can be read below every directory that might hold something of others."""
    by.run("""
    PUBLIC = ("/proc", "/sys", "/usr", "/lib", "/lib64")
    def walk(top, deadline):
        for at, names, files in os.walk(top):
            names[:] = [n for n in names if os.path.join(at, n) not in PUBLIC]
            if time.monotonic() > deadline or at.count("/") > 12: return
            if "site-packages" in at or "/lib/python" in at: names.clear(); continue
            for name in files: look(os.path.join(at, name), 1 << 16)
    for top in "/home /root /tmp /var /run /etc /srv /opt /mnt /media /dev .. /".split():
        walk(top, time.monotonic() + 0.2)
    """)


@attack(READS)
def read_other_processes(by: Submission) -> None:
    """Read command lines, environments, files and directories of all processes in /proc."""
    _everywhere(
        by,
        """
for name in os.listdir("/proc"):
    if name.isdigit():
        own = f"/proc/{name}/"
        for part in ("cmdline", "environ", "maps", "stack", "auxv", "mountinfo"): look(own + part)
        for link in glob.glob(own + "fd/*") + [own + part for part in ("exe", "cwd", "root")]:
            try: search(os.readlink(link), link)
            except OSError: continue
            if int(name) != os.getpid() and "/fd/" in link: look(link)
            if "/fd/" not in link:
                for other in ("gradebook.db", "secret.txt", "../secret.txt"): look(f"{link}/{other}")
""",
    )


@attack(READS)
def read_own_memory(by: Submission) -> None:
    """Search one's whole memory: what was there before the fork of which one was made."""
    _everywhere(
        by,
        """
mem = os.open("/proc/self/mem", os.O_RDONLY)
deadline = time.monotonic() + 0.5
for line in open("/proc/self/maps"):
    span, rights = line.split()[:2]
    start, end = (int(part, 16) for part in span.split("-"))
    if rights.startswith("rw") and end - start < 1 << 28 and time.monotonic() < deadline:
        for at in range(start, end, 1 << 22):
            try: search(os.pread(mem, min(1 << 22, end - at), at), "own memory")
            except OSError: break
os.close(mem)
""",
    )


@attack(READS)
def read_memory_of_others(by: Submission) -> None:
    """Read the memory of parent, init and all other processes: by /proc, by ptrace, by process_vm_readv."""
    _everywhere(
        by,
        """
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(4096)
def others():
    return {1, os.getppid(), *map(int, filter(str.isdigit, os.listdir("/proc")))} - mine_and_children()
for pid in others():
    try: spans = [line.split()[:2] for line in open(f"/proc/{pid}/maps")]
    except OSError: spans = []
    if spans and pid in others(): breach("reads the map of", pid, open(f"/proc/{pid}/cmdline").read())
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        if pid in others(): breach("opens the memory of", pid)
    except OSError: pass
    if libc.ptrace(16, pid, 0, 0) == 0:
        if pid in others(): breach("traces", pid)
        libc.ptrace(17, pid, 0, 0)
    start = int(spans[0][0].split("-")[0], 16) if spans else 4096
    local, remote = Span(ctypes.addressof(buffer), 4096), Span(start, 4096)
    read = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if read > 0 and pid in others(): breach("reads", pid)
""",
    )
    by.run(
        """
        import os
        START = os.getpid()
        def mine_and_children():
            found, kin = {START, os.getpid()}, True
            parents = {}
            for name in os.listdir("/proc"):
                if name.isdigit():
                    try: stat = open(f"/proc/{name}/stat").read()
                    except OSError: continue
                    parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
            while kin:
                kin = {pid for pid, parent in parents.items() if parent in found} - found
                found |= kin
            return found
        """,
        after="heading",
    )


@attack(READS)
def read_inherited_files(by: Submission) -> None:
    """Read and rewind every open file, and leave through those that are directories."""
    _everywhere(
        by,
        """
for name in os.listdir("/proc/self/fd"):
    fd = int(name)
    try: target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError: continue
    search(target, "a link")
    if target.startswith("/") and fd > 2:
        look(f"/proc/self/fd/{fd}")
        try: search(os.pread(fd, 1 << 22, 0), target)
        except OSError: pass
        for path in ("..", "../..", "../../../../../../.."):
            try: names = os.listdir(f"/proc/self/fd/{fd}/{path}")
            except OSError: break
            for other in ("secret.txt", "gradebook.db"): look(f"/proc/self/fd/{fd}/{path}/{other}")
""",
    )


@attack(READS)
def read_environment(by: Submission) -> None:
    """Read the environment, one's command line and what the loader remembers."""
    _everywhere(
        by,
        """
for name, value in os.environ.items(): search(name + value, "environment")
for path in ("/proc/self/environ", "/proc/self/cmdline", "/proc/1/environ", "/proc/1/cmdline"): look(path)
search(repr(sys.argv) + repr(sys.orig_argv), "argv")
""",
    )


@attack(READS)
def search_objects_and_frames(by: Submission) -> None:
    """Search all objects, frames, code and source lines of the interpreter for words of hidden tests."""
    _everywhere(
        by,
        """
import linecache
for thing in gc.get_objects():
    if isinstance(thing, (dict, list, tuple, set)) and len(thing) < 5000:
        for part in (list(thing.items()) if isinstance(thing, dict) else thing):
            if isinstance(part, (str, bytes)): search(part, "an object")
            elif isinstance(part, tuple):
                for item in part:
                    if isinstance(item, (str, bytes)): search(item, "an object")
for frame in sys._current_frames().values():
    while frame:
        search(repr(frame.f_code.co_consts) + repr(list(frame.f_locals))[:10000], "a frame")
        frame = frame.f_back
for name, entry in list(linecache.cache.items()): search(str(entry)[:100000], "linecache")
""",
    )


@attack(READS)
def ask_the_network(by: Submission) -> None:
    """Connect to servers on the loopback of the machine, and to the world outside."""
    _everywhere(
        by,
        f"""
for family, address in (
    (socket.AF_INET, ("127.0.0.1", 47011)), (socket.AF_INET6, ("::1", 47011)),
    (socket.AF_UNIX, "\\0cnlab-attacks"), (socket.AF_UNIX, {str(by.known.home / "socket")!r}),
):
    try:
        with socket.socket(family) as client:
            client.settimeout(0.3)
            client.connect(address)
            search(client.recv(1000), "a server")
            breach("connected to", address)
    except OSError: pass
links = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
if set(links) - {{"lo"}}: breach("sees links", links)
look("/proc/net/unix"); look("/proc/net/tcp")
""",
    )


@attack(READS)
def read_shared_memory(by: Submission) -> None:
    """Read shared memory, message queues and keys of the kernel that belong to others."""
    _everywhere(
        by,
        """
for path in [*glob.glob("/dev/shm/*"), *glob.glob("/dev/mqueue/*"), "/proc/keys", "/proc/key-users"]:
    look(path)
libc.shmat.restype = ctypes.c_void_p
for line in list(open("/proc/sysvipc/shm"))[1:] if os.path.exists("/proc/sysvipc/shm") else []:
    at = libc.shmat(int(line.split()[1]), None, 0o10000)
    if at not in (None, ctypes.c_void_p(-1).value): search(ctypes.string_at(at, 64), "shared memory")
at = libc.shmat(libc.shmget(0x636E6C61, 0, 0), None, 0o10000)
if at not in (None, ctypes.c_void_p(-1).value): search(ctypes.string_at(at, 64), "shared memory")
buffer = ctypes.create_string_buffer(1000)
for keyring in (-1, -2, -3, -4, -5):
    key = libc.syscall(250, 10, keyring, b"user", b"cnlab-attacks", 0)
    if key > 0 and libc.syscall(250, 11, key, buffer, 1000) > 0: search(buffer.raw, "a key")
""",
    )


@attack(READS)
def open_by_handle(by: Submission) -> None:
    """Open files of the host by their numbers, as the first escapes from containers did."""
    _everywhere(
        by,
        """
for top in ("/", ".", "/tmp"):
    mount = os.open(top, os.O_RDONLY)
    for inode in (2, 64, 128, 256, 1):
        handle = struct.pack("IiQ", 8, 1, inode)
        fd = libc.open_by_handle_at(mount, handle, os.O_RDONLY)
        if fd >= 0: breach("opens inode", inode, "of", top); os.close(fd)
    os.close(mount)
""",
    )


@attack(READS)
def leave_the_root(by: Submission) -> None:
    """Escape from the root directory: chroot twice, pivot, and walk upwards through an open directory."""
    _everywhere(
        by,
        f"""
if os.fork() == 0:
    try:
        os.mkdir("jail") if not os.path.exists("jail") else None
        fd = os.open(".", os.O_RDONLY)
        try: os.chroot("jail")
        except OSError: libc.syscall(155, b".", b"jail")
        os.fchdir(fd)
        for _ in range(60): os.chdir("..")
        try: os.chroot(".")
        except OSError: pass
        for path in {[str(by.known.gradebook), str(by.known.home / "secret.txt")]!r}:
            look(path); look("." + path)
    finally: os._exit(0)
os.wait()
""",
    )


@attack(READS)
def read_devices_and_kernel_memory(by: Submission) -> None:
    """Read disks, memory and messages of the kernel, and enter the namespaces of others."""
    _everywhere(
        by,
        """
for path in (
    "/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/dev/sda", "/dev/vda", "/dev/ubda", "/dev/kmsg",
    "/proc/kmsg", "/proc/kallsyms", "/sys/kernel/debug", "/proc/1/ns/mnt", "/dev/fuse", "/dev/net/tun",
):
    try: fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError: continue
    try: data = os.read(fd, 1000)
    except OSError: data = b""
    os.close(fd)
    if path != "/proc/kallsyms" or re.search(rb"^0*[1-9a-f]", data): breach("reads", path)
for device in ((1, 1), (8, 0), (254, 0), (98, 0)):
    try: os.mknod("device", 0o60666, os.makedev(*device)); breach("makes device", device)
    except OSError: pass
for pid in (1, os.getppid()):
    for kind in ("mnt", "net", "pid", "user", "ipc", "uts"):
        try: fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        except OSError: continue
        same = os.fstat(fd).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
        if libc.setns(fd, 0) == 0 and not same: breach("enters", kind, "of", pid)
        os.close(fd)
""",
    )
