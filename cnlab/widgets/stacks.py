"""Who has how much: one bar a row, one colour a name, and a line where the limit is."""

from __future__ import annotations

from collections.abc import Mapping

from cnlab.clock import SYSTEM_CLOCK, Clock
from cnlab.linux.cgroups import Cgroup
from cnlab.widgets.picture import ACCENTS, PAPER, RED, Picture, new_figure, picture, plot_axes

MEBIBYTE = 1 << 20


def cpu_percent(*groups: Cgroup, seconds: float = 0.5, clock: Clock = SYSTEM_CLOCK) -> dict[str, int]:
    """Wait for `seconds` and return by name how much of one CPU each group used meanwhile, in per cent."""
    start = clock.monotonic()
    before = [group.cpu_stat().usage_usec for group in groups]
    clock.sleep(seconds)
    after = [group.cpu_stat().usage_usec for group in groups]
    passed_us = (clock.monotonic() - start) * 1e6
    return {
        group.name: round(100 * (now - then) / passed_us)
        for group, then, now in zip(groups, before, after, strict=True)
    }


def memory_parts(group: Cgroup) -> dict[str, float]:
    """Return what the memory of `group` is used for, in MiB, as parts that add up.

    `shmem` counts as ``file`` in memory.stat, but unlike cached file content it cannot be dropped.
    """
    anon, file, shmem = (group.memory_stat()[key] / MEBIBYTE for key in ("anon", "file", "shmem"))
    return {"anon": anon, "file cache": file - shmem, "shmem": shmem}


def draw_stacks(
    rows: Mapping[str, Mapping[str, float]],
    *,
    unit: str,
    limit: float | None = None,
    limit_name: str = "limit",
    colours: Mapping[str, str] | None = None,
) -> Picture:
    """Draw each row's parts end to end.

    Args:
        rows: by row, the parts by name, in `unit`.
        unit: what the numbers count, such as ``"% of a CPU"``.
        limit: where to draw a line across all rows.
        limit_name: what the line is called.
        colours: by name, where a part is not to have the next of the usual ones.
    """
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    figure = new_figure(7.5, 0.9 + 0.45 * len(rows))
    axes = plot_axes(figure)
    palette = dict(zip(names, ACCENTS, strict=False)) | dict(colours or {})
    for name in names[: len(ACCENTS)]:
        starts = [
            sum(parts.get(earlier, 0) for earlier in names[: names.index(name)]) for parts in rows.values()
        ]
        widths = [parts.get(name, 0) for parts in rows.values()]
        bars = axes.barh(list(rows), widths, left=starts, color=palette[name], label=name, height=0.7)
        largest = max(map(sum, (parts.values() for parts in rows.values())))
        labels = [f"{width:.0f}" if width > largest / 20 else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color=PAPER)
    if limit is not None:
        axes.axvline(limit, color=RED, linewidth=2, label=limit_name)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return picture(figure, alt=_describe(rows, unit, limit, limit_name))


def _describe(
    rows: Mapping[str, Mapping[str, float]], unit: str, limit: float | None, limit_name: str
) -> str:
    said = "; ".join(
        f"{row}: {', '.join(f'{name} {value:.0f}' for name, value in parts.items())}"
        for row, parts in rows.items()
    )
    return f"Bars in {unit}. {said}." + ("" if limit is None else f" The {limit_name} is {limit:g}.")
