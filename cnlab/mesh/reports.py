"""What a mesh tells of itself: who has accepted what, and what its sidecars have reported.

Each method imports what it returns: those modules are for who asks, not for who only routes.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from http.client import HTTPException
from typing import TYPE_CHECKING

from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.data_plane.fleet import Fleet
from cnlab.mesh.errors import ControlPlaneDown, ProgramEnded

if TYPE_CHECKING:
    from cnlab.mesh.mixer.telemetry import Record
    from cnlab.mesh.mixer.traces import Trace
    from cnlab.mesh.observability.metrics import Edge, Signals
    from cnlab.mesh.pilot.subscription import Ack


class Reports:
    """The part of a `Mesh` that answers questions about what went on."""

    control_plane: RemoteControlPlane
    _fleet: Fleet

    @property
    def acks(self) -> list[Ack]:
        """What sidecars have answered: ACKs and NACKs, oldest first."""
        from cnlab.mesh.pilot.subscription import Ack

        answers = self.control_plane.ask("GET", "/acks")
        return [Ack(**{**one, "resources": tuple(one["resources"])}) for one in answers]

    @property
    def nacks(self) -> list[Ack]:
        """The refusals among them."""
        return [one for one in self.acks if one.error]

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """What each node has accepted last, by type; what was known last, if the control plane is gone."""
        with contextlib.suppress(ControlPlaneDown):
            self.control_plane.status()
        return self.control_plane.versions

    def access_log(self, since: float = 0) -> list[Record]:
        """Return the requests that sidecars have reported since a time in seconds since the epoch."""
        from cnlab.mesh.mixer.telemetry import Record

        answer = self.control_plane.ask("GET", "/accesslog", since=since)
        return [Record.from_dict(one) for one in answer["records"]]

    def traces(self) -> list[Trace]:
        """Return the traces that are remembered, oldest first."""
        from cnlab.mesh.mixer.traces import Trace

        return [Trace.from_dict(one) for one in self.control_plane.ask("GET", "/traces")]

    def golden_signals(self, window_s: float | None = None) -> dict[str, Signals]:
        """Return traffic, errors, latency and saturation of each service, as sidecars have reported.

        Args:
            window_s: how far to look back; without it, as far as the access log goes. Saturation is of now.
        """
        from cnlab.mesh.mixer import telemetry

        records = self._records_of_last(window_s)
        return telemetry.golden_signals(records, window_s=window_s, saturation=self._in_flight())

    def edges(self, window_s: float | None = None) -> list[Edge]:
        """Return who has called whom, how often, and with what success; `window_s` as above."""
        from cnlab.mesh.mixer import telemetry

        return telemetry.edges(self._records_of_last(window_s), window_s=window_s)

    def _records_of_last(self, window_s: float | None) -> list[Record]:
        return self.access_log(since=0 if window_s is None else time.time() - window_s)

    def _in_flight(self) -> Counter[str]:
        """Return how many requests each service has received and not answered, as its sidecars count."""
        waiting: Counter[str] = Counter()
        for instance in self._fleet.instances:
            with contextlib.suppress(ProgramEnded, OSError, HTTPException):  # it is not there to be asked
                stats = instance.sidecar.stats(r"^http\.inbound\.downstream_rq_active$")
                waiting[instance.service] += sum(stats.values())
        return waiting
