"""What the control plane knows, asked over HTTP and read back into what it was.

Each function imports what it returns: those modules are for who asks, not for who only routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnlab.mesh.control_plane.remote import RemoteControlPlane
    from cnlab.mesh.mixer.telemetry import Record
    from cnlab.mesh.mixer.traces import Trace
    from cnlab.mesh.pilot.subscription import Ack


def acks(control_plane: RemoteControlPlane) -> list[Ack]:
    """Return what sidecars have answered: ACKs and NACKs, oldest first."""
    from cnlab.mesh.pilot.subscription import Ack

    answers = control_plane.ask("GET", "/acks")
    return [Ack(**{**one, "resources": tuple(one["resources"])}) for one in answers]


def access_log(control_plane: RemoteControlPlane, since: float) -> list[Record]:
    """Return the requests that sidecars have reported since a time in seconds since the epoch."""
    from cnlab.mesh.mixer.telemetry import Record

    answer = control_plane.ask("GET", "/accesslog", since=since)
    return [Record.from_dict(one) for one in answer["records"]]


def traces(control_plane: RemoteControlPlane) -> list[Trace]:
    """Return the traces that are remembered, oldest first."""
    from cnlab.mesh.mixer.traces import Trace

    return [Trace.from_dict(one) for one in control_plane.ask("GET", "/traces")]
