"""The facts about a book, with price and stock if somebody knows them. The twin of details.js."""

from typing import Any

from client import Unavailable, call
from service import CALLS, Request, serve

DETAILS = {
    "author": "William Shakespeare",
    "year": 1595,
    "type": "paperback",
    "pages": 200,
    "publisher": "PublisherA",
    "language": "English",
}


def answer(request: Request) -> tuple[int, Any]:
    """Give the facts; a part that is not to be had is left out."""
    if not request.path.startswith("/details"):
        return 404, {"error": f"no {request.path} here"}
    details: dict[str, Any] = {"id": 0, **DETAILS}
    errors = {}
    for service, key in (("prices", "cents"), ("stock", "copies")):
        if service in CALLS:
            try:
                details[key] = call(service, f"/{service}/0", on_behalf_of=request)[key]
            except Unavailable as error:
                errors[service] = str(error)
    return 200, {**details, "errors": errors} if errors else details


if __name__ == "__main__":
    serve(answer)
