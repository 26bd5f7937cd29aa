"""Our part of PromQL means what Prometheus means by it: promtool computes the expected values."""

from __future__ import annotations

import math

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.errors import MeshError
from cnlab.mesh.observability import promtool
from cnlab.mesh.observability.metrics import Sample
from cnlab.mesh.observability.promql import Aggregation, Binary, Call, Matcher, Number, Selector, parse
from cnlab.mesh.observability.series import Store, evaluate

EVERY_S = 2.0
SERIES = {
    'rq{service="a",pod="a-0"}': [0, 3, 9, 9, 14, 20, 21],
    'rq{service="a",pod="a-1"}': [5, 6, 7, 8, 9, 1, 4],  # restarted: the counter fell
    'rq{service="b",pod="b-0"}': [7, 7, 7, 7, 7, 7, 7],
    't_bucket{service="a",le="1"}': [0, 1, 2, 4, 6, 7, 8],
    't_bucket{service="a",le="5"}': [0, 2, 4, 7, 9, 12, 14],
    't_bucket{service="a",le="+Inf"}': [0, 2, 4, 8, 10, 14, 16],
    'up{pod="a-0"}': [1, 1, 1, 1, 0, 0, 0],
}
QUERIES = [
    "rq",
    'rq{service="a"}',
    'rq{service!="a"}',
    'rq{pod=~"a.*",pod!~".*-1"}',
    "sum by (service) (rq)",
    "sum(rq) by (service)",
    "sum(rq)",
    "avg by (service) (rq)",
    "min(rq)",
    "max(rq)",
    "count by (service) (rq)",
    "rate(rq[4s])",
    "increase(rq[8s])",
    "sum by (service) (rate(rq[6s]))",
    "histogram_quantile(0.5, rate(t_bucket[8s]))",
    "histogram_quantile(0.99, sum by (service, le) (rate(t_bucket[8s])))",
    "rq > 10",
    "rq == 7",
    "2 * rq + 1",
    "(rq - 1) / 2",
    "1 - up",
    "sum by (service) (rate(rq[6s])) / sum by (service) (rq)",
    "up == 0",
]
AT_S = 11.0  # no window of the queries begins at a scrape: there versions of Prometheus differ


@pytest.fixture(scope="module")
def store():
    store = Store()
    keys = {text: parse(text) for text in SERIES}
    for number in range(7):
        samples = [
            Sample(key.name, {m.label: m.value for m in key.matchers}, float(SERIES[text][number]))
            for text, key in keys.items()
        ]
        store.add("target", number * EVERY_S, samples)
    return store


def as_expected(sample):
    labels = {"__name__": sample.name, **sample.labels} if sample.name else dict(sample.labels)
    name = labels.pop("__name__", "")
    inside = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return {"labels": f"{name}{{{inside}}}", "value": sample.value}


def test_answers_are_those_of_prometheus(store):
    """The same text put to both must give the same numbers: metrics belong to nobody's backend."""
    tests = [
        {
            "interval": f"{EVERY_S:g}s",
            "input_series": [
                {"series": key, "values": " ".join(map(str, values))} for key, values in SERIES.items()
            ],
            "promql_expr_test": [
                {
                    "expr": query,
                    "eval_time": f"{AT_S:g}s",
                    "exp_samples": [
                        as_expected(sample) for sample in evaluate(parse(query), store.find, at=AT_S)
                    ],
                }
                for query in QUERIES
            ],
        }
    ]

    assert "SUCCESS" in promtool.check_rules({"groups": []}, tests)


def test_promtool_would_have_found_a_wrong_answer():
    """The judge must be able to say no."""
    expected = [{"labels": "rq", "value": 4}]
    tests = [
        {
            "interval": "1s",
            "input_series": [{"series": "rq", "values": "3"}],
            "promql_expr_test": [{"expr": "rq", "eval_time": "0s", "exp_samples": expected}],
        }
    ]

    with pytest.raises(MeshError, match=r"(?s)promtool test rules.*got"):
        promtool.check_rules({"groups": []}, tests)


def test_multiplication_binds_stronger_than_addition_and_comparison():
    """Otherwise ``errors / requests > 0.05`` would compare first."""
    assert Binary(">", Binary("/", Selector("a"), Selector("b")), Number(0.05)) == parse("a / b > 0.05")


def test_by_stands_before_or_behind_what_is_summed():
    """Both spellings are in use in the field's dashboards."""
    rate = Call("rate", (Selector("rq", (Matcher("x", "=", "1"),), 5.0),))

    assert Aggregation("sum", ("service",), rate) == parse('sum by (service) (rate(rq{x="1"}[5s]))')
    assert parse("sum by (a, b) (rq)") == parse("sum(rq) by (a, b)")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(", "expected a name, a number or a parenthesis instead of the end"),
        ("topk(3, up)", "no function 'topk' here"),
        ("rate(rq)", r"expected rate\(name\[window\]\)"),
        ("rq[5]", "expected a window such as 5s instead of '5'"),
        ("rq{pod}", "expected =, !=, =~ or !~ instead of '}'"),
        ("rq rq", "expected an operator or the end instead of 'rq'"),
        ("rq ^ 2", r"instead of '\^'"),
    ],
)
def test_what_is_not_understood_is_shown(query, said):
    """A query that Prometheus would understand and we do not must not look like an empty answer."""
    with pytest.raises(InvalidValue, match=said):
        parse(query)


def test_window_alone_has_no_value(store):
    """A range vector cannot be drawn; Prometheus refuses it too where a vector is wanted."""
    with pytest.raises(InvalidValue, match="put it into rate"):
        evaluate(parse("sum(rq[5s])"), store.find, at=AT_S)


def test_series_that_ended_has_no_value():
    """A target that is gone must not go on with its last value."""
    store = Store()
    store.add("target", 0.0, [Sample("m", {}, 1.0)])
    store.add("target", 1.0, [])

    assert [] == evaluate(parse("m"), store.find, at=1.0)
    assert [1.0] == [sample.value for sample in evaluate(parse("m"), store.find, at=0.5)]


def test_store_forgets_the_oldest_and_keeps_what_is_left_in_step():
    """Memory must not grow with time; times and values are cut together."""
    store = Store(points=10)
    for number in range(25):
        store.add("target", float(number), [Sample("m", {}, float(number))] if number != 12 else [])

    (series,) = store.find(Selector("m"))
    assert len(series.times) <= 20
    assert all(
        time == value or math.isnan(value) for time, value in zip(series.times, series.values, strict=True)
    )
