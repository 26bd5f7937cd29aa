import pytest

from cnlab.containers.build.ignore import Ignore


@pytest.mark.parametrize(
    ("pattern", "hidden", "shown"),
    [
        ("secret.txt", ["secret.txt"], ["secret.txt.md", "a/secret.txt"]),
        ("*.log", ["x.log"], ["a/x.log", "x.logs"]),
        ("**/*.log", ["x.log", "a/b/x.log"], ["x.txt"]),
        ("build", ["build", "build/a", "build/a/b"], ["rebuild", "a/build"]),
        ("/build/", ["build/a"], ["a/build"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[ab].txt", ["a.txt"], ["c.txt"]),
        ("a.c", ["a.c"], ["abc"]),
        ("*", ["a", "b/c"], [""]),
    ],
)
def test_pattern_hides_what_it_matches_and_all_below(pattern, hidden, shown):
    """A star ends at a slash, two stars do not."""
    ignore = Ignore.parse(pattern)

    assert [] == [path for path in hidden if not ignore.hides(path)]
    assert [] == [path for path in shown if ignore.hides(path)]


def test_last_rule_that_matches_decides():
    """So exceptions stand after what they except."""
    ignore = Ignore.parse("docs\n!docs/README.md\n# a comment\n\ndocs/old/**\n")

    assert [True, False, True] == [
        ignore.hides(f"docs/{name}") for name in ("a.md", "README.md", "old/README.md")
    ]


def test_directory_without_the_file_hides_nothing(tmp_path):
    """Most have none."""
    assert not Ignore.of(tmp_path).hides("a")


def test_file_is_read_from_the_context(tmp_path):
    """Its name is fixed."""
    (tmp_path / ".dockerignore").write_text("a\n")

    assert Ignore.of(tmp_path).hides("a")
