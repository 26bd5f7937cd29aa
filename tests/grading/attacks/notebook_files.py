"""Notebooks that are no notebooks: what a reader may choke on. At worst their author gets nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

from grading.attacks.assignment import NAME
from grading.attacks.attack import Submission, attack

STOPS = "the run stops, hangs or takes the memory of the machine, or others get other marks"


def _json(by: Submission) -> str:
    return json.dumps(by.notebook)


@attack(STOPS, may_lose=True)
def no_json(by: Submission) -> None:
    """Hand in a text."""
    by.raw = b"I could not open the notebook."


@attack(STOPS, may_lose=True)
def half_a_notebook(by: Submission) -> None:
    """Hand in the first half of a notebook, as an interrupted copy leaves it."""
    text = _json(by).encode()
    by.raw = text[: len(text) // 2]


@attack(STOPS, may_lose=True)
def empty_notebook(by: Submission) -> None:
    """Hand in a file without a byte."""
    by.raw = b""


@attack(STOPS, may_lose=True)
def notebook_that_is_a_list(by: Submission) -> None:
    """Hand in valid JSON that is no notebook."""
    by.raw = b"[1, 2, 3]"


@attack(STOPS, may_lose=True)
def deep_notebook(by: Submission) -> None:
    """Nest brackets deeper than any stack."""
    by.raw = b'{"cells": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"


@attack(STOPS, may_lose=True)
def deep_metadata(by: Submission) -> None:
    """Nest metadata just within the stack of the reader, to break a copier or writer."""
    deep = '{"a":' * 600 + "1" + "}" * 600
    by.raw = _json(by).replace('"metadata": {', f'"metadata": {{"deep": {deep}, ', 1).encode()


@attack(STOPS, may_lose=True)
def numbers_that_are_none(by: Submission) -> None:
    """Write NaN, Infinity, 1e999 and a number of a hundred thousand digits."""
    numbers = f'"metadata": {{"a": NaN, "b": Infinity, "c": 1e999, "d": {"9" * 100_000}, '
    by.raw = _json(by).replace('"metadata": {', numbers, 1).encode()


@attack(STOPS, earns=("mean",), may_lose=True)
def lone_surrogates(by: Submission) -> None:
    """Write characters that no encoding knows, in answers, names and metadata."""
    by.run('"x"  # \ud800', after="mean")
    by.notebook.metadata["authors"] = [{"name": "\udfff"}]
    by.cell("essay").source = "\ud83d and \udc00 apart"
    by.raw = _json(by).encode()


@attack(STOPS, may_lose=True)
def other_encoding(by: Submission) -> None:
    """Write the notebook in UTF-16."""
    by.raw = _json(by).encode("utf-16")


@attack(STOPS, earns=("mean",), may_lose=True)
def null_bytes(by: Submission) -> None:
    """Write NUL, escape sequences and line separators into code and text."""
    by.cell("essay").source = "\0\x1b]0;title\x07\x1b[2J\u2028\u2029\u202e"
    by.run("'\\x1b[2J'  # \0 \x1b[31m", after="mean")


@attack(STOPS, may_lose=True)
def format_three(by: Submission) -> None:
    """Hand in a notebook of format 3 with worksheets."""
    cells = [{"cell_type": "code", "input": "1", "outputs": [], "language": "python", "metadata": {}}]
    worksheets = [{"cells": cells, "metadata": {}}]
    by.raw = json.dumps(
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": worksheets}
    ).encode()


@attack(STOPS, may_lose=True)
def format_of_the_future(by: Submission) -> None:
    """Claim to be a notebook of format 5, and of a minor version that nobody knows."""
    by.notebook["nbformat"] = 5
    by.notebook["nbformat_minor"] = 2**40
    by.raw = _json(by).encode()


@attack(STOPS, may_lose=True)
def format_that_is_a_text(by: Submission) -> None:
    """Give texts, lists and negative numbers as version."""
    by.raw = json.dumps(by.notebook | {"nbformat": "4", "nbformat_minor": [-1]}).encode()


@attack(STOPS, may_lose=True)
def cells_of_other_types(by: Submission) -> None:
    """Put numbers, nulls and lists where cells and their sources should be."""
    by.notebook["cells"] = [
        None, 1, "cell", [], {"cell_type": 1}, {"cell_type": "code", "source": None, "metadata": []},
        {"cell_type": "code", "source": [["a"], 1], "metadata": {"nbgrader": {"grade_id": {}}}, "outputs": 5},
        {"cell_type": "nonsense", "source": "x", "metadata": {}},
    ]  # fmt: skip
    by.raw = _json(by).encode()


@attack(STOPS, may_lose=True)
def cells_that_are_a_dictionary(by: Submission) -> None:
    """Give a dictionary instead of the list of cells, and a list instead of metadata."""
    by.raw = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": [], "cells": {"0": 1}}).encode()


@attack(STOPS, earns=("mean",), may_lose=True)
def outputs_of_other_types(by: Submission) -> None:
    """Store outputs that no schema allows."""
    by.cell("mean")["outputs"] = [{"output_type": "x"}, 1, None, {"data": {"text/plain": {"a": 1}}}]
    by.cell("mean")["execution_count"] = "many"
    by.raw = _json(by).encode()


@attack(STOPS, may_lose=True)
def keys_given_twice(by: Submission) -> None:
    """Give the same key twice, so that two readers see two notebooks."""
    honest = _json(by)
    by.raw = (honest[:-1] + ', "cells": [], "nbformat": 4, "metadata": {}}').encode()


@attack(STOPS, may_lose=True)
def half_a_gigabyte(by: Submission) -> None:
    """Hand in a notebook of 500 MB; all but the first bytes are a hole in the file."""

    def place(directory: Path) -> None:
        with open(directory / f"{NAME}.ipynb", "wb") as file:
            file.write(b'{"cells": [')
            file.truncate(500 << 20)

    by.place = place


@attack(STOPS, may_lose=True)
def long_lines(by: Submission) -> None:
    """Write an answer of ten megabytes in one line, and an expression too deep to parse."""
    by.run("x = '" + "a" * (10 << 20) + "'", after="mean")
    by.run("(" * 5_000 + ")" * 5_000, after="mean")
    by.run("-" * 200_000 + "1", after="mean")


@attack(STOPS, may_lose=True)
def notebook_under_another_name(by: Submission) -> None:
    """Hand in only files whose names look like the notebook's."""

    def place(directory: Path) -> None:
        (directory / f"{NAME}.ipynb").unlink()
        for name in (
            f"{NAME.upper()}.ipynb",
            f"{NAME} (1).ipynb",
            f"{NAME}.ipynb ",
            f"{NAME}.ipynb.txt",
            ".ipynb",
        ):
            (directory / name).write_text(_json(by))

    by.place = place


@attack(STOPS, earns=("mean",))
def two_notebooks(by: Submission) -> None:
    """Hand in a second notebook, whose name sorts before and after the real one."""
    for name in ("0.ipynb", "zz.ipynb", f"{NAME}.IPYNB", f"{NAME}-copy.ipynb"):
        by.files[name] = _json(by).encode()


@attack(STOPS, may_lose=True)
def no_submission_at_all(by: Submission) -> None:
    """Hand in a directory in which nothing is."""
    by.place = lambda directory: os.unlink(directory / f"{NAME}.ipynb")
