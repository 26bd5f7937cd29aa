"""Who a workload is: SPIFFE IDs, and the X.509-SVID in which a certificate carries one.

A name that a network gives can be taken by others: whoever has the address is "reviews". A SPIFFE ID is given
by an authority instead, to the key that the workload holds; `cnlab.mesh.auth.authority` is ours. All here is
pure: texts and times in, verdicts out.

See: SPIFFE-ID.md and X509-SVID.md of the SPIFFE standards; RFC 5280, 4.2.1.6 (subject alternative name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from cnlab.errors import InvalidValue

TRUST_DOMAIN = "cluster.local"
NAMESPACE = "default"
_TRUST_DOMAIN_WORD = re.compile(r"[a-z0-9._-]+")
_SEGMENT_WORD = re.compile(r"[A-Za-z0-9._-]+")
_MAX_TRUST_DOMAIN_BYTES, _MAX_ID_BYTES = 255, 2048
_BOTH_SIDES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """``spiffe://cluster.local/ns/default/sa/reviews``: a trust domain and a path in it."""

    trust_domain: str
    path: str  # "" for the trust domain itself, else begins with "/"

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"

    @property
    def service(self) -> str:
        """The service account in Istio's path ``/ns/<namespace>/sa/<service account>``; else empty."""
        match self.path.split("/"):
            case ["", "ns", _, "sa", service]:
                return service
        return ""


@dataclass(frozen=True, slots=True)
class Svid:
    """A SPIFFE verifiable identity document: the certificate that says who, and the key that proves it."""

    spiffe_id: str
    certificate: str  # PEM, the leaf first
    private_key: str  # PEM, PKCS #8
    serial_number: int
    not_before: float  # seconds since the epoch
    not_after: float

    def __repr__(self) -> str:
        return f"Svid({self.spiffe_id}, serial number {self.serial_number:x}, without its key)"


def spiffe_id(service: str, *, namespace: str = NAMESPACE, trust_domain: str = TRUST_DOMAIN) -> str:
    """Return the identity of a service, with the path that Istio gives it."""
    for word in (namespace, service):
        if not _SEGMENT_WORD.fullmatch(word):
            raise InvalidValue(f"SPIFFE ID of service {service!r}: {word!r} cannot be a segment of its path")
    return str(parse_spiffe_id(f"spiffe://{trust_domain}/ns/{namespace}/sa/{service}"))


def service_of(principal: str) -> str:
    """Return the service that a SPIFFE ID names, or nothing where it is none of Istio's form."""
    try:
        return parse_spiffe_id(principal).service
    except InvalidValue:
        return ""


def parse_spiffe_id(text: str) -> SpiffeId:
    """Take a SPIFFE ID apart.

    Raises:
        InvalidValue: it breaks a rule of the standard; the message says which.
    """
    rest = text.removeprefix("spiffe://")
    if rest == text:
        raise InvalidValue(f"SPIFFE ID {text!r}: the scheme is not spiffe")
    trust_domain, slash, path = rest.partition("/")
    if not _TRUST_DOMAIN_WORD.fullmatch(trust_domain):
        raise InvalidValue(f"SPIFFE ID {text!r}: a trust domain has small letters, digits and . _ - only")
    if len(trust_domain) > _MAX_TRUST_DOMAIN_BYTES or len(text) > _MAX_ID_BYTES:
        raise InvalidValue(f"SPIFFE ID {text[:64]!r}…: it, or its trust domain, is too long")
    for segment in path.split("/") if slash else ():
        if not _SEGMENT_WORD.fullmatch(segment) or segment in {".", ".."}:
            raise InvalidValue(f"SPIFFE ID {text!r}: {segment!r} cannot be a segment of its path")
    return SpiffeId(trust_domain, slash + path)


def verify_svid(certificate: str, bundle: str, *, at: float) -> SpiffeId:
    """Say whose certificate this is, if one of the bundle's authorities says so, at the time `at`.

    What a proxy does when it sees a peer's certificate, and what the standard wants a leaf to be. Our chains
    have no intermediate authority.

    Args:
        certificate: the leaf, as PEM.
        bundle: the trusted authorities, as PEM.
        at: seconds since the epoch.

    Raises:
        InvalidValue: it is not valid; the message says why.

    See: X509-SVID.md, 4 (constraints and usage) and 5 (validation).
    """
    leaf = load_certificates(certificate)[0]
    _check_time(leaf, at)
    identity = identity_of(leaf)
    _check_usage(leaf)
    if not any(_is_issued_by(leaf, issuer, at) for issuer in load_certificates(bundle)):
        raise InvalidValue(f"certificate of {identity}: no authority in the bundle has signed it")
    return identity


def load_certificates(text: str) -> list[x509.Certificate]:
    """Read certificates in PEM; there must be one at least."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise InvalidValue(f"certificate: {error}") from None


def identity_of(leaf: x509.Certificate) -> SpiffeId:
    """Return the SPIFFE ID in a certificate: the only URI among its subject alternative names."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InvalidValue("certificate: no subject alternative name, so no SPIFFE ID") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidValue(f"certificate: {len(uris)} URIs are its names, an X.509-SVID has exactly one")
    return parse_spiffe_id(uris[0])


def _check_time(certificate: x509.Certificate, at: float) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at < begins.timestamp():
        raise InvalidValue(f"certificate: not valid before {begins:%Y-%m-%d %H:%M:%S} UTC")
    if at > ends.timestamp():
        raise InvalidValue(f"certificate: expired at {ends:%Y-%m-%d %H:%M:%S} UTC")


def _check_usage(leaf: x509.Certificate) -> None:
    """A leaf signs handshakes and nothing else."""
    extensions = {type(extension.value): extension for extension in leaf.extensions}
    constraints = extensions.get(x509.BasicConstraints)
    if constraints and constraints.value.ca:
        raise InvalidValue("certificate: a leaf must not be an authority (basic constraints: CA)")
    usage = extensions.get(x509.KeyUsage)
    if usage is None or not usage.critical or not usage.value.digital_signature:
        raise InvalidValue("certificate: key usage must be critical and hold digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise InvalidValue("certificate: key usage of a leaf must hold neither keyCertSign nor cRLSign")
    extended = extensions.get(x509.ExtendedKeyUsage)
    if extended and not set(extended.value) >= _BOTH_SIDES:
        raise InvalidValue("certificate: extended key usage must hold serverAuth and clientAuth")


def _is_issued_by(leaf: x509.Certificate, issuer: x509.Certificate, at: float) -> bool:
    begins, ends = issuer.not_valid_before_utc.timestamp(), issuer.not_valid_after_utc.timestamp()
    try:
        is_authority = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return is_authority and begins <= at <= ends
