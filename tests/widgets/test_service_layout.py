"""Places of services and calls: from left to right, past each other and not behind."""

from __future__ import annotations

from itertools import combinations

from cnlab.apps import bookinfo
from cnlab.widgets.service_layout import columns_of, lay_out

CALLS = [
    ("ingressgateway", "productpage"),
    ("productpage", "details"),
    ("productpage", "reviews"),
    ("reviews", "ratings"),
]


def test_service_stands_right_of_all_that_call_it():
    """A request is then read from left to right."""
    columns = columns_of([*CALLS, ("productpage", "ratings")])

    assert [["ingressgateway"], ["productpage"], ["details", "reviews"], ["ratings"]] == columns


def test_calls_in_a_circle_end_somewhere():
    """Two services that call each other have no first, and one may call itself."""
    assert [["a", "b"], ["c"]] == columns_of([("a", "b"), ("b", "a"), ("b", "c"), ("c", "c")])


def test_call_that_skips_a_column_has_a_place_of_its_own_there():
    """Behind a box it would seem to come from that box."""
    layout = lay_out([*CALLS, ("ingressgateway", "ratings")])
    way = layout.ways["ingressgateway", "ratings"]

    assert [0, 1, 2, 3] == [column for column, _row in way]
    assert not set(way[1:-1]) & set(layout.places.values())


def test_no_two_of_twelve_services_and_their_calls_share_a_place():
    """The page of notebook 10 with all of them."""
    layout = lay_out(bookinfo(12).edges())
    passing = [place for way in layout.ways.values() for place in way[1:-1]]

    assert [pair for pair in combinations([*layout.places.values(), *passing], 2) if pair[0] == pair[1]] == []


def test_calls_that_need_not_cross_do_not():
    """Sorted by name, a's call would cross b's."""
    layout = lay_out([("a", "z"), ("b", "y"), ("root", "a"), ("root", "b")])
    rows = {name: row for name, (_column, row) in layout.places.items()}

    assert (rows["a"] < rows["b"]) == (rows["z"] < rows["y"])


def test_nobody_calls_anybody():
    """A mesh that has just started."""
    assert {} == lay_out([]).places
