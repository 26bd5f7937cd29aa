"""The map of the course: its units and notebooks, and which of them are here to open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnlab.widgets.picture import (
    ACCENTS,
    LINE,
    MUTED,
    PAPER,
    Picture,
    bare_axes,
    new_figure,
    picture,
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of the course: its name and the stems of its notebooks in reading order."""

    name: str
    stems: tuple[str, ...]


UNITS = (
    Unit("map", ("00-welcome",)),
    Unit("containers", ("01-namespaces", "02-cgroups", "03-images", "04-networking", "05-runtime")),
    Unit(
        "orchestration",
        ("06-orchestrators", "07-scheduling", "08-services-and-updates", "09-orchestrator-spectrum"),
    ),
    Unit(
        "service mesh",
        ("10-microservices", "11-data-plane", "12-control-plane", "13-traffic-and-resiliency"),
    ),
    Unit("functions", ("14-serverless", "15-events")),
    Unit("unikernels", ("16-unikernels",)),
    Unit("practice", ("17-cncf-landscape", "18-process-and-people")),
)


def stems(units: Sequence[Unit] = UNITS) -> tuple[str, ...]:
    """Return the stems of all notebooks in reading order."""
    return tuple(stem for unit in units for stem in unit.stems)


def notebooks_here(directory: Path, units: Sequence[Unit] = UNITS) -> frozenset[str]:
    """Return the stems of the course's notebooks that lie in `directory`."""
    return frozenset(stem for stem in stems(units) if (directory / f"{stem}.ipynb").is_file())


def draw_course(here: frozenset[str], units: Sequence[Unit] = UNITS) -> Picture:
    """Draw one row a unit, one box a notebook; those in `here` are filled."""
    from matplotlib.patches import FancyBboxPatch

    figure = new_figure(9, 0.5 * len(units) + 0.1)
    axes = bare_axes(figure)
    axes.set_xlim(-0.85, 5)
    axes.set_ylim(len(units), 0)
    for row, (unit, colour) in enumerate(zip(units, ACCENTS, strict=False)):
        axes.text(
            -0.1, row + 0.5, unit.name, ha="right", va="center", color=colour, weight="bold", fontsize=9.5
        )
        for column, stem in enumerate(unit.stems):
            is_here = stem in here
            box = FancyBboxPatch(
                (column + 0.04, row + 0.12),
                0.92,
                0.76,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=colour if is_here else PAPER,
                edgecolor=colour if is_here else LINE,
            )
            axes.add_patch(box)
            number, _, name = stem.partition("-")
            label = f"{number}  {name.replace('-', ' ').replace(' and ', ' & ')}"
            ink = PAPER if is_here else MUTED
            weight = "bold" if is_here else "normal"
            axes.text(
                column + 0.5,
                row + 0.5,
                label,
                ha="center",
                va="center",
                color=ink,
                weight=weight,
                fontsize=7.2,
            )
    return picture(figure, alt=describe_course(here, units))


def describe_course(here: frozenset[str], units: Sequence[Unit] = UNITS) -> str:
    """Say in words what `draw_course` draws."""
    told = "; ".join(f"{unit.name}: {', '.join(unit.stems)}" for unit in units)
    return (
        f"The {len(stems(units))} notebooks of the course. {told}. Here to open: {', '.join(sorted(here))}."
    )
