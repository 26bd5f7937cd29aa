"""The reviews of a book, in three versions: v1 shows no ratings, v2 shows black stars, v3 red ones."""

from typing import Any

from client import Unavailable, call
from service import CALLS, VERSION, Request, serve

REVIEWS = {
    "Reviewer1": "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    "Reviewer2": "Absolutely fun and entertaining. Two pairs of twins, and nobody asks for a name.",
}
COLOURS = {"v2": "black", "v3": "red"}


def answer(request: Request) -> tuple[int, Any]:
    """Give the reviews; without stars where nobody can tell how many."""
    if not request.path.startswith("/reviews"):
        return 404, {"error": f"no {request.path} here"}
    reviews: list[dict[str, Any]] = [{"reviewer": name, "text": text} for name, text in REVIEWS.items()]
    if VERSION in COLOURS and "ratings" in CALLS:
        try:
            stars = call("ratings", "/ratings/0", on_behalf_of=request)["ratings"]
        except Unavailable as error:
            return 200, {"id": 0, "reviews": reviews, "errors": {"ratings": str(error)}}
        for review in reviews:
            review["rating"] = {"stars": stars.get(review["reviewer"], 0), "color": COLOURS[VERSION]}
    return 200, {"id": 0, "reviews": reviews}


if __name__ == "__main__":
    serve(answer)
