"""The images that lab 3 hands out are what the engines made, and can be made again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerd import private_dockerd
from labs.course import source_of
from student import ROOT

from cnlab.containers.images.image import images
from cnlab.containers.images.layer import chain_ids, read_entries
from cnlab.containers.images.layout import Layout

ARCHIVE = ROOT / "labs" / "lab03-images" / "images.tar.gz"
RECIPE = ROOT / "tests" / "labs" / "make_lab03_images.sh"

Listing = dict[str, list[list[tuple[object, ...]]]]


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the archive."""
    place = tmp_path_factory.mktemp("handed-out")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place)
    return place


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """What the recipe makes now, and what it prints."""
    place = tmp_path_factory.mktemp("made-again")
    with private_dockerd() as engine:
        environment = {**os.environ, "DOCKER_HOST": engine.address}
        done = subprocess.run(
            ["sh", RECIPE, place], env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        yield place, done.stdout


def layers_of(layout: Layout) -> Listing:
    """What each layer of each image holds, without times: those of Docker are of the moment."""
    found: Listing = {}
    for name, image in images(layout):
        entries = []
        for layer in image.layers:
            with layout.open_blob(layer.descriptor) as blob:
                entries.append(
                    [(e.path, e.kind, e.mode, e.uid, e.gid, e.size, e.target) for e in read_entries(blob)]
                )
        found[f"{name} {image.platform}"] = [sorted(layer) for layer in entries]
    return found


@pytest.mark.parametrize("name", ["shop:1", "shop:2", "tool:1", "till:1"])
def test_skopeo_copies_each_image(handed_out: Path, tmp_path: Path, name: str) -> None:
    """It checks every digest and size on its way, and is none of ours."""
    source, target = f"oci:{handed_out}/images:{name}", f"dir:{tmp_path}/copy"

    subprocess.run(["skopeo", "copy", "--quiet", "--all", source, target], check=True)


def test_lab_knows_the_archive_by_its_digest() -> None:
    """A student's code can write beside the notebook, and the checks compare with what is in there."""
    sources = "".join(cell.source for cell in source_of("lab03-images").cells)

    assert f'DIGEST = "{hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()}"' in sources


@pytest.mark.needs_root
@pytest.mark.slow
def test_recipe_makes_the_same_layers_again(handed_out: Path, made_again: tuple[Path, str]) -> None:
    """The archive has one source."""
    place, _ = made_again

    assert layers_of(Layout(handed_out / "images")) == layers_of(Layout(place / "images"))


@pytest.mark.needs_root
@pytest.mark.slow
def test_docker_calls_its_layers_by_their_chain_ids(made_again: tuple[Path, str]) -> None:
    """Task 3 says so, and shows names that Docker gave."""
    place, printed = made_again
    (till,) = [image for name, image in images(Layout(place / "images")) if name == "till:1"]
    expected = {chain_id.removeprefix("sha256:") for chain_id in chain_ids(till.diff_ids)}

    assert expected <= set(printed.split())
