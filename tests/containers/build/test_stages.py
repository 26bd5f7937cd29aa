import pytest

from cnlab.containers.build.dockerfile import parse
from cnlab.containers.build.stages import Stages
from cnlab.errors import InvalidValue

STAGES = Stages.of(
    parse(
        "FROM busybox AS tools\n"
        "FROM tools AS build\n"
        "FROM busybox AS docs\n"
        "FROM scratch AS app\n"
        "COPY --from=build /a /a\n"
        "COPY --from=busybox /b /b\n"
        "FROM app AS debug\n"
        "COPY --from=2 /docs /docs\n"
    ),
    {},
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("app", [0, 1, 3]), ("debug", [0, 1, 2, 3, 4]), ("docs", [2]), ("1", [0, 1])],
)
def test_only_what_the_target_needs_is_built(target, expected):
    """Its base and what it copies from, and theirs."""
    assert expected == STAGES.needed_for(STAGES.index(target))


def test_later_stage_is_not_found():
    """A stage can use those before it only; the same name may be an image's."""
    assert STAGES.find("build", before=1) is None
    assert STAGES.find("4", before=2) is None


def test_name_has_no_case():
    """Docker lowers it."""
    assert 1 == STAGES.find("BUILD", before=3)


def test_second_stage_of_a_name_hides_the_first():
    """As a variable that is set again."""
    twice = Stages.of(parse("FROM a AS x\nFROM b AS x\nFROM x\n"), {})

    assert 1 == twice.find("x", before=2)


def test_unknown_target_is_told_with_those_there_are():
    """A misspelt target would otherwise be looked for in the file."""
    with pytest.raises(InvalidValue, match="has no stage 'ap'; it has tools, build, docs, app, debug"):
        STAGES.index("ap")


def test_base_named_by_an_argument_is_needed():
    """The argument decides which of the earlier stages is built."""
    dockerfile = parse("ARG base=a\nARG from=$base\nFROM x AS a\nFROM y AS b\nFROM $from\n")

    assert [0, 2] == Stages.of(dockerfile, {}).needed_for(2)
    assert [1, 2] == Stages.of(dockerfile, {"base": "b"}).needed_for(2)
