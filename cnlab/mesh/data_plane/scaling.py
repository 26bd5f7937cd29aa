"""More and fewer instances while requests go on: who is not ready gets none, who goes has answered all."""

from __future__ import annotations

from typing import Protocol

from cnlab import apps
from cnlab.errors import InvalidValue
from cnlab.mesh.data_plane.fleet import Fleet
from cnlab.mesh.data_plane.instance import Instance, Order, check_order
from cnlab.mesh.words import check_number


class Send(Protocol):
    """Tells the control plane which instances there are now."""

    def __call__(self, cause: str, *, wait: bool = True) -> int:
        """Return when sidecars know, or at once."""


class Scaling:
    """Starts and stops instances of a mesh that runs."""

    def __init__(self, fleet: Fleet, send: Send, order: Order) -> None:
        self._fleet, self._send, self._order = fleet, send, order

    def scale(self, service: apps.Service, version: str, count: int) -> None:
        """Have so many instances of a version."""
        if version not in service.versions:
            known = ", ".join(service.versions)
            raise InvalidValue(f"{service.name} has no version {version!r}; there are {known}")
        check_number(f"scale({service.name})", count)
        running = self._fleet.of(service.name, version)
        fresh = [self._fleet.add(service, version) for _ in range(count - len(running))]
        try:
            self._start(fresh, self._order)
        except BaseException:
            self._fleet.remove(fresh)
            raise
        self._stop(running[count:])
        self._forget(running[count:])

    def stop(self, name: str) -> None:
        """Stop an instance: first it gets no new requests, then it ends."""
        self._stop([self._fleet.named(name)])

    def start(self, name: str, order: Order | None = None) -> None:
        """Start an instance that was stopped or has died, at the address that it had."""
        check_order(order or self._order)
        instance = self._fleet.named(name)
        instance.stop()
        self._start([instance], order or self._order)

    def _start(self, instances: list[Instance], order: Order) -> None:
        if not instances:
            return
        _mark(instances, is_ready=False)
        try:
            self._fleet.start(instances, order, lambda: self._send("start", wait=False))
            _mark(instances, is_ready=True)
            self._send("start")
        except BaseException:
            _mark(instances, is_ready=False)
            for instance in instances:
                instance.stop()
            raise

    def _stop(self, instances: list[Instance]) -> None:
        if not instances:
            return
        _mark(instances, is_ready=False)
        self._send("stop")
        for instance in instances:
            self._fleet.stop(instance)

    def _forget(self, instances: list[Instance]) -> None:
        if instances:
            self._fleet.remove(instances)
            self._send("stop")


def _mark(instances: list[Instance], *, is_ready: bool) -> None:
    for instance in instances:
        instance.is_ready = is_ready
