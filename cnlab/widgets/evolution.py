"""The evolution to cloud native: four lanes of steps, and every step goes on after the next has begun.

The lanes and steps are those of the lecture "From containers to functions". Each carries one milestone to
look up: when a step got its name or its first wide use, not when the idea was born.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnlab.widgets.picture import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    Picture,
    bare_axes,
    new_figure,
    picture,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a lane and the milestone to look up."""

    name: str
    milestone: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the things that changed, with its steps in the order in which they came."""

    name: str
    steps: tuple[Step, ...]


LANES = (
    Lane(
        "Development\nprocess",
        (
            Step("Waterfall", "Royce's paper, 1970"),
            Step("Agile", "the manifesto, 2001"),
            Step("DevOps", "DevOpsDays, 2009"),
            Step("SRE", "the SRE book, 2016"),
        ),
    ),
    Lane(
        "Application\narchitecture",
        (
            Step("Monolith", "one program, one release"),
            Step("N-tier", "client and server, 1990s"),
            Step("Microservices", "Lewis and Fowler, 2014"),
            Step("Functions, events", "AWS Lambda, 2014"),
        ),
    ),
    Lane(
        "Deployment and\npackaging",
        (
            Step("Physical servers", "bare metal"),
            Step("Virtual servers", "VMware, 1999"),
            Step("Containers", "Docker, 2013"),
            Step("Unikernels", "MirageOS, 2013"),
        ),
    ),
    Lane(
        "Application\ninfrastructure",
        (
            Step("Data center", "your own building"),
            Step("Hosted", "rented servers, 1990s"),
            Step("Cloud", "Amazon EC2, 2006"),
        ),
    ),
)

_COLOURS = (PURPLE, BLUE, GREEN, ORANGE)
_ROW = 0.27  # inches
_GAP = 0.2


def draw_evolution(lanes: Sequence[Lane] = LANES) -> Picture:
    """Draw the lanes as stairs: a step begins later than the one before, and none of them ends."""
    from matplotlib.patches import FancyArrow

    rows = sum(len(lane.steps) for lane in lanes)
    height = rows * _ROW + len(lanes) * _GAP + 0.3
    figure = new_figure(9, height)
    axes = bare_axes(figure)
    axes.set_xlim(0, 9)
    axes.set_ylim(height - 0.05, 0)
    y = 0.05
    for lane, colour in zip(lanes, _COLOURS, strict=False):
        middle = y + len(lane.steps) * _ROW / 2
        axes.text(1.3, middle, lane.name, ha="right", va="center", color=colour, weight="bold", fontsize=10)
        for index, step in enumerate(lane.steps):
            x = 1.5 + index * 1.45
            axes.add_patch(
                FancyArrow(
                    x,
                    y + _ROW / 2,
                    8.95 - x,
                    0,
                    width=_ROW * 0.82,
                    head_width=_ROW * 0.82,
                    head_length=0.12,
                    length_includes_head=True,
                    facecolor=colour,
                    edgecolor="none",
                    alpha=0.16 + 0.12 * index,
                )
            )
            axes.text(x + 0.1, y + _ROW / 2, step.name, va="center", color=INK, weight="bold", fontsize=9)
            axes.text(8.72, y + _ROW / 2, step.milestone, ha="right", va="center", color=INK, fontsize=7.5)
            y += _ROW
        y += _GAP
    axes.annotate(
        "", (8.95, y - 0.02), (1.5, y - 0.02), arrowprops={"arrowstyle": "->", "color": MUTED, "lw": 1}
    )
    axes.text(1.5, y + 0.04, "earlier", va="top", color=MUTED, fontsize=8)
    axes.text(8.95, y + 0.04, "today: all of them", va="top", ha="right", color=MUTED, fontsize=8)
    return picture(figure, alt=describe_evolution(lanes))


def describe_evolution(lanes: Sequence[Lane] = LANES) -> str:
    """Say in words what `draw_evolution` draws."""
    told = "; ".join(
        f"{lane.name.replace(chr(10), ' ')}: {', '.join(step.name for step in lane.steps)}" for lane in lanes
    )
    return f"The evolution to cloud native in {len(lanes)} lanes. {told}. No step ends."
