"""What our own control plane counts, told in OpenMetrics by the library that the field uses.

    metrics = ControlPlaneMetrics()
    metrics.pushed("CDS")
    body, content_type = metrics.exposition(request.headers["Accept"])

The names are Istio's where Istio counts the same (``pilot_…``, ``citadel_…``), with units and suffixes as
OpenMetrics wants them. `check_openmetrics` is the judge.

See: OpenMetrics 1.0; Istio, "pilot-discovery", exported metrics; Python package prometheus-client.
"""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cnlab.errors import InvalidValue

OPENMETRICS = "application/openmetrics-text"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class ControlPlaneMetrics:
    """The counters of one control plane; a new one begins at zero, as a restarted process does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._connected = Gauge("pilot_xds", "Proxies connected by xDS.", registry=self.registry)
        self._pushes = self._counter("pilot_xds_pushes", "Updates sent to proxies.", "type")
        self._acks = self._counter("pilot_xds_acks", "Updates that a proxy accepted.", "type")
        self._rejects = self._counter("pilot_total_xds_rejects", "Updates that a proxy refused.", "type")
        self._convergence = Histogram(
            "pilot_proxy_convergence_time",
            "From a change of configuration to the last proxy's answer.",
            unit="seconds",
            buckets=_SECONDS,
            registry=self.registry,
        )
        issued = "citadel_server_success_cert_issuance_count"
        self._issued = self._counter(issued, "Certificates issued.")
        self._checks = self._counter("mixer_checks", "Requests that a policy decided about.", "decision")
        self._reports = self._counter("mixer_reports", "Access log entries received.")
        self._spans = self._counter("mixer_spans", "Spans received.")

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def connected(self, proxies: int) -> None:
        """Say how many proxies are connected now."""
        self._connected.set(proxies)

    def pushed(self, type_name: str) -> None:
        """Count an update sent; `type_name` is CDS, EDS, LDS, RDS or SDS."""
        self._pushes.labels(type_name.lower()).inc()

    def acked(self, type_name: str) -> None:
        """Count an update that a proxy accepted."""
        self._acks.labels(type_name.lower()).inc()

    def rejected(self, type_name: str) -> None:
        """Count an update that a proxy refused."""
        self._rejects.labels(type_name.lower()).inc()

    def converged(self, seconds: float) -> None:
        """Observe how long a change took until the last proxy had answered."""
        self._convergence.observe(seconds)

    def issued(self, certificates: int = 1) -> None:
        """Count certificates issued."""
        self._issued.inc(certificates)

    def checked(self, *, is_allowed: bool) -> None:
        """Count a decision of a policy."""
        self._checks.labels("allow" if is_allowed else "deny").inc()

    def reported(self, entries: int = 1) -> None:
        """Count access log entries received."""
        self._reports.inc(entries)

    def traced(self, spans: int = 1) -> None:
        """Count spans received."""
        self._spans.inc(spans)

    def exposition(self, accept: str = OPENMETRICS) -> tuple[str, str]:
        """Return the text and its media type, for the answer to ``GET /metrics``.

        Args:
            accept: the request's header; who does not name OpenMetrics gets Prometheus' older text format.
        """
        if OPENMETRICS not in accept:
            return prometheus_client.generate_latest(self.registry).decode(), TEXT
        text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text.decode(), openmetrics.CONTENT_TYPE_LATEST


def check_openmetrics(text: str) -> list[str]:
    """Return the names of the metric families in an OpenMetrics text.

    Raises:
        InvalidValue: the text breaks a rule of OpenMetrics; the message has the parser's words.
    """
    try:
        families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InvalidValue(f"not OpenMetrics: {error}") from None
    return [family.name for family in families]
