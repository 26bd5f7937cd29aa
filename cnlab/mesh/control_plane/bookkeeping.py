"""The control plane's own metrics: its parts count for themselves, here the counts become Istio's metrics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cnlab.mesh.observability.exposition import ControlPlaneMetrics

if TYPE_CHECKING:
    from cnlab.mesh.control_plane.server import ControlPlane


class Bookkeeping:
    """Hears what discovery does, and reads the other parts' counters when somebody asks."""

    def __init__(self) -> None:
        self.metrics = ControlPlaneMetrics()
        self._proxies: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._certificates: set[object] = set()

    def observe(self, event: str, about: str) -> None:
        """Take note of what `Discovery` does: `about` is a node or a type."""
        match event:
            case "connected" | "disconnected":
                self._proxies[about] += 1 if event == "connected" else -1
                self.metrics.connected(sum(1 for streams in self._proxies.values() if streams > 0))
            case "pushed":
                self.metrics.pushed(about)
            case "acked":
                self.metrics.acked(about)
            case "rejected":
                self.metrics.rejected(about)

    def issued(self, serial_number: object) -> None:
        """Take note of a certificate that a sidecar gets."""
        if serial_number not in self._certificates:
            self._certificates.add(serial_number)
            self.metrics.issued()

    def exposition(self, plane: ControlPlane, accept: str) -> tuple[str, str]:
        """Return the metrics as text, and its media type."""
        now = Counter({"reports": plane.access_log.received, "spans": plane.traces.received})
        for (_, word), count in plane.authorizer.counts.items():
            now["allowed" if word == "allow" else "denied"] += count
        fresh, self._before = now - self._before, now
        self.metrics.reported(fresh["reports"])
        self.metrics.traced(fresh["spans"])
        for word in ("allowed", "denied"):
            for _ in range(fresh[word]):
                self.metrics.checked(is_allowed=word == "allowed")
        return self.metrics.exposition(accept)
