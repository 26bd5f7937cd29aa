"""Sliders for the limits of a running job, and what the job makes of them.

Interface: ``CgroupPanel(argv, before)`` as the last value of a cell. Nothing runs until the reader presses
start or moves a slider; then the job runs in a cgroup of its own, each slider writes one file of that group
at once, and the group's files are drawn as they change. It ends by the stop button, when another panel
starts, when nobody has moved a slider for a while, and with the kernel: group, job and thread are gone then.

The static form is `before`, the picture of a recorded run; the live form shows it too until there is news.
"""

from __future__ import annotations

import atexit
import html
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from cnlab.clock import SYSTEM_CLOCK, Clock
from cnlab.errors import CnlabError
from cnlab.linux.cgroups import Cgroup
from cnlab.widgets.mimebundle import mimebundle, picture_to_html
from cnlab.widgets.picture import Picture
from cnlab.widgets.usage import Reading, watch
from cnlab.widgets.usage_svg import usage_svg

PERIOD_US = 100_000
CPU_CHOICES = [
    (f"{percent} %", (percent * PERIOD_US // 100, PERIOD_US)) for percent in (5, 10, 20, 30, 50, 75)
]
MEMORY_CHOICES = [(size, size) for size in ("16M", "24M", "32M", "48M", "64M", "96M")]
FILES_HTML = '<pre style="line-height: 1.4; margin: 0">{}</pre>'
STATIC_NOTE = "In a running notebook, two sliders change cpu.max and memory.max of this job while it runs."
FILES: dict[str, tuple[str, ...]] = {  # what is shown of each; nothing named is all of it
    "cpu.max": (),
    "cpu.stat": ("nr_periods", "nr_throttled", "throttled_usec"),
    "memory.max": (),
    "memory.events": ("max", "oom_kill"),
}


class LiveJob(threading.Thread):
    """A job in a cgroup of its own, in a thread that reads the group's files until it is told to stop.

    Leaving the thread, by whatever way, ends the job and removes the group.
    """

    def __init__(
        self,
        group_name: str,
        argv: Sequence[str],
        limits: dict[str, Any],
        on_reading: Callable[[Cgroup, Reading], None],
        on_end: Callable[[str], None],
        *,
        life_s: float,
        poll_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(name=f"live job in {group_name}", daemon=True)
        self._group_name, self._argv, self._limits = group_name, argv, limits
        self._on_reading, self._on_end = on_reading, on_end
        self._life_s, self._poll_s, self._clock = life_s, poll_s, clock
        self._deadline = clock.monotonic() + life_s
        self._is_told_to_stop = threading.Event()
        self._lock = threading.Lock()  # guards _group: limits are set from the thread that serves the sliders
        self._group: Cgroup | None = None

    def set(self, **limits: Any) -> None:
        """Write limits to the group's files now, and let the job live on for its time."""
        self._deadline = self._clock.monotonic() + self._life_s
        with self._lock:
            self._limits |= limits
            if self._group is not None:
                self._group.set(**limits)

    def stop(self) -> None:
        """End the job and return when nothing is left of it."""
        self._is_told_to_stop.set()
        if self is not threading.current_thread():
            self.join()

    def run(self) -> None:
        """Watch the job; the thread's main function."""
        atexit.register(self.stop)
        why = "stopped"
        try:
            with Cgroup(self._group_name, **self._limits) as group:
                why = self._watch(group)
        except (OSError, CnlabError) as error:
            why = f"stopped: {error}"
        finally:
            atexit.unregister(self.stop)
            self._on_end(why)

    def _watch(self, group: Cgroup) -> str:
        with self._lock:
            self._group = group
        try:
            with closing(watch(group, self._argv, poll_s=self._poll_s, clock=self._clock)) as readings:
                for reading in readings:
                    self._on_reading(group, reading)
                    if self._is_told_to_stop.is_set():
                        return "stopped"
                    if self._clock.monotonic() > self._deadline:
                        return f"stopped by itself: no slider moved for {self._life_s:g} s"
            raise AssertionError("a job is watched until it is stopped")
        finally:
            with self._lock:
                self._group = None


def stop_live_jobs() -> None:
    """Stop every live job of this interpreter."""
    for thread in threading.enumerate():
        if isinstance(thread, LiveJob):
            thread.stop()


def _excerpt(text: str, keys: Sequence[str]) -> list[str]:
    return [line for line in text.splitlines() if not keys or line.split()[0] in keys]


class CgroupPanel:
    """Controls and a live drawing of one job in one cgroup."""

    def __init__(
        self,
        argv: Sequence[str],
        before: Picture,
        *,
        group_name: str = "panel",
        life_s: float = 90,
        poll_s: float = 0.3,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Make a panel for the job `argv`; `before` is the picture of a recorded run of it.

        Args:
            argv: the job; it is started again whenever it dies.
            before: the static form.
            group_name: the cgroup to make, directly below the root.
            life_s: seconds without a slider moved after which the job ends.
            poll_s: seconds between two readings.
            clock: what tells the time.
        """
        stop_live_jobs()  # a cell that is run again starts from nothing
        self._argv, self._group_name = argv, group_name
        self._static_html = picture_to_html(before)
        self._static_text = before.alt
        self._life_s, self._poll_s, self._clock = life_s, poll_s, clock
        self._readings: deque[Reading] = deque(maxlen=round(30 / poll_s))
        self._job: LiveJob | None = None
        self._make_widgets()

    def _make_widgets(self) -> None:
        import ipywidgets as widgets  # 0.5 s: paid by a notebook that has a panel

        wide = {"description_width": "90px"}
        self.cpu_max = widgets.SelectionSlider(
            options=[*CPU_CHOICES, ("max", "max")], value="max", description="cpu.max", style=wide
        )
        self.memory_max = widgets.SelectionSlider(
            options=[*MEMORY_CHOICES, ("max", "max")], value="max", description="memory.max", style=wide
        )
        for slider in (self.cpu_max, self.memory_max):
            slider.continuous_update = False
            slider.layout.width = "460px"
            slider.observe(self._move, names="value")
        self.start_button = widgets.Button(description="start", tooltip="Run the job in a cgroup of its own")
        self.stop_button = widgets.Button(
            description="stop", tooltip="End the job and remove the group", disabled=True
        )
        self.start_button.on_click(lambda _button: self.start())
        self.stop_button.on_click(lambda _button: self.stop())
        self.chart = widgets.HTML(self._static_html)
        self.files = widgets.HTML("Press start, or move a slider.")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.start_button, self.stop_button]),
                self.cpu_max,
                self.memory_max,
                self.files,
                self.chart,
            ]
        )

    @property
    def limits(self) -> dict[str, Any]:
        """What the sliders say, as arguments of `Cgroup.set`."""
        return {"cpu_max": self.cpu_max.value, "memory_max": self.memory_max.value}

    def start(self) -> None:
        """Run the job, unless it runs."""
        if self._job is not None and self._job.is_alive():
            return
        stop_live_jobs()
        self._readings.clear()
        self.start_button.disabled, self.stop_button.disabled = True, False
        self._job = LiveJob(
            self._group_name,
            self._argv,
            self.limits,
            self._show,
            self._show_end,
            life_s=self._life_s,
            poll_s=self._poll_s,
            clock=self._clock,
        )
        self._job.start()

    def stop(self) -> None:
        """End the job, if it runs; its group is gone when this returns."""
        if self._job is not None:
            self._job.stop()

    def _move(self, _change: object) -> None:
        self.start()
        if self._job is not None:
            self._job.set(**self.limits)

    def _show(self, group: Cgroup, reading: Reading) -> None:
        self._readings.append(reading)
        lines = [f"{file:15}{'  '.join(_excerpt(group.read(file), keys))}" for file, keys in FILES.items()]
        self.files.value = FILES_HTML.format(html.escape("\n".join([f"{group.path}:", *lines])))
        if len(self._readings) > 1:
            self.chart.value = usage_svg(self._readings)

    def _show_end(self, why: str) -> None:
        self.files.value = html.escape(why)
        self.start_button.disabled, self.stop_button.disabled = False, True

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        static_html = f"{self._static_html}<p>{html.escape(STATIC_NOTE)}</p>"
        return mimebundle(self.view, static_html=static_html, text=f"{self._static_text}\n{STATIC_NOTE}")
