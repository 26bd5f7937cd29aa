"""The state machine of one client, without gRPC: `Client` below answers as Envoy would."""

import pytest

from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import (
    CDS,
    EDS,
    LDS,
    RDS,
    assignment,
    cluster,
    route,
    route_configuration,
    virtual_host,
)
from cnlab.mesh.pilot.snapshot import Snapshot, pack
from cnlab.mesh.pilot.stream import Stream
from cnlab.mesh.pilot.subscription import Request

HERE = Endpoint("a", "127.0.0.1", 1)
THERE = Endpoint("a", "127.0.0.1", 2)


def routes(*to):
    return route_configuration("out", [virtual_host("a", ["*"], [route(one) for one in to])])


def snapshot(version, *clusters, to=(), endpoint=HERE, **fields):
    made = {
        CDS: [cluster(one, **fields) for one in clusters],
        EDS: [assignment(one, [endpoint]) for one in clusters],
        RDS: [routes(*to)] if to else [],
    }
    return Snapshot.of(version, made)


class Client:
    """A client of a stream: it subscribes, and keeps the responses until it answers them."""

    def __init__(self, *, is_delta=True):
        self.stream = Stream(is_delta=is_delta)
        self.names = {}
        self.log = []

    def subscribe(self, type_url, *names, versions=None):
        if self.stream.is_delta:
            request = Request(type_url, subscribe=frozenset(names), versions=versions or {})
        else:
            self.names[type_url] = self.names.get(type_url, frozenset()) | set(names)
            nonce = self.stream.subscriptions[type_url].nonce if type_url in self.stream.subscriptions else ""
            request = Request(type_url, names=self.names[type_url], nonce=nonce)
        return self.stream.receive(request)

    def answer(self, response, error=""):
        names = None if self.stream.is_delta else self.names[response.type_url]
        return self.stream.receive(
            Request(response.type_url, names=names, nonce=response.nonce, error=error), "n", 7.0
        )

    def take(self):
        """Take what is sent, without an answer: short forms for comparing."""
        self.taken = list(self.stream.responses())
        return [short(one) for one in self.taken]

    def take_all(self):
        """Take and acknowledge until nothing more comes, asking for the endpoints of new clusters."""
        shown = []
        while responses := list(self.stream.responses()):
            for one in responses:
                shown.append(short(one))
                if one.type_url == CDS:
                    known = self.stream.subscriptions.get(EDS)
                    new = {r.name for r in one.changed} - (known.names if known else set())
                    if new:
                        self.subscribe(EDS, *new)
                self.answer(one)
        return shown


def short(response):
    kind = {CDS: "CDS", EDS: "EDS", LDS: "LDS", RDS: "RDS"}[response.type_url]
    removed = [f"-{name}" for name in response.removed]
    return " ".join([kind, *(one.name for one in response.resources), *removed])


@pytest.fixture(params=["delta", "sotw"])
def client(request):
    """An Envoy that has clusters a and b, and a route to a."""
    made = Client(is_delta=request.param == "delta")
    made.stream.update(snapshot("1", "a", "b", to=["a"]))
    made.subscribe(CDS)
    made.take_all()
    made.subscribe(RDS, "out")
    made.take_all()
    return made


def test_nothing_is_said_before_there_is_a_snapshot():
    """A proxy may be faster than the control plane; an empty answer would end what it serves."""
    client = Client()
    client.subscribe(CDS)

    assert [] == client.take()
    client.stream.update(snapshot("1", "a"))
    assert ["CDS a"] == client.take()


def test_first_answer_comes_also_if_it_is_empty():
    """Envoy does not start to listen before it has heard which clusters there are."""
    client = Client()
    client.stream.update(snapshot("1"))
    client.subscribe(CDS)

    assert ["CDS"] == client.take()
    client.answer(client.taken[0])
    assert [] == client.take()


def test_acknowledged_version_is_not_sent_again(client):
    """Else two parties would send each other the same forever."""
    assert [] == client.take()
    client.stream.update(snapshot("2", "a", "b", to=["a"]))
    assert [] == client.take()
    assert client.stream.is_settled


def test_changed_endpoint_sends_one_assignment(client):
    """Not its cluster, not the other assignments, not the routes."""
    old = client.stream.snapshot
    client.stream.update(old.updated("2", pack(EDS, assignment("b", [THERE]))))

    assert ["EDS b"] == client.take()


def test_what_nobody_asked_for_is_not_sent():
    """A subscription by name is a promise to listen to these names only."""
    client = Client()
    client.stream.update(snapshot("1", "a", "b"))
    client.subscribe(EDS, "b")

    assert ["EDS b"] == client.take()


def test_one_response_of_a_type_is_under_way_at_a_time(client):
    """Changes meanwhile are taken together, so a slow client gets fewer responses, not more."""
    for n, endpoint in enumerate([THERE, HERE, THERE]):
        made = client.stream.snapshot.updated(str(n), pack(EDS, assignment("a", [endpoint])))
        client.stream.update(made)
        assert ([["EDS a"], [], []])[n] == client.take()
        if n == 0:
            (first,) = client.taken

    client.answer(first)
    assert [] == client.take()  # it has THERE already


def test_next_snapshot_waits_for_the_answer_to_this_one(client):
    """To accept a new cluster, Envoy wants its endpoints first; in the next snapshot it may be gone again."""
    client.stream.update(snapshot("2", "a", "b", "short-lived", to=["a"]))
    client.take()
    client.stream.update(snapshot("3", "a", "b", to=["b"]))
    client.subscribe(EDS, "short-lived")

    assert "EDS short-lived" == client.take()[0]


def test_ack_is_recorded_with_what_it_is_about(client):
    """Which node took which version of what."""
    client.stream.update(client.stream.snapshot.updated("2", pack(EDS, assignment("b", [THERE]))))
    client.take()

    ack = client.answer(client.taken[0])

    assert ("n", "EDS", "2", ("b",), "", 7.0) == (
        ack.node,
        ack.type,
        ack.version,
        ack.resources,
        ack.error,
        ack.time_s,
    )
    assert ack.is_ack


def test_refused_version_is_not_sent_again_until_it_changes(client):
    """A proxy that has said no will say no again; the words of its answer are kept."""
    client.stream.update(snapshot("2", "a", "b", to=["a", "a"]))
    client.take()
    nack = client.answer(client.taken[0], error="not this way")

    assert (False, "not this way", ("out",)) == (nack.is_ack, nack.error, nack.resources)
    assert [] == client.take()
    assert [nack] == client.stream.refusals
    client.stream.update(snapshot("3", "a", "b", to=["a", "a"]))
    assert [] == client.take()
    client.stream.update(snapshot("4", "a", "b", to=["b"]))
    assert ["RDS out"] == client.take()
    assert [] == client.stream.refusals


def test_going_back_after_a_refusal_needs_no_push(client):
    """The client never left what it had."""
    client.stream.update(snapshot("2", "a", "b", to=["a", "a"]))
    client.take()
    client.answer(client.taken[0], error="no")

    client.stream.update(snapshot("3", "a", "b", to=["a"]))

    assert [] == client.take()
    assert client.stream.is_settled
    assert [] == client.stream.refusals


def test_only_the_resource_that_the_error_names_counts_as_refused(client):
    """Envoy takes the good clusters of a response and names the bad; the good one may be routed to."""
    client.stream.update(snapshot("2", "a", "b", "good", "bad", to=["good"]))
    assert ["CDS"] == [one.split()[0] for one in client.take()]
    client.subscribe(EDS, "good")
    client.answer(client.taken[0], error="Error adding/updating cluster(s) bad: it is (see a-bad|x)")

    assert ["EDS good", "RDS out"] == client.take_all()
    assert ["bad"] == list(client.stream.subscriptions[CDS].rejected)


def test_routes_that_came_with_a_refused_one_are_sent_anew(client):
    """Envoy takes one after the other and stops at the bad one; how far it came it does not say."""
    client.subscribe(RDS, "inner")
    both = [pack(RDS, route_configuration(name, [])) for name in ("inner", "out")]
    client.stream.update(client.stream.snapshot.updated("2", *both))
    assert ["RDS inner out"] == client.take()
    nack = client.answer(client.taken[0], error="Only unique values for domains are permitted: route out")

    assert ["RDS inner"] == client.take_all()
    assert [nack] == client.stream.refusals
    assert client.stream.is_settled


def test_removal_that_was_refused_with_a_bad_resource_is_sent_anew(client):
    """A response that Envoy cannot read changes nothing: also what it takes away stays."""
    client.stream.update(snapshot("2", "a", "bad", to=["a"]))
    client.take()
    client.answer(client.taken[0], error="a duration must be positive")
    assert "b" in client.stream.subscriptions[CDS].known
    client.take_all()

    assert {"a"} == client.stream.subscriptions[CDS].known.keys()
    assert ["bad"] == list(client.stream.subscriptions[CDS].rejected)
    assert client.stream.is_settled


def test_removal_alone_that_is_refused_is_not_sent_for_ever():
    """There is nothing better to say."""
    client = Client()
    client.stream.update(snapshot("1", "a", "b"))
    client.subscribe(CDS)
    client.take_all()
    client.stream.update(snapshot("2", "a"))
    assert ["CDS -b"] == client.take()
    client.answer(client.taken[0], error="no")

    assert not [one for one in client.take_all() if one.startswith("CDS")]


def test_resources_refused_together_are_tried_one_by_one(client):
    """Where the error names none of them, this finds the bad one, and the good ones need not wait for it."""
    client.stream.update(snapshot("2", "a", "b", "bad", "good"))
    client.take()
    client.answer(client.taken[0], error="a duration must be positive")

    assert ["bad"] == new_in(client)
    assert not client.stream.is_settled
    nack = client.answer(client.taken[0], error="a duration must be positive")
    assert ["good"] == new_in(client)
    client.answer(client.taken[0])
    assert [] == new_in(client)
    assert [nack] == client.stream.refusals
    assert {"a", "b", "good"} == client.stream.subscriptions[CDS].known.keys()


def new_in(client):
    """What the next response changes for the client."""
    client.take()
    return [one.name for response in client.taken for one in response.changed]


def test_suspect_that_changes_is_none_any_more(client):
    """Somebody has corrected it in the meantime, or taken it back."""
    client.stream.update(snapshot("2", "a", "b", "bad", "good", to=["a"]))
    client.take()
    client.answer(client.taken[0], error="no")
    client.stream.update(snapshot("3", "a", "b", to=["a"]))

    assert [] == client.take()
    assert client.stream.is_settled


def test_first_list_of_the_world_refused_is_repeated_whole():
    """A client may have all of it from another stream, and what is not listed it would remove."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("1", "a", "bad"))
    client.subscribe(CDS)
    client.take()
    client.answer(client.taken[0], error="no")
    client.stream.update(client.stream.snapshot.updated("2", pack(CDS, cluster("new"))))

    assert ["CDS a bad new"] == client.take()


def test_stale_nonce_answers_nothing(client):
    """A client may answer the last response but one while the last is still under way."""
    client.stream.update(snapshot("2", "a", "b", to=["a", "a"]))
    client.take()
    (late,) = client.taken
    stale = Request(late.type_url, names=client.names.get(RDS), nonce="1", error="that was another one")

    assert client.stream.receive(stale) is None
    assert client.stream.subscriptions[RDS].sent is late
    assert client.answer(late).is_ack


def test_new_cluster_is_there_before_the_route_to_it(client):
    """Make before break: cluster, endpoints, route; each after the one before it was accepted."""
    client.stream.update(snapshot("2", "a", "b", "c", to=["c"]))

    assert client.take()[0].startswith("CDS")
    client.answer(client.taken[0])
    assert [] == client.take()  # no endpoints yet: the cluster is warming
    client.subscribe(EDS, "c")
    assert ["EDS c"] == client.take()
    client.answer(client.taken[0])
    assert ["RDS out"] == client.take()


def test_cluster_is_taken_away_after_the_route_to_it(client):
    """Break after make: a request under way never finds its cluster gone."""
    client.stream.update(snapshot("2", "b", to=["b"]))

    assert ["RDS out"] == client.take()
    client.answer(client.taken[0])
    removal = "CDS -a" if client.stream.is_delta else "CDS b -a"
    assert [removal] == client.take()


def test_refused_route_keeps_the_cluster_that_serves(client):
    """The old configuration goes on serving, so all that it needs has to stay."""
    client.stream.update(snapshot("2", "b", to=["b"]))
    client.take()
    client.answer(client.taken[0], error="no")

    assert [] == client.take()
    assert "a" in client.stream.subscriptions[CDS].known


def test_refused_cluster_holds_its_route_back(client):
    """Else requests would go to a cluster that is not there."""
    client.stream.update(snapshot("2", "a", "b", "c", to=["c"]))
    client.take()
    client.answer(client.taken[0], error="cluster c: no")

    assert [] == client.take()
    assert client.stream.is_settled  # nothing more will happen by itself
    client.stream.update(snapshot("3", "a", "b", "c", to=["c"], connect_timeout="2s"))
    assert "RDS out" in client.take_all()


def test_changed_cluster_gets_its_endpoints_again(client):
    """To Envoy it is a new one, which warms until endpoints come, and it does not always ask for them."""
    changed = client.stream.snapshot.updated("2", pack(CDS, cluster("a", connect_timeout="3s")))
    client.stream.update(changed)

    shown = client.take()
    assert "a" in shown[0]
    assert "EDS a" == shown[1]


def test_state_of_the_world_lists_all_clusters():
    """There a cluster that is not listed is a cluster removed; but a route that is not listed stays."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("1", "a", "b"))
    client.subscribe(CDS)
    client.take_all()
    client.stream.update(snapshot("2", "a", "b", "c"))

    assert ["CDS a b c"] == client.take()


def test_refused_cluster_is_listed_as_it_was():
    """In the state of the world the good version has to stay in the list, in place of the refused one."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("1", "a", "b"))
    client.subscribe(CDS)
    client.take_all()
    bad = client.stream.snapshot.updated("2", pack(CDS, cluster("b", connect_timeout="4s")))
    client.stream.update(bad)
    client.take()
    client.answer(client.taken[0], error="cluster b: no")
    for other in client.taken[1:]:
        client.answer(other)
    client.stream.update(bad.updated("3", pack(CDS, cluster("c"))))

    client.take()
    (response,) = [one for one in client.taken if one.type_url == CDS]
    assert {"a", "b", "c"} == {one.name for one in response.resources}
    assert pack(CDS, cluster("b")) in response.resources


def test_client_that_comes_back_gets_only_what_differs():
    """It says the versions it has; these follow from the content, so a new control plane knows them."""
    before = snapshot("90", "a", "b")
    client = Client()
    client.stream.update(before.updated("1", pack(CDS, cluster("b", connect_timeout="5s"))))
    client.subscribe(CDS, versions={name: one.version for name, one in before[CDS].items()})

    assert ["CDS b"] == client.take()


def test_client_that_comes_back_loses_what_is_gone_after_its_new_route():
    """What it has is known by version only, so it may name anything until it is replaced."""
    client = Client()
    client.stream.update(snapshot("1", "b", to=["b"]))
    client.subscribe(CDS, versions={"a": "1795442712", "b": "other"})

    assert ["CDS b"] == client.take()
    client.answer(client.taken[0])
    assert [] == client.take()
    client.subscribe(LDS, versions={"listener": "it had"})
    client.subscribe(EDS, "b", versions={"b": "other"})
    client.subscribe(RDS, "out", versions={"out": "to a"})
    assert ["EDS b", "LDS -listener", "RDS out", "CDS -a"] == client.take_all()


def test_older_counter_means_nothing():
    """Versions are compared for being equal only: a control plane may start to count at 1 again."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("90", "a"))
    client.subscribe(CDS)
    client.take_all()
    client.stream.update(snapshot("1", "a", "b"))

    client.take()
    assert ["1"] == [one.version for one in client.taken]


def test_grpc_client_asks_from_the_route_downwards():
    """It asks for a cluster because a route names it, so the route must not wait for the cluster."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("1", "a", to=["a"]))

    client.subscribe(RDS, "out")
    assert ["RDS out"] == client.take_all()
    client.subscribe(CDS, "a")
    assert "CDS a" == client.take_all()[0]
    client.stream.update(snapshot("2", "b", to=["b"]))
    assert "RDS out" == client.take_all()[0]


def test_listener_that_does_not_exist_is_answered():
    """A gRPC client then fails its calls at once, with a reason, instead of waiting for fifteen seconds."""
    client = Client(is_delta=False)
    client.stream.update(snapshot("1", "a"))
    client.subscribe(LDS, "nobody")

    assert ["LDS -nobody"] == client.take()


def test_asking_again_is_answered_again():
    """A client that subscribes to a name once more wants the resource once more."""
    client = Client()
    client.stream.update(snapshot("1", "a"))
    client.subscribe(EDS, "a")
    client.take_all()
    client.subscribe(EDS, "a")

    assert ["EDS a"] == client.take()


def test_name_no_longer_wanted_is_forgotten():
    """What a client does not listen to is not sent, and when it asks again it gets it."""
    client = Client()
    client.stream.update(snapshot("1", "a", "b"))
    client.subscribe(EDS, "a", "b")
    client.take_all()
    client.stream.receive(Request(EDS, unsubscribe=frozenset({"a"})))
    client.stream.update(snapshot("2", "a", "b", endpoint=THERE))

    assert ["EDS b"] == client.take_all()
    client.subscribe(EDS, "a")
    assert ["EDS a"] == client.take()
