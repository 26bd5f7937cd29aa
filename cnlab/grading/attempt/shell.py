"""Run cells as a notebook's kernel does: magics, the last value, figures, tracebacks.

Interface: `make_shell` once; `Shell.run` for each cell. What a cell displays goes to `Shell.publish`, one
output of nbformat at a time; what it prints goes to the file descriptors 1 and 2, like that of the commands
it starts.

It is IPython without a kernel around it: no message queues and no threads, so a process with a shell can
fork.

See: https://ipython.readthedocs.io, `InteractiveShell`.
"""

from __future__ import annotations

import base64
import io
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Any as AnyTrait
from traitlets.config import Config

Output = dict[str, Any]

_MAX_TEXT, _MAX_LINE, _MAX_LINES = 10_000, 20_000, 200  # of an error; its message may hold what was returned


@dataclass(frozen=True)
class Error:
    """What a cell has raised; `line` is where in the cell, or 0."""

    name: str
    message: str
    traceback: list[str]
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as a message has it."""
        return asdict(self)


class _Hook(DisplayHook):
    """Publishes the value of a cell."""

    shell: Any

    def write_output_prompt(self) -> None:
        pass

    def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Any = None) -> None:
        self.shell.publish(
            {"output_type": "execute_result", "data": _as_json(format_dict), "metadata": md_dict or {}}
        )

    def finish_displayhook(self) -> None:
        self._is_active = False


class _Publisher(DisplayPublisher):
    """Publishes what ``display`` is given."""

    shell: Any

    def publish(self, data: Any, metadata: Any = None, source: Any = None, **options: Any) -> None:
        self.shell.publish(
            {"output_type": "display_data", "data": _as_json(data), "metadata": metadata or {}}
        )

    def clear_output(self, wait: bool = False) -> None:
        self.shell.publish({"output_type": "clear_output"})


def _as_json(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in data.items()
    }


class Shell(InteractiveShell):
    """IPython, whose outputs go to `publish`."""

    display_formatter: Any
    publish: Any = AnyTrait(lambda output: None)
    shown: Any = AnyTrait()  # the error whose traceback was shown last

    def init_io(self) -> None:
        """Leave the terminal alone."""

    def init_ipython_dir(self, ipython_dir: str) -> None:
        """Read no settings of whoever runs this, and write none."""

    def init_profile_dir(self, profile_dir: object) -> None:
        """Likewise."""

    def enable_gui(self, gui: str | None = None) -> None:
        """Have no event loop to enable; ``%matplotlib inline`` asks."""

    def ask_exit(self) -> None:
        """Go on: ``exit`` ends no notebook here."""

    def system(self, command: str) -> None:
        """Run ``!command``; what Python has printed stands before what it prints."""
        sys.stdout.flush()
        self.system_raw(command)  # type: ignore[no-untyped-call]

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        self.shown = Error(etype.__name__, _text_of(evalue), _cut(stb))

    def run(self, source: str, *, shows_value: bool = True, shows: bool = True) -> Error | None:
        """Run one cell; return what went wrong.

        Args:
            source: the cell.
            shows_value: whether its last value is shown.
            shows: whether anything is. Else no figure is drawn, which takes more time than all else here.
        """
        self.shown = None
        self.ast_node_interactivity = "last_expr" if shows_value else "none"
        kinds = self.display_formatter.active_types
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if not shows:
                self.display_formatter.active_types = []
            result = self.run_cell(source, store_history=True)  # type: ignore[no-untyped-call]
            error = result.error_before_exec or result.error_in_exec
        except BaseException as raised:  # an interrupt between two steps of the shell
            error = raised
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if not shows:
                self.display_formatter.active_types = kinds
            _flush()
        if error is None:
            return None
        return self._described(error)

    def _described(self, error: BaseException) -> Error:
        shown = self.shown
        if shown is None:  # SystemExit, or the traceback's own making failed
            lines = traceback.format_exception(type(error), error, None)
            shown = Error(type(error).__name__, _text_of(error), _cut(lines))
        return Error(shown.name, shown.message, shown.traceback, self._line_in_cell(error))

    def _line_in_cell(self, error: BaseException) -> int:
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_globals is self.user_global_ns and frame.f_code.co_name == "<module>":
                return trace.tb_lineno
            trace = trace.tb_next
        return (error.lineno or 0) if isinstance(error, SyntaxError) else 0


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except BaseException:
        return "(its message cannot be read)"


def _cut(lines: list[str]) -> list[str]:
    return [str(line)[:_MAX_LINE] for line in lines[-_MAX_LINES:]]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # a cell may have put anything there
            continue


def make_shell() -> Shell:
    """Make the shell of this process, with what a kernel has set up before the first cell.

    Where pyplot is imported already, figures are shown at the end of a cell from now on.
    """
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.display_page = True
    return Shell.instance(config=config, displayhook_class=_Hook, display_pub_class=_Publisher)


def warm_up(shell: Shell) -> None:
    """Do once what the first cell, error and figure would otherwise wait for."""
    shell.run("1")
    shell.run("raise ValueError('warm')")
    if "matplotlib" in sys.modules:
        from matplotlib import pyplot

        pyplot.plot([1, 2])
        pyplot.savefig(io.BytesIO(), format="png", bbox_inches="tight")
        pyplot.close("all")
    shell.reset(new_session=False)  # type: ignore[no-untyped-call]
    shell.execution_count = 1
