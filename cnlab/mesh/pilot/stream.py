"""One client of the control plane: what it is sent, when, and in which order; no clock, no socket.

A `Stream` is fed with requests and snapshots and says which responses to send. The order follows from what
resources name. A route waits until the client has the clusters it sends to, with their endpoints; a cluster
is taken away when nothing that the client has names it any more. So the new is made before the old is broken,
and where a client refuses a part, what depends on it stays as it was.

See: "Eventual consistency considerations" and "Resource warming" in Envoy's description of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern

from cnlab.mesh.pilot.resources import CDS, EDS, LDS, ORDER, RDS, SDS, SHORT
from cnlab.mesh.pilot.snapshot import Resource, Resources, Snapshot, differences
from cnlab.mesh.pilot.subscription import WHOLE, Ack, Request, Response, Subscription

_NAMED_BY = {CDS: (LDS, RDS), EDS: (CDS,), LDS: (), RDS: (LDS,), SDS: (CDS, LDS)}


class Stream:
    """One client: requests and snapshots go in, responses come out; no clock, no socket."""

    def __init__(self, *, is_delta: bool) -> None:
        self.is_delta = is_delta
        self.snapshot: Snapshot | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self._upcoming: Snapshot | None = None
        self._nonces = 0
        self._is_resumed = False
        self._is_idle = False

    def receive(self, request: Request, node: str = "", time_s: float = 0.0) -> Ack | None:
        """Take in a request; return the record of it if it answers a response."""
        type_url = request.type_url
        subscription = self.subscriptions.setdefault(type_url, Subscription())
        is_stale = request.nonce not in ("", subscription.nonce)
        if is_stale and not self.is_delta:
            return None  # the client has not seen our last response; it will say all this again
        answer = None
        if (response := subscription.sent) and request.nonce == response.nonce:
            # A list of the world that leaves out what a client has would take it away.
            may_isolate = self.is_delta or type_url not in WHOLE or bool(subscription.known)
            is_refusal = subscription.answered(type_url, request.error, may_isolate=may_isolate)
            names = tuple(one.name for one in response.changed) + response.removed
            kind = SHORT.get(type_url, type_url)
            answer = Ack(node, kind, response.version, response.nonce, request.error, names, time_s)
            if is_refusal:
                subscription.refusal = answer
        if request.versions and subscription.is_fresh:
            self._remember(subscription, request)
        subscription.want(type_url, request, self._available(type_url))
        self._is_idle = False
        return answer

    def update(self, snapshot: Snapshot) -> None:
        """Take in what the client is to have from now on.

        It waits until the client has answered what it was sent: to accept a cluster, Envoy wants to hear its
        endpoints, and the next snapshot may not have them any more. Of several that wait, the last counts.
        """
        self._upcoming = snapshot
        self._is_idle = False

    def responses(self) -> Iterator[Response]:
        """Yield what can be sent now, in order; whoever takes a response has to send it."""
        if self._upcoming and not any(one.sent for one in self.subscriptions.values()):
            self._advance(self._upcoming)
        for type_url in ORDER if self.snapshot else ():
            subscription = self.subscriptions.get(type_url)
            if subscription and not subscription.sent and (subscription.due or subscription.is_fresh):
                response = self._next(type_url, subscription)
                if response:
                    yield response
        self._is_idle = True

    @property
    def is_settled(self) -> bool:
        """Whether the client has all there is for it, or has refused something that the rest waits for."""
        if self.snapshot is None or self._upcoming or not self._is_idle:
            return False
        every = self.subscriptions.values()
        is_waiting = any(one.due for one in every) and not self.refusals
        return not is_waiting and not any(one.sent or one.suspects for one in every)

    @property
    def refusals(self) -> list[Ack]:
        """What the client said when it refused something that it is still to have."""
        return [one.refusal for one in self.subscriptions.values() if one.refusal]

    def _advance(self, snapshot: Snapshot) -> None:
        """Go on to the next snapshot; only what differs is looked at."""
        for type_url, names in differences(self.snapshot, snapshot).items():
            if subscription := self.subscriptions.get(type_url):
                subscription.changed(names)
        self.snapshot, self._upcoming = snapshot, None

    def _available(self, type_url: str) -> Resources:
        return self.snapshot[type_url] if self.snapshot else {}

    def _remember(self, subscription: Subscription, request: Request) -> None:
        """Believe a client what it has from another stream; only the version says which it is.

        In the state of the world it does not say, so there what is gone goes with the first list.
        """
        self._is_resumed = True
        available = self._available(request.type_url)
        leaf = request.type_url in (EDS, SDS)
        for name, version in request.versions.items():
            same = available.get(name)
            if same is None or same.version != version:
                same = Resource(request.type_url, name, version, needs=() if leaf else None)
            subscription.known[intern(name)] = same
        subscription.is_fresh = False

    def _next(self, type_url: str, subscription: Subscription) -> Response | None:
        changed, removed = self._select(type_url, subscription)
        if not self.is_delta and type_url not in WHOLE:
            for name in removed:
                subscription.known.pop(name, None)  # what does not name it any more has been sent before
            removed = []
        is_awaited = subscription.is_fresh and type_url in WHOLE
        if not changed and not removed and not is_awaited:
            return None
        whole = changed
        if not self.is_delta and type_url in WHOLE:
            whole = self._others(type_url, subscription, {*removed, *(one.name for one in changed)}) + changed
        self._nonces += 1
        subscription.nonce, subscription.is_fresh = str(self._nonces), False
        version = self.snapshot.version if self.snapshot else ""
        subscription.sent = Response(
            type_url, version, subscription.nonce, tuple(whole), tuple(removed), tuple(changed)
        )
        if type_url == CDS:
            self._warm(changed)
        return subscription.sent

    def _others(self, type_url: str, subscription: Subscription, but: set[str]) -> list[Resource]:
        """Return what a list of the world has to repeat: what the client has, or may have."""
        available = self._available(type_url)
        unsure = {name: available[name] for name in subscription.unsure if name in available}
        held = {**unsure, **subscription.known}
        return [held[name] for name in sorted(held.keys() - but)]

    def _select(self, type_url: str, subscription: Subscription) -> tuple[list[Resource], list[str]]:
        """Decide what is due now; what has to wait stays due."""
        changed: list[Resource] = []
        removed: list[str] = []
        waiting: set[str] = set()
        available = self._available(type_url)
        may_wait = self.is_delta or not subscription.is_fresh or type_url not in WHOLE
        suspects = subscription.suspects
        for name in sorted(subscription.due):
            resource = available.get(name)
            if changed and suspects and not suspects.isdisjoint({name, changed[0].name}):
                waiting.add(name)  # a suspect goes alone
            elif resource is None:
                if self._is_named(type_url, name):
                    waiting.add(name)
                elif name in subscription.known or name in subscription.names:
                    removed.append(name)
            elif subscription.is_news(resource):
                if may_wait and not self._is_ready(resource):
                    waiting.add(name)
                else:
                    changed.append(resource)
            elif name in subscription.known and name not in subscription.rejected:
                subscription.known[name] = resource  # of which we perhaps only knew the version
        subscription.due, subscription.again = waiting, subscription.again & waiting
        subscription.suspects = suspects & (waiting | {one.name for one in changed})
        return changed, removed

    def _is_ready(self, resource: Resource) -> bool:
        """Whether the client has the clusters that a resource sends to.

        Only of a client that asks for all clusters: a gRPC client asks for those that its route names.
        """
        clusters = self.subscriptions.get(CDS)
        if clusters is None or not clusters.is_wildcard:
            return True
        return all(self._serves(name) for type_url, name in resource.needs or () if type_url == CDS)

    def _serves(self, cluster: str) -> bool:
        if cluster not in self._available(CDS):
            return True  # it is in the client's bootstrap
        known = self.subscriptions[CDS].known.get(cluster)
        assignments = self.subscriptions.get(EDS, Subscription()).known
        needs = (known.needs or ()) if known else ()
        return known is not None and all(name in assignments for type_url, name in needs if type_url == EDS)

    def _is_named(self, type_url: str, name: str) -> bool:
        """Whether something that the client has, or has been sent, may name this."""
        for kind in _NAMED_BY[type_url]:
            if self._is_awaited(kind):
                return True
            for one in self._held(kind):
                if one.needs is None or (type_url, name) in one.needs:
                    return True
        return False

    def _is_awaited(self, type_url: str) -> bool:
        """Whether a client that comes from another stream is still to say what it has of this type."""
        if not self._is_resumed or type_url in self.subscriptions:
            return False
        kinds = [kind for one in self._held(LDS) for kind, _ in one.needs or ()]
        return LDS not in self.subscriptions or type_url in kinds

    def _held(self, type_url: str) -> Iterator[Resource]:
        """Yield what the client has of a type, or has been sent."""
        if subscription := self.subscriptions.get(type_url):
            yield from subscription.known.values()
            yield from subscription.sent.changed if subscription.sent else ()

    def _warm(self, clusters: list[Resource]) -> None:
        """Send assignments again: a changed cluster is a new one to Envoy, which waits for its endpoints."""
        if assignments := self.subscriptions.get(EDS):
            names = {name for one in clusters for type_url, name in one.needs or () if type_url == EDS}
            assignments.due |= names & assignments.names
            assignments.again |= names & assignments.names
