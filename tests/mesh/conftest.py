"""A mesh for all tests of a file, which each finds as it was at first; and an application without one."""

from collections.abc import Iterator

import pytest
from apps.conftest import _shop, shop

from cnlab.apps import bookinfo
from cnlab.mesh import Mesh

__all__ = ["_shop", "mesh", "running", "shop"]


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    """One mesh for all tests of a file: it takes a second to start."""
    with Mesh(bookinfo()) as mesh:
        yield mesh


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh as it was at first: each test's own settings are taken back."""
    before = running.configuration
    yield running
    running.heal()
    running._desired.change("as before", before)
