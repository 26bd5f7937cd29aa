"""What else may lie in a submission: links, devices, pipes, odd names, too much of everything."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from grading.attacks.assignment import NAME
from grading.attacks.attack import Submission, attack

READS = "a secret is read, something outside is written, or the run stops or hangs"


def _instead_of_the_notebook(directory: Path) -> Path:
    path = directory / f"{NAME}.ipynb"
    path.unlink()
    return path


@attack(READS, may_lose=True)
def link_to_the_gradebook(by: Submission) -> None:
    """Hand in links to the gradebook, which a copy of the results would overwrite."""

    def place(directory: Path) -> None:
        os.symlink(by.known.gradebook, _instead_of_the_notebook(directory))
        os.symlink(by.known.gradebook, directory / "data.csv")

    by.place = place


@attack(READS, may_lose=True)
def link_to_anothers_work(by: Submission) -> None:
    """Hand in a link to the submission of somebody else, who did the work."""

    def place(directory: Path) -> None:
        os.symlink(f"../../honest/{NAME}/{NAME}.ipynb", _instead_of_the_notebook(directory))

    by.place = place


@attack(READS)
def links_to_secrets(by: Submission) -> None:
    """Hand in links to the instructor's home, the course and the root, and read what they show."""

    def place(directory: Path) -> None:
        for name, target in (
            ("home", by.known.home), ("course", by.known.course), ("root", "/"), ("gb", by.known.gradebook),
            ("secret.txt", by.known.home / "secret.txt"), ("self", "/proc/self"), ("loop", "loop"),
            ("up", ".."),
        ):  # fmt: skip
            os.symlink(target, directory / name)

    by.place = place
    by.run("""
    for path in ("secret.txt", "gb", "home/secret.txt", "course/gradebook.db", "self/environ", "up/../gb"):
        look(path)
    for at, _, names in os.walk(".", followlinks=False):
        for name in names: look(os.path.join(at, name))
    """)


@attack(READS, may_lose=True)
def hard_link_to_anothers_work(by: Submission) -> None:
    """Hand in a hard link to a file of the instructor's, made where links are not protected."""

    def place(directory: Path) -> None:
        os.link(directory.parents[3] / "secret.txt", directory / "mine.txt")

    by.place = place
    by.run("pass")


@attack(READS, may_lose=True)
def pipe_as_notebook(by: Submission) -> None:
    """Hand in a named pipe, at which a reader waits for ever."""
    by.place = lambda directory: os.mkfifo(_instead_of_the_notebook(directory))


@attack(READS, may_lose=True)
def device_as_notebook(by: Submission) -> None:
    """Hand in /dev/zero, which has no end, or a link to it where one may make no device."""

    def place(directory: Path) -> None:
        path = _instead_of_the_notebook(directory)
        try:
            os.mknod(path, 0o20666, os.makedev(1, 5))
        except PermissionError:
            os.symlink("/dev/zero", path)

    by.place = place


@attack(READS, may_lose=True)
def directory_as_notebook(by: Submission) -> None:
    """Hand in a directory of the notebook's name."""
    by.place = lambda directory: _instead_of_the_notebook(directory).mkdir()


@attack(READS)
def pipes_and_sockets_beside(by: Submission) -> None:
    """Put pipes, a socket and devices beside the notebook."""

    def place(directory: Path) -> None:
        os.mkfifo(directory / "data.csv")
        with socket.socket(socket.AF_UNIX) as server:
            at = os.getcwd()
            os.chdir(directory)
            try:
                server.bind("socket")
            finally:
                os.chdir(at)
        try:
            os.mknod(directory / "disk", 0o60666, os.makedev(8, 0))
        except PermissionError:
            os.symlink("/dev/null", directory / "disk")

    by.place = place


@attack(READS)
def odd_names(by: Submission) -> None:
    """Use names with line ends, escape sequences, dots, quotes, no encoding, and of full length."""
    names = [
        b"a\nb.txt", b"\x1b[2J\x1b]0;x\x07.csv", b"..\n", b"...", b"-rf", b"--help", b"$(reboot)", b"`id`.py",
        b"a;b|c&d", b"'\"<script>.csv", b"\xff\xfe.dat", b"..%2f..%2fx", b"C:\\x", b"con", b"=1+1.csv",
        b"n" * 255,
        b"\xe2\x80\xaegpj.exe", b" ", b".", b"~",
    ]  # fmt: skip

    def place(directory: Path) -> None:
        for name in names:
            if name != b".":
                Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_bytes(b"x")

    by.place = place


@attack(READS, may_lose=True)
def many_files(by: Submission) -> None:
    """Hand in five thousand files."""

    def place(directory: Path) -> None:
        (directory / "many").mkdir()
        for number in range(5_000):
            os.close(os.open(directory / "many" / str(number), os.O_CREAT | os.O_WRONLY, 0o644))

    by.place = place


@attack(READS, may_lose=True)
def deep_directories(by: Submission) -> None:
    """Hand in directories deeper than a path may be long."""

    def place(directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY)
        for _ in range(1_500):
            os.mkdir("directory", dir_fd=fd)
            deeper = os.open("directory", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)

    by.place = place


@attack(READS, may_lose=True)
def hole_of_ten_gigabytes(by: Submission) -> None:
    """Put a file of ten gigabytes beside the notebook that takes no room."""

    def place(directory: Path) -> None:
        with open(directory / "data.bin", "wb") as file:
            file.truncate(10 << 30)

    by.place = place


@attack(READS, may_lose=True)
def unreadable_files(by: Submission) -> None:
    """Put files and directories without permissions beside the notebook."""

    def place(directory: Path) -> None:
        (directory / "closed").mkdir(mode=0)
        (directory / "closed.txt").touch(mode=0)

    by.place = place


@attack(READS)
def files_of_the_grader(by: Submission) -> None:
    """Hand in files whose names the grader uses itself: gradebook, journal, feedback, log, stamp."""
    for name in (
        "gradebook.db", ".nbgrader.log", f"{NAME}.html", ".cnlab/runs/hw/honest.json", "journal.json",
    ):  # fmt: skip
        by.files[name] = b'{"score": 127}'
    by.run("""
    for name in ("gradebook.db", "../gradebook.db", "../../gradebook.db", "/tmp/gradebook.db"):
        try: open(name, "w").write("x")
        except OSError: pass
    """)


@attack(READS)
def stamp_that_is_nonsense(by: Submission) -> None:
    """Write a time stamp that is no time."""
    by.files["timestamp.txt"] = b"9999-99-99 99:99:99.999999 UTC\n\n\n" + b"9" * 100_000


@attack(READS)
def stamp_of_another_age(by: Submission) -> None:
    """Write a time stamp long before the assignment was given out, or after the end of time."""
    by.files["timestamp.txt"] = b"0001-01-01 00:00:00.000000 +1459"


@attack(READS)
def setuid_file(by: Submission) -> None:
    """Hand in a shell with the set-user-id bit, and programs of the system that have it."""

    def place(directory: Path) -> None:
        (directory / "sh").write_bytes(Path("/bin/sh").read_bytes())
        (directory / "sh").chmod(0o6755)

    by.place = place
    by.run("""
    mine = os.geteuid(), os.getegid()
    for program in ("./sh", "/bin/su", "/bin/mount", "/usr/bin/sudo"):
        if os.path.exists(program) and program == "./sh":
            done = subprocess.run([program, "-p", "-c", "id -u; id -g"], capture_output=True, text=True)
            if done.stdout and tuple(map(int, done.stdout.split())) != mine: breach("became", done.stdout)
    """)
