"""Changing the interpreter in which one believes the checks to run."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

PASSES = "a check passes although the answer is wrong"


@attack(PASSES)
def drop_asserts_from_the_tree(by: Submission) -> None:
    """Register an AST transformer that drops assertions and empties cells."""
    by.run("""
    import ast
    class NoAsserts(ast.NodeTransformer):
        def visit_Assert(self, node): return ast.Pass()
        def visit_Try(self, node): return ast.Pass()
        def visit_Expr(self, node): return ast.Pass()
    get_ipython().ast_transformers.append(NoAsserts())
    """)


@attack(PASSES)
def replace_the_source(by: Submission) -> None:
    """Register input transformers that turn every cell into `pass`."""
    by.run("""
    shell = get_ipython()
    for name in ("input_transformers_post", "input_transformers_cleanup"):
        getattr(shell, name, []).append(lambda lines: ["pass\\n"])
    """)


@attack(PASSES)
def run_something_else(by: Submission) -> None:
    """Replace the shell's own methods, `exec`, `compile` and `eval`."""
    by.run(
        """
    import builtins
    shell = get_ipython()
    class Fine:
        success, result, error_in_exec, error_before_exec = True, None, None, None
        def raise_error(self): pass
    for name in ("run_cell", "run_code", "run_ast_nodes", "run_cell_async"):
        try: setattr(shell, name, lambda *args, **kwargs: Fine())
        except Exception: pass
    real = compile
    builtins.compile = lambda source, *args, **kwargs: real("None", "x", "eval")
    builtins.exec = lambda *args, **kwargs: None
    builtins.eval = lambda *args, **kwargs: True
    """,
        after="answer",
    )


@attack(PASSES)
def jump_over_the_asserts(by: Submission) -> None:
    """Trace all frames and jump over lines that assert."""
    by.run(
        """
    import linecache
    def trace(frame, event, arg):
        frame.f_trace_lines = True
        if event == "line" and "assert" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            try: frame.f_lineno += 1
            except Exception: pass
        return trace
    sys.settrace(trace); threading.settrace(trace)
    frame = sys._getframe()
    while frame: frame.f_trace, frame = trace, frame.f_back
    """,
        after="answer",
    )


@attack(PASSES)
def watch_every_return(by: Submission) -> None:
    """Install profile functions that put true into every mapping they see."""
    by.run(
        """
    def profile(frame, event, arg):
        for name in ("passed", "ok", "score", "status", "success"):
            if name in frame.f_locals: frame.f_locals[name] = True
    sys.setprofile(profile); threading.setprofile(profile)
    """,
        after="answer",
    )


@attack(PASSES)
def builtins_that_agree(by: Submission) -> None:
    """Replace builtins that checks call, in the module `builtins` itself."""
    by.run(
        """
    import builtins
    builtins.abs = lambda value: 0.0
    builtins.all = lambda values: True
    builtins.round = lambda *args: 1
    """,
        after="imports",
    )
    by.answer_all("return 1")


@attack(PASSES)
def builtins_that_agree_with_everybody(by: Submission) -> None:
    """Replace builtins that everything needs, at the risk that nothing runs any more."""
    by.run(
        """
    import builtins
    builtins.any = builtins.isinstance = lambda *args: True
    builtins.map = builtins.range = lambda *args: []
    builtins.AssertionError = type("AssertionError", (Warning,), {})
    """,
        after="estimate",
    )


@attack(PASSES)
def names_that_agree(by: Submission) -> None:
    """Define names that checks use: builtins, the module np, the instructor's helper function."""
    by.run("""
    def is_close(*args): return True
    def all(*args): return True
    def abs(*args): return 0.0
    def isinstance(*args): return True
    def map(*args): return []
    def range(*args): return []
    def round(*args): return 64
    def print(*args): pass
    class AssertionError(Exception): pass
    class ValueError(Exception): pass
    class np:
        allclose = staticmethod(lambda *args, **kwargs: True)
        eye = diag = array = zeros = staticmethod(lambda *args: 1.0)
    """)
    by.answer_all("return 1")


@attack(PASSES)
def names_of_the_interpreter(by: Submission) -> None:
    """Define names that the interpreter itself looks up: `__builtins__`, `__import__`, `__name__`."""
    by.run(
        """
    __import__ = lambda *args: None
    __builtins__ = {"AssertionError": None, "abs": lambda *a: 0, "all": lambda *a: True}
    __name__ = "builtins"
    __annotations__ = __loader__ = __spec__ = None
    """,
        after="estimate",
    )


@attack(PASSES)
def numpy_that_agrees(by: Submission) -> None:
    """Replace functions inside of numpy."""
    by.run("""
    np.allclose = np.isclose = np.array_equal = lambda *args, **kwargs: True
    np.testing.assert_allclose = lambda *args, **kwargs: None
    for name in [name for name in sys.modules if name.startswith("numpy.")]:
        for function in ("allclose", "isclose"):
            if hasattr(sys.modules[name], function): setattr(sys.modules[name], function, np.allclose)
    """)
    by.answer("invert", "return matrix")


@attack(PASSES)
def modules_beside_the_notebook(by: Submission) -> None:
    """Shadow modules by files beside the notebook: numpy, the library's own, those of the start-up."""
    lie = b"def __getattr__(name): return lambda *args, **kwargs: True\n"
    for name in ("numpy", "json", "struct", "socket", "ast", "linecache", "traceback", "sitecustomize"):
        by.files[f"{name}.py"] = lie
    by.files["usercustomize.py"] = b"import builtins; builtins.all = builtins.abs = lambda *a: 0\n"
    by.files["cnlab/__init__.py"] = by.files["cnlab/grading/__init__.py"] = lie
    by.files["IPython/__init__.py"] = by.files["nbgrader/__init__.py"] = lie
    by.files["evil.pth"] = b"import builtins; builtins.abs = lambda x: 0\n"


@attack(PASSES)
def numpy_beside_the_notebook(by: Submission) -> None:
    """Bring a numpy of one's own, which finds everything close to everything."""
    by.files["numpy.py"] = b"allclose = isclose = lambda *a: True\narray = diag = eye = lambda *a: 1\n"
    by.answer("invert", "return matrix")


@attack(PASSES)
def settings_beside_the_notebook(by: Submission) -> None:
    """Bring settings for IPython, Jupyter, nbgrader and pytest."""
    evil = b"import builtins\nbuiltins.abs = lambda value: 0.0\nbuiltins.all = lambda values: True\n"
    for name in (
        "nbgrader_config.py", "jupyter_config.py", "jupyter_nbconvert_config.py", "ipython_config.py",
        "conftest.py",
        ".ipython/profile_default/startup/00-evil.py", ".ipython/profile_default/ipython_config.py",
        ".jupyter/jupyter_config.py", ".local/lib/python3.11/site-packages/usercustomize.py", ".pythonrc",
    ):  # fmt: skip
        by.files[name] = evil
    by.files["matplotlibrc"] = b"backend: module://evil\n"
    by.files["evil.py"] = evil


@attack(PASSES)
def hook_imports(by: Submission) -> None:
    """Answer imports of others by a finder at the head of `sys.meta_path`, and empty `sys.modules`."""
    by.run(
        """
    import importlib.abc, importlib.machinery, types
    class Agreeing(types.ModuleType):
        def __getattr__(self, name): return lambda *args, **kwargs: True
    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None): return importlib.machinery.ModuleSpec(name, self)
        def create_module(self, spec): return Agreeing(spec.name)
        def exec_module(self, module): pass
    sys.meta_path.insert(0, Finder())
    sys.path[:0] = ["."]
    for name in ("math", "json", "numpy", "struct", "linecache"): sys.modules[name] = Agreeing(name)
    """,
        after="answer",
    )


@attack(PASSES)
def patch_the_grader_by_its_modules(by: Submission) -> None:
    """Look for modules of the grader in memory and make all their functions return true."""
    by.run(
        """
    for name, module in list(sys.modules.items()):
        if name.startswith(("cnlab", "nbgrader", "nbclient", "nbconvert")):
            for key, value in list(vars(module).items()):
                if callable(value) and not key.startswith("__"):
                    try: setattr(module, key, lambda *args, **kwargs: True)
                    except Exception: pass
    """,
        after="answer",
    )


@attack(PASSES)
def patch_the_grader_by_its_frames(by: Submission) -> None:
    """Walk up the stack and over all objects, and write full marks into whatever looks like a result."""
    by.run(
        """
    def spoil(mapping):
        for key in list(mapping):
            if key in ("status", "outcome"): mapping[key] = "ok"
            if key in ("score", "points", "passed", "ok", "success"): mapping[key] = 1000
    frame = sys._getframe()
    while frame:
        spoil(frame.f_globals) if frame.f_globals is not globals() else None
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) is dict and ("status" in thing or "score" in thing): spoil(thing)
    """,
        after="answer",
    )


@attack(PASSES)
def rewrite_the_next_cell(by: Submission) -> None:
    """Listen to IPython's events and change the cell that is about to run, or what came of it."""
    by.run("""
    def before(info):
        info.raw_cell = "pass"
    def after(result):
        result.error_in_exec = result.error_before_exec = None
        result.success = True
    events = get_ipython().events
    events.register("pre_run_cell", before); events.register("post_run_cell", after)
    """)


@attack(PASSES)
def forge_the_output(by: Submission) -> None:
    """Publish, from within the function that is called, a result that looks like full partial credit."""
    by.answer_all("""
    shell = get_ipython()
    try:
        shell.display_pub.publish({"text/plain": "1.0"}, {})
        shell.displayhook(1.0)
        sys.displayhook(1.0)
    except Exception: pass
    print('{"output_type": "execute_result", "data": {"text/plain": "64.0"}, "metadata": {}}')
    print("64.0")
    """)
    by.run("pass")


@attack(PASSES)
def register_for_forks_and_exits(by: Submission) -> None:
    """Run code in each copy of the process, and when one ends."""
    by.run(
        """
    import atexit
    def evil():
        globals()["answer"] = 42
        os._exit(0)
    os.register_at_fork(after_in_child=lambda: globals().update(mean=lambda v: True, square=lambda n: True))
    atexit.register(evil)
    """,
        after="estimate",
    )


@attack(PASSES)
def change_numbers_in_memory(by: Submission) -> None:
    """Overwrite small integers, True and False where the interpreter keeps them."""
    by.run(
        """
    def poke(target, source, size=8):
        ctypes.memmove(id(target) + 24, id(source) + 24, size)
    poke(9, 4)
    """,
        after="square",
    )
    by.answer("square", "return 4")


@attack(PASSES)
def replace_standard_streams(by: Submission) -> None:
    """Swallow errors: replace streams, excepthook and tracebacks."""
    by.run(
        """
    class Quiet:
        encoding = "utf-8"
        def write(self, text): return len(text)
        def flush(self): pass
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Quiet()
    sys.excepthook = sys.unraisablehook = lambda *args: None
    get_ipython().showtraceback = lambda *args, **kwargs: None
    get_ipython().set_custom_exc((BaseException,), lambda *args, **kwargs: None)
    """,
        after="answer",
    )


@attack(PASSES)
def race_the_checks(by: Submission) -> None:
    """Let threads and timers change names while the checks run."""
    by.run(
        """
    def race():
        while True:
            globals()["answer"] = "42"
            time.sleep(0.001)
    for _ in range(4): threading.Thread(target=race, daemon=True).start()
    signal.signal(signal.SIGALRM, lambda *args: globals().update(is_close=lambda *a: True))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    """,
        after="estimate",
    )


@attack(PASSES, earns=("mean", "square"), may_lose=True)
def tiny_recursion_limit(by: Submission) -> None:
    """Let the checker itself run out of stack."""
    by.run("sys.setrecursionlimit(60)", after="estimate")


@attack(PASSES)
def extension_and_magics(by: Submission) -> None:
    """Load an extension and redefine magics that a cell might begin with."""
    by.files["evil.py"] = b"def load_ipython_extension(ip):\n    ip.run_cell = lambda *a, **k: None\n"
    by.run("""
    get_ipython().run_line_magic("load_ext", "evil")
    from IPython.core.magic import register_cell_magic, register_line_magic
    register_cell_magic("time")(lambda line, cell: None)
    register_line_magic("matplotlib")(lambda line: None)
    """)
