"""What is wanted of a mesh, and how it changes: it is sent, accepted by all sidecars, or taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from cnlab.errors import InvalidValue
from cnlab.mesh.change import Change, View
from cnlab.mesh.configuration import Configuration, Json, Workload
from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.data_plane.readers import Readers
from cnlab.mesh.errors import MeshError, NotAccepted, Rejected

TIMEOUT_S = 20.0


class Desired:
    """The configuration, and the one way to change it."""

    def __init__(
        self,
        configuration: Configuration,
        control_plane: RemoteControlPlane,
        workloads: Callable[[], list[Workload]],
        view: View,
        wait_for_listeners: Callable[[], None],
        readers: Callable[[], Readers] | None = None,
    ) -> None:
        self.configuration = configuration
        self._control_plane = control_plane
        self._workloads = workloads
        self._view = view
        self._wait_for_listeners = wait_for_listeners
        self._readers = readers  # of files, which nobody answers
        self._collected: list[str] | None = None  # causes, while changes are collected
        self._sent = configuration

    def change(self, cause: str, after: Configuration, *, service: str = "", wait: bool = True) -> Change:
        """Make the configuration `after`, and return what that changes.

        With `wait` each connected sidecar has accepted it when this returns; without, it is on its way, and
        what a sidecar refuses is in the control plane's log only.

        Raises:
            Rejected: a sidecar has refused it; all have again what they had before.
            NotAccepted: sidecars have not answered.
            InvalidValue: a word in it is wrong; nothing has been sent.
            ControlPlaneDown: nobody is there to take it.
        """
        before, self.configuration = self.configuration, after
        if self._collected is not None:
            self._collected.append(cause)
            return Change(cause, before, after, self._view, service=service)
        try:
            version = self._send(cause, after, wait=wait)
        except (MeshError, InvalidValue):
            self.configuration = before
            raise
        return Change(cause, before, after, self._view, service=service, version=version)

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Send what is changed in the block at its end, at once; nothing, if the block ends with an error."""
        if self._collected is not None:  # the block around this one sends
            yield
            return
        before, self._collected = self.configuration, []
        try:
            yield
            causes = ", ".join(dict.fromkeys(self._collected))
        except BaseException:
            self.configuration = before
            raise
        finally:
            self._collected = None
        after, self.configuration = self.configuration, before
        if after != before:
            self.change(causes, after)

    def send(self, cause: str, *, wait: bool = True) -> int:
        """Send all again, as after instances have come or gone."""
        return self._send(cause, self.configuration, wait=wait)

    def _send(self, cause: str, after: Configuration, *, wait: bool) -> int:
        version = 0
        for stage in stages(self._sent, after):
            if stage is not after or _listeners_differ(self._sent, stage):
                wait = True  # the next stage relies on this one
            version, refusals = self._configure(cause, stage, wait=wait)
            if refusals:
                raise _rejected(cause, refusals[0])
            if _listeners_differ(self._sent, stage):
                self._wait_for_listeners()
            self._sent = stage
        return version

    def _configure(self, cause: str, wanted: Configuration, *, wait: bool) -> tuple[int, list[Json]]:
        workloads, timeout_s = self._workloads(), TIMEOUT_S if wait else 0
        if not wait or self._readers is None:
            return self._control_plane.configure(wanted, workloads, timeout_s=timeout_s, cause=cause)
        readers = self._readers()
        version, refusals = self._control_plane.configure(wanted, workloads, timeout_s=0, cause=cause)
        try:
            refusals = readers.refusals(timeout_s)
        except TimeoutError as error:
            self._control_plane.configure(self._sent, workloads, timeout_s=0, cause=cause)
            raise NotAccepted(f"{cause}: {error}") from None
        if refusals:
            self._control_plane.configure(self._sent, workloads, timeout_s=0, cause=cause)
        return version, refusals


def stages(before: Configuration, after: Configuration) -> list[Configuration]:
    """Return the configurations to go through, so that no request fails: nearly always just `after`.

    Where a service begins or ceases to take TLS, its sidecars first take both; then callers change over.
    """

    def is_plain(configuration: Configuration, name: str) -> bool:
        return configuration.mtls_of(name) == "disable"

    changed = [name for name in after.services if is_plain(before, name) != is_plain(after, name)]
    if not changed:
        return [after]
    both = after
    for name in changed:
        both = _patched(both, name, mtls="permissive")
    as_before = both
    for name in changed:
        if not before.is_tls_to(name):
            as_before = _patched(as_before, name, tls="disable")
    changed_over = both
    for name in changed:
        if not after.is_tls_to(name):
            changed_over = _patched(changed_over, name, tls="disable")
    return [as_before, changed_over] + ([after] if after != changed_over else [])


def _patched(configuration: Configuration, service: str, *, mtls: str = "", tls: str = "") -> Configuration:
    settings = configuration.of(service)
    settings = replace(
        settings,
        mtls=mtls or settings.mtls,
        cluster={**settings.cluster, "tls": tls} if tls else settings.cluster,
    )
    return replace(configuration, settings={**configuration.settings, service: settings})


def _listeners_differ(before: Configuration, after: Configuration) -> bool:
    return any(before.mtls_of(name) != after.mtls_of(name) for name in after.services)


def _rejected(cause: str, refusal: Json) -> Rejected:
    return Rejected(
        refusal["node"],
        refusal["type"],
        refusal["error"],
        cause=cause,
        resource=", ".join(refusal["resources"]),
    )
