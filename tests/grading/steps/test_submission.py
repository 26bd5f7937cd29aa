"""What is handed in may be anything: it is read without harm, and what is left out is said."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from cnlab.grading.steps.submission import (
    InvalidSubmission,
    Sizes,
    SubmittedCell,
    parse_notebook,
    read_submission,
)

SMALL = Sizes(file_bytes=1_000, total_bytes=1_500, files=5, depth=3, cells=4)


def notebook(*cells: object, **fields: object) -> bytes:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells} | fields).encode()


def code(source: object = "x = 1", **fields: object) -> dict[str, object]:
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": []} | fields


def test_files_are_read_with_their_relative_names(tmp_path: Path) -> None:
    """Notebooks read data that lie beside them, also in directories."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "räume.csv").write_bytes(b"1,2")
    (tmp_path / "ps1.ipynb").write_bytes(b"{}")

    read = read_submission(tmp_path)

    assert {"data/räume.csv": b"1,2", "ps1.ipynb": b"{}"} == read.files
    assert read.problems == ()


def test_link_is_not_followed(tmp_path: Path) -> None:
    """It would show the instructor's files to the student."""
    secret = tmp_path / "secret"
    secret.write_text("key")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "ps1.ipynb").symlink_to(secret)
    (tmp_path / "work" / "home").symlink_to(tmp_path)

    read = read_submission(tmp_path / "work")

    assert read.files == {}
    assert len(read.problems) == 2


def test_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """The whole submission could be somebody else's."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(OSError, match="link"):
        read_submission(tmp_path / "link")


def test_pipe_and_socket_hold_nobody_up(tmp_path: Path) -> None:
    """Opening a pipe waits for a writer who never comes."""
    os.mkfifo(tmp_path / "ps1.ipynb")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        read = read_submission(tmp_path)

    assert read.files == {}
    assert "`ps1.ipynb` is no regular file; it was left out" in read.problems


@pytest.mark.needs_root
def test_device_is_left_out(tmp_path: Path) -> None:
    """/dev/zero has no end."""
    os.mknod(tmp_path / "zero", 0o20666, os.makedev(1, 5))

    assert read_submission(tmp_path).problems == ("`zero` is no regular file; it was left out",)


def test_huge_file_is_never_read(tmp_path: Path) -> None:
    """500 MB of notebook, as a file with a hole so that the test has room."""
    with open(tmp_path / "ps1.ipynb", "wb") as file:
        file.truncate(500_000_000)

    read = read_submission(tmp_path)

    assert read.files == {}
    assert read.problems == ("`ps1.ipynb` has 500 MB, of at most 20 MB that are read; it was left out",)


def test_many_files_together_stay_below_a_limit(tmp_path: Path) -> None:
    """Each may be small."""
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 700)

    read = read_submission(tmp_path, sizes=SMALL)

    assert sorted(read.files) == ["a", "b"]
    assert "`c` has" in read.problems[0]


def test_number_of_files_and_their_depth_have_limits(tmp_path: Path) -> None:
    """Whoever makes a million must not hold up the others."""
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    for name in "stuvwxyz":
        (tmp_path / name).touch()

    read = read_submission(tmp_path, sizes=SMALL)

    assert len(read.files) == 5
    assert "`a/b/c` lies too deep; it was left out" in read.problems
    assert "there are more than 5 files; the others were left out" in read.problems


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1b[31m", b"\xff\xfe", b"..\\evil", b"x" * 220])
def test_odd_name_is_left_out_and_spelled_harmlessly(tmp_path: Path, name: bytes) -> None:
    """It would forge lines of the report, colour a terminal, or be no name elsewhere."""
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"")

    read = read_submission(tmp_path)

    assert read.files == {}
    assert len(read.problems) == 1
    assert read.problems[0].isprintable()
    assert read.problems[0].isascii()


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """It has vanished, or belongs to somebody else; the rest is graded."""
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "open").write_bytes(b"1")

    read = read_submission(tmp_path)

    assert read.files == {"open": b"1"}


def test_only_sources_ids_and_claims_are_kept_of_cells() -> None:
    """Tags, other metadata and stored outputs decide nothing, so they are not even read."""
    cell = code(
        ["def f():\n", "    pass"],
        id="abc",
        metadata={"tags": ["skip-execution"], "nbgrader": {"grade_id": "f", "points": 100}},
        outputs=[{"output_type": "stream", "text": "forged"}],
    )

    assert parse_notebook(notebook(cell)) == (SubmittedCell("code", "def f():\n    pass", "f", "abc"),)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{\x00", "is not text in UTF-8"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"nbformat": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b"[]", "is JSON, but no notebook"),
        (b"{}", "does not say its format version"),
        (b'{"nbformat": true}', "does not say its format version"),
        (b'{"nbformat": "4"}', "does not say its format version"),
        (b'{"nbformat": 5}', "newer than the 4"),
        (b'{"nbformat": 2}', "old format version 2 and cannot be converted"),
        (b'{"nbformat": 4}', "has no list of cells"),
        (b'{"nbformat": 4, "cells": {}}', "has no list of cells"),
        (notebook(7), "number 1, of an unknown type"),
        (notebook({"cell_type": ["code"]}), "number 1, of an unknown type"),
        (notebook({"cell_type": "program"}), "number 1, of an unknown type"),
        (notebook(code(), code(None)), "number 2, whose source is no text"),
        (notebook(code([["x"]])), "number 1, whose source is no text"),
    ],
)
def test_what_is_no_notebook_is_refused_in_plain_words(data: bytes, why: str) -> None:
    """The words go to the student, who must be able to act on them."""
    with pytest.raises(InvalidSubmission, match=why):
        parse_notebook(data)


def test_too_many_cells_are_refused() -> None:
    """Each costs time."""
    with pytest.raises(InvalidSubmission, match="has 5 cells, of at most 4"):
        parse_notebook(notebook(*[code()] * 5), sizes=SMALL)


def test_notebook_of_format_3_is_converted() -> None:
    """An honest student with an old program is not hurt."""
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {},
        "worksheets": [{"cells": [{"cell_type": "code", "input": "x = 1", "outputs": []}]}],
    }

    assert [cell.source for cell in parse_notebook(json.dumps(old).encode())] == ["x = 1"]


@pytest.mark.parametrize("metadata", [None, [], 7, {"nbgrader": []}, {"nbgrader": {"grade_id": 7}}])
def test_metadata_of_any_type_claims_nothing(metadata: object) -> None:
    """Where a dict is expected, JSON may hold anything."""
    assert parse_notebook(notebook(code(metadata=metadata)))[0].grade_id == ""


def test_lone_surrogate_is_replaced() -> None:
    """JSON can spell it, UTF-8 cannot: it would break whoever writes the notebook."""
    cell = parse_notebook(b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": "\\ud800"}]}')[0]

    assert cell.source == "\ufffd"


def test_nan_is_no_reason_to_refuse() -> None:
    """Python's json writes it into outputs, which are not read."""
    data = b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": "", "outputs": [NaN, Infinity]}]}'

    assert len(parse_notebook(data)) == 1


def test_pasted_picture_is_kept_and_a_page_is_not() -> None:
    """Answers may hold drawings; a page could hold a script that the instructor would run."""
    attachments = {
        "drawing.png": {"image/png": "aGVsbG8="},
        "page.html": {"text/html": "PHNjcmlwdD4="},
        "odd.png": {"image/png": '"><script>'},
    }
    cell = {"cell_type": "markdown", "source": "", "attachments": attachments}

    assert parse_notebook(notebook(cell))[0].attachments == {"drawing.png": {"image/png": "aGVsbG8="}}
