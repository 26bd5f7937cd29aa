import pytest

from cnlab.containers.build.variables import expand, split
from cnlab.errors import InvalidValue

VARIABLES = {"name": "ann", "empty": ""}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$name", "ann"),
        ("${name}s", "anns"),
        ("$names", ""),
        ("${none:-bob}", "bob"),
        ("${empty:-bob}", "bob"),
        ("${name:-bob}", "ann"),
        ("${name:+there}", "there"),
        ("${none:+there}", ""),
        ("${none:-$name}", "ann"),
        (r"\$name", "$name"),
        ("'$name'", "$name"),
        ('"$name is $name"', "ann is ann"),
        (r'"say \"$name\""', 'say "ann"'),
        (r'"a\nb"', r"a\nb"),
        ('"it\'s $name"', "it's ann"),
        (r"back\\slash", r"back\slash"),
    ],
)
def test_word_is_expanded_as_in_a_dockerfile(word, expected):
    """Single quotes keep a dollar, double quotes keep blanks, a backslash keeps what follows it."""
    assert expected == expand(word, VARIABLES)


def test_blanks_within_quotes_do_not_split():
    """Or a label could not be a sentence."""
    assert ['a="b c"', "d\\ e", "'f g'h"] == split("""a="b c"  d\\ e 'f g'h""")


def test_open_quote_is_refused():
    """Guessing its end would set a variable to half of the file."""
    with pytest.raises(InvalidValue, match='the quote " is not closed'):
        split('a="b c')


def test_unknown_substitution_is_refused():
    """The shell knows many more; to leave them as text would put a dollar into a path."""
    with pytest.raises(InvalidValue, match=r"\$\{name%x\} is not understood"):
        expand("${name%x}", VARIABLES)
