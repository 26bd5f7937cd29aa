"""Who looks after which layer, from bare metal to functions.

What is yours you control and must care for; what is the platform's you cannot change and need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnlab.widgets.picture import BLUE, INK, MUTED, PAPER, QUIET, Picture, bare_axes, new_figure, picture

LAYERS = (
    "business logic",
    "server and its scaling",
    "language runtime",
    "operating system tools",
    "kernel",
    "hardware and building",
)


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to deploy: which of `LAYERS` the team looks after, and which do not exist in it."""

    name: str
    yours: frozenset[str]
    absent: frozenset[str] = frozenset()

    def owner(self, layer: str) -> str:
        """Return "you", "platform" or "nobody"."""
        return "you" if layer in self.yours else "nobody" if layer in self.absent else "platform"


RUNGS = (
    Rung("bare metal", frozenset(LAYERS)),
    Rung("virtual machine", frozenset(LAYERS[:5])),
    Rung("container", frozenset(LAYERS[:4])),
    Rung("unikernel", frozenset((*LAYERS[:3], "kernel")), absent=frozenset({"operating system tools"})),
    Rung("function", frozenset(LAYERS[:1])),
)


def draw_ownership(rungs: Sequence[Rung] = RUNGS, layers: Sequence[str] = LAYERS) -> Picture:
    """Draw one column a rung, one row a layer: filled where the layer is yours."""
    from matplotlib.patches import FancyBboxPatch

    figure = new_figure(9, 0.42 * len(layers) + 1.0)
    axes = bare_axes(figure)
    axes.set_xlim(-1.75, len(rungs))
    axes.set_ylim(len(layers) + 0.75, -0.75)
    fills = {"you": (BLUE, PAPER), "platform": (QUIET, MUTED), "nobody": (PAPER, MUTED)}
    for column, rung in enumerate(rungs):
        axes.text(column + 0.5, -0.3, rung.name, ha="center", weight="bold", color=INK, fontsize=10)
        for row, layer in enumerate(layers):
            owner = rung.owner(layer)
            fill, ink = fills[owner]
            box = FancyBboxPatch(
                (column + 0.05, row + 0.07),
                0.9,
                0.86,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=fill,
                edgecolor=QUIET if owner == "nobody" else fill,
                linestyle="--" if owner == "nobody" else "-",
            )
            axes.add_patch(box)
            word = "none" if owner == "nobody" else owner
            axes.text(column + 0.5, row + 0.5, word, ha="center", va="center", color=ink, fontsize=9)
    for row, layer in enumerate(layers):
        axes.text(-0.1, row + 0.5, layer, ha="right", va="center", color=INK, fontsize=9.5)
    arrow = {"arrowstyle": "->", "color": MUTED, "lw": 1}
    axes.annotate("", (len(rungs), len(layers) + 0.3), (0, len(layers) + 0.3), arrowprops=arrow)
    caption = "more focus on business logic, less concern for and less control over infrastructure"
    axes.text(len(rungs) / 2, len(layers) + 0.42, caption, ha="center", va="top", color=MUTED, fontsize=8.5)
    return picture(figure, alt=describe_ownership(rungs))


def describe_ownership(rungs: Sequence[Rung] = RUNGS) -> str:
    """Say in words what `draw_ownership` draws."""
    told = ", ".join(f"{rung.name} {len(rung.yours)}" for rung in rungs)
    return f"How many of {len(LAYERS)} layers a team looks after itself: {told}. The platform has the rest."
