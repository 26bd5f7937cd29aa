"""A part of PromQL, the query language of Prometheus, read from text: enough for rates, sums and quantiles.

    parse('sum by (service) (rate(envoy_http_downstream_rq_total[5s]))')
    Aggregation('sum', ('service',), Call('rate', (Selector('envoy_http_…', window_s=5.0),)))

What there is: selectors with ``= != =~ !~``; ``rate`` and ``increase`` over a ``[window]``;
``histogram_quantile``; ``sum avg min max count``, also ``by (…)``; ``+ - * /`` and comparisons between
numbers and vectors whose labels are equal; parentheses. The same text means the same to Prometheus.
`cnlab.mesh.observability.series` has the answers.

See: Prometheus, "Querying basics" and "Operators".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cnlab.errors import InvalidValue

AGGREGATIONS = ("sum", "avg", "min", "max", "count")
FUNCTIONS = ("rate", "increase", "histogram_quantile")
_LEVELS = (("==", "!=", ">=", "<=", ">", "<"), ("+", "-"), ("*", "/"))  # weakest first
_HINT = "; cnlab.mesh.observability.promql lists what can be asked"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+\.?\d*(?:e[+-]?\d+)?(?![\w:]))|(?P<duration>\d+(?:ms|s|m|h)\b)"""
    r"""|(?P<word>[a-zA-Z_:][\w:]*)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<sign>=~|!~|==|!=|>=|<=|[-+*/()\[\]{},=<>]))"""
)

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; a label that is not there counts as empty."""

    label: str
    sign: str
    value: str

    def accepts(self, labels: Mapping[str, str]) -> bool:
        """Say whether `labels` meet it. A pattern must match the whole value."""
        found = labels.get(self.label, "")
        if self.sign in ("=", "!="):
            return (found == self.value) == (self.sign == "=")
        return (re.fullmatch(self.value, found) is not None) == (self.sign == "=~")


@dataclass(frozen=True, slots=True)
class Number:
    """A number, the same at all times."""

    value: float


@dataclass(frozen=True, slots=True)
class Selector:
    """The series of a name whose labels match; with a window, for `rate`."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    window_s: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """``rate``, ``increase`` or ``histogram_quantile``."""

    function: str
    arguments: tuple["Query", ...]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """``sum by (…) (…)`` and its like."""

    operator: str
    by: tuple[str, ...]
    of: "Query"


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, or a comparison that keeps what it is true of."""

    sign: str
    left: "Query"
    right: "Query"


Query = Number | Selector | Call | Aggregation | Binary


def parse(text: str) -> Query:
    """Return what a query asks for.

    Raises:
        InvalidValue: it is not in the part of PromQL that is read here; the message shows where.
    """
    reader = _Reader(text)
    query = reader.binary()
    if reader.kind:
        raise reader.refusal("an operator or the end")
    return query


class _Reader:
    """Reads a query from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind = self.token = ""
        self.advance()

    def advance(self) -> str:
        passed, start = self.token, self.position
        found = _TOKEN.match(self.text, start)
        if found is None and self.text[start:].strip():
            self.token = self.text[start:].strip()[0]
            raise self.refusal("a name, a number or an operator")
        self.kind = (found and found.lastgroup) or ""
        self.token = found[found.lastgroup] if found and found.lastgroup else ""
        self.position = found.end() if found else len(self.text)
        return passed

    def refusal(self, expected: str) -> InvalidValue:
        seen = repr(self.token) if self.token else "the end"
        return InvalidValue(f"query {self.text!r}: expected {expected} instead of {seen}{_HINT}")

    def expect(self, token: str) -> None:
        if self.token != token or self.kind == "text":
            raise self.refusal(repr(token))
        self.advance()

    def binary(self, level: int = 0) -> Query:
        if level == len(_LEVELS):
            return self.operand()
        left = self.binary(level + 1)
        while self.kind == "sign" and self.token in _LEVELS[level]:
            left = Binary(self.advance(), left, self.binary(level + 1))
        return left

    def operand(self) -> Query:
        if self.kind == "number":
            return Number(float(self.advance()))
        if self.token == "(":
            self.advance()
            inner = self.binary()
            self.expect(")")
            return inner
        if self.kind != "word" and self.token != "{":
            raise self.refusal("a name, a number or a parenthesis")
        name = self.advance() if self.kind == "word" else ""
        if name in AGGREGATIONS:
            return self.aggregation(name)
        if self.token == "(":
            return self.call(name)
        return self.selector(name)

    def aggregation(self, name: str) -> Query:
        by = self.by()
        self.expect("(")
        of = self.binary()
        self.expect(")")
        return Aggregation(name, by or self.by(), of)

    def by(self) -> tuple[str, ...]:
        if self.token != "by":
            return ()
        self.advance()
        self.expect("(")
        return tuple(self.listed(")", self.advance))

    def call(self, name: str) -> Query:
        if name not in FUNCTIONS:
            raise InvalidValue(f"query {self.text!r}: no function {name!r} here{_HINT}")
        self.expect("(")
        arguments = tuple(self.listed(")", self.binary))
        if name == "histogram_quantile":
            is_right = len(arguments) == 2 and isinstance(arguments[0], Number)
        else:
            is_right = len(arguments) == 1 and getattr(arguments[0], "window_s", None) is not None
        if not is_right:
            wanted = "(number, vector)" if name == "histogram_quantile" else "(name[window])"
            raise InvalidValue(f"query {self.text!r}: expected {name}{wanted}")
        return Call(name, arguments)

    def selector(self, name: str) -> Query:
        matchers: tuple[Matcher, ...] = ()
        if self.token == "{":
            self.advance()
            matchers = tuple(self.listed("}", self.matcher))
        window_s = None
        if self.token == "[":
            self.advance()
            if self.kind != "duration":
                raise self.refusal("a window such as 5s")
            amount, unit = re.fullmatch(r"(\d+)(\w+)", self.advance()).groups()  # type: ignore[union-attr]
            window_s = int(amount) * _UNITS_S[unit]
            self.expect("]")
        return Selector(name, matchers, window_s)

    def matcher(self) -> Matcher:
        label, sign = self.advance(), self.token
        if sign not in ("=", "!=", "=~", "!~"):
            raise self.refusal("=, !=, =~ or !~")
        self.advance()
        if self.kind != "text":
            raise self.refusal("a text in quotes")
        return Matcher(label, sign, re.sub(r"\\(.)", r"\1", self.advance()[1:-1]))

    def listed(self, end: str, read: Callable[[], _Item]) -> Iterator[_Item]:
        while self.token != end:
            yield read()
            if self.token != end:
                self.expect(",")
        self.advance()
