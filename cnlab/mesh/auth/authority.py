"""The certificate authority of the mesh (Istio's Citadel): issues short-lived identities and renews them.

Its key lies in a private directory, so a control plane that was killed and started again is the same
authority and what it issued stays good. Nobody revokes anything: a stolen certificate is worthless soon,
which is why they are short-lived, and why renewing must cost nobody a request (`cnlab.mesh.auth.mtls`).

See: X509-SVID.md, 4; Istio, "Security", identity and certificate management.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.identity import TRUST_DOMAIN, Svid, load_certificates, parse_spiffe_id, spiffe_id

Now = Callable[[], float]
"""Tells the time: seconds since the epoch."""

ROOT_TTL_S = 365 * 24 * 3600.0
SVID_TTL_S = 3600.0
CLOCK_SKEW_S = 120.0
"""Certificates are valid a little earlier than they are made: clocks of machines differ."""
_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@dataclass(frozen=True, slots=True)
class _Root:
    key: ec.EllipticCurvePrivateKey
    certificates: tuple[x509.Certificate, ...]  # its own first, then older ones that are still trusted


class CertificateAuthority:
    """Signs SVIDs of one trust domain with a key that nobody else may read."""

    def __init__(self, path: Path, root: _Root, now: Now) -> None:
        self._path, self._root, self._now = path, root, now

    @classmethod
    def open(cls, directory: Path, *, now: Now = time.time) -> CertificateAuthority:
        """Open the authority whose key is in `directory` (mode 0700, the file in it 0600), or make it.

        Raises:
            PermissionError: others may read the key, so it is nobody's any more.
            InvalidValue: the file is damaged.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "authority.pem"
        if not path.exists():
            root = _make_root(now())
            _write_private(path, _root_text(root))
            return cls(path, root, now)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            error = PermissionError(1, f"open({path}): mode {mode:04o} lets others read the key")
            error.add_note(
                "Hint: remove the file; a new authority is made then, with new certificates for all"
            )
            raise error
        return cls(path, _parse_root(path), now)

    @property
    def bundle(self) -> str:
        """The certificates of all trusted authorities, in PEM; the one that signs is the first."""
        return "".join(_pem(certificate) for certificate in self._root.certificates)

    def issue(self, service: str, *, ttl_s: float = SVID_TTL_S, not_before: float | None = None) -> Svid:
        """Make a key and a certificate for a service.

        Args:
            service: becomes the last segment of the path of its SPIFFE ID.
            ttl_s: how long it is good, from now, in whole seconds; it ends with its root's at the latest.
            not_before: in seconds since the epoch, where it is not `CLOCK_SKEW_S` ago.
        """
        if ttl_s <= 0 and not_before is None:
            raise InvalidValue(f"certificate of {service!r}: a time to live of {ttl_s:g} s; take more than 0")
        issuer = self._root.certificates[0]
        now = self._now()
        if issuer.not_valid_after_utc.timestamp() <= now:
            raise InvalidValue(
                f"{self._path}: the authority's own certificate has expired; use rotate_root()"
            )
        begins = now - CLOCK_SKEW_S if not_before is None else not_before
        ends = min(now + ttl_s, issuer.not_valid_after_utc.timestamp())
        key, identity = ec.generate_private_key(ec.SECP256R1()), spiffe_id(service)
        certificate = _leaf(identity, key, begins, ends, issuer, self._root.key)
        return Svid(
            spiffe_id=identity,
            certificate=_pem(certificate),
            private_key=_key_text(key),
            serial_number=certificate.serial_number,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )

    def rotate_root(self) -> None:
        """Sign with a new key from now on; the old certificate stays in the bundle until it expires.

        Hand out the new `bundle` to everybody before the first certificate of the new key is used.
        """
        now = self._now()
        trusted = [old for old in self._root.certificates if old.not_valid_after_utc.timestamp() > now]
        new = _make_root(now)
        self._root = _Root(new.key, (*new.certificates, *trusted))
        _write_private(self._path, _root_text(self._root))


class Identities:
    """The certificate that each service presents now, renewed when a part of its life is over."""

    def __init__(
        self,
        authority: CertificateAuthority,
        *,
        ttl_s: float = SVID_TTL_S,
        renew_at: float = 0.5,
        now: Now = time.time,
    ) -> None:
        """Renew when `renew_at` of the time to live is over, so that a dead authority is noticed in time."""
        if not 0 < renew_at < 1:
            raise InvalidValue(f"renew_at={renew_at:g}: the part of a life is between 0 and 1")
        self._authority, self._ttl_s, self._renew_at, self._now = authority, ttl_s, renew_at, now
        self._svids: dict[str, tuple[float, Svid]] = {}  # by service, with the time to renew

    def svid(self, service: str) -> Svid:
        """Return the service's certificate; a new one if it has none, or one that is due."""
        if service not in self._svids or self._svids[service][0] <= self._now():
            self.rotate(service)
        return self._svids[service][1]

    def rotate(self, service: str | None = None) -> list[str]:
        """Issue new certificates now: for one service, or for all that have one. Return their names."""
        services = list(self._svids) if service is None else [service]
        for name in services:
            svid = self._authority.issue(name, ttl_s=self._ttl_s)
            self._svids[name] = (self._now() + self._ttl_s * self._renew_at, svid)
        return services

    def renew_due(self) -> list[str]:
        """Renew what is due, and return the services whose certificates changed."""
        due = [name for name, (renew_at, _) in self._svids.items() if renew_at <= self._now()]
        for name in due:
            self.rotate(name)
        return due

    def next_renewal(self) -> float | None:
        """Return when the next certificate will be due, in seconds since the epoch."""
        return min((renew_at for renew_at, _ in self._svids.values()), default=None)


def _make_root(now: float) -> _Root:
    """Return a key and its own certificate: an authority for one trust domain, and for leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, TRUST_DOMAIN)])
    usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
    # the authority has an identity too: the trust domain, without a path
    identity = str(parse_spiffe_id(f"spiffe://{TRUST_DOMAIN}"))
    builder = (
        _builder(key, now - CLOCK_SKEW_S, now + ROOT_TTL_S)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_name(identity), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _Root(key, (builder.sign(key, hashes.SHA256()),))


def _leaf(
    identity: str,
    key: ec.EllipticCurvePrivateKey,
    begins: float,
    ends: float,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """The name is critical, for the subject is empty: who does not understand it must refuse (RFC 5280)."""
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(key, begins, ends)
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .add_extension(_name(identity), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _name(identity: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])


def _builder(key: ec.EllipticCurvePrivateKey, begins: float, ends: float) -> x509.CertificateBuilder:
    def at(seconds: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)

    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at(begins))
        .not_valid_after(at(ends))
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _root_text(root: _Root) -> str:
    return _key_text(root.key) + "".join(_pem(certificate) for certificate in root.certificates)


def _parse_root(path: Path) -> _Root:
    text = path.read_text()
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
        certificates = load_certificates(text)
    except ValueError as error:
        raise InvalidValue(f"{path}: not the key of an authority and its certificate ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificates[0].public_key():
        raise InvalidValue(f"{path}: the key is not the one of the first certificate")
    return _Root(key, tuple(certificates))


def _write_private(path: Path, text: str) -> None:
    """Write, then rename: whoever reads it, or is killed here, has all of the old file or of the new one."""
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
