"""What can go wrong with a container, apart from the kernel saying no.

CnlabError
├── InvalidValue
│   └── InvalidConfig    config.json asks for what no runtime, or not this one, can do
├── NoSuchContainer      nobody has created it, or somebody has deleted it
├── ContainerExists      its id is taken
├── WrongStatus          the operation does not fit what the container is doing
└── HookFailed           a hook ended with an error, or too late
"""

from __future__ import annotations

from cnlab.errors import CnlabError, InvalidValue


def warn(message: str) -> None:
    """Say what could not be done as asked; what the operations do unless told otherwise."""
    import warnings

    warnings.warn(message, stacklevel=3)


class InvalidConfig(InvalidValue):
    """The bundle's ``config.json`` is not what the runtime specification asks for; says which property."""


class NoSuchContainer(CnlabError):  # noqa: N818 - reads as the claim it makes
    """There is no container of that id below this root."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} does not exist")


class ContainerExists(CnlabError):  # noqa: N818
    """There is a container of that id already."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} exists: delete it, or choose another id")


class WrongStatus(CnlabError):  # noqa: N818
    """The container is not in a status in which this can be done."""


class HookFailed(CnlabError):  # noqa: N818
    """A hook of the container did not do its work; the message has what it said."""
