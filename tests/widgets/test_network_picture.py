"""The live network picture: what its controls change, and its static form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cnlab.linux.netns import NetNs, inside
from cnlab.linux.rtnetlink import Rtnetlink
from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.network_picture import NetworkPicture, network_picture


@pytest.fixture
def cabled() -> Iterator[NetworkPicture]:
    """The live picture of two namespaces that a cable joins."""
    with NetNs.create() as host, NetNs.create() as web:
        with Rtnetlink(host) as ip:
            ip.add_veth("veth-web", peer="eth0", peer_netns=web, up=True)
        yield NetworkPicture({"host": host, "web": web}, requests={"web asks": lambda: "5 < 6"})


@pytest.mark.needs_root
def test_button_sets_a_real_interface_up_and_the_picture_follows(cabled):
    """The control changes something real, and what is drawn is read anew."""
    tools, _forward, message, image, _table = cabled._live(cabled.picture(), {}).children
    chosen, up, down, _again = tools.children
    before = image.value
    chosen.value = "web: eth0"
    up.click()

    assert cabled.read()["web"].interface("eth0").is_up
    assert message.value == "ip link set eth0 up   (in web)"
    assert image.value != before
    down.click()
    assert not cabled.read()["web"].interface("eth0").is_up


@pytest.mark.needs_root
def test_checkbox_switches_forwarding_of_the_first_namespace(cabled):
    """Each network namespace has this sysctl for itself."""
    _tools, forward, *_others = cabled._live(cabled.picture(), {}).children
    forward.value = not forward.value
    with inside(cabled.targets["host"]), open("/proc/sys/net/ipv4/ip_forward") as file:
        assert file.read().strip() == str(int(forward.value))


@pytest.mark.needs_root
def test_what_the_kernel_refuses_is_shown(cabled):
    """An interface may be gone since the list was made."""
    tools, _forward, message, *_others = cabled._live(cabled.picture(), {}).children
    chosen, up, *_more = tools.children
    chosen.value = "host: veth-web"
    with Rtnetlink(cabled.targets["host"]) as ip:
        ip.delete_link("veth-web")
    up.click()

    assert "No such device" in message.value


@pytest.mark.needs_root
def test_static_form_has_the_picture_and_the_answers(cabled):
    """The book shows the same although no kernel runs there."""
    bundle = cabled._repr_mimebundle_()

    assert WIDGET_VIEW in bundle
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert "<code>5 &lt; 6</code>" in bundle["text/html"]
    assert bundle["text/plain"].endswith("web asks: 5 < 6.")


@pytest.mark.needs_root
def test_still_picture_shows_what_is_there_now(cabled):
    """A notebook draws the same machines again and again while it builds."""
    before = network_picture(cabled.targets).alt
    cabled.set_up("web", "eth0", True)

    assert "eth0 down" in before
    assert "eth0 down" not in network_picture(cabled.targets).alt
