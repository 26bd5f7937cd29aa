"""What it costs that each language brings its own client library: drawn from counts of real requests.

Interface: `draw_growth` for an application that grows, `draw_disagreement` for how often each library asks
when something goes wrong, `draw_requests` for who was asked how often. `OutagePanel` makes a service of a
running application ill, loads one page, and draws the same.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import (
    ACCENTS,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    RED,
    Picture,
    new_figure,
    picture,
    plot_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cnlab.apps.deployment import Response

STATIC_NOTE = (
    "In a running notebook, choose a service, how many of its answers fail and how, and load the page once."
)
ANSWERS = {"503": 503, "500": 500, "429": 429, "404": 404, "closes the connection": 0}


def draw_growth(rows: Mapping[int, Mapping[str, float]]) -> Picture:
    """Draw how each measured thing grows with the number of services, one small plot for each.

    Args:
        rows: by number of services: what was measured, by its name.
    """
    first, *_, last = rows
    names = list(rows[first])
    figure = new_figure(2.6 * len(names), 2.6)
    for column, (name, colour) in enumerate(zip(names, ACCENTS, strict=False)):
        axes = figure.add_subplot(1, len(names), column + 1, facecolor=PAPER)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(colors=MUTED, labelcolor=INK, length=0)
        values = [row[name] for row in rows.values()]
        axes.plot(list(rows), values, color=colour, linewidth=2, marker="o", markersize=5)
        axes.set(ylim=(0, 1.2 * max(values)), xlim=(first - 2.5, last + 1), yticks=[])
        axes.set_xticks(list(rows))
        axes.set_xlabel("services", color=MUTED)
        axes.set_title(name, loc="left", fontsize=10)
        for place, value in zip(rows, values, strict=True):
            axes.annotate(
                f"{value:.3g}", (place, value), (-1, 7), textcoords="offset points", ha="right", color=INK
            )
    said = "; ".join(f"{name} from {rows[first][name]:.3g} to {rows[last][name]:.3g}" for name in names)
    return picture(figure, alt=f"From {first} to {last} services: {said}.")


def draw_disagreement(sent: Mapping[str, Mapping[str, int]]) -> Picture:
    """Draw how many requests each client library sent for one that was wanted.

    Args:
        sent: by what went wrong: the requests that arrived, by client library.
    """
    libraries = list(next(iter(sent.values())))
    figure = new_figure(7.2, 0.5 + 0.42 * len(sent))
    axes = figure.add_subplot(facecolor=PAPER)
    axes.spines[:].set_visible(False)
    for y, counts in enumerate(sent.values()):
        for x, library in enumerate(libraries):
            _draw_cell(axes, x, y, counts[library])
    axes.set(xlim=(-0.5, len(libraries) - 0.5), ylim=(len(sent) - 0.5, -0.5))
    axes.set_xticks(range(len(libraries)), libraries)
    axes.set_yticks(range(len(sent)), list(sent))
    axes.xaxis.tick_top()
    axes.tick_params(colors=INK, length=0)
    said = "; ".join(
        f"{what}: " + ", ".join(f"{library} {counts[library]}" for library in libraries)
        for what, counts in sent.items()
    )
    return picture(figure, alt=f"Requests sent for one that was wanted. {said}.")


def _draw_cell(axes: Axes, x: int, y: int, count: int) -> None:
    """Draw as many dots as requests were sent: the first is the one that was wanted."""
    for number in range(count):
        colour = MUTED if number == 0 else ORANGE
        axes.plot(x - 0.2 + 0.1 * number, y, marker="o", markersize=8, color=colour, linestyle="none")
    axes.text(x + 0.3, y, str(count), ha="center", va="center", color=INK)


def draw_requests(healthy: Mapping[str, float], now: Mapping[str, float], *, ill: str = "") -> Picture:
    """Draw how many requests each service had for one page, in health and now.

    Args:
        healthy: requests by service while all is well.
        now: requests by service in the trouble at hand.
        ill: the service that is in trouble.
    """
    figure = new_figure(7.2, 0.7 + 0.27 * len(healthy))
    axes = plot_axes(figure)
    axes.spines[["left", "bottom"]].set_visible(False)
    most = max([*healthy.values(), *now.values(), 1])
    for y, name in enumerate(healthy):
        axes.barh(y, now.get(name, 0), height=0.62, color=RED if name == ill else ORANGE)
        axes.barh(y, min(healthy[name], now.get(name, 0)), height=0.62, color=MUTED)
        axes.text(now.get(name, 0) + most * 0.01, y, f"{now.get(name, 0):g}", va="center", color=INK)
    axes.set_yticks(range(len(healthy)), list(healthy))
    axes.set(xlim=(0, most * 1.08), xticks=[])
    axes.invert_yaxis()
    axes.set_title(
        "requests for one page: grey as in health, colour what retries add", loc="left", fontsize=10
    )
    return picture(figure, alt=_describe(healthy, now, ill))


def _describe(healthy: Mapping[str, float], now: Mapping[str, float], ill: str) -> str:
    changed = [name for name in healthy if now.get(name, 0) != healthy[name]]
    said = "; ".join(f"{name} {now.get(name, 0):g} instead of {healthy[name]:g}" for name in changed)
    trouble = f"{ill} is in trouble. " if ill else ""
    total = f"{sum(now.values()):g} requests for one page, {sum(healthy.values()):g} in health"
    return f"{trouble}{total}. {said or 'Each service had as many as in health'}."


class Shop(Protocol):
    """What a panel asks of a running application; a `cnlab.apps.Deployment` is one."""

    def get(self, path: str) -> Response:
        """Load a page."""

    def heal(self) -> None:
        """Make all services well and let them count from 0."""

    def fail(self, service: str, *, rate: float, status: int) -> None:
        """Let a share of a service's answers fail."""

    def counts(self) -> Mapping[str, int]:
        """Return how many requests each service has had."""


class OutagePanel:
    """Controls that make a service of a running application ill, and a button that loads one page."""

    def __init__(
        self, shop: Shop, services: Sequence[str], before: Picture, *, page: str = "/api/page"
    ) -> None:
        """Make a panel; nothing is asked of `shop` until the button is pressed.

        Args:
            shop: the running application.
            services: those that can be chosen.
            before: the static form, the picture of an outage that was measured.
            page: what to load.
        """
        self._shop, self._page = shop, page
        self._before = before
        self._healthy: Mapping[str, int] = {}
        self._make_widgets(services)

    def _make_widgets(self, services: Sequence[str]) -> None:
        import ipywidgets as widgets  # 0.5 s: paid by a notebook that has a panel

        wide = {"description_width": "120px"}
        self.service = widgets.Dropdown(options=list(services), description="service", style=wide)
        self.rate = widgets.IntSlider(
            value=100, min=0, max=100, step=10, description="% of its answers", style=wide
        )
        self.answer = widgets.Dropdown(options=list(ANSWERS), description="fail with", style=wide)
        self.button = widgets.Button(description="load the page", tooltip="One request, and all it causes")
        self.button.on_click(lambda _button: self.load())
        self.said = widgets.HTML("Nothing has been asked yet.")
        self.chart = widgets.HTML(picture_to_html(self._before))
        controls = [self.service, self.rate, self.answer, self.button]
        self.view = widgets.VBox([*controls, self.said, self.chart])

    def load(self) -> None:
        """Make the chosen service ill, load the page once, and draw who was asked how often."""
        self.button.disabled = True
        try:
            self._load()
        except (OSError, http.client.HTTPException) as error:
            self.said.value = escape(
                f"The application does not answer ({error}): run the cell that starts it."
            )
        finally:
            self.button.disabled = False

    def _load(self) -> None:
        if not self._healthy:
            self._shop.heal()
            self._shop.get(self._page)
            self._healthy = dict(self._shop.counts())
        self._shop.heal()
        self._shop.fail(self.service.value, rate=self.rate.value / 100, status=ANSWERS[self.answer.value])
        try:
            response = self._shop.get(self._page)
            now = dict(self._shop.counts())
        finally:
            self._shop.heal()
        drawn = draw_requests(self._healthy, now, ill=self.service.value if self.rate.value else "")
        self.chart.value = picture_to_html(drawn)
        self.said.value = f"The page came with {response.status}, after {sum(now.values())} requests."

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        static_html = f"{picture_to_html(self._before)}<p>{escape(STATIC_NOTE)}</p>"
        return mimebundle(self.view, static_html=static_html, text=f"{self._before.alt}\n{STATIC_NOTE}")
