"""The certificate authority: one that survives its process, and certificates that never run out unnoticed."""

import os
import stat

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.authority import CertificateAuthority, Identities
from cnlab.mesh.auth.identity import load_certificates, verify_svid


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Time:
    """A time of our own."""
    return Time()


@pytest.fixture
def authority(tmp_path, now) -> CertificateAuthority:
    """A new authority."""
    return CertificateAuthority.open(tmp_path / "private", now=now)


def test_opened_again_it_is_the_same_authority(tmp_path, now, authority):
    """A control plane that was killed must not make every certificate in the mesh worthless."""
    before = authority.issue("reviews")
    again = CertificateAuthority.open(tmp_path / "private", now=now)

    assert authority.bundle == again.bundle
    verify_svid(before.certificate, again.bundle, at=now())
    verify_svid(again.issue("reviews").certificate, authority.bundle, at=now())


def test_key_is_readable_by_its_owner_alone(tmp_path, authority):
    """Who reads it is every service of the mesh. This holds whatever the umask is."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "private").iterdir()}

    assert {"authority.pem": 0o600} == modes
    assert 0o700 == stat.S_IMODE((tmp_path / "private").stat().st_mode)


def test_umask_does_not_open_the_key(tmp_path):
    """Modes are given at the creation, not corrected afterwards."""
    old = os.umask(0)
    try:
        CertificateAuthority.open(tmp_path / "private")
    finally:
        os.umask(old)

    assert 0o600 == stat.S_IMODE((tmp_path / "private" / "authority.pem").stat().st_mode)


def test_key_that_others_could_read_is_refused(tmp_path, authority):
    """It may be in other hands already; ssh does the same."""
    (tmp_path / "private" / "authority.pem").chmod(0o644)

    with pytest.raises(PermissionError, match="mode 0644 lets others read the key") as refusal:
        CertificateAuthority.open(tmp_path / "private")
    assert refusal.value.__notes__[0].startswith("Hint: ")


@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: text[:200], lambda text: text.replace("A", "B")]
)
def test_damaged_key_is_refused_in_one_line(tmp_path, authority, damage):
    """A new authority in its place, without a word, would be a riddle to who looks for the reason."""
    path = tmp_path / "private" / "authority.pem"
    path.write_text(damage(path.read_text()))

    with pytest.raises(InvalidValue, match=r"authority\.pem: ") as refusal:
        CertificateAuthority.open(tmp_path / "private")
    assert "\n" not in str(refusal.value)


def test_key_of_another_is_refused(tmp_path, authority):
    """Certificates signed with it would lead to no root."""
    other = CertificateAuthority.open(tmp_path / "other")
    key = (tmp_path / "other" / "authority.pem").read_text().partition("-----BEGIN CERTIFICATE")[0]
    (tmp_path / "private" / "authority.pem").write_text(key + authority.bundle)

    assert other.bundle != authority.bundle
    with pytest.raises(InvalidValue, match="not the one of the first certificate"):
        CertificateAuthority.open(tmp_path / "private")


def test_certificate_is_short_lived(now, authority):
    """It is good from a little before now, for clocks differ, for as long as was asked."""
    svid = authority.issue("reviews", ttl_s=60)

    assert (now() - 120, now() + 60) == (svid.not_before, svid.not_after)


def test_certificate_does_not_outlive_its_root(now, authority):
    """It would look good and be refused."""
    root = load_certificates(authority.bundle)[0]
    svid = authority.issue("reviews", ttl_s=10 * 365 * 24 * 3600)

    assert root.not_valid_after_utc.timestamp() == svid.not_after


def test_time_to_live_must_be_positive(authority):
    """A certificate that is never good is a mistake of the caller."""
    with pytest.raises(InvalidValue, match="a time to live of 0 s"):
        authority.issue("reviews", ttl_s=0)


def test_key_is_not_shown_with_its_certificate(authority):
    """What is printed ends in a notebook, and that on a web page."""
    svid = authority.issue("reviews")

    assert "PRIVATE KEY" in svid.private_key
    assert "PRIVATE" not in repr(svid)


def test_no_two_certificates_share_key_or_serial_number(authority):
    """Of two with one key, revealing one reveals the other."""
    svids = [authority.issue("reviews") for _ in range(3)]

    assert 3 == len({svid.serial_number for svid in svids}) == len({svid.private_key for svid in svids})


def test_new_root_leaves_old_certificates_good(tmp_path, now, authority):
    """Whoever has the new bundle trusts both, so the authority can be replaced while the mesh runs."""
    old_bundle, old = authority.bundle, authority.issue("reviews")
    authority.rotate_root()
    new = authority.issue("reviews")

    verify_svid(old.certificate, authority.bundle, at=now())
    verify_svid(new.certificate, authority.bundle, at=now())
    with pytest.raises(InvalidValue, match="no authority in the bundle"):
        verify_svid(new.certificate, old_bundle, at=now())
    assert authority.bundle == CertificateAuthority.open(tmp_path / "private", now=now).bundle


def test_root_that_has_expired_issues_nothing(now, authority):
    """Its certificates would be refused by everybody, far from here."""
    now.seconds += 366 * 24 * 3600

    with pytest.raises(InvalidValue, match=r"own certificate has expired; use rotate_root\(\)"):
        authority.issue("reviews")


def test_root_that_has_expired_leaves_the_bundle(now, authority):
    """Else the bundle would grow for ever."""
    old = authority.bundle
    now.seconds += 366 * 24 * 3600
    authority.rotate_root()

    assert old not in authority.bundle
    assert 1 == len(load_certificates(authority.bundle))


def test_service_keeps_its_certificate_until_it_is_due(now, authority):
    """Asking for it changes nothing; half of its life later it is replaced, long before it ends."""
    identities = Identities(authority, ttl_s=60, renew_at=0.5, now=now)
    first = identities.svid("reviews")
    now.seconds += 29
    kept = identities.svid("reviews")
    now.seconds += 1
    second = identities.svid("reviews")

    assert first == kept
    assert first.serial_number != second.serial_number
    assert first.not_after > now()


def test_only_what_is_due_is_renewed(now, authority):
    """Each sidecar is told of its own certificate only."""
    identities = Identities(authority, ttl_s=60, renew_at=0.5, now=now)
    identities.svid("reviews")
    now.seconds += 20
    identities.svid("ratings")
    now.seconds += 10
    due_at = identities.next_renewal()

    assert now() == due_at
    assert ["reviews"] == identities.renew_due()
    assert [] == identities.renew_due()
    assert now() + 20 == identities.next_renewal()


def test_rotation_now_replaces_all_certificates(now, authority):
    """After a key was lost nobody waits for half of a life to be over."""
    identities = Identities(authority, now=now)
    before = {name: identities.svid(name).serial_number for name in ("reviews", "ratings")}
    rotated = identities.rotate()
    after = {name: identities.svid(name).serial_number for name in before}

    assert ["reviews", "ratings"] == rotated
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize("renew_at", [0, 1, -1, 2])
def test_renewal_must_come_within_the_life(authority, renew_at):
    """At 1 it would come when the certificate has ended."""
    with pytest.raises(InvalidValue, match="renew_at"):
        Identities(authority, renew_at=renew_at)
