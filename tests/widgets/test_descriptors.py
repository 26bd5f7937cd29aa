"""The picture of what points at what in a layout."""

from pathlib import Path

import pytest

from cnlab.containers.images.descriptor import Platform
from cnlab.containers.images.diff import diff
from cnlab.containers.images.image import multi_platform, new_image
from cnlab.containers.images.layout import Layout
from cnlab.widgets.descriptors import columns, draw_descriptors, edges_below


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two images that share their lowest layer, and an index of both."""
    layout = Layout.create(tmp_path / "layout")
    made = []
    for name in ("low", "high"):
        tree = tmp_path / name
        tree.mkdir()
        (tree / name).write_text(name)
        made.append(diff(None, tree, layout))
    base = new_image(layout, layers=made[:1], name="base")
    arm64 = Platform.parse("linux/arm64")
    shop = new_image(layout, layers=made, platform=arm64, name="shop")
    multi_platform(layout, [base, shop], name="both")
    return layout


def test_shared_layer_is_drawn_once(layout: Layout) -> None:
    """It is stored once."""
    edges = edges_below(layout, "base", "shop")
    layers = [edge.target for edge in edges if edge.target.kind == "layer"]

    assert len(layers) == 3
    assert len(set(layers)) == 2


def test_what_points_stands_left_of_what_it_points_at(layout: Layout) -> None:
    """Also where one name leads there by an index and another does not."""
    edges = edges_below(layout, "base", "both")
    places = columns(edges)

    assert [edge for edge in edges if places[edge.source][0] >= places[edge.target][0]] == []
    assert len(set(places.values())) == len(places)


def test_index_says_which_manifest_is_for_which_platform(layout: Layout) -> None:
    """This is what a client decides by."""
    platforms = [edge.platform for edge in edges_below(layout, "both") if edge.platform]

    assert platforms == [str(Platform.here()), "linux/arm64"]


def test_words_follow_the_arrows_and_name_what_is_shared(layout: Layout) -> None:
    """They are all that a screen reader has."""
    alt = draw_descriptors(layout, "base", "shop").alt
    shared = layout.manifest(layout.resolve("base"))["layers"][0]["digest"]

    assert alt.startswith("base points at manifest ")
    assert alt.endswith(f"Pointed at more than once: layer {shared[7:13]}.")
