"""Discovery by files: a snapshot as plain JSON in a directory that Envoy watches. No server, and no answer.

    write(directory, snapshot)     # cds.json, lds.json, eds/reviews.json, rds/outbound.json, sds/default.json

Each file is written beside its place and renamed into it, so that nobody reads half of one; the rename is
also what Envoy waits for. A resource is the one that ADS would carry, but for where its parts come from. What
Envoy thinks of it is in its log and its statistics only: `cluster_manager.cds.version_text` is the version
that it has, `cluster_manager.cds.update_rejected` counts what it refused; see `data_plane.readers`.

See: "path_config_source" and "watched_directory" in envoy/config/core/v3/config_source.proto.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnlab.mesh.pilot.resources import CDS, EDS, LDS, RDS, SDS, TYPE, Json, file_source
from cnlab.mesh.pilot.snapshot import Snapshot

_FOLDERS = {EDS: "eds", RDS: "rds", SDS: "sds"}
"""Types of which Envoy takes one resource from a file."""
_LISTS = {CDS: "cds.json", LDS: "lds.json"}
"""Types of which a file lists all."""
_MODE = 0o600  # a secret is a private key


def place(directory: Path, type_url: str, name: str = "") -> Path:
    """Return the file that a resource is in."""
    if type_url in _LISTS:
        return directory / _LISTS[type_url]
    return directory / _FOLDERS[type_url] / f"{quote(name, safe='|')}.json"


def write(directory: Path, snapshot: Snapshot) -> list[Path]:
    """Make the files say what a snapshot says; return those that changed, in the order of writing.

    What others name comes before them, and what nobody names any more goes last. But files know no ACK: a
    route may arrive before its cluster is warm.
    """
    files = contents(directory, snapshot)
    changed = [path for path, text in files.items() if _replace(path, text)]
    for folder in _FOLDERS.values():
        for path in (directory / folder).glob("*.json"):
            if path not in files:
                path.unlink()
    return changed


def contents(directory: Path, snapshot: Snapshot) -> dict[Path, str]:
    """Return what each file is to say, in the order in which to write them."""
    files = {}
    for type_url in (SDS, EDS, CDS, RDS, LDS):
        plain = [to_files(one.to_dict(), directory) for one in snapshot[type_url].values()]
        if type_url in _LISTS:
            files[place(directory, type_url)] = _response(plain)
        else:
            for name, resource in zip(snapshot[type_url], plain, strict=True):
                files[place(directory, type_url, name)] = _response([resource])
    return files


def to_files(value: Any, directory: Path) -> Any:
    """Return a resource that takes from files what it would take from ADS."""
    if isinstance(value, list):
        return [to_files(one, directory) for one in value]
    if not isinstance(value, Mapping):
        return value
    changed: Json = {key: to_files(one, directory) for key, one in value.items()}
    if value.get("@type", "").startswith(TYPE) and "eds_cluster_config" in value:
        eds: Json = changed["eds_cluster_config"]
        name = eds.get("service_name") or value["name"]
        eds["eds_config"] = file_source(place(directory, EDS, name))
    if "route_config_name" in value:
        changed["config_source"] = file_source(place(directory, RDS, value["route_config_name"]))
    if "sds_config" in value:
        changed["sds_config"] = file_source(place(directory, SDS, value["name"]))
    return changed


def _response(resources: list[Json]) -> str:
    plain = json.dumps(resources)
    version = hashlib.sha256(plain.encode()).hexdigest()[:16]
    return json.dumps({"version_info": version, "resources": resources}, indent=1)


def _replace(path: Path, text: str) -> bool:
    """Write a file beside its place and rename it there, unless it says that already."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_suffix(".new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "w") as file:
        file.write(text)
    beside.rename(path)
    return True
