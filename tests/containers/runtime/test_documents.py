"""JSON without `json`: the same values, the same texts, the same complaints."""

import json

import pytest

from cnlab.containers.runtime import documents

VALUES = [
    None,
    True,
    0,
    -1.5,
    1 << 70,
    "",
    'quote " and \\ and \x00',
    "ümlaut \U0001f40b",
    [],
    {},
    {"a": [{"b": None}]},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_is_the_one_that_json_reads(value):
    """`json` is the judge, both ways."""
    text = documents.text_of(value)

    assert (value, value) == (documents.parse(json.dumps(value, indent=1)), json.loads(text))


@pytest.mark.parametrize("text", ["", "{", '{"a" 1}', "[1, 2", "nonsense", "{} {}", '"open'])
def test_text_that_is_no_json_is_refused_in_the_words_of_json(text):
    """They say where it is wrong."""
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text.strip())
    with pytest.raises(json.JSONDecodeError) as ours:
        documents.parse(text)

    assert str(theirs.value) == str(ours.value)


def test_file_is_replaced_as_a_whole(tmp_path):
    """Who reads it meanwhile finds the old text or the new."""
    path = tmp_path / "state.json"
    documents.write(str(path), {"a": 1})
    with open(path) as old:
        documents.write(str(path), {"a": 2})

        assert ({"a": 1}, {"a": 2}, ["state.json"]) == (
            json.load(old),
            documents.read(str(path)),
            [entry.name for entry in tmp_path.iterdir()],
        )
