"""Pairs that stand out: renamed and rearranged copies are found, a class of short answers is left alone."""

from __future__ import annotations

import keyword
import random

import pytest
from nbformat import v4

from cnlab.grading.report.similarity import answers_of, lines_of, side_by_side, similar_pairs

GIVEN = '''def frequencies(words):
    """Return how often each of `words` occurs."""
    # YOUR CODE HERE
    raise NotImplementedError()
'''
WORDS = [
    f"{a}{b}"
    for a in ("count", "word", "list", "next", "best", "left")
    for b in ("_a", "_b", "_c", "er", "ed")
]


def own_answer(seed: int, lines: int = 30) -> str:
    """An answer that nobody else would write: statements drawn at random."""
    chance = random.Random(seed)
    forms = (
        "    {a} = sorted({b}, key=len)[{n}:]",
        "    for {a} in range({n}, len({b})):\n        {c}.append({a} * {n})",
        "    if {a} > {n} and not {b}:\n        return {c}",
        "    {a}, {b} = {b}.get({n}), {c}.pop({n})",
        "    while {a} < {n}:\n        {a} += len({b})",
        "    {a} = [{b}.strip() for {b} in {c} if {b} != {n}]",
        "    assert isinstance({a}, dict), {b}",
        "    with open({a}) as {b}:\n        {c} = {b}.read().split({n})",
    )
    body = [
        chance.choice(forms).format(
            a=chance.choice(WORDS), b=chance.choice(WORDS), c=chance.choice(WORDS), n=chance.randint(0, 99)
        )
        for _ in range(lines)
    ]
    return "def frequencies(words):\n" + "\n".join(body)


def renamed(code: str) -> str:
    """The same with other names, comments and layout, as a hurried copyist leaves it."""
    for place, word in enumerate(WORDS):
        code = code.replace(word, f"x{place}")
    return code.replace("\n", "  # mine\n\n").replace(" = ", "=")


def the_class(size: int, **more: str) -> dict[str, dict[str, str]]:
    """A class in which everybody thinks for themselves, and some more."""
    codes = {f"student{seed}": own_answer(seed) for seed in range(size)} | more
    return {student: {"frequencies": code} for student, code in codes.items()}


def named(pairs):
    """Who is with whom, the order within a pair aside."""
    return {frozenset((pair.first, pair.second)) for pair in pairs}


def test_a_renamed_and_rearranged_copy_is_found_and_nobody_else() -> None:
    """Renaming variables is the first thing that a copyist does."""
    answers = the_class(20, copyist=renamed(own_answer(3)))

    pairs = similar_pairs(answers, [GIVEN])

    assert named(pairs) == {frozenset(("student3", "copyist"))}
    assert pairs[0].score > 0.97
    assert pairs[0].usual < 0.7


def test_a_copy_with_changes_still_stands_out() -> None:
    """A few lines of one's own do not hide the others."""
    lines = own_answer(5).splitlines()
    edited = renamed("\n".join(lines[:8] + own_answer(99, 4).splitlines()[1:] + lines[8:-3]))

    assert named(similar_pairs(the_class(20, copyist=edited), [GIVEN])) == {
        frozenset(("student5", "copyist"))
    }


def test_what_all_were_given_makes_nobody_alike() -> None:
    """Untouched releases are the same to the letter, and nobody has copied."""
    answers = {f"student{seed}": {"frequencies": GIVEN * 20} for seed in range(5)}

    assert similar_pairs(answers, [GIVEN]) == []


def test_a_class_in_which_all_are_alike_names_only_what_is_the_same() -> None:
    """Where the task leaves one way to do it, doing it that way is no copying."""
    base = own_answer(1, 40).splitlines()
    answers = {}
    for seed in range(15):
        chance = random.Random(seed)
        kept = [line for line in base if chance.random() < 0.9]
        answers[f"student{seed}"] = {
            "frequencies": "\n".join([*kept, *own_answer(seed + 50, 3).splitlines()[1:]])
        }

    assert similar_pairs(answers, [GIVEN], at_least=0.5) == []


def test_a_short_answer_is_nobodys_own() -> None:
    """`return sorted(words)` is what it is, whoever writes it."""
    answers = {name: {"a": "def f(words):\n    return sorted(words)"} for name in ("ada", "bob", "eve")}

    assert similar_pairs(answers) == []


def test_pairs_say_in_which_answers_they_are_alike() -> None:
    """Two may have solved one task together, as they were allowed to."""
    answers = {
        "ada": {"first": own_answer(1), "second": own_answer(2)},
        "bob": {"first": renamed(own_answer(1)), "second": own_answer(3)},
    }

    pair = similar_pairs(answers, at_least=0.5)[0]

    assert pair.parts["first"] > 0.97
    assert pair.parts["second"] < 0.8


def test_answers_are_solution_cells_and_own_cells_and_nothing_locked() -> None:
    """What a student writes below a task is part of the work; what the course wrote is not."""
    notebook = v4.new_notebook(
        cells=[
            v4.new_code_cell("own = 1"),
            v4.new_code_cell(
                "solved", metadata={"nbgrader": {"solution": True, "locked": False, "grade_id": "a"}}
            ),
            v4.new_code_cell(
                "check", metadata={"nbgrader": {"grade": True, "locked": True, "grade_id": "b"}}
            ),
            v4.new_code_cell("more = 2"),
        ]
    )

    assert answers_of(notebook) == {"": "own = 1\nmore = 2", "a": "solved"}


@pytest.mark.timeout(20)  # one that backtracks takes minutes
@pytest.mark.parametrize(
    "code",
    [
        '"""' * 30_000,
        "'" * 100_000,
        '("' * 50_000,
        "\\" * 100_000,
        '"""\\' * 25_000,
        "\ud800" * 1000,
        "\0",
        "r'''" * 25_000,
    ],
    ids=["triple", "quotes", "open", "backslashes", "escapes", "surrogates", "null", "prefixes"],
)
def test_code_that_is_no_code_is_read_in_one_pass(code: str) -> None:
    """A submission may hold anything; the report comes all the same."""
    answers = {name: {"a": code + name * 40} for name in ("ada", "bob", "eve")}

    assert similar_pairs(answers, [code]) is not None


def test_lines_are_tokens_without_comments_and_strings() -> None:
    """Those are what a copyist changes without changing the program."""
    assert lines_of("x = \"a\"  # b\n\nprint(f'{x}', x)") == [
        ("x", "=", '"'),
        ("print", "(", '"', ",", "x", ")"),
    ]


def test_keywords_and_attributes_are_what_they_are() -> None:
    """`if` for `while` is another program; so is `append` for `pop`."""
    loops = {"ada": "while", "bob": "if"}
    answers = {name: {"a": f"{word} a.b(c):\n    d.e(f)\n" * 9} for name, word in loops.items()}

    assert keyword.iskeyword("while")
    assert similar_pairs(answers, at_least=0)[0].score < 1


def test_side_by_side_sets_the_same_lines_beside_each_other() -> None:
    """The eye finds what was changed; spaces are no change."""
    rows = list(side_by_side("a\nb\nc", "a\nx\ny\n c "))

    assert rows == [("a", "a", True), ("b", "x", False), ("", "y", False), ("c", " c ", True)]


@pytest.mark.timeout(30)
def test_three_hundred_submissions_are_compared_in_seconds() -> None:
    """45,000 pairs, in one matrix of one library call: a loop in Python would take half an hour."""
    answers = the_class(300, copyist=renamed(own_answer(7)))

    pairs = similar_pairs(answers, [GIVEN])

    assert named(pairs) == {frozenset(("student7", "copyist"))}
