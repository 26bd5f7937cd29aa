"""What building cost: one bar a build, one part a step, and which steps came out of the cache."""

from __future__ import annotations

from collections.abc import Mapping

from cnlab.containers.build import Build
from cnlab.widgets.picture import ACCENTS, MUTED, PAPER, QUIET, Picture, new_figure, picture, plot_axes


def draw_builds(builds: Mapping[str, Build]) -> Picture:
    """Draw for each build how long its steps took, end to end; the same step has the same colour in all.

    A step out of the cache takes no time, so it is told in words at the end of the bar.
    """
    from matplotlib.patches import Patch

    texts = list(dict.fromkeys(step.text for build in builds.values() for step in build.steps))
    colours = dict(zip(texts, ACCENTS * len(texts), strict=False))
    figure = new_figure(8.5, 1.5 + 0.45 * len(builds))
    axes = plot_axes(figure)
    longest = max(build.seconds for build in builds.values())
    for row, build in enumerate(builds.values()):
        start = 0.0
        for step in build.steps:
            colour = QUIET if step.is_cached else colours[step.text]
            axes.barh([row], [step.seconds], left=[start], color=colour, height=0.7)
            if not step.is_cached and step.seconds > longest / 12:
                middle = start + step.seconds / 2
                axes.text(middle, row, f"{step.seconds:.1f} s", ha="center", va="center", color=PAPER)
            start += step.seconds
        cached = sum(step.is_cached for step in build.steps)
        said = f" {cached} of {len(build.steps)} steps from the cache"
        axes.text(start, row, said, ha="left", va="center", color=MUTED, fontsize=9)
    axes.set_yticks(range(len(builds)), list(builds))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.4)
    axes.set_xlabel("seconds")
    drawn = {
        step.text
        for build in builds.values()
        for step in build.steps
        if not step.is_cached and step.seconds > longest / 100
    }
    figure.legend(
        handles=[Patch(color=colours[text], label=_short(text)) for text in texts if text in drawn],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return picture(figure, alt=_describe(builds))


def _short(text: str) -> str:
    return text if len(text) <= 50 else f"{text[:49]}…"


def _describe(builds: Mapping[str, Build]) -> str:
    told = []
    for name, build in builds.items():
        done = [f"{step.text} {step.seconds:.1f} s" for step in build.steps if not step.is_cached]
        told.append(f"{name}: {', '.join(done) or 'nothing'} done, {build.seconds:.1f} s in all")
    return f"Bars in seconds, one a build. {'; '.join(told)}."
