"""A trace as a waterfall: where each span stands, whose the time was, and what the words say."""

from __future__ import annotations

from dataclasses import dataclass

from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.trace_waterfall import TraceWaterfall, arrange, describe_trace, draw_trace


@dataclass(frozen=True)
class Span:
    span_id: str
    parent_span_id: str
    service: str
    start: float  # seconds
    end: float
    name: str = "GET /"
    is_error: bool = False

    @property
    def start_ns(self) -> int:
        return round(self.start * 1e9)

    @property
    def end_ns(self) -> int:
        return round(self.end * 1e9)


PAGE = Span("a", "", "productpage", 100.000, 100.030)
DETAILS = Span("b", "a", "details", 100.002, 100.010)
REVIEWS = Span("c", "a", "reviews", 100.010, 100.025, is_error=True)
RATINGS = Span("d", "c", "ratings", 100.012, 100.020)
TRACE = [RATINGS, REVIEWS, DETAILS, PAGE]


def test_span_stands_below_its_caller_in_the_order_of_starts():
    """Spans arrive in the order in which they end: the callee first."""
    assert [("productpage", 0), ("details", 1), ("reviews", 1), ("ratings", 2)] == [
        (row.span.service, row.depth) for row in arrange(TRACE)
    ]


def test_own_time_is_what_no_child_was_at_work():
    """A caller that waits is not the one to make faster."""
    assert [7, 8, 7, 8] == [round(row.own_ms) for row in arrange(TRACE)]


def test_children_at_the_same_time_count_once():
    """Calls in parallel leave the caller waiting for the longer one only."""
    both = [PAGE, Span("b", "a", "x", 100.0, 100.02), Span("c", "a", "y", 100.01, 100.03)]

    assert arrange(both)[0].own_ms == 0


def test_span_without_its_parent_is_a_piece_of_its_own():
    """A service that drops the headers breaks the trace there, and the picture shows it."""
    words = describe_trace([PAGE, REVIEWS, Span("e", "lost", "ratings", 100.012, 100.013)])

    assert "in 2 pieces" in words


def test_words_say_who_took_how_long_and_who_failed():
    """They are all that a screen reader has."""
    words = draw_trace(TRACE).alt

    assert words.startswith("A trace of 4 spans from 4 services over 30.0 ms, in 1 piece:")
    assert "reviews GET / at 10.0 ms for 15.0 ms, 7.0 ms its own, error" in words


def test_trace_without_spans_is_drawn_too():
    """Spans come late: the store may still be empty."""
    assert "A trace without spans." == draw_trace([]).alt


def test_longest_trace_comes_first_and_another_can_be_chosen():
    """Who looks for what is slow looks there first."""
    short = [Span("z", "", "health", 100, 100.001)]
    waterfall = TraceWaterfall(lambda: [short, TRACE, []])
    (tools, image) = waterfall._live(waterfall.picture()).children
    chosen, _again = tools.children
    before = image.value
    chosen.value = 1

    assert ["1: GET /, 30.0 ms, 4 spans, with errors", "2: GET /, 1.0 ms, 1 spans"] == waterfall.titles()
    assert image.value != before


def test_look_again_reads_the_store_again():
    """New traces come while the notebook is open."""
    traces = [TRACE]
    waterfall = TraceWaterfall(lambda: traces)
    (tools, _image) = waterfall._live(waterfall.picture()).children
    chosen, again = tools.children
    traces.append([DETAILS])
    again.click()

    assert 2 == len(chosen.options)


def test_still_form_has_the_picture_and_says_how_many_there_are():
    """The book shows the same although no kernel runs there."""
    bundle = TraceWaterfall(lambda: [TRACE])._repr_mimebundle_()

    assert WIDGET_VIEW in bundle
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert "The longest of 1 traces" in bundle["text/html"]
    assert bundle["text/plain"].startswith("A trace of 4 spans")
