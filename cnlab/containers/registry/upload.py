"""A blob on its way to a registry, chunk by chunk.

See: OCI distribution-spec, "Pushing a blob in chunks".
"""

import http.client
from urllib.parse import urlencode, urljoin

from cnlab.containers.registry.session import Body, Session
from cnlab.containers.registry.tokens import access_to


class Upload:
    """A blob on its way. `location` may be kept, to go on later or elsewhere."""

    def __init__(self, session: Session, repository: str, location: str) -> None:
        self.location = location
        self.offset = 0  # bytes that have arrived
        self._session = session
        self._access = access_to(repository, "pull", "push")

    def send(self, chunk: bytes) -> None:
        """Send the next bytes.

        Raises:
            RegistryError: status 416: the registry is not where we are; `refresh` tells.
        """
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.offset}-{self.offset + len(chunk) - 1}",
        }
        with self._session.request(
            "PATCH", self.location, headers=headers, body=chunk, access=self._access
        ) as answer:
            self._note(answer)
        self.offset += len(chunk)

    def refresh(self) -> int:
        """Ask how much has arrived, and set `offset` to it."""
        with self._session.request("GET", self.location, access=self._access) as answer:
            self._note(answer)
            last = int(answer.headers["Range"].rpartition("-")[2])
        self.offset = last + 1 if last else 0  # "0-0" is what registries say of nothing, too
        return self.offset

    def finish(self, digest: str, rest: Body = b"", *, size: int | None = None) -> None:
        """Send the rest, of `size` bytes if it is a file, and say what the digest of the whole must be."""
        length = len(rest) if isinstance(rest, bytes) else size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        url = self.location + ("&" if "?" in self.location else "?") + urlencode({"digest": digest})
        self._session.ask("PUT", url, headers=headers, body=rest, access=self._access)

    def cancel(self) -> None:
        """Let the registry forget what has arrived."""
        self._session.ask("DELETE", self.location, access=self._access)

    def _note(self, answer: http.client.HTTPResponse) -> None:
        self.location = urljoin(self._session.url, answer.headers.get("Location", self.location))
