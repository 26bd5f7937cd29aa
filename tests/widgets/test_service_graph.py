"""The graph of services: where each stands, what an edge's colour says, and what is counted since when."""

from __future__ import annotations

from itertools import combinations
from math import dist
from types import SimpleNamespace

import pytest

from cnlab.clock import wait_until
from cnlab.mesh.errors import MeshError
from cnlab.widgets.picture import GREEN, LINE, ORANGE, RED
from cnlab.widgets.service_graph import (
    ServiceGraph,
    Traffic,
    colour_of,
    describe_graph,
    draw_graph,
    since,
)

EDGES = [
    Traffic("ingressgateway", "productpage", 120, 0),
    Traffic("productpage", "details", 120, 0),
    Traffic("productpage", "reviews", 120, 9),
    Traffic("reviews", "ratings", 80, 1),
]


@pytest.mark.parametrize(
    ("requests", "errors", "colour"), [(0, 0, LINE), (100, 0, GREEN), (100, 4, ORANGE), (100, 5, RED)]
)
def test_colour_says_how_many_failed(requests, errors, colour):
    """Nothing happened is not the same as nothing failed."""
    assert colour == colour_of(Traffic("a", "b", requests, errors))


def test_counters_become_what_came_since_the_last_look():
    """A counter that went backwards belongs to a sidecar that has started anew."""
    now = [Traffic("a", "b", 12, 3), Traffic("a", "c", 2, 0), Traffic("a", "d", 1, 1)]
    before = [Traffic("a", "b", 10, 1), Traffic("a", "c", 50, 7)]

    assert [Traffic("a", "b", 2, 2), *now[1:]] == since(now, before)


def test_words_give_both_numbers_of_each_edge():
    """They are all that a screen reader has."""
    assert "productpage to reviews 120 requests, 9 of them failed" in draw_graph(EDGES).alt
    assert "A graph of services: nobody has called anybody." == draw_graph([]).alt


def test_edges_of_a_scrape_are_edges_too():
    """Whoever measured: only the ends and the two counts are read."""
    edge = SimpleNamespace(source="a", destination="b", requests=3, errors=1, p99_s=0.2)

    assert "a to b 3 requests, 1 of them failed" in describe_graph([edge])


def test_words_of_two_edges_do_not_cover_each_other():
    """Both calls from the left column cross in the middle of the way."""
    crossing = [
        Traffic("a", "y", 1, 0),
        Traffic("b", "x", 2, 0),
        Traffic("a", "x", 3, 0),
        Traffic("b", "y", 4, 0),
    ]
    (axes,) = draw_graph(crossing).figure.axes
    places = [text.get_position() for text in axes.texts if text.get_text() in "1234"]

    assert 4 == len(places)
    assert [pair for pair in combinations(places, 2) if dist(*pair) < 0.1] == []


def test_look_draws_what_is_new():
    """Totals hide that the errors have stopped."""
    edges = list(EDGES)
    graph = ServiceGraph(lambda: edges)
    edges[2] = Traffic("productpage", "reviews", 130, 9)

    assert "productpage to reviews 10 requests, 0 of them failed" in graph.look().alt


def test_button_draws_until_it_is_told_to_stop():
    """A thread that stays would ask a mesh that is gone."""
    edges = list(EDGES)
    graph = ServiceGraph(lambda: edges, every_s=0.01)
    (tools, image) = graph._live(draw_graph(edges)).children
    begin, end, message = tools.children
    before = image.value
    begin.click()
    wait_until(lambda: image.value != before, timeout_s=60)
    end.click()

    assert "stopped" == message.value


def test_mesh_that_is_gone_ends_the_drawing_and_says_so():
    """The with block may end while the graph is still looking."""

    def read():
        if graph_is_made:
            raise MeshError("control plane: not running")
        return EDGES

    graph_is_made = False
    graph = ServiceGraph(read, every_s=0.01)
    (tools, _image) = graph._live(draw_graph(EDGES)).children
    graph_is_made = True
    tools.children[0].click()
    wait_until(lambda: "not running" in tools.children[2].value, timeout_s=60)
    graph.stop()


def test_still_form_shows_all_so_far():
    """The book shows the same although no kernel runs there."""
    bundle = ServiceGraph(lambda: EDGES)._repr_mimebundle_()

    assert "120 requests" in bundle["text/plain"]
    assert "In a running notebook" in bundle["text/html"]
