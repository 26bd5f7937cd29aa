"""Applications that run for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cnlab.apps import Deployment, bookinfo
from cnlab.apps.launcher import ProcessLauncher


@pytest.fixture(scope="module")
def _shop() -> Iterator[Deployment]:
    with Deployment(bookinfo(4)) as shop:
        yield shop


@pytest.fixture
def shop(_shop: Deployment) -> Deployment:
    """The four services, well and with their counts at 0."""
    _shop.heal()
    return _shop


@pytest.fixture(scope="module")
def _mall() -> Iterator[Deployment]:
    with Deployment(bookinfo(12)) as mall:
        yield mall


@pytest.fixture
def mall(_mall: Deployment) -> Deployment:
    """The twelve services, well and with their counts at 0."""
    _mall.heal()
    return _mall


@pytest.fixture
def launcher() -> Iterator[ProcessLauncher]:
    """A launcher, and with it all that it started, of one test."""
    with ProcessLauncher() as launcher:
        yield launcher
