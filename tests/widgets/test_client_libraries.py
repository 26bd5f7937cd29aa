"""Pictures of what client libraries do, and the panel that makes a service ill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.widgets.client_libraries import (
    STATIC_NOTE,
    OutagePanel,
    draw_disagreement,
    draw_growth,
    draw_requests,
)
from cnlab.widgets.mimebundle import WIDGET_VIEW

HEALTHY = {"productpage": 1, "details": 1, "reviews": 1, "ratings": 1}


def test_growth_is_told_from_the_first_to_the_last():
    """Who cannot see the curve needs its two ends."""
    rows = {2: {"requests": 2, "ms": 3.14159}, 12: {"requests": 28, "ms": 70}}

    assert draw_growth(rows).alt == "From 2 to 12 services: requests from 2 to 28; ms from 3.14 to 70."


def test_growth_has_a_plot_for_each_measure():
    """Requests and milliseconds share no axis."""
    rows = {2: {"a": 1, "b": 2, "c": 3}, 4: {"a": 2, "b": 4, "c": 6}}

    assert len(draw_growth(rows).figure.axes) == 3


def test_disagreement_is_told_row_by_row():
    """The words carry all the numbers of the picture."""
    sent = {"503": {"Python": 3, "C": 1}, "no answer": {"Python": 3, "C": 2}}

    assert draw_disagreement(sent).alt == (
        "Requests sent for one that was wanted. 503: Python 3, C 1; no answer: Python 3, C 2."
    )


def test_requests_are_compared_with_those_in_health():
    """Only the difference is the retries' doing."""
    drawn = draw_requests(HEALTHY, HEALTHY | {"ratings": 3}, ill="ratings")

    assert drawn.alt == (
        "ratings is in trouble. 6 requests for one page, 4 in health. ratings 3 instead of 1."
    )


def test_nothing_is_made_up_in_health():
    """Without trouble there is nothing to compare."""
    alt = draw_requests(HEALTHY, HEALTHY).alt

    assert alt == "4 requests for one page, 4 in health. Each service had as many as in health."


@pytest.fixture(scope="module")
def running_shop() -> Iterator[Deployment]:
    with Deployment(bookinfo(4)) as shop:
        yield shop


@pytest.fixture
def panel(running_shop: Deployment) -> OutagePanel:
    running_shop.heal()
    return OutagePanel(running_shop, ["details", "ratings"], draw_requests(HEALTHY, HEALTHY))


def test_panel_that_nobody_touches_asks_nothing(panel, running_shop):
    """papermill and the book execute the cell too."""
    panel._repr_mimebundle_()

    assert running_shop.counts().total() == 0


def test_static_form_shows_the_measured_outage(panel):
    """On a page without a kernel there is a picture and no button."""
    bundle = panel._repr_mimebundle_()

    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    assert '<img alt="4 requests for one page' in bundle["text/html"]
    assert bundle["text/plain"].endswith(STATIC_NOTE)


def test_button_makes_the_service_ill_and_counts(panel):
    """The control changes something real: requests that a failing service gets."""
    panel.service.value = "details"
    panel.load()

    assert 'alt="details is in trouble' in panel.chart.value
    assert "details 3 instead of 1" in panel.chart.value
    assert panel.said.value.startswith("The page came with 200, after ")


def test_service_is_well_again_afterwards(panel, running_shop):
    """The cells below must not notice."""
    panel.service.value, panel.answer.value = "details", "closes the connection"
    panel.load()

    assert running_shop.get("/details/0", to="details").status == 200
    assert not panel.button.disabled


def test_panel_of_an_application_that_has_ended_says_so():
    """Kernels are restarted, and cells are run in any order."""

    class Gone:
        def get(self, path: str) -> None: ...
        def heal(self) -> None:
            raise ConnectionRefusedError(111, "Connection refused")

        def fail(self, service: str, *, rate: float, status: int) -> None: ...
        def counts(self) -> Counter[str]:
            return Counter()

    panel = OutagePanel(Gone(), ["ratings"], draw_requests(HEALTHY, HEALTHY))
    panel.load()

    assert "does not answer" in panel.said.value
    assert "run the cell that starts it" in panel.said.value
