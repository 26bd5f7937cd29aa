"""Layer explorer, network picture and attempts in JupyterLab: what the mouse does to the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from student import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.needs_uml, pytest.mark.timeout(200)]

USE_CONTROLS = Path(__file__).with_name("use_controls.mjs")
IMAGES = ROOT / "labs" / "lab03-images" / "images.tar.gz"
CELLS = (
    """
import json, tarfile, tempfile
from cnlab.containers.container import Container
from cnlab.containers.images import base_images
from cnlab.containers.images.image import open_image
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import SnapshotStore
from cnlab.linux import capabilities
from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink
from cnlab.widgets.attempts import Attempts
from cnlab.widgets.layer_explorer import LayerExplorer
from cnlab.widgets.network_picture import NetworkPicture
place = tempfile.mkdtemp()
with tarfile.open("images.tar.gz") as archive:
    archive.extractall(place)
""",
    """
mounted = []  # what overlayfs showed, each time that the explorer asked it

class Explorer(LayerExplorer):
    def files(self, stacked):
        mounted.append(sorted(super().files(stacked)))
        return set(mounted[-1])

explorer = Explorer(open_image(Layout(f"{place}/images"), "shop:1"), SnapshotStore(f"{place}/store"))
explorer
""",
    """
host, web = NetNs.create(), NetNs.create()
with Rtnetlink(host) as ip:
    ip.add_veth("veth-web", peer="eth0", peer_netns=web, up=True)
NetworkPicture({"host": host, "web": web})
""",
    """
busybox = base_images.busybox(Layout.create(f"{place}/layout"))
held = []  # the capabilities of the containers' root, as /proc has them

def try_out(ticked):
    with Container(busybox, ["sleep", "60"], cap_drop=["ALL"], cap_add=sorted(ticked)) as container:
        held.append(sorted(capabilities.of(container.pid).effective))
        result = container.exec_run(["chown", "1", "/etc/passwd"])
        return {"give a file away": result.output.decode() if result.exit_code else ""}

Attempts(try_out, ["CHOWN", "KILL"])
""",
)
CABLE = """
with Rtnetlink(web) as ip, inside(host), open("/proc/sys/net/ipv4/ip_forward") as forward:
    [eth0] = [link for link in ip.links() if link.name == "eth0"]
    print(json.dumps([eth0.is_up, int(forward.read())]))
"""


@pytest.fixture(scope="module")
def seen(lab):
    """By step: what the page said, and what the kernel told before the next one."""
    home = lab.student.home
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    notebook.metadata.kernelspec = {"name": "cnlab", "display_name": "Cloud Native Lab", "language": "python"}
    lab.student.run(["tee", "controls.ipynb"], input=nbformat.writes(notebook))
    lab.student.run(["cp", str(IMAGES), str(home)])
    questions = {
        "start": CABLE,
        "layers": "print(json.dumps([mounted[0], mounted[-1], sorted(explorer.expected(1))]))",
        "cable": CABLE,
        "forward": CABLE,
        "attempts": "print(json.dumps([held[0], held[-1]]))",
    }
    steps = {}
    with lab.visit("controls.ipynb", USE_CONTROLS) as visit:
        for name, question in questions.items():
            page = visit.see()
            assert (name, []) == (page["step"], page["foreign"])
            steps[name] = page, json.loads(visit.tell(question))
            visit.go_on()
        visit.end()
    return steps


def test_slider_has_the_kernel_mount_fewer_layers(seen):
    """The page counts what overlayfs showed, and that is what the lowest layer's entries promise."""
    page, (all_three, lowest, expected) = seen["layers"]

    assert lowest == expected != all_three
    assert page["said"] == f"1 of 3 layers stacked: the kernel shows {len(lowest)} files."


def test_button_sets_the_interface_up(seen):
    """The flag of the interface, asked by netlink; the page says the command."""
    page, cable = seen["cable"]

    assert ([False, 0], [True, 0]) == (seen["start"][1], cable)
    assert page["said"] == "ip link set eth0 up (in web)"


def test_checkbox_lets_the_namespace_forward(seen):
    """The namespace's own sysctl."""
    page, cable = seen["forward"]

    assert cable == [True, 1]
    assert page["said"] == "sysctl net.ipv4.ip_forward=1 (in host)"


def test_tick_gives_the_container_a_capability(seen):
    """And what was refused works, in a container made anew."""
    page, held = seen["attempts"]

    assert held == [[], ["CAP_CHOWN"]]
    assert "not permitted" in page["before"]
    assert page["said"].split() == ["give", "a", "file", "away", "works"]
