"""Plain data crosses unchanged, everything else is refused, and no text makes its reader do anything."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
from pathlib import Path

import numpy
import pytest

from cnlab.grading.attempt import plain
from cnlab.grading.attempt.plain import NotPlain

Point = collections.namedtuple("Point", "x y")

VALUES = [
    None, True, 3, -(2**70), 2**5000, 1.5, float("inf"), 1 + 2j, "aä\ud800", b"\0\xff", bytearray(b"y"),
    [1, [2.0, "a"]], (1, (2,)), {1: (2, 3), "a": None, (1, 2): [b""]}, {1, 2}, frozenset({1}),
    range(1, 9, 3), slice(1, None), Point(1, 2), datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.date(2026, 1, 2), datetime.timedelta(1, 2, 3), decimal.Decimal("1.50"), fractions.Fraction(1, 3),
    numpy.float64(1.5), numpy.datetime64("2026-01-01"), numpy.str_("x"),
]  # fmt: skip
ARRAYS = [
    numpy.arange(6).reshape(2, 3), numpy.array(["a", "bc"]), numpy.array([True, False]), numpy.zeros((0, 3)),
    numpy.array([1 + 2j]), numpy.array(5), numpy.arange(6).reshape(2, 3).T, numpy.array([b"ab"]),
    numpy.array([1.5], dtype=">f4"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_comes_back_equal_and_of_the_same_type(value):
    """A check compares what came with what it expects."""
    came = plain.decode(plain.encode(value))

    assert came == value
    assert type(came).__name__ == type(value).__name__


@pytest.mark.parametrize("array", ARRAYS, ids=repr)
def test_array_comes_back_with_its_shape_and_type(array):
    """Checks ask for both."""
    came = plain.decode(plain.encode(array))

    assert (came.dtype, came.shape, came.tolist()) == (array.dtype, array.shape, array.tolist())
    assert came.flags.writeable


def test_not_a_number_comes_back_as_one():
    """It equals nothing, and JSON has no word for it."""
    came = plain.decode(plain.encode([float("nan"), 1.0]))

    assert came[0] != came[0]


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (enum.IntEnum("Colour", "RED").RED, 1),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (Path("/a/b"), "/a/b"),
    ],
)
def test_value_of_a_subclass_becomes_one_of_its_base(value, base):
    """The student's class stays where it is."""
    came = plain.decode(plain.encode(value))

    assert came == base
    assert type(came) is type(base)


def test_methods_of_a_subclass_do_not_decide_what_crosses():
    """One that always claims to be equal crosses as the number that it is."""

    class Agrees(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

        def __index__(self):
            return 9

    assert plain.decode(plain.encode(Agrees(8))) == 8


@pytest.mark.parametrize(
    "value", [object(), print, [{1: lambda: None}], numpy.array([None]), numpy.longdouble(1)]
)
def test_what_is_not_plain_is_refused(value):
    """By its type's name, which is all that is looked at."""
    with pytest.raises(NotPlain, match="is no plain data"):
        plain.encode(value)


def test_list_within_itself_is_refused():
    """It would never end."""
    endless: list[object] = []
    endless.append(endless)

    with pytest.raises(NotPlain, match="within itself"):
        plain.encode(endless)


def test_array_that_is_larger_than_its_memory_is_refused():
    """A broadcast array of terabytes takes eight bytes."""
    with pytest.raises(NotPlain, match="bytes"):
        plain.encode(numpy.broadcast_to(0, (10**12,)))


HOSTILE = [
    b"",
    b"[",
    b"\xff\xfe",
    b"{}",
    b'{"a":1,"b":2}',
    b'{"no such kind":1}',
    b"[" * 100_000,
    b"NaN",
    b"9" * 5000,
    b'{"int":"0x1"}',
    b'{"int":9}',
    b'{"float":"1e999"}',
    b'{"dict":[[[],1]]}',
    b'{"dict":[1]}',
    b'{"dict":{}}',
    b'{"set":[[1]]}',
    b'{"tuple":5}',
    b'{"range":[1,2,0]}',
    b'{"range":["a",1,1]}',
    b'{"bytes":"*"}',
    b'{"decimal":"x"}',
    b'{"date":"x"}',
    b'{"timedelta":[99999999999999,0,0]}',
    b'{"complex":[1,2]}',
    b'{"fraction":[1,0]}',
    b'{"array":["O",[1],""]}',
    b'{"array":["<f8",[-1],""]}',
    b'{"array":["<f8",[3],"AAAA"]}',
    b'{"array":["<U0",[100000000],""]}',
    b'{"array":["<f8",[1099511627776,0],""]}',
    b'{"array":["V8",[1],"AAAAAAAAAAA="]}',
    b'{"scalar":["<U1",[],"////fw=="]}',
    b'{"array":[{},[1],""]}',
    b'{"namedtuple":["a b",["x"],[1]]}',
    b'{"namedtuple":["a",["__class__"],[1]]}',
    b'{"namedtuple":["a",[],[]]}',
    b'{"namedtuple":["a",[1],[1]]}',
    b'{"handle":1}',
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:40])
def test_text_that_spells_nothing_is_refused(text):
    """A hostile process may send anything: the reader raises one error, and builds nothing else."""
    with pytest.raises(NotPlain):
        plain.decode(text)


def test_truth_values_of_an_array_are_true_or_false():
    """A third one, of another byte, would equal neither."""
    came = plain.decode(b'{"array":["|b1",[2],"AgA="]}')

    assert came.tolist() == [True, False]
    assert (came == numpy.array([True, False])).all()
