"""A container at a glance: which namespaces it has of its own, what its root may do, what its group allows.

Interface: `container_glance({"notebook": None, "web": container})` reads `/proc` and the control groups and
draws a column for each; the first is the one that the others are compared with.

See: namespaces(7), proc_pid_status(5), the cgroup v2 guide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cnlab.linux import capabilities, cgroup_tree, idmaps, procfs
from cnlab.linux.cgroup_files import parse_cpu_max, parse_size
from cnlab.linux.namespaces import KINDS, namespaces_of
from cnlab.linux.nsfs import Namespace
from cnlab.linux.processes import parse_status
from cnlab.widgets.picture import (
    ACCENTS,
    INK,
    LINE,
    MUTED,
    PAPER,
    QUIET,
    Picture,
    bare_axes,
    new_figure,
    picture,
)

_MEBIBYTE = 1 << 20
_SECCOMP = {"0": "none", "1": "strict", "2": "filter"}


class HasPid(Protocol):
    """A container, a child, a process."""

    @property
    def pid(self) -> int:
        """Its number here."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What there is to see of one process from outside."""

    label: str
    pid: int | str
    namespaces: Mapping[str, Namespace]
    root_outside: int | None  # the user id that 0 in its user namespace is out here; None: nobody
    capabilities: frozenset[str]  # effective
    seccomp: str
    no_new_privs: bool
    processes: int | None  # in its control group
    pids_max: int | None
    memory_bytes: int | None
    memory_max_bytes: int | None
    cpus: float | None  # at most

    def rows(self) -> dict[str, str]:
        """Return what is not a namespace, in words, by what it is."""
        cpus = "no limit" if self.cpus is None else f"at most {self.cpus:g}"
        return {
            "user 0 is": "nobody" if self.root_outside is None else f"user {self.root_outside}",
            "capabilities": f"{len(self.capabilities)} of {len(capabilities.NAMES)}",
            "seccomp": self.seccomp,
            "new privileges": "never" if self.no_new_privs else "possible",
            "processes": _of(self.processes, self.pids_max),
            "memory": _of(_mebibytes(self.memory_bytes), _mebibytes(self.memory_max_bytes), " MiB"),
            "CPUs": cpus if self.processes is not None else "unknown",
        }


def _of(used: int | None, most: int | None, unit: str = "") -> str:
    if used is None:
        return "unknown"
    return f"{used}{unit}" if most is None else f"{used} of {most}{unit}"


def _mebibytes(size: int | None) -> int | None:
    return None if size is None else -(-size // _MEBIBYTE)


def look_at(label: str, target: HasPid | int | None) -> Glance:
    """Read what there is to see of a process: of a container, by its pid, or of ourselves.

    Raises:
        ProcessLookupError: there is no such process.
    """
    pid: int | str = "self" if target is None else target if isinstance(target, int) else target.pid
    status = parse_status(procfs.read(pid, "status"))
    outside = [ids.outside for ids in idmaps.read_uid_map(pid) if ids.inside == 0]
    group = cgroup_tree.cgroup_of(pid)
    return Glance(
        label=label,
        pid=pid,
        namespaces=namespaces_of(pid),
        root_outside=outside[0] if outside else None,
        capabilities=capabilities.of(pid).effective,
        seccomp=_SECCOMP.get(status.get("Seccomp", ""), "unknown"),
        no_new_privs=status.get("NoNewPrivs") == "1",
        processes=_number(group / "pids.current"),
        pids_max=_number(group / "pids.max"),
        memory_bytes=_number(group / "memory.current"),
        memory_max_bytes=_number(group / "memory.max"),
        cpus=_cpus(group / "cpu.max"),
    )


def _number(file: Path) -> int | None:
    """Return a number of a control group; None for ``max`` and where the file is missing."""
    with contextlib.suppress(OSError):
        return parse_size(file.read_text().strip())
    return None


def _cpus(file: Path) -> float | None:
    with contextlib.suppress(OSError):
        limit = parse_cpu_max(file.read_text())
        return None if limit.quota_us is None else limit.cpus
    return None


def container_glance(targets: Mapping[str, HasPid | int | None]) -> Picture:
    """Draw processes side by side, by label; None is the notebook itself."""
    return draw_glances([look_at(label, target) for label, target in targets.items()])


def draw_glances(glances: Sequence[Glance]) -> Picture:
    """Draw what has been read: a box for each namespace, grey where it is the first column's, then words."""
    kinds = [kind for kind in KINDS if kind in glances[0].namespaces]
    names = list(glances[0].rows())
    figure = new_figure(1.5 + 1.45 * len(glances), 0.5 + 0.27 * (len(kinds) + len(names)))
    axes = bare_axes(figure)
    axes.set_xlim(-1.05, len(glances))
    axes.set_ylim(len(kinds) + len(names) + 0.4, -0.9)
    home = set(glances[0].namespaces.values())
    for row, name in enumerate([*kinds, *names]):
        y = row + (0.9 if row >= len(kinds) else 0.5)
        axes.text(-0.08, y, name, ha="right", va="center", color=MUTED, fontsize=8)
    axes.axhline(len(kinds) + 0.2, color=LINE, linewidth=1)
    for x, glance in enumerate(glances):
        axes.text(
            x + 0.5, -0.45, glance.label, ha="center", va="center", color=INK, weight="bold", fontsize=9
        )
        for row, kind in enumerate(kinds):
            is_own = glance.namespaces.get(kind) not in home
            colour = ACCENTS[(x - 1) % len(ACCENTS)] if is_own else QUIET
            axes.barh(row + 0.5, 0.94, left=x + 0.03, height=0.78, color=colour)
            word, ink = ("own", PAPER) if is_own else ("shared" if x else "", MUTED)
            axes.text(x + 0.5, row + 0.5, word, ha="center", va="center", color=ink, fontsize=7.5)
        for row, words in enumerate(glance.rows().values(), start=len(kinds)):
            axes.text(x + 0.5, row + 0.9, words, ha="center", va="center", color=INK, fontsize=8)
    return picture(figure, alt=describe_glances(glances))


def describe_glances(glances: Sequence[Glance]) -> str:
    """Say in words what `draw_glances` draws."""
    home = set(glances[0].namespaces.values())
    told = []
    for glance in glances:
        own = [kind for kind, namespace in glance.namespaces.items() if namespace not in home]
        facts = ", ".join(f"{name} {words}" for name, words in glance.rows().items())
        told.append(f"{glance.label}: own namespaces {', '.join(own) or 'none'}; {facts}")
    return f"Compared with {glances[0].label}. {'. '.join(told)}."
