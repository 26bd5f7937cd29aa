"""What of a graded notebook may be shown, and to whom.

Interface: `harmless` keeps the outputs that a page can show without running anything of the student's;
`harmless_text` does the same to Markdown, for nbgrader's pages show the HTML in it as it is.
`seal` hides what would tell hidden tests: their source, and all that was printed, raised or shown once they
ran, for it may hold their input. The whole goes into the cell's metadata, which no page shows; `unseal` puts
it back for the instructor, `with_message` adds what a hidden check said.

As classes for nbconvert, to be named in nbgrader's settings: `SealHiddenTests` for feedback that nbgrader
makes itself, `ShowHiddenTests` for the formgrader.
"""

import copy
import html
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import bleach  # type: ignore[import-untyped]
import nbconvert.preprocessors
from traitlets import Bool, Unicode, default
from traitlets.config import Config

from cnlab.grading.attempt.capture import PICTURES, TEXTS
from cnlab.grading.attempt.hidden import hidden_lines, is_apart
from cnlab.grading.job import HIDDEN_MARKS

SEALED = "cnlab"
"""The key in a cell's metadata."""

_HIDDEN = "# hidden checks stand here"
_FAILED = "HiddenCheckFailed"
_SAYS = {
    "timeout": "the time for this cell was up",
    "died": "your notebook's process ended in this check",
    "skipped": "your notebook's process had ended before this check",
}
_DRAWING = "image/svg+xml"  # of nbgrader's own autograde; shown in <img>, where no script runs
_MARKUP = frozenset({"text/html", "text/markdown"})
_TAGS = frozenset(bleach.ALLOWED_TAGS) | {"br", "code", "div", "hr", "p", "pre", "span", "table", "td", "tr"}
_TAG = re.compile(
    r"<(?!https?://[^\s<>\"']+>|/?(?:b|br|code|em|h[1-6]|hr|i|kbd|li|ol|p|pre|strong|sub|sup|table|td|th|tr|u|ul)\s*/?>)"
    r"(?=[a-z/!?])",
    re.IGNORECASE,
)
_ATTACHMENT = re.compile(r"attachment:([^\s)\"'>]*)", re.IGNORECASE)
_TARGET = re.compile(r"(\](?:\(|:)\s*<?)(?=([^\n]*))")  # what follows is the address of a link or a picture
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_SCHEMES = frozenset({"attachment", "http", "https", "mailto"})
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_IPYTHON_LINE = re.compile(r"^Cell In\s?\[\d+\], line (\d+)", re.MULTILINE)


def harmless(output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what of an output a page may show; None if nothing."""
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": kind, "name": name, "text": str(output.get("text", ""))}
    if kind == "error":
        lines = output.get("traceback", [])
        return {
            "output_type": kind,
            "ename": str(output.get("ename", "")),
            "evalue": str(output.get("evalue", "")),
            "traceback": [str(line) for line in lines] if isinstance(lines, list) else [],
        }
    if kind not in ("display_data", "execute_result"):
        return None
    shown = {"output_type": kind, "data": _harmless_data(output.get("data")), "metadata": {}}
    if kind == "execute_result":
        shown["execution_count"] = _count(output.get("execution_count"))
    return shown


def harmless_text(markdown: str, attachments: Collection[str] = ()) -> str:
    """Return Markdown in which only plain tags are tags, and no picture is missing.

    Other tags get a space behind their ``<``, which shows them as they were written: in text, in code, and
    in formulas, where a space means nothing. A link to an attachment that is not there would end nbconvert.
    An address that a browser would run, such as ``javascript:…``, becomes a place on the page.
    """
    text = _TARGET.sub(_plain_target, _TAG.sub("< ", markdown))
    return _ATTACHMENT.sub(lambda link: link[0] if link[1] in attachments else f"attachment {link[1]}", text)


def _plain_target(target: re.Match[str]) -> str:
    """Put a ``#`` before an address of another kind, read as Markdown and a browser read it."""
    address = re.sub(r"[\\\s\x00-\x1f]", "", html.unescape(html.unescape(target[2])))
    scheme = _SCHEME.match(address)
    return target[1] + ("#" if scheme and scheme[1].lower() not in _SCHEMES else "")


def _harmless_data(data: object) -> dict[str, str]:
    kept = {}
    for kind, value in data.items() if isinstance(data, Mapping) else ():
        text = "".join(map(str, value)) if isinstance(value, list) else str(value)
        if kind in TEXTS | PICTURES | {_DRAWING}:
            kept[kind] = text
        elif kind in _MARKUP:
            kept[kind] = _clean(text)
    return kept


def _clean(markup: str) -> str:
    """Leave plain tags only, those that nbconvert lets pass as well; tables keep their cells."""
    markup = re.sub(r"(?is)<(style|script)\b.*?</\1\s*>", "", markup)
    markup = re.sub(r"(?i)<(/?)th\b", r"<\1td", markup)
    return str(bleach.clean(markup, tags=_TAGS, attributes=["class", "href", "title"], strip=True))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else None


@dataclass(frozen=True, slots=True)
class HiddenRegion:
    """The lines of a cell, counted from 1, that students do not get."""

    lines: frozenset[int]
    texts: frozenset[str]
    visible: str


def hidden_marks(config: Config) -> tuple[str, str]:
    """Return what marks hidden tests in a course of these settings; nbgrader spells them so."""
    settings, (begin, end) = config.ClearHiddenTests, HIDDEN_MARKS
    return settings.get("begin_test_delimeter", begin), settings.get("end_test_delimeter", end)


@cache
def hidden_region(source: str, marks: tuple[str, str] = HIDDEN_MARKS) -> HiddenRegion | None:
    """Find the hidden tests in a cell's source."""
    hidden = hidden_lines(source, marks)
    if not any(hidden):
        return None
    lines, texts, visible = set(), set(), []
    for number, (line, is_hidden) in enumerate(zip(source.split("\n"), hidden, strict=True), start=1):
        if not is_hidden:
            visible.append(line)
            continue
        if number - 1 not in lines:
            visible.append(line[: len(line) - len(line.lstrip())] + _HIDDEN)
        lines.add(number)
        texts.add(line.strip())
    shown = {line.strip() for line in visible}
    return HiddenRegion(frozenset(lines), frozenset(texts - shown - {""}), "\n".join(visible))


def seal(
    cell: dict[str, Any],
    *,
    status: str = "",
    shown: int | None = None,
    line: int = 0,
    marks: tuple[str, str] = HIDDEN_MARKS,
) -> None:
    """Hide the hidden tests of a check that has run, in place; a cell that has none stays as it is.

    All that came once they had begun is hidden, also what a visible line said: they may have told it.

    Args:
        cell: a code cell of the notebook, as JSON has it.
        status: how it went: ``ok``, ``failed``, ``timeout``, ...; empty if only its outputs can tell.
        shown: how many of its outputs came before the hidden tests ran; None if that is not known.
        line: where in the cell it failed; 0 if that is not known.
        marks: what stands in the first and in the last line of hidden tests.
    """
    region = hidden_region(cell["source"], marks)
    if region is None or cell["cell_type"] != "code":
        return
    outputs = cell["outputs"]
    whole = {"source": cell["source"], "outputs": copy.deepcopy(outputs)}
    if shown is None:
        first = min(region.lines)
        shown = len(outputs) if 0 < line < first and is_apart(cell["source"], first - 1) else 0
    kept = [_without(output, region) for output in outputs[:shown]]
    for output in outputs[shown:]:
        if output["output_type"] == "error":
            kept.append(_failure(_SAYS.get(status, "a hidden check failed")))
            whole["message"] = f"{output['ename']}: {output['evalue']}".rstrip(": ")
        elif _is_number(output):
            kept.append(output)
    cell["outputs"] = kept
    cell["source"] = region.visible
    cell["metadata"][SEALED] = whole


def unseal(cell: dict[str, Any]) -> None:
    """Put back what `seal` took away."""
    whole = cell["metadata"].pop(SEALED, None)
    if isinstance(whole, Mapping) and "source" in whole and "outputs" in whole:
        cell["source"], cell["outputs"] = whole["source"], whole["outputs"]


def with_message(cell: dict[str, Any]) -> None:
    """Let a sealed check say what its hidden test said, but no source."""
    message = cell["metadata"].get(SEALED, {}).get("message")
    if message and any(output.get("ename") == _FAILED for output in cell.get("outputs", ())):
        cell["outputs"] = [_failure(f"a hidden check failed: {message}")]


def _failure(message: str) -> dict[str, Any]:
    return {
        "output_type": "error",
        "ename": _FAILED,
        "evalue": message,
        "traceback": [f"{_FAILED}: {message}"],
    }


def _is_number(output: Mapping[str, Any]) -> bool:
    """Whether it is partial credit, which the page shows as the score anyway."""
    if output["output_type"] != "execute_result":
        return False
    try:
        float(output["data"].get("text/plain", ""))
    except (TypeError, ValueError):
        return False
    return set(output["data"]) == {"text/plain"}


def _without(output: dict[str, Any], region: HiddenRegion) -> dict[str, Any]:
    """Cut the lines of hidden tests out of a traceback."""
    if output["output_type"] != "error":
        return output
    text = "\n".join(output["traceback"])
    lines = [line for line in text.split("\n") if not _tells(_ANSI.sub("", line), region.texts)]
    return output | {"traceback": lines}


def _tells(line: str, texts: Sequence[str] | frozenset[str]) -> bool:
    return any(text in line for text in texts)


class SealHiddenTests(nbconvert.preprocessors.Preprocessor):
    """Seal what is not sealed yet, for feedback: the notebook may come from nbgrader's own autograde."""

    enabled = Bool(True).tag(config=True)
    show_messages = Bool(False, help="Show what hidden checks said when they failed").tag(config=True)
    begin_test_delimeter = Unicode(help="By default that of ClearHiddenTests").tag(config=True)
    end_test_delimeter = Unicode(help="By default that of ClearHiddenTests").tag(config=True)

    @default("begin_test_delimeter")
    def _begin(self) -> str:
        return hidden_marks(self.config)[0]

    @default("end_test_delimeter")
    def _end(self) -> str:
        return hidden_marks(self.config)[1]

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Seal a cell; called by nbconvert for each."""
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade"):
            if SEALED not in cell.metadata:
                marks = self.begin_test_delimeter, self.end_test_delimeter
                seal(cell, line=_line_in_ipython(cell.outputs), marks=marks)
            if self.show_messages:
                with_message(cell)
        return _as_nodes(cell), resources


class ShowHiddenTests(nbconvert.preprocessors.Preprocessor):
    """Unseal for the formgrader, whose pages only the instructor sees; everywhere else it does nothing."""

    enabled = Bool(True).tag(config=True)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Unseal a cell; called by nbconvert for each."""
        if getattr(self.parent, "template_name", "") == "formgrade" and cell.cell_type == "code":
            unseal(cell)
        return _as_nodes(cell), resources


def _line_in_ipython(outputs: Sequence[Mapping[str, Any]]) -> int:
    """Find the line at which a cell failed in a traceback that IPython wrote; 0 if there is none."""
    text = "\n".join(line for output in outputs for line in output.get("traceback", ()))
    found = _IPYTHON_LINE.search(_ANSI.sub("", text))
    return int(found.group(1)) if found else 0


def _as_nodes(cell: Any) -> Any:
    import nbformat

    return nbformat.from_dict(cell)
