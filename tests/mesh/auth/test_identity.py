"""SPIFFE IDs and X.509-SVIDs by the letter of their standards; OpenSSL is the second opinion."""

import datetime
import inspect
import shutil
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.authority import CertificateAuthority
from cnlab.mesh.auth.identity import SpiffeId, parse_spiffe_id, service_of, spiffe_id, verify_svid

NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC).timestamp()
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"
NO_USAGE = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
SIGNS = x509.KeyUsage(**{**NO_USAGE, "digital_signature": True})
BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


class Root:
    """A certificate authority that signs whatever it is told to."""

    def __init__(self, *, is_authority: bool = True) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        constraints = x509.BasicConstraints(is_authority, None)
        self.bundle = self._sign(self.key, self.name, [(constraints, True)])

    def sign(self, *uris: str, usage=(SIGNS, True), purposes=BOTH, is_authority=False, hours=1) -> str:
        """Return a leaf with these names."""
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        extensions = [
            (x509.BasicConstraints(is_authority, None), True),
            *([(x509.SubjectAlternativeName(names), True)] if names else []),
            *([usage] if usage else []),
            *([(purposes, False)] if purposes else []),
        ]
        return self._sign(ec.generate_private_key(ec.SECP256R1()), x509.Name([]), extensions, hours)

    def _sign(self, key, subject, extensions, hours=24) -> str:
        noon = datetime.datetime.fromtimestamp(NOON, datetime.UTC)
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self.name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(noon - datetime.timedelta(hours=1))
            .not_valid_after(noon + datetime.timedelta(hours=hours))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def root() -> Root:
    """Another's authority: ours makes nothing that is wrong."""
    return Root()


def test_identity_of_a_service_has_the_path_that_istio_gives_it():
    """What is written in a policy here is written so in Istio."""
    assert REVIEWS == spiffe_id("reviews")
    assert SpiffeId("cluster.local", "/ns/default/sa/reviews") == parse_spiffe_id(REVIEWS)
    assert "reviews" == parse_spiffe_id(REVIEWS).service


@pytest.mark.parametrize("text", ["spiffe://example.org", "spiffe://td/a/b", "spiffe://a-b_c.d/A.b-_1"])
def test_identity_of_another_form_is_one_all_the_same(text):
    """The standard leaves the path to each trust domain."""
    assert text == str(parse_spiffe_id(text))
    assert "" == service_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "reviews",
        "https://cluster.local/x",
        "SPIFFE://cluster.local/x",
        "spiffe://",
        "spiffe:///x",
        "spiffe://Cluster.local/x",
        "spiffe://cluster.local:80/x",
        "spiffe://user@cluster.local/x",
        "spiffe://cluster.local/",
        "spiffe://cluster.local/x/",
        "spiffe://cluster.local//x",
        "spiffe://cluster.local/./x",
        "spiffe://cluster.local/x/../y",
        "spiffe://cluster.local/x?y",
        "spiffe://cluster.local/x#y",
        "spiffe://cluster.local/x%2fy",
        "spiffe://cluster.local/x y",
        f"spiffe://{'a' * 256}/x",
        f"spiffe://cluster.local/{'a' * 2048}",
    ],
)
def test_text_that_breaks_a_rule_of_the_standard_is_no_identity(text):
    """Two readers that take it differently would let in whom the other keeps out."""
    with pytest.raises(InvalidValue, match="SPIFFE ID"):
        parse_spiffe_id(text)
    assert "" == service_of(text)


@pytest.mark.parametrize("service", ["", "a/b", "..", "ratings ", "ratings\n"])
def test_name_of_a_service_cannot_leave_its_segment(service):
    """A service called "x/../admin" must not become another."""
    with pytest.raises(InvalidValue):
        spiffe_id(service)


def test_certificate_of_our_authority_is_an_svid(tmp_path):
    """What we issue passes what we ask of others."""
    authority = CertificateAuthority.open(tmp_path, now=lambda: NOON)

    assert REVIEWS == str(verify_svid(authority.issue("reviews").certificate, authority.bundle, at=NOON))


def test_certificate_of_another_authority_may_be_an_svid(root):
    """The rules are the standard's, not ours."""
    assert REVIEWS == str(verify_svid(root.sign(REVIEWS), root.bundle, at=NOON))
    assert REVIEWS == str(verify_svid(root.sign(REVIEWS, purposes=None), root.bundle, at=NOON))


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("no subject alternative name", lambda root: root.sign()),
        ("2 URIs", lambda root: root.sign(REVIEWS, "spiffe://cluster.local/ns/default/sa/admin")),
        ("the scheme is not spiffe", lambda root: root.sign("https://reviews")),
        ("must not be an authority", lambda root: root.sign(REVIEWS, is_authority=True)),
        ("key usage must be critical", lambda root: root.sign(REVIEWS, usage=None)),
        ("key usage must be critical", lambda root: root.sign(REVIEWS, usage=(SIGNS, False))),
        (
            "neither keyCertSign nor cRLSign",
            lambda root: root.sign(
                REVIEWS,
                usage=(x509.KeyUsage(**{**NO_USAGE, "digital_signature": True, "key_cert_sign": True}), True),
            ),
        ),
        (
            "serverAuth and clientAuth",
            lambda root: root.sign(
                REVIEWS, purposes=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            ),
        ),
        ("no authority in the bundle", lambda root: Root().sign(REVIEWS)),
        ("certificate: ", lambda root: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ],
)
def test_certificate_that_breaks_a_rule_is_refused_and_told_why(root, words, make):
    """Each rule of the standard keeps out one way to be somebody else."""
    with pytest.raises(InvalidValue, match=words):
        verify_svid(make(root), root.bundle, at=NOON)


def test_signature_of_a_certificate_that_is_no_authority_is_worth_nothing():
    """Else every service could issue identities for all others with its own certificate."""
    impostor = Root(is_authority=False)

    with pytest.raises(InvalidValue, match="no authority in the bundle"):
        verify_svid(impostor.sign(REVIEWS), impostor.bundle, at=NOON)


def test_certificate_is_good_only_in_its_time(root):
    """A certificate of one hour is a secret of one hour."""
    certificate = root.sign(REVIEWS, hours=1)

    verify_svid(certificate, root.bundle, at=NOON + 3600)
    with pytest.raises(InvalidValue, match="expired at 2026-11-23 13:00:00 UTC"):
        verify_svid(certificate, root.bundle, at=NOON + 3601)
    with pytest.raises(InvalidValue, match="not valid before 2026-11-23 11:00:00 UTC"):
        verify_svid(certificate, root.bundle, at=NOON - 3601)


def test_certificate_ends_with_its_authority(root):
    """A leaf outlives its issuer on paper only."""
    certificate = root.sign(REVIEWS, hours=48)

    with pytest.raises(InvalidValue, match="no authority in the bundle"):
        verify_svid(certificate, root.bundle, at=NOON + 25 * 3600)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine lacks openssl")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_accepts_our_certificates_for_both_sides(tmp_path, purpose):
    """Another implementation has read the same RFC."""
    authority = CertificateAuthority.open(tmp_path / "private")
    (tmp_path / "leaf.pem").write_text(authority.issue("reviews").certificate)
    (tmp_path / "bundle.pem").write_text(authority.bundle)
    verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "bundle.pem", "leaf.pem"]
    said = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (0, "leaf.pem: OK\n", "") == (said.returncode, said.stdout, said.stderr)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine lacks openssl")
def test_openssl_reads_the_identity_as_a_critical_name(tmp_path):
    """The subject is empty, so who does not understand the name must not go on."""
    leaf = CertificateAuthority.open(tmp_path).issue("reviews").certificate
    show = ["openssl", "x509", "-noout", "-ext", "subjectAltName,keyUsage,extendedKeyUsage,basicConstraints"]
    said = subprocess.run(show, input=leaf, capture_output=True, text=True, check=True).stdout

    assert f"X509v3 Subject Alternative Name: critical\n    URI:{REVIEWS}\n" in said
    assert "X509v3 Key Usage: critical\n    Digital Signature\n" in said
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in said
    assert "CA:FALSE" in said
