"""Speaking for the student's process instead of it: on every socket and pipe that it holds.

These know nothing of the grader's protocol; they write, read, close and replace whatever file is open.
"""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

PASSES = "a check passes although the answer is wrong, or the run hangs"

CHANNELS = """
def channels():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError: continue
        is_channel = target.startswith(("socket:", "pipe:", "/memfd", "anon_inode"))
        if is_channel and int(name) > 2: found.append(int(name))
    return found
def send(fd, data):
    try: os.write(fd, data)
    except OSError: pass
REPLIES = [
    b'{"ok": true}\\n', b'{"value": true, "status": "ok", "error": null}\\n', b'["ok", true]\\n', b"true\\n",
    b'{"id": 1, "answer": 42}\\n', b"null\\n", b"\\x80\\x04\\x88.", b"64.0\\n",
]
REPLIES += [struct.pack(order, len(reply)) + reply for reply in REPLIES for order in ("<I", ">I", "<Q", ">Q")]
"""


@attack(PASSES, may_lose=True)
def garbage_on_all_channels(by: Submission) -> None:
    """Write random bytes into every socket and pipe."""
    by.run(CHANNELS)
    by.run("for fd in channels(): send(fd, os.urandom(10_000))", after="answer")
    by.answer("square", "for fd in channels(): send(fd, os.urandom(10_000))")


@attack(PASSES, may_lose=True)
def replies_before_questions(by: Submission) -> None:
    """Write many kinds of `yes` into every channel, before anybody asked and while a check waits."""
    by.run(CHANNELS)
    by.run("for fd in channels():\n    for reply in REPLIES: send(fd, reply)", after="answer")
    by.answer_all("for fd in channels():\n    for reply in REPLIES: send(fd, reply)\nos._exit(0)")


@attack(PASSES, may_lose=True)
def lengths_without_end(by: Submission) -> None:
    """Announce frames of all sizes, and send half of one."""
    by.run(CHANNELS)
    by.answer_all("""
        for fd in channels():
            for order in ("<I", ">I", "<Q", ">Q"): send(fd, b"\\xff" * struct.calcsize(order))
            send(fd, b"{" * 100)
        time.sleep(30)
    """)


@attack(PASSES, may_lose=True)
def flood_the_channels(by: Submission) -> None:
    """Write into the channels faster than anybody reads, for ever."""
    by.run(CHANNELS)
    by.answer_all("""
        while True:
            for fd in channels(): send(fd, b"[" * 65536)
    """)


@attack(PASSES, may_lose=True)
def silence_on_the_channels(by: Submission) -> None:
    """Close all channels, or leave them open and never answer."""
    by.run(CHANNELS)
    by.run("for fd in channels(): os.close(fd)", after="check-refuse")
    by.answer("square", "os.closerange(3, 1000)\nreturn 4")


@attack(PASSES, may_lose=True)
def channels_to_nowhere(by: Submission) -> None:
    """Put other files in the place of all channels: /dev/zero, the standard streams, each other."""
    by.run(CHANNELS)
    by.answer(
        "square",
        """
        zero = os.open("/dev/zero", os.O_RDWR)
        for fd in channels(): os.dup2(zero, fd)
    """,
    )
    by.answer("refuse", "for fd in channels(): os.dup2(1, fd)")
    by.answer("invert", "for fd in channels(): os.dup2(channels()[0], fd)")


@attack(PASSES, may_lose=True)
def answer_first(by: Submission) -> None:
    """Read the questions in a thread before the grader's own server does, and say yes to each."""
    by.run(CHANNELS)
    by.run(
        """
    def serve(fd):
        while True:
            try: data = os.read(fd, 65536)
            except OSError: return
            if not data: return
            for reply in REPLIES: send(fd, reply)
    for fd in channels(): threading.Thread(target=serve, args=(fd,), daemon=True).start()
    os.register_at_fork(after_in_child=lambda: [
        threading.Thread(target=serve, args=(fd,), daemon=True).start() for fd in channels()])
    """,
        after="answer",
    )


@attack(PASSES, may_lose=True)
def files_in_messages(by: Submission) -> None:
    """Send open files in messages until the reader has no room for more."""
    by.run(CHANNELS)
    by.answer_all("""
        import array
        for fd in channels():
            try:
                with socket.socket(fileno=os.dup(fd)) as way:
                    for _ in range(500):
                        files = array.array("i", [0] * 200)
                        way.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            except OSError: pass
        return None
    """)


@attack(PASSES, may_lose=True)
def patched_writers(by: Submission) -> None:
    """Change what the grader's own code writes: every false, null and error becomes its contrary."""
    by.run(
        """
    import json
    def turned(data):
        if not isinstance(data, (bytes, str)): return data
        pairs = [("null", "true"), ("false", "true"), ("failed", "ok"), ("error", "value"), ("None", "True")]
        for old, new in pairs:
            if isinstance(data, bytes): old, new = old.encode(), new.encode()
            data = data.replace(old, new)
        return data
    write, dumps = os.write, json.dumps
    os.write = lambda fd, data: write(fd, turned(bytes(data))) and len(data)
    json.dumps = lambda *args, **kwargs: turned(dumps(*args, **kwargs))
    json.JSONEncoder.encode = lambda self, value: turned(dumps(value))
    class Socket(socket.socket):
        def send(self, data, *rest): return super().send(turned(bytes(data)), *rest) and len(data)
        def sendall(self, data, *rest): return super().sendall(turned(bytes(data)), *rest)
    for thing in gc.get_objects():
        if type(thing) is socket.socket:
            try: thing.__class__ = Socket
            except TypeError: pass
    """,
        after="answer",
    )


@attack(PASSES, may_lose=True)
def patched_encoder(by: Submission) -> None:
    """Let the encoder of plain data say what nobody returned: names of exceptions, arrays, deep and wrong."""
    by.run(
        r"""
    forged = [
        '{"error": "exec", "args": ["raise SystemExit"]}', '{"exception": {"name": "SystemExit"}}', "nul",
        '{"type": "ndarray", "dtype": "O", "shape": [1], "data": "gA=="}', '{"ndarray": ["<f8", [-1], ""]}',
        "[" * 100000 + "]" * 100000, "1" * 100000, "1e999", "NaN", '"\\ud800"', '{"dict": [[[], 1]]}',
        '{"handle": true}', '{"name": "UnicodeDecodeError", "args": []}', '{"slice": ["a", {}, []]}',
    ]
    names = ("encode", "dumps", "pack", "to_json", "plain", "dump", "encoded", "as_plain")
    state = {"turn": 0}
    def lie(*args, **kwargs):
        state["turn"] += 1
        text = forged[state["turn"] % len(forged)]
        return text.encode() if state["turn"] % 2 else text
    for name, module in list(sys.modules.items()):
        if name.startswith("cnlab") or name == "json":
            for key in names:
                if callable(getattr(module, key, None)): setattr(module, key, lie)
    """,
        after="answer",
    )
    by.answer("square", "return 3")
    by.answer("refuse", "raise TypeError('x')")


@attack(PASSES, may_lose=True)
def signal_the_caller(by: Submission) -> None:
    """Raise signals through the channels: asynchronous input, and urgent data."""
    by.run(
        """
    import fcntl
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= 2: continue
        for owner in (1, os.getppid(), -1):
            try:
                fcntl.fcntl(fd, 10, signal.SIGKILL)
                fcntl.fcntl(fd, fcntl.F_SETOWN, owner)
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | 0o20000 | os.O_NONBLOCK)
            except OSError: pass
    """,
        after="answer",
    )


@attack(PASSES, may_lose=True)
def two_answers_of_one_call(by: Submission) -> None:
    """Return twice from one call, by a fork that comes back as well."""
    by.answer_all("import os\nos.fork()\nreturn None")
    by.answer("square", "import os\nif os.fork(): os.wait()\nreturn number * number + 1")
