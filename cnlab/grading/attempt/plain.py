"""Plain data as text: what may pass between a student's process and one that we trust.

Interface: `encode` and `decode` for a value on its own; `to_json` and `from_json` inside a larger
message. Plain are None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range,
slice, numpy arrays and scalars without objects; dates, fractions and decimals. Paths become text. A value
of a subclass becomes one of its base, read by the base's own methods, so that no ``__eq__`` travels; a
named tuple keeps its names. Anything else is a matter for `Refer` and `Resolve`, or an error.

A value that is a JSON string, number, boolean, null or array is itself (an array: a list). Everything
else is an object with one key, its kind: ``{"tuple": [1, 2]}``. Reading builds exactly these types and
calls nothing that the text names, whatever it says; it raises `NotPlain` and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import collections
import datetime
import decimal
import fractions
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cnlab.errors import CnlabError

Json = Any
Refer = Callable[[object], Json]
Resolve = Callable[[Json], object]

MAX_BYTES = 64 << 20
_MAX_DEPTH = 200
_MAX_INT_BITS = 1 << 20
_JSON_INT_BITS = 1 << 10  # longer ones are spelled in hexadecimal, which takes linear time
_MAX_FIELDS = 256
_SIMPLE = frozenset({type(None), bool, str, int, float})
_DTYPE = re.compile(r"[<>|=]?[biufcSU][0-9]{1,9}|[<>=]?[mM]8(\[[0-9]{0,9}[a-zA-Zμ]{1,7}\])?")


class NotPlain(CnlabError, ValueError):  # noqa: N818
    """A value is not plain data, or a text does not spell any; the message says what it is."""


def encode(value: object) -> bytes:
    """Spell a value as text.

    Raises:
        NotPlain: it is not plain data, or too much of it.
    """
    return dump(to_json(value))


def decode(text: bytes) -> object:
    """Read what `encode` wrote, or what pretends to be.

    Raises:
        NotPlain: it is nothing of the kind.
    """
    return from_json(load(text))


def dump(data: Json) -> bytes:
    """Spell JSON as text of limited size."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    if len(text) > MAX_BYTES:
        raise NotPlain(f"{len(text):,} bytes of data; expected {MAX_BYTES:,} at most")
    return text


def load(text: bytes | bytearray) -> Json:
    """Read JSON of which nothing is known.

    Raises:
        NotPlain: it is none.
    """
    if len(text) > MAX_BYTES:
        raise NotPlain(f"{len(text):,} bytes of data; expected {MAX_BYTES:,} at most")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"no JSON: {str(error)[:100]}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is none")


# Writing


def to_json(value: object, refer: Refer | None = None) -> Json:
    """Turn a value into JSON; what is not plain goes to `refer`.

    Raises:
        NotPlain: it is nested too deep, too large, or not plain and there is no `refer`.
    """
    return _write(value, refer, 0)


def _write(value: object, refer: Refer | None, depth: int) -> Json:
    if depth > _MAX_DEPTH:
        raise NotPlain(f"data nested more than {_MAX_DEPTH} deep, or within itself")
    kind = type(value)
    if value is None or kind is bool:
        return value
    numpy = sys.modules.get("numpy")  # without it there are no arrays
    if numpy is not None and issubclass(kind, (numpy.ndarray, numpy.generic)):
        return _write_array(value, kind, refer)
    write = _WRITERS.get(kind) or next((_WRITERS[base] for base in _WRITERS if issubclass(kind, base)), None)
    if write is None:
        return _other(value, refer)
    return write(value, lambda item: _write(item, refer, depth + 1))


def _other(value: object, refer: Refer | None) -> Json:
    if refer is not None:
        return refer(value)
    raise NotPlain(f"a {type(value).__name__} is no plain data (numbers, text, lists, dicts)")


def _write_int(value: Any, write: Refer) -> Json:
    number = int.__index__(value)
    bits = number.bit_length()
    if bits > _MAX_INT_BITS:
        raise NotPlain(f"a number of {bits:,} bits; expected {_MAX_INT_BITS:,} at most")
    return number if bits < _JSON_INT_BITS else {"int": f"{number:x}"}


def _write_float(value: Any, write: Refer) -> Json:
    number = float.__float__(value)
    return number if math.isfinite(number) else {"float": float.__repr__(number)}


def _write_complex(value: Any, write: Refer) -> Json:
    number = complex.__pos__(value)
    return {"complex": [write(number.real), write(number.imag)]}


def _write_list(value: Any, write: Refer) -> Json:
    items = list(list.__iter__(value))
    kinds = set(map(type, items))
    is_itself = kinds <= {type(None), bool, str} or (kinds == {float} and all(map(math.isfinite, items)))
    return items if is_itself else [write(item) for item in items]


def _write_tuple(value: Any, write: Refer) -> Json:
    items = [write(item) for item in tuple.__iter__(value)]
    names = getattr(type(value), "_fields", None)
    if type(names) is tuple and len(names) == len(items):
        return {"namedtuple": [type(value).__name__, list(names), items]}
    return {"tuple": items}


def _write_dict(value: Any, write: Refer) -> Json:
    return {"dict": [[write(key), write(item)] for key, item in list(dict.items(value))]}


def _as(kind: str, spell: Callable[[Any], object]) -> Callable[[Any, Refer], Json]:
    """A writer whose payload is JSON already."""
    return lambda value, write: {kind: spell(value)}


def _items_as(kind: str, items: Callable[[Any], Iterable[object]]) -> Callable[[Any, Refer], Json]:
    """A writer whose payload is a list of values."""
    return lambda value, write: {kind: [write(item) for item in items(value)]}


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode()


def _bounds(value: Any) -> tuple[object, ...]:
    return value.start, value.stop, value.step


_WRITERS: dict[type, Callable[[Any, Refer], Json]] = {
    str: lambda value, write: str.__str__(value),
    int: _write_int,
    float: _write_float,
    list: _write_list,
    tuple: _write_tuple,
    dict: _write_dict,
    set: _items_as("set", set.__iter__),
    frozenset: _items_as("frozenset", frozenset.__iter__),
    bytes: _as("bytes", _base64),
    bytearray: _as("bytearray", _base64),
    complex: _write_complex,
    range: _items_as("range", _bounds),
    slice: _items_as("slice", _bounds),
    datetime.datetime: _as("datetime", datetime.datetime.isoformat),
    datetime.date: _as("date", datetime.date.isoformat),
    datetime.time: _as("time", datetime.time.isoformat),
    datetime.timedelta: _as("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    decimal.Decimal: _as("decimal", decimal.Decimal.__str__),
    fractions.Fraction: _items_as("fraction", lambda value: (value.numerator, value.denominator)),
    os.PathLike: lambda value, write: write(os.fspath(value)),
}


def _write_array(value: Any, kind: type, refer: Refer | None) -> Json:
    import numpy

    array = numpy.asarray(value) if kind is not numpy.ndarray else value
    if not _DTYPE.fullmatch(array.dtype.str) or array.dtype.char in "gG":
        return _other(value, refer)  # objects, records, long doubles
    if array.nbytes > MAX_BYTES * 3 // 4:
        raise NotPlain(f"an array of {array.nbytes:,} bytes; expected {MAX_BYTES * 3 // 4:,} at most")
    name = "array" if issubclass(kind, numpy.ndarray) else "scalar"
    return {name: [array.dtype.str, list(array.shape), _base64(array.tobytes())]}


# Reading


def from_json(data: Json, resolve: Resolve | None = None) -> Any:
    """Turn JSON back into the value; an object of another kind goes to `resolve`.

    Raises:
        NotPlain: it spells none.
    """
    try:
        return _read(data, resolve, 0)
    except NotPlain:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, AttributeError) as error:
        raise NotPlain(f"no plain data: {str(error)[:100]}") from None


def _read(data: Json, resolve: Resolve | None, depth: int) -> object:
    if depth > _MAX_DEPTH + 2:
        raise NotPlain(f"data nested more than {_MAX_DEPTH} deep")
    if type(data) is list:
        return _read_items(data, resolve, depth)
    if type(data) is not dict:
        return data
    if len(data) != 1:
        raise NotPlain("no plain data: an object with other than one key")
    [(kind, payload)] = data.items()
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](_read_items(payload, resolve, depth + 1))
    if kind == "namedtuple":
        return _read_namedtuple(payload, resolve, depth + 1)
    if kind in _READERS:
        return _READERS[kind](payload)
    if resolve is None:
        raise NotPlain("no plain data: an object of a kind that is none")
    return resolve(data)


def _read_items(data: Json, resolve: Resolve | None, depth: int) -> list[Any]:
    items: list[Any] = _require(data, list)
    if set(map(type, items)) <= _SIMPLE:
        return items
    return [_read(item, resolve, depth + 1) for item in items]


def _require(data: Json, kind: type) -> Any:
    if type(data) is not kind:
        raise NotPlain(f"no plain data: expected {kind.__name__}, got {type(data).__name__}")
    return data


def _read_namedtuple(data: Json, resolve: Resolve | None, depth: int) -> object:
    name, names, items = _require(data, list)
    if len(_require(names, list)) > _MAX_FIELDS or set(map(type, names)) != {str} or type(name) is not str:
        raise NotPlain("no plain data: a named tuple without names")
    values = _read_items(items, resolve, depth)
    return collections.namedtuple(name, names)(*values)


def _read_base64(data: Json) -> bytes:
    try:
        return base64.b64decode(_require(data, str), validate=True)
    except binascii.Error as error:
        raise NotPlain(f"no base64: {error}") from None


def _read_int(data: Json) -> int:
    text = _require(data, str)
    if len(text) > _MAX_INT_BITS // 4 + 2 or not re.fullmatch("-?[0-9a-f]+", text):
        raise NotPlain("no plain data: not a number")
    return int(text, 16)


def _read_float(data: Json) -> float:
    if data not in ("nan", "inf", "-inf"):
        raise NotPlain("no plain data: not a number")
    return float(data)


def _read_complex(data: Json) -> complex:
    real, imaginary = (_read(part, None, 0) for part in _require(data, list))
    return complex(_require(real, float), _require(imaginary, float))


def _read_decimal(data: Json) -> decimal.Decimal:
    number = decimal.Decimal(_require(data, str))
    if len(number.as_tuple().digits) > 10_000:
        raise NotPlain("no plain data: a decimal of more than 10,000 digits")
    return number


def _whole_numbers(items: Iterable[Any], count: int) -> list[int]:
    numbers = [_require(item, int) for item in items]
    if len(numbers) != count:
        raise NotPlain(f"no plain data: expected {count} numbers")
    return numbers


def _read_array(data: Json) -> Any:
    import numpy

    name, shape, text = _require(data, list)
    if not _DTYPE.fullmatch(_require(name, str)):
        raise NotPlain(f"an array of {name[:20]!r} is no plain data")
    dtype = numpy.dtype(name)
    sizes = [_require(size, int) for size in _require(shape, list)]
    content = _read_base64(text)
    if dtype.char in "gG" or min(sizes, default=0) < 0 or max(sizes, default=0) > MAX_BYTES:
        raise NotPlain("no plain data: not an array")
    if math.prod(sizes) * dtype.itemsize != len(content) or not dtype.itemsize:
        raise NotPlain("no plain data: an array whose size is not that of its content")
    if not content:
        return numpy.zeros(sizes, dtype)
    array = numpy.frombuffer(content, dtype).reshape(sizes)
    if dtype.kind == "b":
        return array.view("u1") != 0  # any other byte would be a truth that equals neither
    if dtype.kind == "U" and int(array.reshape(-1).view(dtype.byteorder + "u4").max()) > sys.maxunicode:
        raise NotPlain("no plain data: an array of text with characters that do not exist")
    return array.copy()


def _isoformat(kind: type) -> Callable[[Json], object]:
    return lambda data: kind.fromisoformat(_require(data, str))  # type: ignore[attr-defined]


_COLLECTIONS: dict[str, Callable[[list[Any]], object]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda pairs: {key: value for key, value in (_require(pair, list) for pair in pairs)},
    "range": lambda items: range(*_whole_numbers(items, 3)),
    "slice": lambda items: slice(*[*items, None, None, None][:3]),
    "fraction": lambda items: fractions.Fraction(*_whole_numbers(items, 2)),
}
_READERS: dict[str, Callable[[Json], object]] = {
    "int": _read_int,
    "float": _read_float,
    "complex": _read_complex,
    "bytes": _read_base64,
    "bytearray": lambda data: bytearray(_read_base64(data)),
    "decimal": _read_decimal,
    "datetime": _isoformat(datetime.datetime),
    "date": _isoformat(datetime.date),
    "time": _isoformat(datetime.time),
    "timedelta": lambda data: datetime.timedelta(*_whole_numbers(data, 3)),
    "array": _read_array,
    "scalar": lambda data: _read_array(data)[()],
}
