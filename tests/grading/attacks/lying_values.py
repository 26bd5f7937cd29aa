"""Values that say of themselves what a check wants to hear."""

from __future__ import annotations

from grading.attacks.attack import Submission, attack

PASSES = "a check passes although the answer is wrong"

YES = """
class Yes:
    def __init__(self, *args, **kwargs): pass
    def _yes(self, *args, **kwargs): return True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _yes
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __float__(self): return 0.0
    def _self(self, *args, **kwargs): return self
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __abs__ = _self
    __neg__ = __round__ = __getattr__ = __getitem__ = __call__ = _self
    def __str__(self): return "empty"
    def __len__(self): return 1
    def __index__(self): return 1
    def __array__(self, *args, **kwargs): raise AttributeError
"""


@attack(PASSES)
def object_equal_to_all(by: Submission) -> None:
    """Return an object that is equal, less and greater, whatever it is compared with."""
    by.answer_all("return Yes()", value="Yes()", above=YES)


@attack(PASSES)
def object_that_lies_about_its_class(by: Submission) -> None:
    """Let `isinstance` believe that an always-equal object is an int."""
    above = YES + "\nclass Liar(Yes):\n    __class__ = int\n"
    by.answer_all("return Liar()", value="Liar()", above=above)


@attack(PASSES)
def number_equal_to_all(by: Submission) -> None:
    """Return a float, a str and an int of a subclass with an `__eq__` that is always true."""
    above = """
    def lying(base):
        def yes(self, *args): return True
        def me(self, *args): return self
        names = dict.fromkeys(["__eq__", "__lt__", "__gt__", "__le__", "__ge__"], yes)
        names |= dict.fromkeys(["__sub__", "__rsub__", "__add__", "__radd__", "__abs__", "__matmul__"], me)
        return type("Lying", (base,), names | {"__hash__": lambda self: 0})
    """
    by.answer_all("return lying(float)(1.0)", value="lying(int)(41)", above=above)
    by.answer("shout", 'return lying(str)("no")', above=above)


@attack(PASSES)
def array_close_to_all(by: Submission) -> None:
    """Return a subclass of an array that answers numpy's functions itself."""
    above = """
    class Close(np.ndarray):
        def __array_function__(self, *args, **kwargs): return True
        def __array_ufunc__(self, *args, **kwargs): return self
        def __eq__(self, other): return True
        def __matmul__(self, other): return self
    """
    by.answer_all("return np.zeros((2, 2)).view(Close)", value="np.zeros(1).view(Close)", above=above)


@attack(PASSES)
def array_of_objects(by: Submission) -> None:
    """Hide always-equal objects in an array, a list, a tuple and a dict."""
    by.answer_all(
        "return np.array([[Yes(), Yes()], [Yes(), Yes()]], dtype=object)", value="[Yes()]", above=YES
    )
    by.answer("mean", "return [Yes()]", above=YES)
    by.answer("shout", 'return {"a": Yes()}', above=YES)
    by.answer("square", "return (Yes(),)", above=YES)


@attack(PASSES)
def masked_and_empty_arrays(by: Submission) -> None:
    """Compare with what is masked, or with nothing: numpy calls that true of every element."""
    by.answer_all("return np.ma.masked", value="np.ma.masked")
    by.answer("mean", "return np.ma.masked_all(3)")
    by.answer("shout", "return np.array([], dtype=str)")


@attack(PASSES)
def function_instead_of_a_value(by: Submission) -> None:
    """Return functions, classes, modules and generators where numbers are asked for."""
    by.answer_all("return lambda *args: True", value="type('Y', (), {'__eq__': lambda *a: True})")
    by.answer("mean", "return np")
    by.answer("shout", "return (True for _ in iter(int, 1))")


@attack(PASSES)
def stop_iteration_ends_the_loop(by: Submission) -> None:
    """Raise StopIteration, which ends the `map` or generator of the check instead of failing it."""
    by.answer_all("raise StopIteration")


@attack(PASSES)
def generator_exit(by: Submission) -> None:
    """Raise GeneratorExit and StopAsyncIteration, which generators swallow."""
    by.answer_all("raise GeneratorExit")
    by.answer("square", "raise StopAsyncIteration")


@attack(PASSES)
def exit_from_the_check(by: Submission) -> None:
    """Raise SystemExit, which ends a program as if all were well."""
    by.answer_all("raise SystemExit(0)")
    by.answer("shout", "import sys; sys.exit()")
    by.answer("refuse", "quit()")


@attack(PASSES)
def interrupt_the_check(by: Submission) -> None:
    """Raise KeyboardInterrupt and asyncio's CancelledError, which handlers of Exception do not see."""
    by.answer_all("raise KeyboardInterrupt")
    by.answer("square", "import asyncio; raise asyncio.CancelledError")


@attack(PASSES)
def skip_the_check(by: Submission) -> None:
    """Raise what test frameworks take for `skipped` or `passed`."""
    by.answer_all("import unittest; raise unittest.SkipTest('not today')")
    by.answer("square", "raise type('Skipped', (BaseException,), {})('later')")


@attack(PASSES)
def exception_that_only_sounds_right(by: Submission) -> None:
    """Raise an exception of one's own called ValueError, whose text changes each time it is read."""
    above = """
    class Fake(BaseException):
        def __str__(self): return "empty" if self.args else "other"
    Fake.__name__ = Fake.__qualname__ = "ValueError"
    Fake.__module__ = "builtins"
    """
    by.answer_all("raise Fake(1)", above=above)


@attack(PASSES)
def value_that_differs_each_time(by: Submission) -> None:
    """Make the value a property that looks at its caller before it answers."""
    by.run("""
    class Module(type(sys)):
        @property
        def answer(self):
            return 42 if "assert" in str(sys._getframe(1).f_code.co_names) else None
    sys.modules["__main__"].__class__ = Module
    """)
    by.answer("answer", "type('Moody', (int,), {'__int__': lambda s: 42, '__index__': lambda s: 42})(7)")


@attack(PASSES)
def not_a_number(by: Submission) -> None:
    """Return nan, which makes the partial credit nan; nbgrader pays that in full."""
    by.answer_all('return float("nan")', value='float("nan")')


@attack(PASSES)
def infinitely_wrong(by: Submission) -> None:
    """Return infinity, which makes the partial credit negative; nbgrader pays that in full."""
    by.answer_all('return float("-inf")', value='float("inf")')


@attack(PASSES)
def complex_credit(by: Submission) -> None:
    """Make the partial credit something that is no number: a complex number, text, an array."""
    by.answer_all("return np.array([3.25, 3.25])")
    by.answer("mean", "return complex('nan')")
    by.answer("square", "return np.array([1, 1])")


@attack(PASSES)
def mutate_the_arguments(by: Submission) -> None:
    """Change the lists and arrays that come as arguments, so that they agree with the answer."""
    by.answer_all("return None")
    by.answer("mean", "values[:] = [0]\nreturn 0")
    by.answer("invert", "matrix[:] = 0\nreturn matrix")
