"""The chart of the golden signals, and the panel that makes a service ill."""

from __future__ import annotations

import math

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.observability.rules import golden_queries
from cnlab.mesh.observability.series import Series
from cnlab.widgets.golden_signals import STATIC_NOTE, SignalsPanel, draw_signals


def series(service, *values):
    return Series("", {"service": service}, [100.0 + number for number in range(len(values))], values)


PANELS = {
    "traffic: requests a second": [series("reviews", 1, 2, 3), series("ratings", 3, 2, 1)],
    "errors: 5xx a second": [series("ratings", 0, 0.5, 0.25)],
}


def test_every_panel_draws_a_line_for_each_service():
    """One look at four panels must be enough; a service has the same colour in all."""
    figure = draw_signals(PANELS).figure

    first, second = figure.axes
    assert {"reviews", "ratings"} == {line.get_label() for line in first.lines}
    colours = {line.get_label(): line.get_color() for line in first.lines}
    assert [colours["ratings"]] == [line.get_color() for line in second.lines]


def test_words_say_the_peak_of_every_line():
    """Who does not see the picture learns where the trouble was."""
    assert "errors: 5xx a second: ratings at most 0.5." in draw_signals(PANELS).alt


def test_what_happened_is_marked_at_its_time():
    """A chart of an incident is read by its cause."""
    figure = draw_signals(PANELS, marks={101.5: "ratings fails"}).figure

    assert "ratings fails" in [text.get_text() for text in figure.axes[0].texts]


def test_chart_of_nothing_can_be_drawn():
    """Before the first scrape there is no series, and a quantile of nothing is no number."""
    panels = {title: [] for title in golden_queries("5s")}
    panels["latency: ms, 99th percentile"] = [series("details", math.nan, math.nan)]

    assert b"PNG" in draw_signals(panels).png(dpi=50)[:8]


@pytest.fixture
def panel():
    changes = []
    made = SignalsPanel(
        draw_signals(PANELS),
        service="ratings",
        change=lambda rate, seconds: changes.append((rate, seconds)),
        read=lambda: draw_signals(PANELS, marks={101.0: "now"}),
    )
    made.changes = changes
    return made


def test_slider_changes_the_service_and_the_chart(panel):
    """What the reader moves is real: the service fails from then on."""
    before = panel.chart.value

    panel.failing.value = 30
    panel.slow.value = 100

    assert [(0.3, 0.0), (0.3, 0.1)] == panel.changes
    assert "30 % fail, 100 ms more" in panel.said.value
    assert before != panel.chart.value


def test_error_is_told_and_the_chart_stays():
    """The mesh may have been closed by then."""

    def refuse(_rate, _seconds):
        raise InvalidValue("the mesh is <closed>")

    panel = SignalsPanel(draw_signals(PANELS), service="a", change=refuse, read=lambda: draw_signals(PANELS))
    before = panel.chart.value
    panel.slow.value = 50

    assert ("the mesh is &lt;closed&gt;", before) == (panel.said.value, panel.chart.value)


def test_static_form_has_the_picture_and_says_what_is_missing(panel):
    """The rendered book has no kernel."""
    bundle = panel._repr_mimebundle_()

    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert STATIC_NOTE in bundle["text/html"]
    assert bundle["text/plain"].startswith("Lines over time.")
