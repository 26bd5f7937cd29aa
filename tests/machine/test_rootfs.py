"""Which part of the host the guest is shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cnlab
from cnlab.errors import MachineError
from cnlab.machine.rootfs import HostView, host_view


@pytest.mark.parametrize("place", ["/", "/etc", "/usr", "/tmp", "/home"])
def test_a_system_directory_is_refused_as_notebook_directory(place: str) -> None:
    """Work is the one place that guest root may write on the host."""
    with pytest.raises(MachineError, match=f"notebook's directory is {place}:"):
        host_view(Path(place))


def test_the_view_holds_the_system_the_environment_and_this_package_only(tmp_path: Path) -> None:
    """The checkout may hold an instructor's gradebook: of it the guest sees the package."""
    view = host_view(tmp_path)
    package = Path(cnlab.__file__).parent

    def shown(path: Path) -> bool:
        return any(path.resolve().is_relative_to(place) for place in view.overlays)

    assert shown(Path(sys.prefix))
    assert shown(Path(sys.base_prefix))
    assert shown(package)
    assert not shown(package.parent / "pyproject.toml")
    assert not shown(Path.home())
    assert view.work == str(tmp_path)


def test_packages_unpacked_without_root_lie_over_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt/usr").mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert host_view(tmp_path).overlays["/usr"] == [str(tmp_path / "apt/usr"), "/usr"]


def test_the_view_survives_the_way_to_the_guest(tmp_path: Path) -> None:
    view = host_view(tmp_path)

    assert HostView.from_json(view.to_json()) == view
