"""The parts of a check that students do not see are told apart, whatever they look like."""

from __future__ import annotations

from cnlab.grading.attempt.hidden import Parts, parts_of

BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


def lines(*each: str) -> str:
    return "\n".join(each)


def test_check_without_marks_is_visible():
    """Most checks."""
    assert parts_of("assert f(1)") == Parts("assert f(1)")


def test_hidden_end_goes_on_at_its_own_line_numbers():
    """A traceback then names the line that the instructor knows."""
    parts = parts_of(lines("x = 1", BEGIN, "assert x", END))

    assert parts == Parts(lines("x = 1", "#", "#", "#"), lines("#", BEGIN, "assert x", END), goes_on=True)


def test_hidden_middle_makes_the_whole_check_run_again():
    """What stands below it may need it."""
    source = lines("x = 1", BEGIN, "x = 2", END, "assert x")

    assert parts_of(source) == Parts(lines("x = 1", "#", "#", "#", "assert x"), source)


def test_hidden_block_makes_the_whole_check_run_again():
    """It does not stand alone."""
    source = lines("for x in y:", "    f(x)", f"    {BEGIN}", "    g(x)")

    assert parts_of(source) == Parts(lines("for x in y:", "    f(x)", "#", "#"), source)


def test_block_that_is_all_hidden_leaves_nothing_to_see():
    """A loop without a body is no Python; students have it all the same."""
    source = lines("for x in y:", f"    {BEGIN}", "    g(x)")

    assert parts_of(source) == Parts("", source)


def test_two_hidden_ends_are_both_hidden():
    """As nbgrader clears them."""
    source = lines("a", BEGIN, "b", END, BEGIN, "c", END)

    assert parts_of(source).visible == lines("a", "#", "#", "#", "#", "#", "#")
    assert parts_of(source).goes_on


def test_course_may_choose_its_own_marks():
    """Then nbgrader takes out what stands between those, and nothing else."""
    source = lines("x = 1", "# FROM HERE", "assert x", "# TO HERE", BEGIN)

    assert parts_of(source, ("FROM HERE", "TO HERE")).visible == lines("x = 1", "#", "#", "#", BEGIN)
    assert parts_of(source).visible == lines("x = 1", "# FROM HERE", "assert x", "# TO HERE", "#")


def test_lines_are_those_of_python():
    """A form feed in a text begins no line, so that all who count lines come to the same."""
    source = lines("x = 'a\x0cb\x85c\u2028d'", BEGIN, "assert x", END)

    assert parts_of(source).visible.split("\n")[1:] == ["#"] * 3


def test_wholly_hidden_check_has_nothing_to_see():
    """A cell of hidden tests alone."""
    parts = parts_of(lines(BEGIN, "assert f(1)", END))

    assert (parts.visible.replace("#", "").strip(), parts.goes_on) == ("", True)
