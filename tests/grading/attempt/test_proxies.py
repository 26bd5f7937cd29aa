"""Checks reach a student's functions from outside; the student's code decides nothing but its answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import os
import random
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import pytest

from cnlab.grading.attempt.channel import Channel, pair
from cnlab.grading.attempt.proxies import Notebook, Proxy
from cnlab.grading.attempt.raised import StudentError
from cnlab.grading.attempt.student import Server

TASKS = """
import asyncio, contextlib, random
class Agrees:
    def __eq__(self, other): return True
    __hash__ = None
    def __bool__(self): return True
    def __len__(self): return 3
    def __iter__(self): return iter([1, 2, 3])
    def __lt__(self, other): return True
    def __sub__(self, other): return 0
    def __float__(self): return 1.0
    def __contains__(self, item): return True
class Account:
    def __init__(self, balance=0): self.balance = balance
    def put(self, amount):
        self.balance += amount
        return self
class Savings(Account): pass
class Poor(ValueError): pass
class Strange(Exception): pass
agrees = Agrees()
numbers = [1, 2]
def double(x): return 2 * x
def sort(items): items.sort()
def sort_and_tell(items):
    items.sort()
    return len(items)
def twice(function, x): return function(function(x))
def plus_one(function):
    def wrapped(x): return function(x) + 1
    return wrapped
def count(n):
    for i in range(n): yield i
async def later(x): return x
@contextlib.contextmanager
def opened(name):
    yield name.upper()
def fail(kind, *arguments): raise eval(kind)(*arguments)
def shift(point): return Point(point.x + 1, point.y)
def hello(name):
    print("hello", name)
    if not name: raise ValueError
def draw(): return random.random()
def default_point():
    point = Point(1, 2)
    point.color = "red"
    return point
def odd_point():
    point = Point(1, 2)
    point.area = lambda: 99
    return point
"""


@dataclass
class Point:
    """Defined by a locked cell: both sides have it."""

    x: int
    y: int
    color: ClassVar[str] = "none"

    def area(self) -> int:
        return self.x * self.y


Point.__module__ = "__main__"  # where cells define their classes


@contextlib.contextmanager
def process(program: Callable[[socket.socket], None], **given: Any) -> Iterator[Notebook]:
    """A notebook of which `program` answers, in a process of its own."""
    ours, theirs = pair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            program(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        with contextlib.closing(Channel(ours)) as channel:
            yield Notebook(channel, given=given, pid=pid, deadline=time.monotonic() + 20)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(name="notebook")
def _notebook() -> Iterator[Notebook]:
    def serve(end: socket.socket) -> None:
        names: dict[str, Any] = {"Point": Point}
        exec(TASKS, names)
        Server(Channel(end, takes_fds=True), names).serve()

    with process(serve, Point=Point) as notebook:
        yield notebook


def test_plain_value_is_a_copy(notebook):
    """What a check does to it does not reach the notebook."""
    notebook.get("numbers").append(3)

    assert notebook.get("numbers") == [1, 2]


def test_function_is_called_with_plain_data(notebook):
    """Arrays are plain."""
    double = notebook.get("double")

    assert double(4) == 8
    assert double("ab") == "abab"
    assert (double(numpy.arange(3)) == [0, 2, 4]).all()


def test_name_that_is_nowhere_is_a_name_error(notebook):
    """As for any code."""
    with pytest.raises(NameError, match="name 'absent' is not defined"):
        notebook.get("absent")


@pytest.mark.parametrize(
    "use",
    [
        lambda it: it == 3, lambda it: it != 4, lambda it: 3 == it, lambda it: it < 4, lambda it: 3 > it,
        bool, len, list, float, abs, round, iter, lambda it: it - 3, lambda it: 3 - it, lambda it: it in [1],
        lambda it: 1 in it, lambda it: it[0], lambda it: sorted([it, 1]), lambda it: numpy.allclose(it, 3),
        lambda it: not it, lambda it: all([it]), lambda it: max(it, 3), lambda it: format(it, ".2f"),
    ],
)  # fmt: skip
def test_object_of_the_students_passes_for_nothing(notebook, use):
    """It would answer as it pleases: nothing that a check compares or counts may come of its methods."""
    with pytest.raises((AssertionError, TypeError)):
        use(notebook.get("agrees"))


def test_object_of_the_students_is_an_instance_of_nothing_of_ours(notebook):
    """Not even by a lie about its class."""
    agrees = notebook.get("agrees")

    assert not isinstance(agrees, (int, list, str, float))
    assert type(agrees) is Proxy


def test_methods_and_attributes_of_an_object_can_be_asked(notebook):
    """Tasks about classes are checked by what their methods return."""
    account = notebook.get("Account")(5)
    account.put(3).put(4)
    account.balance += 1

    assert account.balance == 13
    assert isinstance(account, notebook.get("Account"))
    assert not isinstance(notebook.get("agrees"), notebook.get("Account"))


def test_argument_that_a_function_changes_is_changed(notebook):
    """Whether it returns something, and however the argument was passed, as in one process."""
    first, second, third = [3, 1, 2], [3, 1, 2], numpy.array([3, 1, 2])
    notebook.get("sort")(first)

    assert notebook.get("sort_and_tell")(items=second) == 3
    assert notebook.get("sort_and_tell")(third) == 3
    assert (first, second, list(third)) == ([1, 2, 3], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("changed", [3, [[0]], [["0", [1]]], [[9, [1]]], [[-1, [1]]], [[0, 5]]])
def test_change_of_an_argument_that_is_none_changes_nothing(changed):
    """The student's process says what has changed."""

    def lie(end: socket.socket) -> None:
        function = {"object": {"handle": 1, "class": "function", "name": "f", "is_callable": True}}
        end.recv(1000)
        end.sendall(frame({"value": function, "id": 1}))
        end.recv(1000)
        end.sendall(frame({"value": None, "changed": changed, "id": 2}))

    with process(lie) as notebook:
        items = [1, 2]
        notebook.get("f")(items)
        assert items == [1, 2]


def test_only_what_can_be_called_is_callable(notebook):
    """A check may ask whether a decorator returns a function."""
    assert callable(notebook.get("double"))
    assert not callable(notebook.get("agrees"))


def test_what_a_call_prints_can_be_redirected(notebook):
    """The commonest check of a beginners' task; also when the call fails."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(ValueError):
        notebook.get("hello")("Ada")
        print("then")
        notebook.get("hello")("")

    assert text.getvalue() == "hello Ada\nthen\nhello \n"


def test_seed_reaches_the_notebook_before_the_next_call(notebook):
    """What a check draws anew with the same seed is then the same."""
    notebook.seeds.append(("random", (5,), {}))
    first = notebook.get("draw")()
    notebook.seeds.append(("random", (), {"a": 5}))

    assert notebook.get("draw")() == first == random.Random(5).random()


@pytest.mark.parametrize("use", [len, lambda it: issubclass(it, Point)])
def test_refusal_says_what_the_check_can_do(notebook, use):
    """Python's own message would name a class that nobody who writes checks knows."""
    with pytest.raises(AssertionError, match=r"expected plain data .* the check cannot"):
        use(notebook.get("agrees"))


def test_classes_of_the_notebook_know_their_bases(notebook):
    """Tasks about inheritance ask for it."""
    assert issubclass(notebook.get("Savings"), notebook.get("Account"))
    assert not issubclass(notebook.get("Account"), notebook.get("Savings"))


def test_functions_of_the_check_can_be_called_back(notebook):
    """For tasks that take or decorate functions."""
    wrapped = notebook.get("plus_one")(lambda x: 10 * x)

    assert notebook.get("twice")(lambda x: x + 3, 1) == 7
    assert wrapped(2) == 21


def test_error_in_a_function_of_the_check_passes_through_the_notebook(notebook):
    """As if both were one process."""

    def refuse(x):
        raise LookupError("not this one")

    with pytest.raises(LookupError, match="not this one"):
        notebook.get("twice")(refuse, 1)


def test_generator_is_iterated_as_far_as_wanted_and_once(notebook):
    """It may be endless; and when it is over it is over, whatever it says later."""
    numbers = notebook.get("count")(4)

    assert list(itertools.islice(numbers, 2)) == [0, 1]
    assert list(numbers) == [2, 3]
    assert list(numbers) == []


def test_coroutine_can_be_awaited(notebook):
    """In a check, ``await``."""

    async def wait():
        return await notebook.get("later")(5)

    assert asyncio.run(wait()) == 5


def test_context_manager_can_be_entered(notebook):
    """In a check, ``with``."""
    with notebook.get("opened")("name") as value:
        assert value == "NAME"


@pytest.mark.parametrize(
    ("kind", "arguments"), [("ValueError", ("no",)), ("KeyError", (3,)), ("FileNotFoundError", (2, "gone"))]
)
def test_pythons_own_exceptions_are_raised_as_themselves(notebook, kind, arguments):
    """With their arguments, so that ``errno`` is right too."""
    with pytest.raises(__builtins__[kind]) as caught:
        notebook.get("fail")(kind, *arguments)

    assert caught.value.args == arguments
    assert "in fail" in caught.value.__notes__[0]


def test_exception_of_the_notebooks_is_caught_by_its_name_and_by_its_base(notebook):
    """``except Poor`` means the class that the task defines."""
    poor = notebook.get("Poor")

    with pytest.raises(poor):
        notebook.get("fail")("Poor", "no money")
    with pytest.raises(ValueError, match="no money"):
        notebook.get("fail")("Poor", "no money")


@pytest.mark.parametrize(
    "kind", ["StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "Strange"]
)
def test_what_would_end_a_check_quietly_is_an_error(notebook, kind):
    """``all(map(f, cases))`` takes StopIteration for the end of the cases."""
    with pytest.raises(StudentError):
        all(map(notebook.get("fail"), [kind]))


def test_instance_of_a_locked_cells_class_crosses_as_ours(notebook):
    """Its methods are the instructor's, its data the student's."""
    shifted = notebook.get("shift")(Point(2, 5))

    assert type(shifted) is Point
    assert (shifted, shifted.area()) == (Point(3, 5), 15)


def test_instance_may_hold_what_its_class_has_a_default_for(notebook):
    """``self.balance = 5`` beside ``balance = 0`` in the class."""
    assert notebook.get("default_point")().color == "red"


def test_instance_with_a_method_of_its_own_is_refused(notebook):
    """It would answer in the place of the instructor's."""
    with pytest.raises(AssertionError, match="other attributes"):
        notebook.get("odd_point")()


def test_dunder_that_libraries_ask_for_is_not_the_students(notebook):
    """numpy would take ``__array__`` for data."""
    with pytest.raises(AttributeError):
        _ = notebook.get("agrees").__array__


def frame(message: object) -> bytes:
    text = json.dumps(message).encode()
    return struct.pack("!I", len(text)) + text


HOSTILE = {
    "nothing, and it ends": b"",
    "garbage": b"\xff" * 100,
    "a huge length": struct.pack("!I", 2**32 - 1),
    "half a frame": frame({"value": 1})[:-3],
    "no object": frame([1]),
    "an empty object": frame({}),
    "another question's answer": frame({"value": 9, "id": 77}),
    "nesting": struct.pack("!I", 200_000) + b"[" * 200_000,
    "an error that is none": frame({"error": 3, "id": 1}),
    "a value that is none": frame({"value": {"array": ["O", [1], ""]}, "id": 1}),
    "an object that is none": frame({"value": {"object": {"handle": "x"}}, "id": 1}),
    "a call of a function that it was not given": frame({"callback": 0, "arguments": {"tuple": []}, "id": 1}),
    "a call without arguments": frame({"callback": "os.system"}),
    "a builtin that is no exception": frame(
        {"error": {"name": "exit", "arguments": {"tuple": [0]}}, "id": 1}
    ),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_answer_that_is_none_fails_the_check_and_nothing_else(answer):
    """The student's process may send what it likes."""

    def lie(end: socket.socket) -> None:
        end.recv(1000)
        end.sendall(answer)

    with process(lie) as notebook, pytest.raises((AssertionError, StudentError)):
        notebook.get("anything")


def test_answers_given_before_they_are_asked_fail_the_check():
    """Guessing the number of a question is no way to answer it for all time."""

    def lie(end: socket.socket) -> None:
        end.sendall(frame({"value": 1, "id": 1}) + frame({"value": 1, "id": 1}))
        end.recv(1000)

    with process(lie) as notebook:
        notebook.get("first")
        with pytest.raises(AssertionError, match="another question"):
            notebook.get("second")


def test_silence_ends_with_the_deadline():
    """And says who was silent."""

    def be_silent(end: socket.socket) -> None:
        signal.pause()

    with process(be_silent) as notebook:
        notebook.deadline = time.monotonic() + 0.2
        with pytest.raises(AssertionError, match="expected an answer from the name 'f', got none in time"):
            notebook.get("f")


def test_descriptors_that_come_along_are_not_taken():
    """A million of them would leave the checks none."""

    def send_many(end: socket.socket) -> None:
        end.recv(1000)
        socket.send_fds(end, [frame({"value": 5, "id": 1})], [0] * 200)

    before = len(os.listdir("/proc/self/fd"))
    with process(send_many) as notebook:
        assert notebook.get("x") == 5
        assert len(os.listdir("/proc/self/fd")) == before + 1
