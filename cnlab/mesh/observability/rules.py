"""Rules for Prometheus about a mesh: the golden signals recorded, and two alerts.

`golden_rules` is plain data, the content of a rule file; `cnlab.mesh.observability.promtool` checks and tests
it.

See: Prometheus, "Recording rules", "Alerting rules"; the naming is its "level:metric:operations".
"""

from typing import Any

_RECEIVED = 'envoy_http_conn_manager_prefix="inbound"'
_SERVER_ERROR = 'envoy_response_code_class="5"'


def requests_rate(window: str) -> str:
    """Return the query for requests a second of each service (traffic)."""
    return f"sum by (service) (rate(envoy_http_downstream_rq_xx{{{_RECEIVED}}}[{window}]))"


def errors_rate(window: str) -> str:
    """Return the query for answers of class 5xx a second of each service that has any (errors)."""
    return f"sum by (service) (rate(envoy_http_downstream_rq_xx{{{_RECEIVED},{_SERVER_ERROR}}}[{window}]))"


def latency_quantile(q: float, window: str) -> str:
    """Return the query for the latency, in milliseconds, below which the share `q` of requests stayed."""
    buckets = f"rate(envoy_http_downstream_rq_time_bucket{{{_RECEIVED}}}[{window}])"
    return f"histogram_quantile({q:g}, sum by (service, le) ({buckets}))"


def in_flight() -> str:
    """Return the query for the requests that each service has received and not answered (saturation)."""
    return f"sum by (service) (envoy_http_downstream_rq_active{{{_RECEIVED}}})"


def edge_rate(window: str) -> str:
    """Return the query for requests a second from each service to each cluster, as the callers count them."""
    name = '{envoy_cluster_name=~"outbound.+"}'
    return f"sum by (service, envoy_cluster_name) (rate(envoy_cluster_upstream_rq_xx{name}[{window}]))"


def golden_queries(window: str) -> dict[str, str]:
    """Return the queries of the four golden signals, each with what a chart calls it."""
    return {
        "traffic: requests a second": requests_rate(window),
        "errors: 5xx a second": errors_rate(window),
        "latency: ms, 99th percentile": latency_quantile(0.99, window),
        "saturation: requests in flight": in_flight(),
    }


def golden_rules(*, window: str = "5s", errors: float = 0.05, hold: str = "1s") -> dict[str, Any]:
    """Return recording rules for the four golden signals, and alerts.

    Args:
        window: the stretch of time that a rate looks at; at least two scrapes.
        errors: the share of errors above which a service is in alarm.
        hold: how long it must last before the alert fires.
    """
    ratio = f"service:errors:rate{window} / service:requests:rate{window}"
    return {
        "groups": [
            {
                "name": "golden-signals",
                "rules": [
                    {"record": f"service:requests:rate{window}", "expr": requests_rate(window)},
                    {"record": f"service:errors:rate{window}", "expr": errors_rate(window)},
                    {"record": f"service:errors:ratio_rate{window}", "expr": ratio},
                    {"record": "service:latency_ms:p99", "expr": latency_quantile(0.99, window)},
                    {"record": "service:in_flight:sum", "expr": in_flight()},
                ],
            },
            {
                "name": "alerts",
                "rules": [
                    {
                        "alert": "TooManyErrors",
                        "expr": f"service:errors:ratio_rate{window} > {errors:g}",
                        "for": hold,
                        "labels": {"severity": "page"},
                        "annotations": {
                            "summary": "{{ $labels.service }} answers "
                            "{{ $value | humanizePercentage }} of its requests with 5xx"
                        },
                    },
                    {
                        "alert": "SidecarDown",
                        "expr": 'up{job="sidecars"} == 0',
                        "for": hold,
                        "annotations": {"summary": "the sidecar of {{ $labels.pod }} does not answer"},
                    },
                ],
            },
        ]
    }
