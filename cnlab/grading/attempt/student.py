"""What runs in the student's process: it runs cells, makes copies of itself, and calls functions for checks.

Interface: ``Server(channel, namespace, shell).serve()`` answers until the channel closes. Each request is
an object with ``op``: ``run`` a cell; ``fork`` a copy of this process that serves at another channel;
``get`` what a name means; ``call``, ``next``, ``await``, ``attribute``, ``set``, ``state``, ``instance``
and ``subclass`` for an object that has been given out as a handle; ``start`` a call in a process of its own;
``seed`` a generator of random numbers.

All of this lies open to the student's code, which may change or replace any of it. So nothing here is
trusted: whatever this server answers only ever fails a check of the student it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import io
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

from cnlab.grading.attempt import plain, raised
from cnlab.grading.attempt.capture import MAX_OUTPUT_BYTES, harmless
from cnlab.grading.attempt.channel import Channel

MAX_PRINTED = 1 << 20
"""Characters of what a call prints that a check can take in."""

_HARNESS = (__file__,)


class Server:
    """Serves one channel, with the names of one notebook. `shell` runs its cells."""

    def __init__(self, channel: Channel, namespace: dict[str, Any], shell: Any = None) -> None:
        self._channel = channel
        self._namespace = namespace
        self._shell = shell
        self._hidden = dict(getattr(shell, "user_ns_hidden", {}))  # names that IPython has put there
        self._objects: dict[int, object] = {}

    def serve(self) -> None:
        """Answer until the other side is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                request = self._channel.receive()
                pid = os.getpid()
                answer = self._answer(request)
                _flush()
                if os.getpid() != pid:  # a function forked, and its child came back too
                    os._exit(70)
                self._channel.send(answer | {"id": request.get("id")})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        with _captured(request.get("captures", ())) as printed:
            try:
                answer: dict[str, Any] = getattr(self, f"_op_{request['op']}")(request)
            except BaseException as error:
                answer = {"error": raised.to_json(error, skips=_HARNESS)}
        if printed:
            answer["printed"] = {name: text.getvalue()[:MAX_PRINTED] for name, text in printed.items()}
        return answer

    # Cells and copies

    def _op_run(self, request: dict[str, Any]) -> dict[str, Any]:
        self._shell.publish = self._publish
        error = self._shell.run(request["source"], shows_value=request.get("shows_value", True))
        return {"done": error.to_json() if error else None}

    def _publish(self, output: dict[str, Any]) -> None:
        """Send an output, and wait until it was put after what has been printed."""
        if threading.current_thread() is not threading.main_thread():
            return  # it may display when no cell runs
        if "data" in output:
            output["data"] = harmless(output["data"])
            if sum(map(len, output["data"].values())) > MAX_OUTPUT_BYTES:
                output["data"] = {"text/plain": "(a display that is too large was left out)"}
        _flush()
        self._channel.send(output_message(output))
        self._channel.receive()

    def _op_fork(self, request: dict[str, Any]) -> dict[str, Any]:
        """Fork; the child serves at the socket that came along, and prints to the pipe after that."""
        end, *output = self._channel.take_fds()
        _flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cell's threads stay behind, which is meant
            pid = os.fork()
        if pid == 0:
            self._live_on(end, output)
        for fd in (end, *output):
            os.close(fd)
        return {"pid": pid}

    def _live_on(self, end: int, output: list[int]) -> None:
        try:
            self._channel.close()
            self._channel = open_channel(end)
            for fd in output:
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.close(fd)
            self.serve()
        finally:
            os._exit(0)

    # Names and objects

    def _op_get(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["name"]
        if name not in self._namespace or self._namespace[name] is self._hidden.get(name, self):
            return {"absent": True}
        return {"value": self._given(self._namespace[name])}

    def _op_call(self, request: dict[str, Any]) -> dict[str, Any]:
        function: Any = self._objects[request["handle"]]
        arguments, options = self._taken(request["arguments"]), self._taken(request["options"])
        spelled = [*request["arguments"]["tuple"], *(item for _, item in request["options"]["dict"])]
        before = [plain.dump(item) for item in spelled]  # the lists in there may be those that it changes
        value = function(*arguments, **options)
        return {
            "value": self._given(value),
            "changed": self._changed([*arguments, *options.values()], before),
        }

    def _changed(self, arguments: Sequence[object], before: Sequence[bytes]) -> list[plain.Json]:
        """Spell the arguments that a call has changed, each with its place among them."""
        changed = []
        for place, (argument, spelled) in enumerate(zip(arguments, before, strict=True)):
            if isinstance(argument, (list, dict, set, bytearray)) or hasattr(argument, "dtype"):
                with contextlib.suppress(plain.NotPlain):  # it was made into what cannot cross
                    now = self._given(argument)
                    changed += [[place, now]] if plain.dump(now) != spelled else []
        return changed

    def _op_next(self, request: dict[str, Any]) -> dict[str, Any]:
        iterator: Iterator[object] = self._objects[request["handle"]]  # type: ignore[assignment]
        for value in iterator:
            return {"value": self._given(value)}
        return {"absent": True}

    def _op_await(self, request: dict[str, Any]) -> dict[str, Any]:
        awaitable: Awaitable[object] = self._objects[request["handle"]]  # type: ignore[assignment]

        async def wait() -> object:
            return await awaitable

        return {"value": self._given(asyncio.run(wait()))}

    def _op_attribute(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"value": self._given(getattr(self._objects[request["handle"]], request["name"]))}

    def _op_set(self, request: dict[str, Any]) -> dict[str, Any]:
        setattr(self._objects[request["handle"]], request["name"], self._taken(request["value"]))
        return {"value": None}

    def _op_state(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"value": plain.to_json(state_of(self._objects[request["handle"]]), self._refer)}

    def _op_instance(self, request: dict[str, Any]) -> dict[str, Any]:
        kind: Any = self._objects[request["handle"]]
        return {"value": isinstance(self._objects[request["object"]], kind)}

    def _op_subclass(self, request: dict[str, Any]) -> dict[str, Any]:
        kinds: Any = [self._objects[request[key]] for key in ("object", "handle")]
        return {"value": issubclass(*kinds)}

    def _op_seed(self, request: dict[str, Any]) -> dict[str, Any]:
        seed = importlib.import_module(request["module"]).seed
        seed(*self._taken(request["arguments"]), **self._taken(request["options"]))
        return {"value": None}

    def _op_start(self, request: dict[str, Any]) -> dict[str, Any]:
        from cnlab.grading import callee

        answer_fd, output_fd = self._channel.take_fds()
        function: Any = self._objects[request["handle"]]
        if request["by"]:
            helper, leading = request["by"]
            function = functools.partial(self._namespace[helper], function, *self._taken(leading))
        pid = callee.serve_call(
            function,
            self._taken(request["arguments"]),
            new=request["new"],
            answer_fd=answer_fd,
            output_fd=output_fd,
        )
        return {"pid": pid}

    # What crosses

    def _given(self, value: object) -> plain.Json:
        return plain.to_json(value, self._refer)

    def _taken(self, data: plain.Json) -> Any:
        return plain.from_json(data, self._resolve)

    def _refer(self, value: object) -> plain.Json:
        number = len(self._objects) + 1
        self._objects[number] = value
        about: dict[str, Any] = {
            "handle": number,
            "class": type(value).__name__,
            "name": str(getattr(value, "__name__", ""))[:200],
            "is_callable": callable(value),
            "is_iterator": isinstance(value, Iterator),
            "is_module": isinstance(value, types.ModuleType),
        }
        if isinstance(value, type) and issubclass(value, BaseException):
            about["bases"] = [base.__name__ for base in value.__mro__ if base.__module__ == "builtins"]
        return {"object": about}

    def _resolve(self, data: plain.Json) -> object:
        if "handle" in data:
            return self._objects[data["handle"]]
        if "callback" in data:
            return functools.partial(self._call_back, data["callback"])
        name, state = data["instance"]
        if name not in self._namespace:
            raise NameError(f"the check passes a {name}, a class that this notebook does not have", name=name)
        return made_of(self._namespace[name], self._taken(state))

    def _call_back(self, number: int, *arguments: object, **options: object) -> object:
        """Call a function of the check's, and raise what it raises."""
        self._channel.send(
            {"callback": number, "arguments": self._given(arguments), "options": self._given(options)}
        )
        answer = self._channel.receive()
        if "error" in answer:
            raise raised.Raised.read(answer["error"]).exception({})
        return self._taken(answer["value"])


def output_message(output: dict[str, Any]) -> plain.Json:
    """Return the message for an output: its kind and its data, the rest may be no JSON."""
    return {"output": {key: output[key] for key in ("output_type", "data") if key in output}}


def state_of(value: object) -> dict[str, object]:
    """Return the attributes of an instance, those in slots too."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return state | dict(getattr(value, "__dict__", {}))


def made_of(kind: type, state: dict[str, object]) -> object:
    """Make an instance of `kind` with these attributes, without calling any of its methods."""
    made: object = object.__new__(kind)
    for name, value in state.items():
        object.__setattr__(made, name, value)
    return made


def open_channel(fd: int) -> Channel:
    """Return the channel behind an inherited socket."""
    import socket

    return Channel(socket.socket(fileno=fd), takes_fds=True)


def print_to(stdout: int, stderr: int) -> None:
    """Let this process, and what it starts, print to these descriptors."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.FileIO(fd, "w", closefd=False),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        for fd in (1, 2)
    )


@contextlib.contextmanager
def _captured(names: Sequence[str]) -> Iterator[dict[str, io.StringIO]]:
    """Take in what is printed to these streams, "stdout" or "stderr", which the check has redirected."""
    texts = {name: io.StringIO() for name in names}
    before = {name: getattr(sys, name) for name in names}
    for name, text in texts.items():
        setattr(sys, name, text)
    try:
        yield texts
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def live(shell: Any, end: int, stdout: int, stderr: int, environment: dict[str, str]) -> None:
    """Be the student's process of a notebook, in its sandbox: serve at the socket `end`."""
    os.environ.clear()
    os.environ.update(environment)
    print_to(stdout, stderr)
    for fd in (stdout, stderr):
        os.close(fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path.insert(0, "")  # modules beside the notebook, as in any kernel
    Server(open_channel(end), shell.user_ns, shell).serve()
