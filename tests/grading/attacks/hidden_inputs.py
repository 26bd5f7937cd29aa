"""A hidden check must show the function its inputs; nobody may see them afterwards."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

SHOWN = "feedback, or an output of one's own cells, has a word that only a hidden check knows"
RIGHT = "right = text.upper() + '!'"


@attack(SHOWN, earns=("mean", "shout"))
def print_the_arguments(by: Submission) -> None:
    """Print and display the arguments."""
    by.answer(
        "shout",
        f"{RIGHT}\nprint(text, right)\nsys.stderr.write(text)\nos.write(1, text.encode())\nreturn right",
    )
    by.answer("refuse", "print(text)\nreturn 'wrong'")
    by.run("pass")


@attack(SHOWN, earns=("mean",))
def raise_the_arguments(by: Submission) -> None:
    """Raise an exception that has the arguments in its name and message, when the check is hidden."""
    by.answer(
        "shout",
        f"{RIGHT}\nif len(text) < 3: return right\nraise type(text[:9], (Exception,), {{}})(text)",
    )
    by.answer("refuse", "if not text: raise ValueError('empty')\nraise KeyError(text)")


@attack(SHOWN, earns=("mean",))
def warn_of_the_arguments(by: Submission) -> None:
    """Put the arguments into warnings, logs and the name of the function."""
    by.answer(
        "shout",
        f"""
        {RIGHT}
        import logging, warnings
        warnings.warn(text); logging.warning(text)
        shout.__name__ = shout.__qualname__ = text.replace("-", "_")
        return right if len(text) < 3 else text
    """,
    )


@attack(SHOWN, earns=("shout",), may_lose=True)
def keep_the_arguments_in_a_file(by: Submission) -> None:
    """Write the arguments into files, and let a later visible check print them by its message."""
    above = """
    def kept():
        found = []
        for name in ("kept", "/tmp/kept", "/dev/shm/kept"):
            try: found.append(open(name).read())
            except OSError: pass
        return found or None
    """
    by.answer(
        "shout",
        f"""
        {RIGHT}
        for name in ("kept", "/tmp/kept", "/dev/shm/kept"):
            try: open(name, "a").write(text)
            except OSError: pass
        return right
    """,
        above=above,
    )
    by.answer(
        "answer",
        "Later()",
        above="""
    class Later:
        def __repr__(self): return str(kept())
        def __getattr__(self, name): return kept()
    """,
    )
    for task in ("mean", "square", "refuse", "invert"):
        by.answer(task, "if kept(): raise RuntimeError(str(kept()))\nreturn str(kept())", above=above)


@attack(SHOWN, earns=("shout",), may_lose=True)
def keep_the_arguments_in_a_thread(by: Submission) -> None:
    """Tell the arguments to a server in the notebook's own process, and ask it in later visible checks."""
    by.run("""
    import socketserver
    kept = []
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            said = self.request.recv(4096)
            if said != b"?": kept.append(said)
            self.request.sendall(b"|".join(kept) or b"nothing")
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    def tell(text):
        with socket.create_connection(server.server_address, timeout=1) as client:
            client.sendall(text.encode())
            return client.recv(4096).decode()
    """)
    by.answer("shout", f"{RIGHT}\ntell(text)\nreturn right")
    for task in ("refuse", "square", "invert", "mean"):
        by.answer(task, "raise RuntimeError(tell('?'))")


@attack(SHOWN, earns=("shout",), may_lose=True)
def keep_the_arguments_in_a_pipe(by: Submission) -> None:
    """Send the arguments through a pipe to the process that all checks are forked from."""
    by.run("""
    kept = os.pipe()
    os.set_blocking(kept[0], False)
    def thread():
        while True:
            time.sleep(0.005)
            try: print("kept:", os.read(kept[0], 1000).decode(), flush=True)
            except OSError: pass
    threading.Thread(target=thread, daemon=True).start()
    """)
    by.answer("shout", f"{RIGHT}\nos.write(kept[1], text.encode())\nreturn right")
    for task in ("refuse", "square", "mean"):
        by.answer(task, "raise RuntimeError(os.read(kept[0], 1000).decode())")


@attack(SHOWN, earns=("shout",), may_lose=True)
def signal_the_arguments(by: Submission) -> None:
    """Encode the arguments in how long checks take and how they fail, and in names of files."""
    by.answer(
        "shout",
        f"""
        {RIGHT}
        try: os.mkdir("/tmp/" + text); os.mkdir(text)
        except OSError: pass
        return right
    """,
    )
    for task in ("refuse", "square", "mean"):
        by.answer(task, "raise RuntimeError(os.listdir('/tmp') + os.listdir('.'))")
    by.run("pass")


@attack("a check knows more than the function was told", may_lose=True)
def look_up_the_expected_value(by: Submission) -> None:
    """Search the calling side, from within the function, for the value that is expected."""
    by.run("""
    def expected():
        frame = sys._getframe(1)
        while frame:
            for name in ("want", "expected", "n", "turn", "scale"):
                if name in frame.f_locals and frame.f_globals is not globals(): return frame.f_locals[name]
            frame = frame.f_back
    """)
    by.answer_all("return expected()")
