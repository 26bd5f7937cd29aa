"""A box for each test: a bundle with busybox, and no container left afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A bundle that a container can be made of."""
    box = Box(tmp_path)
    yield box
    box.close()
