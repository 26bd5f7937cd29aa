"""Grades as Canvas and Moodle import them: their headings and rules, and nothing that a spreadsheet runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from grading.classroom import LAB, POINTS, Work, make_course

from cnlab.grading.report.export import (
    CANVAS,
    InvalidIdentities,
    csv_text,
    number,
    read_identities,
    safe,
    write_exports,
)
from cnlab.grading.report.records import NoSuchAssignment
from cnlab.grading.steps.course import Course

CLASS = {
    "ada": Work(),
    "bob": Work(scores={**POINTS, "check-mean": 1.25}, late_h=3, penalty=2),
    "eve": Work(scores={**POINTS, "question": None}),
    "@tom": Work(),
    "fay": Work(scores=dict.fromkeys(POINTS), error="the machine went away"),
    "mia": None,
}
NAMES = {"ada": ("Zoë", "Łukasiewicz, Dr."), "bob": ("Bob", "=cmd|' /C calc'!A0"), "eve": ("語", "😀")}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A class of six, one of whom has handed in nothing."""
    return make_course(tmp_path_factory.mktemp("course"), CLASS, NAMES)


def rows_of(path: Path) -> list[list[str]]:
    """What a reader of CSV finds in the file."""
    return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))


def by_student(path: Path, column: str) -> dict[str, dict[str, str]]:
    """The rows of a file by what stands in `column`."""
    heading, *rows = rows_of(path)
    return {row[heading.index(column)]: dict(zip(heading, row, strict=True)) for row in rows}


def test_canvas_file_has_the_columns_and_the_row_that_canvas_looks_for(
    course: Course, tmp_path: Path
) -> None:
    """Its importer wants "Student" and "ID" first, "Section" before the grades, "Points Possible" below."""
    write_exports(course, LAB, tmp_path)

    heading, points, *students = rows_of(tmp_path / "canvas.csv")
    assert heading == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", LAB]
    assert points == ["    Points Possible", "", "", "", "", "10"]
    assert {len(row) for row in students} == {len(heading)}


def test_score_is_what_nbgrader_itself_exports(course: Course, tmp_path: Path) -> None:
    """Points, less the penalty for being late; two places would otherwise tell a student two numbers."""
    from nbgrader.plugins import CsvExportPlugin

    plugin = CsvExportPlugin(to=str(tmp_path / "nbgrader.csv"), assignment=[LAB])
    with course.gradebook() as gradebook:
        for student in gradebook.students:  # its plugin quotes nothing, so a comma in a name breaks its file
            student.first_name = student.last_name = None
        plugin.export(gradebook)
        gradebook.db.rollback()
    write_exports(course, LAB, tmp_path, missing_as_zero=True)

    theirs = {
        name: float(row["score"]) for name, row in by_student(tmp_path / "nbgrader.csv", "student_id").items()
    }
    ours = by_student(tmp_path / "canvas.csv", "SIS Login ID")
    assert {safe(name): score for name, score in theirs.items() if name != "fay"} == {
        name: float(row[LAB]) for name, row in ours.items() if name and row[LAB]
    }


def test_who_handed_in_nothing_has_no_grade_in_either_system(course: Course, tmp_path: Path) -> None:
    """For Canvas that is a blank, for Moodle a dash: a blank it would read as a grade of a new item."""
    write_exports(course, LAB, tmp_path)

    assert by_student(tmp_path / "canvas.csv", "SIS Login ID")["mia"][LAB] == ""
    assert by_student(tmp_path / "moodle.csv", "Username")["mia"][f"Assignment: {LAB}"] == "-"


def test_work_that_could_not_be_run_has_no_grade(course: Course, tmp_path: Path) -> None:
    """It is the machine's fault; no points would be a lie, and the next run gives them."""
    notes = write_exports(course, LAB, tmp_path, missing_as_zero=True).notes

    assert by_student(tmp_path / "canvas.csv", "SIS Login ID")["fay"][LAB] == ""
    assert [note for note in notes if "could not be run; grade again: fay" in note]


def test_missing_work_counts_as_zero_when_asked_for(course: Course, tmp_path: Path) -> None:
    """Both policies exist; the instructor's is the one that counts."""
    write_exports(course, LAB, tmp_path, missing_as_zero=True)

    assert by_student(tmp_path / "canvas.csv", "SIS Login ID")["mia"][LAB] == "0"
    assert by_student(tmp_path / "moodle.csv", "Username")["mia"][f"Assignment: {LAB}"] == "0"


def test_every_row_for_moodle_names_a_user(course: Course, tmp_path: Path) -> None:
    """Moodle gives the grade of a row without a user to the user of the row before."""
    write_exports(course, LAB, tmp_path)

    heading, *rows = rows_of(tmp_path / "moodle.csv")
    assert heading[:5] == ["Username", "First name", "Last name", "ID number", "Email address"]
    assert sorted(row[0] for row in rows) == sorted(map(safe, CLASS))


def test_names_of_all_scripts_arrive_as_they_are(course: Course, tmp_path: Path) -> None:
    """UTF-8 without a byte order mark: with one, the first heading would not be "Student"."""
    write_exports(course, LAB, tmp_path)

    students = by_student(tmp_path / "canvas.csv", "SIS Login ID")
    assert students["ada"]["Student"] == "Łukasiewicz, Dr., Zoë"
    assert students["eve"]["Student"] == "😀, 語"
    assert (tmp_path / "canvas.csv").read_bytes().startswith(b"Student,ID")


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "a\n=1",
        " =1",
        "\uff1d1",
        "x;=1",
        "x,=1",
        "x|=1",
    ],
)
def test_text_that_begins_a_formula_is_quoted(text: str) -> None:
    """A student who is called =HYPERLINK(...) would run it on the instructor's machine."""
    written = safe(text)

    assert "\n" not in written
    assert "\r" not in written
    for separator in (",", ";", "\t", "|"):
        for cell in written.split(separator):
            assert not cell.strip().startswith(("=", "+", "-", "@", "\uff1d"))


@pytest.mark.parametrize("text", ["Jean-Luc", "O'Neil", "a@example.org", "3-1=2", "Łukasiewicz, Zoë", ""])
def test_ordinary_text_is_left_alone(text: str) -> None:
    """An address or a double name that comes out changed finds nobody."""
    assert safe(text) == text


def test_notes_name_a_login_that_had_to_be_quoted_and_no_name(course: Course, tmp_path: Path) -> None:
    """The import does not find a quoted login, which somebody has to know; a quoted name does no harm."""
    notes = write_exports(course, LAB, tmp_path).notes

    said = [note for note in notes if "formula" in note]
    assert len(said) == 1
    assert said[0].endswith(": '@tom")


def test_notes_name_who_waits_for_a_person_and_who_is_missing(course: Course, tmp_path: Path) -> None:
    """Both look like grades in the file, and are none yet."""
    notes = write_exports(course, LAB, tmp_path).notes

    assert [note for note in notes if "waits for a person: eve" in note]
    assert [note for note in notes if "handed in nothing: mia" in note]


def test_identities_come_from_a_file(course: Course, tmp_path: Path) -> None:
    """The gradebook knows a login; Canvas and Moodle may know the same student by a number."""
    who = tmp_path / "who.csv"
    who.write_text("student,canvas_id,sis_user_id,section,idnumber,username\nada,4711,S1,A,M1,ada.l\n")

    exported = write_exports(course, LAB, tmp_path, identities=who)

    ada = by_student(tmp_path / "canvas.csv", "SIS User ID")["S1"]
    assert (ada["ID"], ada["Section"], ada["SIS Login ID"]) == ("4711", "A", "ada")
    assert by_student(tmp_path / "moodle.csv", "Username")["ada.l"]["ID number"] == "M1"
    assert [note for note in exported.notes if "not among the identities" in note and "bob" in note]


def test_canvas_own_export_serves_as_identities_and_names_the_column(course: Course, tmp_path: Path) -> None:
    """With its id in the heading, Canvas fills the assignment that exists instead of making another."""
    who = tmp_path / "gradebook.csv"
    heading = [*CANVAS, f"{LAB} (90210)", "Current Score"]
    who.write_text(
        csv_text(
            [heading, ["    Points Possible"], ["Lovelace, Ada", "4711", "", "ada", "Section 1", "", ""]]
        )
    )

    write_exports(course, LAB, tmp_path, identities=who)

    ada = by_student(tmp_path / "canvas.csv", "ID")["4711"]
    assert (ada["Student"], ada["Section"], ada[f"{LAB} (90210)"]) == ("Lovelace, Ada", "Section 1", "10")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("name,id\na,b\n", "expected a column `student`"),
        ("student,section\nada,A\nada,B\n", "line 3 has 'ada' a second time"),
        ("\x7fELF\x02\x1b[31m" + "\x01" * 100, r"got '\\x7fELF\\x02\\x1b\[31m.*\.\.\.'$"),
        ("x" * 200_000, "no CSV file"),
    ],
)
def test_identities_that_cannot_be_used_are_refused_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    """Grades must not go to somebody else because a column was misread."""
    who = tmp_path / "who.csv"
    who.write_text(text)

    with pytest.raises(InvalidIdentities, match=says):
        read_identities(who)


def test_several_assignments_are_several_columns(course: Course, tmp_path: Path) -> None:
    """A term's grades go up in one file."""
    write_exports(course, [LAB, "lab02"], tmp_path)

    students = by_student(tmp_path / "canvas.csv", "SIS Login ID")
    assert (students["ada"][LAB], students["ada"]["lab02"]) == ("10", "")


def test_an_unknown_assignment_is_refused_with_those_that_exist(course: Course, tmp_path: Path) -> None:
    """A misspelt name is seen at once, and no file is written."""
    with pytest.raises(NoSuchAssignment, match=f"no assignment 'lab9'; it knows: .*{LAB}"):
        write_exports(course, "lab9", tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.0, "10"), (0.0, "0"), (2.5, "2.5"), (1 / 3, "0.3333"), (1e-7, "0"), (1e6, "1000000")],
)
def test_numbers_have_a_point_and_no_exponent(value: float, text: str) -> None:
    """Canvas drops all points but the last of what it takes for a number."""
    assert number(value) == text
