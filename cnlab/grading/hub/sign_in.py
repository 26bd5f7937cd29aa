"""Who signs in by OAuth or LTI 1.3, and which user of this machine that is.

The hub starts a server as the system user of that name, so a name from elsewhere must never be one that means
something here. `system_name` takes addresses of one domain only and makes of no two of them the same user;
`refuse_system_account` lets nobody work as the system itself, whoever vouches for it. That an address is its
user's, only who signs it can know: the claim must be one that users cannot edit.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Mapping
from typing import Any

from jupyterhub.auth import LocalAuthenticator
from ltiauthenticator.lti13.auth import LTI13Authenticator  # type: ignore[import-untyped]
from oauthenticator.generic import GenericOAuthenticator  # type: ignore[import-untyped]
from traitlets import Unicode

from cnlab.errors import InvalidValue

_FIRST_UID = 1000  # UID_MIN of login.defs(5): below are accounts of the system
_NOBODY = 65534
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_AMBIGUOUS = re.compile(r"\.[.-]|-\.")


def system_name(address: str, domain: str) -> str:
    """Return the system user of an address such as ``Ada.Lovelace@uni.example``: ``ada-lovelace``.

    A hyphen becomes two, for ``ada-lovelace@uni.example`` is somebody else.

    Raises:
        InvalidValue: the address is of another domain, or no user name can be made of it.
    """
    local, _, its_domain = address.lower().rpartition("@")
    if its_domain != domain.lower() or not address.isascii():  # "\u212a".lower() == "k"
        raise InvalidValue(f"{address!r}: expected an address of {domain}; another's ada is not our ada")
    name = local.replace("-", "--").replace(".", "-")
    if not _NAME.fullmatch(name) or _AMBIGUOUS.search(local):
        raise InvalidValue(f"{address!r}: no name of a system user; expected letters, digits, '.', '-', '_'")
    return name


def refuse_system_account(name: str) -> None:
    """Go on unless `name` is an account of the system itself.

    Raises:
        InvalidValue: it is, such as root.
    """
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    if uid < _FIRST_UID or uid == _NOBODY:
        raise InvalidValue(f"{name!r}: an account of the system (user id {uid}), nobody's to work as")


class _OfOneDomain(LocalAuthenticator):  # type: ignore[misc]
    """Makes system users of addresses, and their accounts when they first sign in."""

    mail_domain = Unicode(help="The domain whose addresses may sign in.").tag(config=True)

    def name_of(self, address: str, claims: Mapping[str, Any]) -> str:
        """Return the system user of who signs in by `address`; nothing, which is nobody, when it has none."""
        try:
            if claims.get("email_verified", True) not in (True, "true"):
                raise InvalidValue(f"{address!r}: expected an address that is verified where it comes from")
            return self.normalize_username(system_name(address, self.mail_domain))
        except InvalidValue as error:
            self.log.warning("no sign-in: %s", error)
            return ""

    def normalize_username(self, username: str) -> str:
        """Return the system user of a name that the configuration has, or `name_of` has made."""
        try:
            name = system_name(username, self.mail_domain) if "@" in username else username
            refuse_system_account(name)
        except InvalidValue as error:
            self.log.warning("no sign-in: %s", error)
            return ""
        return name


class OAuth(GenericOAuthenticator, _OfOneDomain):  # type: ignore[misc]
    """Sign-in at an OAuth 2 or OpenID Connect provider."""

    def user_info_to_username(self, user_info: dict[str, Any]) -> str:
        """Take what the provider says of its user; a bare name of its own choice is nobody's here."""
        return self.name_of(str(super().user_info_to_username(user_info)), user_info)


class Lti13(LTI13Authenticator, _OfOneDomain):  # type: ignore[misc]
    """Launch from a learning management system by LTI 1.3."""

    def get_username(self, token: dict[str, Any]) -> str:
        """Take what the platform says of its user; a bare name, or ``sub`` in its stead, is nobody's here."""
        return self.name_of(str(super().get_username(token)), token)
