"""Passing answers from one submission to another that runs beside it or after it."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

REACHES = "what one submission keeps reaches another"

MEETING_POINTS = r"""
PLACES = (
    "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", ".", "..", "/home", os.path.expanduser("~"), "/",
)
ADDRESSES = (
    (1, "\0message"), (1, "/tmp/message.sock"), (2, ("127.0.0.1", 47012)), (10, ("::1", 47012)),
)
"""


@attack(REACHES)
def leave_a_message(by: Submission) -> None:
    """Leave a secret wherever another submission might find it, and stay for a while to hand it out."""
    by.run(MEETING_POINTS)
    by.run(f"""
    secret = {by.known.secrets["channel"]!r}
    for top in PLACES:
        try: open(os.path.join(top, "message"), "w").write(secret)
        except OSError: pass
    os.environ["MESSAGE"] = secret
    import mmap
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(libc.shmget(0x4D53, 4096, 0o1666), None, 0)
    if at not in (None, ctypes.c_void_p(-1).value): ctypes.memmove(at, secret.encode(), len(secret))
    for keyring in (-1, -2, -3, -4, -5):
        libc.syscall(248, b"user", b"message", secret.encode(), len(secret), keyring)
    def serve(family, address):
        try:
            server = socket.socket(family); server.bind(address); server.listen()
            while True: server.accept()[0].sendall(secret.encode())
        except OSError: pass
    for family, address in ADDRESSES:
        threading.Thread(target=serve, args=(family, address), daemon=True).start()
    libc.prctl(15, secret.encode()[:15])
    np.__dict__["message"] = secret; sys.modules["message"] = secret
    time.sleep(0.5)
    """)


@attack(REACHES)
def look_for_a_message(by: Submission) -> None:
    """Look for the message of another submission in all these places, again and again."""
    by.run(MEETING_POINTS)
    by.run("""
    def receive(family, address):
        try:
            with socket.socket(family) as client:
                client.settimeout(0.2); client.connect(address); search(client.recv(100), address)
        except OSError: pass
    libc.shmat.restype = ctypes.c_void_p
    buffer = ctypes.create_string_buffer(200)
    for _ in range(4):
        for top in PLACES:
            look(os.path.join(top, "message"))
        at = libc.shmat(libc.shmget(0x4D53, 0, 0), None, 0o10000)
        if at not in (None, ctypes.c_void_p(-1).value): search(ctypes.string_at(at, 100), "shared memory")
        for keyring in (-1, -2, -3, -4, -5):
            key = libc.syscall(250, 10, keyring, b"user", b"message", 0)
            if key > 0 and libc.syscall(250, 11, key, buffer, 200) > 0: search(buffer.raw, "a key")
        for family, address in ADDRESSES:
            receive(family, address)
        search(repr([os.environ, getattr(np, "message", ""), sys.modules.get("message")]), "memory")
        time.sleep(0.2)
    """)


@attack(REACHES)
def look_for_a_message_again(by: Submission) -> None:
    """The same from a submission that is graded at another moment."""
    look_for_a_message.build(by)
