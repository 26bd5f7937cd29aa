"""What proxies make of files: they answer nobody, but their statistics and their logs can be read.

    readers = Readers(directory, proxies)     # before files change
    readers.refusals(timeout_s=10)            # when each has read its files: who refused one, and why

See: `files`; "xDS subscription statistics" in Envoy's documentation.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from cnlab.clock import wait_until
from cnlab.mesh.configuration import Json
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.errors import ProgramEnded

_REJECTED = ".update_rejected"
_WORDS = "Filesystem config update rejected: "
_NEXT_LINE = "\n["  # a line of the log begins with its time in brackets; Envoy's words have many lines
_SILENT = (ProgramEnded, OSError, http.client.HTTPException)
_SUBSCRIPTIONS = {
    "cds": "cluster_manager.cds",
    "lds": "listener_manager.lds",
    "eds": "cluster.{name}",
    "rds": "http.{name}.rds.{name}",
    "sds": "sds.{name}",
}


class Readers:
    """Proxies that watch files, and what they had refused before these change.

    Args:
        directory: has one of files for each proxy.
        proxies: those that run, by name.
    """

    def __init__(self, directory: Path, proxies: Mapping[str, Proxy]) -> None:
        self._readers = [_Reader(name, proxy, directory / name) for name, proxy in proxies.items()]

    def refusals(self, timeout_s: float) -> list[Json]:
        """Wait until each has read its files; return the refusals, as the control plane tells of NACKs.

        Raises:
            TimeoutError: some have not; the message names them.
        """
        waiting = list(self._readers)

        def is_over() -> bool:
            waiting[:] = [one for one in waiting if not one.is_done()]
            return not waiting

        try:
            wait_until(is_over, timeout_s=timeout_s)
        except TimeoutError:
            names = ", ".join(one.name for one in waiting)
            raise TimeoutError(f"no answer within {timeout_s:g} s from {names}") from None
        return [one.refusal for one in self._readers if one.refusal]


class _Reader:
    """One proxy; once it is done, `refusal` says what it refused, if it did."""

    def __init__(self, name: str, proxy: Proxy, directory: Path) -> None:
        self.name, self._proxy, self._directory = name, proxy, directory
        self.refusal: Json = {}
        self._logged = len(proxy.log)
        try:
            self._rejected = self._rejections()
        except _SILENT:  # what it says later may be of before
            self._rejected = defaultdict(lambda: sys.maxsize)

    def is_done(self) -> bool:
        """Say whether it has all versions that its files have now, or has refused one, or is gone."""
        try:
            has, rejected = self._proxy.versions(), self._rejections()
        except _SILENT:
            return not self._proxy.is_running
        wanted = versions(self._directory)
        refused = [name for name in wanted if rejected[name] > self._rejected[name]]
        if refused:
            self.refusal = self._refusal(refused[0])
        return bool(refused) or all(has.get(name, version) == version for name, version in wanted.items())

    def _rejections(self) -> defaultdict[str, int]:
        counted = self._proxy.stats(f"\\{_REJECTED}$")
        return defaultdict(int, {name.removesuffix(_REJECTED): number for name, number in counted.items()})

    def _refusal(self, subscription: str) -> Json:
        _, _, words = self._proxy.log[self._logged :].partition(_WORDS)
        kind, name = next(
            (kind, path.stem) for kind, path, known in _files(self._directory) if known == subscription
        )
        return {
            "node": self.name,
            "type": kind.upper(),
            "error": words.partition(_NEXT_LINE)[0].strip(),
            "resources": [unquote(name)],
        }


def versions(directory: Path) -> dict[str, str]:
    """Return the version that each file has, by the name that the statistics of its subscription have."""
    return {name: json.loads(path.read_text())["version_info"] for _, path, name in _files(directory)}


def _files(directory: Path) -> list[tuple[str, Path, str]]:
    """Return the kind of resource in each file, its path, and its name in statistics."""
    found = []
    for path in directory.rglob("*.json"):
        kind = path.stem if path.parent == directory else path.parent.name
        found.append((kind, path, _SUBSCRIPTIONS[kind].format(name=unquote(path.stem))))
    return found
