"""A student's notebook as the checks see it: its names, and proxies of its functions and objects.

Interface: `Notebook.get` gives what a name means there: plain data as a copy, anything else as a `Proxy`.
A proxy can be called, and asked for attributes; an iterator's can be iterated once. What crosses is plain
data, proxies of the same notebook, functions of the check's (which the student's code may call back), and
instances of classes that the check knows itself, since a locked cell defines them on both sides.

A proxy compares to nothing and is neither true nor false: the student's code would decide that, and it
knows what is hoped for. Whatever comes over the channel fails the check or is data; it is never code.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from cnlab.grading.attempt import plain, raised
from cnlab.grading.attempt.channel import Channel, pair
from cnlab.grading.attempt.student import MAX_PRINTED, made_of, state_of

_HARMLESS = frozenset({"get", "start"})  # a call that starts is a fork by itself
_MAX_CALLBACKS = 1_000_000
_OPERATORS = frozenset(
    f"__{name}__"
    for names in (
        "abs add and bool call complex contains delitem divmod enter eq exit float floordiv format ge",
        "getitem gt hash iadd index int invert isub iter le len lshift lt matmul mod mul ne neg next or",
        "pos pow radd repr reversed rmul round rshift rsub setitem str sub truediv xor",
    )
    for name in names.split()
)
"""Methods that a check may call by their names; what the operators themselves would do is refused."""


class Notebook:
    """The student's process at one place of the notebook, asked over a channel.

    `given` are the classes of locked cells, by name: both sides have them. `pid` is the process that answers,
    as it says itself. A process `is_shared` with other checks is forked before it is asked for anything that
    may change it. `streams` are the tester's own stdout and stderr: what a call prints goes there by itself,
    and is taken in where a check has redirected them. `seeds` are told before the next call. `fault` says
    why there was no answer, once there was none.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        given: Mapping[str, object],
        pid: int = 0,
        deadline: float | None = None,
        is_shared: bool = False,
        streams: Mapping[str, object] | None = None,
    ) -> None:
        self.channel = channel
        self.is_shared = is_shared
        self.pid = pid
        self.deadline = deadline  # by time.monotonic
        self.doing = ""  # what it was asked last, for whom the time ran out
        self.fault = ""
        self.is_late = False
        self.seeds: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr} if streams is None else streams
        self._given = given
        self._classes: dict[str, type[Exception]] = {}
        self._callbacks: list[Callable[..., object]] = []
        self._asked = 0

    def get(self, name: str) -> Any:
        """Return what `name` means in the notebook.

        Raises:
            NameError: it means nothing there either.
        """
        answer = self.ask(f"the name {name!r}", {"op": "get", "name": name})
        if "absent" in answer:
            raise NameError(f"name {name!r} is not defined", name=name)
        return self.taken(answer.get("value"))

    def ask(self, doing: str, request: dict[str, plain.Json], fds: Sequence[int] = ()) -> dict[str, Any]:
        """Send a request and return the answer; raise what the student's code raised.

        Raises:
            AssertionError: there is no answer, or none that can be one.
        """
        while self.seeds and request["op"] not in _HARMLESS:
            module, arguments, options = self.seeds.pop(0)
            given = {"arguments": self.given(arguments), "options": self.given(options)}
            self.ask(f"`{module}.seed`", {"op": "seed", "module": module} | given)
        self.doing = doing
        self._asked += 1
        try:
            if self.is_shared and request["op"] not in _HARMLESS:
                self._part()
            redirected = [name for name, stream in self._streams.items() if getattr(sys, name) is not stream]
            answer = self._exchange(request | {"id": self._asked, "captures": redirected}, fds)
        except TimeoutError:
            self.is_late = True
            self._break(f"expected an answer from {doing}, got none in time; look for a loop")
        except (OSError, plain.NotPlain) as error:
            self._break(
                f"expected an answer from {doing}, got none: {_reason(error)};"
                " look whether it ends its process"
            )
        self.doing = ""
        _print(answer.get("printed"), redirected)
        if "error" in answer:
            self._raise(answer["error"], doing)
        return answer

    def _break(self, fault: str) -> NoReturn:
        self.fault = self.fault or fault
        raise AssertionError(fault) from None

    def _part(self) -> None:
        """Let the process fork, and go on with the copy, which prints to where we print."""
        self.is_shared = False
        ours, theirs = pair()
        shared, self.channel = self.channel, Channel(ours)
        with theirs:
            answer = shared.ask({"op": "fork"}, self.deadline, fds=[theirs.fileno(), 1])
        shared.close()
        if type(answer) is not dict or type(answer.get("pid")) is not int or answer["pid"] <= 1:
            raise plain.NotPlain("no copy of the notebook's process")
        self.pid = answer["pid"]

    def _exchange(self, request: dict[str, plain.Json], fds: Sequence[int]) -> dict[str, Any]:
        answer: Any = self.channel.ask(request, self.deadline, fds=fds)
        for _ in range(_MAX_CALLBACKS):
            if type(answer) is not dict:
                raise plain.NotPlain("an answer that is no object")
            if "callback" not in answer:
                break
            answer = self.channel.ask(self._called_back(answer), self.deadline)
        if answer.get("id") != request["id"]:
            raise plain.NotPlain("an answer to another question")
        return dict(answer)

    def _raise(self, data: plain.Json, doing: str) -> NoReturn:
        try:
            error = raised.Raised.read(data).exception(self._classes)
        except plain.NotPlain as reason:
            raise AssertionError(
                f"expected an answer from {doing}, got an error without a name: {reason}"
            ) from None
        raise error

    def _called_back(self, request: dict[str, Any]) -> dict[str, plain.Json]:
        number = request["callback"]
        if type(number) is not int or not 0 <= number < len(self._callbacks):
            raise plain.NotPlain("a call of a function that it was not given")
        arguments, options = self.taken(request.get("arguments")), self.taken(request.get("options"))
        if type(arguments) is not tuple or type(options) is not dict or set(map(type, options)) - {str}:
            raise plain.NotPlain("a call without arguments")
        try:
            return {"value": self.given(self._callbacks[number](*arguments, **options))}
        except Exception as error:
            return {"error": raised.to_json(error) | {"traceback": ""}}  # it would show the check

    # What crosses

    def given(self, value: object) -> plain.Json:
        """Spell a value of the check's for the notebook."""
        return plain.to_json(value, self._refer)

    def _refer(self, value: object) -> plain.Json:
        if isinstance(value, Proxy):
            return {"handle": Proxy._number(value)}
        if self._given.get(type(value).__name__) is type(value):
            return {"instance": [type(value).__name__, self.given(state_of(value))]}
        if callable(value):
            self._callbacks.append(value)
            return {"callback": len(self._callbacks) - 1}
        raise plain.NotPlain(
            f"a {type(value).__name__} cannot go to the student's notebook: plain data can, functions, and"
            " instances of classes that a locked cell defines"
        )

    def taken(self, data: plain.Json) -> Any:
        """Read a value of the notebook's.

        Raises:
            AssertionError: it is none.
        """
        try:
            return plain.from_json(data, self._resolve)
        except plain.NotPlain as error:
            raise AssertionError(f"expected plain data from the notebook, got {error}") from None

    def _resolve(self, data: plain.Json) -> object:
        about = data.get("object")
        if type(about) is not dict or type(about.get("handle")) is not int:
            raise plain.NotPlain("an object that is none")
        kind, name = (_short(about.get(key)) for key in ("class", "name"))
        if type(about.get("bases")) is list:
            bases = [base for base in about["bases"] if type(base) is str]
            return raised.class_of(name, bases, self._classes)
        if about.get("is_module") is True:
            raise plain.NotPlain(f"the module {name!r}, which the check must import itself, in a locked cell")
        own = self._given.get(kind)
        if isinstance(own, type) and own.__module__ == "__main__" and not about.get("is_callable"):
            return self._rebuilt(own, about["handle"])
        made = Function if about.get("is_callable") is True else Proxy
        return made(self, about["handle"], kind, name, about.get("is_iterator") is True)

    def _rebuilt(self, kind: type, handle: int) -> object:
        """Make our own instance of a class that both sides have; its methods are ours."""
        state = self.taken(
            self.ask(f"an object of class {kind.__name__}", {"op": "state", "handle": handle})["value"]
        )
        if type(state) is not dict or not all(_may_hold(kind, name) for name in state):
            raise plain.NotPlain(f"a {kind.__name__} with other attributes than the class has")
        return made_of(kind, state)


class Proxy:
    """An object of the student's notebook, which stays there."""

    __slots__ = ("__handle", "__is_iterator", "__is_over", "__kind", "__name", "__notebook")
    __handle: int
    __is_iterator: bool
    __is_over: bool
    __kind: str
    __name: str
    __notebook: Notebook

    def __init__(self, notebook: Notebook, handle: int, kind: str, name: str, is_iterator: bool) -> None:
        put = object.__setattr__
        put(self, "_Proxy__notebook", notebook)
        put(self, "_Proxy__handle", handle)
        put(self, "_Proxy__kind", kind)
        put(self, "_Proxy__name", name)
        put(self, "_Proxy__is_iterator", is_iterator)
        put(self, "_Proxy__is_over", False)

    def _number(self) -> int:
        return self.__handle

    def _ask(self, doing: str, op: str, **rest: plain.Json) -> dict[str, Any]:
        return self.__notebook.ask(doing, {"op": op, "handle": self.__handle} | rest)

    @property
    def __name__(self) -> str:
        return self.__name or f"a {self.__kind}"

    def _home(self) -> Notebook:
        return self.__notebook

    def __getattr__(self, name: str) -> Any:
        if name == "__bases__":
            self.__refuse("ask for its classes")  # issubclass() does
        if name.startswith("_") and name not in _OPERATORS:
            raise AttributeError(f"{self!r} shows no attribute {name!r}")
        return self.__notebook.taken(
            self._ask(f"the attribute {name!r}", "attribute", name=name).get("value")
        )

    def __setattr__(self, name: str, value: object) -> None:
        self._ask(f"the attribute {name!r}", "set", name=name, value=self.__notebook.given(value))

    def __iter__(self) -> Iterator[Any]:
        if not self.__is_iterator:
            self.__refuse("iterate over it")
        return self

    def __next__(self) -> Any:
        iter(self)
        answer = {"absent": True} if self.__is_over else self._ask(f"the next item of {self!r}", "next")
        if "absent" in answer:
            object.__setattr__(self, "_Proxy__is_over", True)  # whatever the notebook says later
            raise StopIteration
        return self.__notebook.taken(answer.get("value"))

    def __await__(self) -> Generator[None, None, Any]:
        return self.__notebook.taken(self._ask(f"awaiting {self!r}", "await").get("value"))
        yield

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.__getattr__("__exit__")(None, None, None)

    def __instancecheck__(self, instance: object) -> bool:
        if not isinstance(instance, Proxy):
            return False
        answer = self._ask("isinstance()", "instance", object=Proxy._number(instance))
        return answer.get("value") is True

    def __subclasscheck__(self, kind: type) -> bool:
        if not isinstance(kind, Proxy):
            return False
        answer = self._ask("issubclass()", "subclass", object=Proxy._number(kind))
        return answer.get("value") is True

    def __len__(self) -> int:
        if self.__is_iterator:
            raise TypeError(f"{self!r} has no len()")  # list() asks, and does without
        self.__refuse("take its len()")

    def __refuse(self, what: str) -> NoReturn:
        raise AssertionError(
            f"expected plain data (numbers, text, lists, dicts, arrays), got {self!r}, and the check"
            f" cannot {what}; look at what the function returns"
        )

    def __eq__(self, other: object) -> bool:
        self.__refuse("compare it")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__

    def __bool__(self) -> bool:
        self.__refuse("take it for true or false")

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.__kind} {self.__name} of the student's notebook>".replace("  ", " ")


class Function(Proxy):
    """A function of the notebook's, or another object that says that it can be called."""

    __slots__ = ()

    @property
    def notebook_pid(self) -> int:
        """The process that answers calls, as it says itself."""
        return self._home().pid

    def __call__(self, *arguments: object, **options: object) -> Any:
        """Call it in the notebook; return what it returns, or raise what it raises."""
        notebook = self._home()
        doing = call_text(self.__name__, arguments, options)
        answer = self._ask(
            doing, "call", arguments=notebook.given(arguments), options=notebook.given(options)
        )
        value = notebook.taken(answer.get("value"))
        _bring_up_to_date([*arguments, *options.values()], notebook.taken(answer.get("changed")))
        return value

    def start_call(
        self,
        arguments: Sequence[object],
        *,
        by: tuple[str, Sequence[object]] | None,
        new: Sequence[str],
        answer_fd: int,
        output_fd: int,
    ) -> int:
        """Let the notebook call it in a process of its own, which stays; return the pid that it says.

        `by` names a function of a locked cell that is called with this one before the arguments.
        """
        notebook = self._home()
        helper = None if by is None else [by[0], notebook.given(tuple(by[1]))]
        request = {"op": "start", "handle": self._number(), "by": helper, "new": list(new)}
        request["arguments"] = notebook.given(tuple(arguments))
        doing = call_text(self.__name__, arguments, {})
        pid = notebook.ask(doing, request, (answer_fd, output_fd)).get("pid")
        if type(pid) is not int or pid <= 0:
            raise AssertionError(f"expected {doing} to start a process, got {pid!r}")
        return pid


for _kind, _text in ((Proxy, "student's object"), (Function, "student's function")):
    _kind.__name__ = _text  # type: ignore[assignment,method-assign]  # as Python's own messages say it


def call_text(name: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
    """Spell a call, shortened: ``fib(40)``."""
    parts = [*map(_repr, arguments), *(f"{key}={_repr(value)}" for key, value in options.items())]
    return f"`{name}({', '.join(parts)})`"


def _repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…{text[-9:]}"


def _print(texts: object, names: Iterable[str]) -> None:
    """Print what a call has printed to streams that the check has redirected."""
    for name in names if type(texts) is dict else ():
        text = texts.get(name)  # type: ignore[attr-defined]
        if type(text) is str:
            getattr(sys, name).write(text[:MAX_PRINTED])


def _bring_up_to_date(arguments: Sequence[Any], changed: object) -> None:
    """Let the lists, dicts, sets and arrays that went along be as the function has left them."""
    for item in changed if type(changed) is list else []:
        told: Sequence[Any] = item if type(item) is list and len(item) == 2 else (None, None)
        place, theirs = told
        if type(place) is not int or not 0 <= place < len(arguments):
            continue
        ours = arguments[place]
        if type(ours) is not type(theirs):
            continue
        if isinstance(ours, (list, bytearray)):
            ours[:] = theirs
        elif isinstance(ours, (dict, set)):
            ours.clear()
            ours.update(theirs)
        elif (
            hasattr(ours, "dtype")
            and getattr(ours, "shape", ()) == theirs.shape != ()
            and ours.flags.writeable
        ):
            ours[...] = theirs


def _may_hold(kind: type, name: object) -> bool:
    """Whether instances have an attribute of this name as data, not as a method."""
    if type(name) is not str or not name.isidentifier() or name.startswith("__"):
        return False
    slots = {slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())}
    if name in getattr(kind, "__dataclass_fields__", {}) or name in slots:
        return True
    default = inspect.getattr_static(kind, name, None)
    return not (callable(default) or hasattr(type(default), "__get__"))


def _short(value: object) -> str:
    return value[:80] if type(value) is str and value.isprintable() else ""


def _reason(error: Exception) -> str:
    return "its process ended" if isinstance(error, OSError) else str(error)
