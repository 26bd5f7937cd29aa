"""The layer explorer, on images that Podman and Docker made."""

import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from student import ROOT

from cnlab.containers.images.image import open_image
from cnlab.containers.images.layout import Layout
from cnlab.containers.images.snapshot import temporary_store
from cnlab.linux.mounts import read_mountinfo
from cnlab.widgets.layer_explorer import LayerExplorer, table_html
from cnlab.widgets.layer_story import read_layers, versions

IMAGES = ROOT / "labs" / "lab03-images" / "images.tar.gz"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The images of lab 3."""
    place = tmp_path_factory.mktemp("images")
    with tarfile.open(IMAGES) as archive:
        archive.extractall(place)
    return Layout(place / "images")


@pytest.fixture(params=["shop:2", "till:1"])
def explorer(layout: Layout, request: pytest.FixtureRequest) -> Iterator[LayerExplorer]:
    """An explorer of an image with whiteouts and opaque directories."""
    with temporary_store() as store:
        yield LayerExplorer(open_image(layout, request.param), store)


@pytest.mark.needs_root
def test_kernel_shows_what_the_entries_of_the_layers_promise(explorer: LayerExplorer) -> None:
    """The table is worked out from the archives; at every height overlayfs is the judge."""
    heights = range(len(explorer.layers) + 1)

    assert [explorer.expected(height) for height in heights] == [explorer.files(height) for height in heights]


@pytest.mark.needs_root
def test_slider_stacks_as_many_layers_as_it_says(explorer: LayerExplorer) -> None:
    """What the reader moves is what the kernel is asked about."""
    slider, table = explorer._live().children
    slider.value = 1

    assert f"the kernel shows {len(explorer.files(1))} files" in table.value


@pytest.mark.needs_root
def test_no_mount_is_left(explorer: LayerExplorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack is mounted for as long as its files are listed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where nobody else mounts anything
    explorer.files(2)

    assert [] == [mount for mount in read_mountinfo() if mount.mount_point.startswith(str(tmp_path))]


@pytest.mark.needs_root
def test_static_form_has_the_table_and_words(explorer: LayerExplorer) -> None:
    """The book has no kernel and no slider, and a terminal no table."""
    bundle = explorer._repr_mimebundle_()

    assert "<table" in bundle["text/html"]
    assert "Layer 2" in bundle["text/plain"]
    assert "deletes" in bundle["text/plain"]


def test_table_strikes_out_what_is_stored_and_not_seen(layout: Layout) -> None:
    """The bytes of a deleted file are in a column, and crossed out."""
    layers = read_layers(open_image(layout, "shop:1"))
    (row,) = re.findall(r"<tr><th[^>]*>etc/motd</th>(.*?)</tr>", table_html(layers, versions(layers), 3))
    lowest, whiteout, top = re.findall(r"<td[^>]*>.*?</td>", row)

    assert "line-through" in lowest
    assert "20 B" in lowest
    assert "✕ deleted" in whiteout
    assert "><" in top


def test_title_of_a_layer_is_what_made_it(layout: Layout) -> None:
    """Without the words that an engine puts around a command."""
    titles = [layer.title.split()[0] for layer in read_layers(open_image(layout, "shop:1"))]

    assert ["COPY", '["/mnt/busybox",', '["/mnt/busybox",'] == titles


def test_titles_of_a_table_are_escaped(layout: Layout) -> None:
    """A layer's title is text from a stranger."""
    layers = read_layers(open_image(layout, "shop:1"))
    page = table_html(layers, versions(layers), 3)

    assert "echo new &gt; " in page
    assert "echo new > " not in page
