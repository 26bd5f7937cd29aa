"""What a registry says when it says no: a status, a code of the specification, a sentence.

See: OCI distribution-spec, "Error Codes".
"""

import json
import ssl
from http import HTTPStatus

from cnlab.errors import CnlabError

_STATUS = {
    "BLOB_UNKNOWN": HTTPStatus.NOT_FOUND,
    "BLOB_UPLOAD_INVALID": HTTPStatus.BAD_REQUEST,
    "BLOB_UPLOAD_UNKNOWN": HTTPStatus.NOT_FOUND,
    "DIGEST_INVALID": HTTPStatus.BAD_REQUEST,
    "MANIFEST_BLOB_UNKNOWN": HTTPStatus.BAD_REQUEST,
    "MANIFEST_INVALID": HTTPStatus.BAD_REQUEST,
    "MANIFEST_UNKNOWN": HTTPStatus.NOT_FOUND,
    "NAME_INVALID": HTTPStatus.BAD_REQUEST,
    "NAME_UNKNOWN": HTTPStatus.NOT_FOUND,
    "RANGE_INVALID": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "SIZE_INVALID": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "UNAUTHORIZED": HTTPStatus.UNAUTHORIZED,
    "UNSUPPORTED": HTTPStatus.METHOD_NOT_ALLOWED,
}

_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")  # what OpenSSL makes of plain HTTP


class RegistryError(CnlabError):
    """A registry refused a request: raised in ours as it refuses, and in the client as it hears so.

    Attributes:
        status: HTTP's, such as 404.
        code: the specification's, such as ``MANIFEST_UNKNOWN``; empty if the answer had none.
        message: what is wrong, in words.
    """

    def __init__(self, code: str, message: str, *, status: int = 0, request: str = "") -> None:
        self.status = int(status or _STATUS.get(code, HTTPStatus.BAD_REQUEST))
        self.code = code
        self.message = message
        said = f"{code}: {message}" if code else message
        super().__init__(f"{request}: {self.status} {said}" if request else said)

    def to_json(self) -> bytes:
        """Return the body of the answer."""
        return json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode()

    @classmethod
    def from_answer(cls, status: int, body: bytes, *, request: str) -> "RegistryError":
        """Read the body of an answer, which a proxy may have written in words of its own."""
        try:
            first = json.loads(body)["errors"][0]
            code, message = str(first["code"]), str(first.get("message", ""))
        except (ValueError, LookupError, TypeError):
            code, message = "", body.decode(errors="replace").strip()[:200] or HTTPStatus(status).phrase
        return cls(code, message, status=status, request=request)


class TlsError(CnlabError):
    """There is no secure connection: a registry showed a certificate not to be trusted, or spoke no TLS."""

    @classmethod
    def from_ssl(cls, error: ssl.SSLError, *, request: str) -> "TlsError":
        """Put into words what the TLS library found."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not to be trusted: {error.verify_message.rstrip('.')}"
            hint = "tls=ssl.create_default_context(cafile=FILE) trusts whom FILE names"
        elif error.reason in _PLAIN:
            why, hint = "it speaks no TLS", "tls=False asks for plain HTTP"
        else:
            why, hint = (error.reason or str(error)).replace("_", " ").lower(), ""
        made = cls(f"{request}: {why}")
        if hint:
            made.add_note(f"Hint: {hint}")
        return made
