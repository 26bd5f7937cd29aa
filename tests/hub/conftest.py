"""A hub that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub.running_hub import Hub, running_hub, write_assignment


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with a teacher and two students."""
    with running_hub() as hub:
        write_assignment(hub)
        yield hub
