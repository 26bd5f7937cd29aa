"""The application itself: what its pages hold, and how it fares when a part of it is ill."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup


def test_page_shows_details_and_reviews(shop):
    """What a reader opens in a browser."""
    page = BeautifulSoup(shop.get("/productpage").body, "html.parser")

    assert "The Comedy of Errors" in page.h1.text
    assert [heading.text for heading in page("h2")] == ["Details", "Reviews"]
    assert "William Shakespeare" in page.text


def test_versions_of_reviews_differ_in_their_stars(shop):
    """Canary, mirroring and content-based routing are seen by the colour of the stars."""
    found = {}
    for _ in range(3):  # round robin
        response = shop.get("/api/v1/products/0/reviews").json()
        rating = response["reviews"][0].get("rating", {})
        found[rating.get("color", "none")] = rating.get("stars", 0)

    assert found == {"none": 0, "black": 5, "red": 5}


def test_answer_says_who_gave_it(shop):
    """The header by which loads are counted by version."""
    assert shop.get("/details/0", to="details").served_by == "details-v1"
    assert shop.get("/reviews/0", to="reviews").served_by == "reviews-v1"
    assert shop.get("/ratings/0", to="ratings").served_by == "ratings-v1"


def test_page_goes_on_without_ratings(shop):
    """Graceful degradation: the reviews come without stars, and say why."""
    shop.fail("ratings")

    pages = [shop.get("/api/page") for _ in range(3)]

    assert {page.status for page in pages} == {200}
    errors = [page.json()["reviews"].get("errors", {}) for page in pages]
    assert errors.count({"ratings": "ratings answered 503"}) == 2  # v1 shows none


def test_page_goes_on_without_reviews(shop):
    """And so does the page as a whole."""
    shop.fail("reviews")

    page = shop.get("/productpage")
    assert page.status == 200
    assert "Sorry, reviews are not available now: reviews answered 503" in page.body


def test_path_of_nobody_is_not_found(shop):
    """404, and not a page full of nothing."""
    statuses = {name: shop.get("/nothing", to=name).status for name in shop.application.names}

    assert set(statuses.values()) == {404}


def test_trace_headers_are_passed_on_by_every_language(mall):
    """A sidecar sees single calls; only the application knows which of them belong together."""
    headers = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id": "one",
        "x-b3-traceid": "two",
        "end-user": "jason",
    }

    # productpage (Python) asks checkout and cart (JavaScript), and these ask users
    assert mall.get("/api/page", headers=headers).json()["cart"]["of"] == "jason"


@pytest.mark.parametrize("service", ["productpage", "cart"])
def test_service_that_forgets_passes_no_header_on(mall, service):
    """One careless team is enough to cut a trace in two."""
    mall.tell(service, "/_forget")

    assert mall.get("/api/page", headers={"end-user": "jason"}).json()["cart"]["of"] == "guest"


def test_page_asks_everybody(mall):
    """One request of a reader is more than two dozen inside."""
    mall.get("/api/page")

    counts = mall.counts()
    assert min(counts.values()) >= 1
    assert counts.total() in range(26, 29)  # reviews v1 asks for no ratings


def test_count_tells_who_asked(mall):
    """Whose retries are these? The header user-agent knows."""
    mall.get("/cart/0", to="cart")
    mall.get("/shipping/0", to="shipping")

    assert dict(mall.counts("prices")) == {"cart/v1": 1, "shipping/v1": 1}


def test_order_makes_a_parcel(mall):
    """The one request that is not idempotent."""
    before = mall.get("/shipping/0", to="shipping").json()["parcels"]

    order = mall.post("/checkout/0", to="checkout")

    assert order.json()["total"] == 3370
    assert mall.get("/shipping/0", to="shipping").json()["parcels"] == before + 1


def test_cart_fails_without_its_prices(mall):
    """What cannot be left out is an error, and one that says of whom."""
    mall.fail("prices", status=404)

    response = mall.get("/cart/0", to="cart")
    assert (response.status, response.json()) == (503, {"error": "prices answered 404"})


def test_page_escapes_what_others_say(mall):
    """A header of the reader ends up in the page, by way of three services."""
    page = mall.get("/productpage", headers={"end-user": "<script>"}).body

    assert "<script>" not in page
    assert "&lt;script&gt;" in page
