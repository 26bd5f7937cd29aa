"""Mutual TLS, as Envoy's documentation writes it: secrets for SDS, and who must show which certificate.

Two secrets go to each sidecar, under the names that Istio gives them: ``default``, its own certificate and
key, and ``ROOTCA``, the authorities it trusts. Listeners and clusters only name them, so that a new
certificate changes neither: connections that stand stay, new ones show the new certificate.

Modes of a listener, in the words of Istio's PeerAuthentication: ``strict`` takes TLS with a client
certificate of the trust domain and nothing else; ``permissive`` takes that and plain text too, told apart by
the first bytes; ``disable`` takes plain text. The caller checks in its turn that the callee is who it meant.

See: Envoy, "Secret discovery service", "TLS", and ``transport_sockets/tls/v3`` in the API reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.identity import TRUST_DOMAIN, Svid, spiffe_id
from cnlab.mesh.pilot.resources import Json, extension, tls_certificate, validation_context

Mode = Literal["strict", "permissive", "disable"]
MODES: tuple[Mode, ...] = ("strict", "permissive", "disable")
CERTIFICATE, TRUSTED = "default", "ROOTCA"
"""Names of the two secrets of each sidecar."""
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"


def sds_secrets(svid: Svid, bundle: str) -> list[Json]:
    """Return what a sidecar gets by SDS: its own certificate with the key, and whom it trusts."""
    return [
        tls_certificate(CERTIFICATE, svid.certificate, svid.private_key),
        validation_context(TRUSTED, bundle),
    ]


def upstream_tls(services: Iterable[str], sds_config: Json) -> Json:
    """Return the transport socket of a cluster: show our certificate, accept only those of `services`.

    There is no ALPN: an upstream that speaks HTTP/1.1 must not be promised HTTP/2.
    """
    accepted = [{"exact": spiffe_id(service)} for service in services]
    if not accepted:
        raise InvalidValue("upstream TLS: no service given; then any certificate of the mesh would do")
    return extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        common_tls_context=_common_tls_context(accepted, sds_config),
    )


def downstream_tls(sds_config: Json) -> Json:
    """Return the transport socket of a listener: a client certificate of the trust domain must be shown.

    Which service may do what is decided by policies.
    """
    everybody = [{"prefix": f"spiffe://{TRUST_DOMAIN}/"}]
    return extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=_common_tls_context(everybody, sds_config),
    )


def inbound_filter_chains(mode: Mode, filters: Sequence[Json], sds_config: Json) -> list[Json]:
    """Return the filter chains of a sidecar's inbound listener; the same `filters` in each."""
    plain: Json = {"name": "plain", "filters": list(filters)}
    secured: Json = {"name": "mtls", "filters": list(filters), "transport_socket": downstream_tls(sds_config)}
    match check_mode(mode):
        case "disable":
            return [plain]
        case "strict":
            return [secured]
    return [
        {**secured, "filter_chain_match": {"transport_protocol": "tls"}},
        {**plain, "filter_chain_match": {"transport_protocol": "raw_buffer"}},
    ]


def inbound_listener_filters(mode: Mode) -> list[Json]:
    """Return what looks at the first bytes, where a listener must tell TLS from plain text."""
    if check_mode(mode) != "permissive":
        return []
    return [extension("envoy.filters.listener.tls_inspector", _TLS_INSPECTOR)]


def check_mode(mode: str) -> Mode:
    """Return the mode if it is one; Istio writes them in capitals."""
    for known in MODES:
        if mode.lower() == known:
            return known
    raise InvalidValue(f"mTLS mode {mode!r}: the modes are {', '.join(MODES)}")


def _common_tls_context(accepted: list[Json], sds_config: Json) -> Json:
    """Name both secrets; the names that a peer may have are joined to the roots that SDS brings."""
    matchers = [{"san_type": "URI", "matcher": matcher} for matcher in accepted]
    return {
        "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": sds_config}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": matchers},
            "validation_context_sds_secret_config": {"name": TRUSTED, "sds_config": sds_config},
        },
    }
