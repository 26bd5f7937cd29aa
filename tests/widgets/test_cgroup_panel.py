"""The panel of sliders: what it is before anybody touches it, and what a touch does to the kernel's files."""

import threading

import pytest
from private_kernel import in_private_kernel

from cnlab.widgets.cgroup_panel import STATIC_NOTE, CgroupPanel, LiveJob
from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.picture import new_figure, picture

PANEL = """
import sys, threading
from cnlab.clock import wait_until
from cnlab.linux.cgroups import root_of_cgroup2
from cnlab.widgets.cgroup_panel import CgroupPanel, LiveJob
from cnlab.widgets.picture import new_figure, picture

BUSY = ["sh", "-c", "while :; do :; done"]
group = root_of_cgroup2() / "panel"
before = picture(new_figure(1, 1), alt="before")

def read(name):
    return (group / name).read_text().strip() if (group / name).exists() else None

def live_jobs():
    return [thread for thread in threading.enumerate() if isinstance(thread, LiveJob)]
"""


@pytest.fixture
def panel() -> CgroupPanel:
    return CgroupPanel(["true"], picture(new_figure(1, 1), alt="a recorded run"))


def test_panel_that_nobody_touches_runs_nothing(panel):
    """papermill and the book execute the cell too; no job and no thread may outlive it."""
    assert not [thread for thread in threading.enumerate() if isinstance(thread, LiveJob)]
    assert {"cpu_max": "max", "memory_max": "max"} == panel.limits


def test_static_form_shows_the_recorded_run(panel):
    """On a page without a kernel the sliders are gone, and a picture stands in their place."""
    bundle = panel._repr_mimebundle_()

    assert {WIDGET_VIEW, "text/html", "text/plain"} == set(bundle)
    assert '<img alt="a recorded run"' in bundle["text/html"]
    assert f"a recorded run\n{STATIC_NOTE}" == bundle["text/plain"]


def test_live_form_is_never_an_empty_box(panel):
    """Until there is news of the job the recorded run is shown."""
    assert '<img alt="a recorded run"' in panel.chart.value


def test_sliders_are_found_by_the_names_of_their_files(panel):
    """A reader, a screen reader and a browser test all look for `cpu.max`."""
    assert ["cpu.max", "memory.max"] == [panel.cpu_max.description, panel.memory_max.description]


@pytest.mark.needs_uml
def test_moving_a_slider_starts_the_job_and_writes_its_file(student):
    """That is what the panel is for: the file changes at once, and what it does is drawn."""
    code = """
    panel = CgroupPanel(BUSY, before, poll_s=0.1)
    panel.cpu_max.value = (20_000, 100_000)
    wait_until(lambda: read("cpu.max") == "20000 100000", timeout_s=60)
    panel.memory_max.value = "32M"
    wait_until(lambda: read("memory.max") == str(32 << 20), timeout_s=60)
    wait_until(lambda: "<svg" in panel.chart.value and "20000 100000" in panel.files.value, timeout_s=60)
    panel.stop()
    print(group.exists(), live_jobs(), panel.files.value, panel.start_button.disabled)
    """

    assert "False [] stopped False\n" == in_private_kernel(student, PANEL + _dedent(code))


@pytest.mark.needs_uml
def test_running_the_cell_again_ends_the_first_job(student):
    """Two panels would fight for one group, and the first could no longer be stopped."""
    code = """
    first = CgroupPanel(BUSY, before, poll_s=0.1)
    first.start()
    wait_until(lambda: read("cgroup.procs"), timeout_s=60)
    second = CgroupPanel(BUSY, before, poll_s=0.1)
    print(group.exists(), live_jobs())
    second.start()
    wait_until(lambda: read("cgroup.procs"), timeout_s=60)
    print(len(live_jobs()))
    second.stop()
    """

    assert "False []\n1\n" == in_private_kernel(student, PANEL + _dedent(code))


@pytest.mark.needs_uml
def test_forgotten_job_ends_by_itself(student):
    """A reader who goes on to the next notebook must not pay for a busy loop for ever."""
    code = """
    panel = CgroupPanel(BUSY, before, poll_s=0.1, life_s=0.5)
    panel.start()
    wait_until(lambda: not live_jobs(), timeout_s=60)
    print(group.exists(), panel.files.value)
    """

    expected = "False stopped by itself: no slider moved for 0.5 s\n"
    assert expected == in_private_kernel(student, PANEL + _dedent(code))


@pytest.mark.needs_uml
def test_killed_job_is_started_again(student):
    """Under a memory limit that is too small the reader should see it die again and again."""
    code = """
    panel = CgroupPanel([sys.executable, "-ISc", "x = b'x' * (64 << 20)"], before, poll_s=0.1)
    panel.memory_max.value = "32M"
    wait_until(lambda: int((read("memory.events") or "oom_kill 0").partition("oom_kill ")[2].split()[0]) > 1,
               timeout_s=60)
    panel.stop()
    print("died more than once")
    """

    assert "died more than once\n" == in_private_kernel(student, PANEL + _dedent(code))


def _dedent(code: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in code.splitlines())
