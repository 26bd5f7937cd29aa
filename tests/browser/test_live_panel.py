"""A student opens notebook 02 in JupyterLab, moves a slider with the mouse, and the kernel's file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from student import ROOT

from cnlab.clock import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.needs_uml, pytest.mark.timeout(300)]

NOTEBOOK = ROOT / "notebooks" / "02-cgroups.ipynb"
MOVE_SLIDER = Path(__file__).with_name("move_slider.mjs")
CPU_MAX = "/sys/fs/cgroup/panel/cpu.max"
READ_CPU_MAX = f"""
from pathlib import Path
if Path({CPU_MAX!r}).exists(): print(Path({CPU_MAX!r}).read_text())
"""


def test_moving_the_slider_writes_the_file_of_the_cgroup(lab):
    """What a student moves is the kernel's own limit, through browser, server, private kernel and widget."""
    lab.student.run(["cp", str(NOTEBOOK), str(lab.student.home)])
    with lab.visit(NOTEBOOK.name, MOVE_SLIDER) as visit:
        opened = visit.see()
        visit.go_on()
        started = visit.see()
        wait_until(lambda: visit.tell(READ_CPU_MAX) == "max 100000", timeout_s=60)
        visit.go_on()
        moved = visit.see()
        # On the way there the slider may have said something else, which the kernel gets first.
        wait_until(lambda: visit.tell(READ_CPU_MAX) == "20000 100000", timeout_s=60)
        visit.end()
        left = list((visit.desk / "tmp").iterdir())

    assert (started["readout"], moved["readout"]) == ("max", "20 %")
    assert opened["foreign"] == started["foreign"] == moved["foreign"] == []
    assert left == []
