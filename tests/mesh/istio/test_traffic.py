"""Istio's manifests on a real mesh: Envoy does what they say."""

from __future__ import annotations

from collections import Counter

import pytest
from mesh.exporter import exporter
from mesh.istio.samples import BOOKINFO_GATEWAY, DESTINATION_RULE

from cnlab.apps import bookinfo
from cnlab.errors import InvalidValue
from cnlab.mesh import Mesh

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - match:
    - headers:
        end-user:
          exact: jason
    route:
    - destination:
        host: reviews
        subset: newest
  - match:
    - headers:
        end-user:
          prefix: chaos
    fault:
      abort:
        percentage:
          value: 100
        httpStatus: 418
    route:
    - destination:
        host: reviews
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 80
    - destination:
        host: reviews
        subset: newest
      weight: 20
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: ratings
spec:
  selector:
    matchLabels:
      app: ratings
  mtls:
    mode: STRICT
"""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: ratings-not-for-productpage
spec:
  selector:
    matchLabels:
      app: ratings
  action: DENY
  rules:
  - from:
    - source:
        principals:
        - cluster.local/ns/default/sa/productpage
"""
GATEWAY = f"""{BOOKINFO_GATEWAY}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: bookinfo
spec:
  hosts:
  - "*"
  gateways:
  - bookinfo-gateway
  http:
  - match:
    - uri:
        prefix: /reviews
    route:
    - destination:
        host: reviews
        subset: newest
"""


@pytest.fixture(scope="module")
def running():
    with Mesh(bookinfo(), tracing=False, access_log=False) as mesh:
        yield mesh


@pytest.fixture
def mesh(running):
    """The mesh, without the manifests of the test before."""
    yield running
    groups = {"PeerAuthentication": "security", "AuthorizationPolicy": "security"}
    kept = [
        f"apiVersion: {groups.get(kind, 'networking')}.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}"
        for kind, name in running._manifests.objects
    ]
    if kept:
        running.delete("\n---\n".join(kept))


def reviews(mesh, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return mesh.get("/reviews/0", to="reviews", from_="productpage", headers=headers)


def test_weights_divide_the_requests(mesh):
    """Two of ten go to the new version, and none to one that nobody named."""
    mesh.apply(f"{DESTINATION_RULE}---{ROUTES}")

    served = Counter(reviews(mesh).served_by for _ in range(200))

    assert {"reviews-v1", "reviews-v3"} == set(served)
    assert 15 <= served["reviews-v3"] <= 75


def test_header_decides_before_weights_do(mesh):
    """A tester sees the new version, whatever all others see."""
    mesh.apply(f"{DESTINATION_RULE}---{ROUTES}")

    assert {"reviews-v3"} == {reviews(mesh, end_user="jason").served_by for _ in range(20)}


def test_fault_meets_only_those_of_its_rule(mesh):
    """Chaos under control: who is not named notices nothing."""
    mesh.apply(f"{DESTINATION_RULE}---{ROUTES}")

    assert [418, 200] == [reviews(mesh, end_user="chaos-monkey").status, reviews(mesh).status]


def test_strict_peer_authentication_refuses_plain_text(mesh):
    """A caller without a certificate gets no answer at all; one of the mesh does."""
    assert 200 == mesh.get("/ratings/0", to="ratings", from_="outside").status
    mesh.apply(STRICT)

    with pytest.raises(ConnectionError):
        mesh.get("/ratings/0", to="ratings", from_="outside")
    assert 200 == mesh.get("/ratings/0", to="ratings", from_="reviews").status


def test_authorization_policy_denies_by_identity(mesh):
    """Who calls is known by the certificate, not by an address or a header."""
    mesh.apply(DENY)

    assert [403, 200] == [
        mesh.get("/ratings/0", to="ratings", from_=caller).status for caller in ("productpage", "reviews")
    ]


def test_gateway_leads_where_its_virtual_service_says(mesh):
    """All else is 404, also what the gateway led to before."""
    mesh.apply(f"{DESTINATION_RULE}---{GATEWAY}")

    assert [(200, "reviews-v3"), (404, "")] == [
        (answer.status, answer.served_by or "")
        for answer in (mesh.get("/reviews/0"), mesh.get("/productpage"))
    ]


def test_service_entry_opens_the_way_to_an_outside_host(mesh):
    """By its name, through the sidecar, where policies and telemetry are."""
    with exporter() as outside:
        outside.text = "from outside\n"
        port = outside.server_port
        mesh.apply(
            f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: books
spec:
  hosts: [books.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1}}]
"""
        )

        answer = mesh.get("/", to="books.example", from_="productpage")

    assert (200, "from outside\n") == (answer.status, answer.body)


def test_deleting_a_manifest_brings_back_what_was_before(mesh):
    """Nothing of it is left in the proxies."""
    mesh.apply(f"{DESTINATION_RULE}---{ROUTES}")
    mesh.delete(f"{DESTINATION_RULE}---{ROUTES}")

    served = {reviews(mesh, end_user="jason").served_by for _ in range(30)}
    assert {"reviews-v1", "reviews-v2", "reviews-v3"} == served


def test_refused_manifest_leaves_the_mesh_as_it_was(mesh):
    """A typing mistake must not take a service down."""
    mesh.apply(f"{DESTINATION_RULE}---{ROUTES}")

    with pytest.raises(InvalidValue, match="host 'opinions' is no service of this mesh"):
        mesh.apply(ROUTES.replace("host: reviews", "host: opinions"))

    assert "reviews-v3" == reviews(mesh, end_user="jason").served_by
