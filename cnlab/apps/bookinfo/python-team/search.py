"""Finds the book and what goes with it. The twin of search.js."""

from typing import Any

from client import Unavailable, call
from service import CALLS, Request, serve


def answer(request: Request) -> tuple[int, Any]:
    """Give what was found; a part that is not to be had is left out."""
    if not request.path.startswith("/search"):
        return 404, {"error": f"no {request.path} here"}
    found: dict[str, Any] = {"id": 0}
    errors = {}
    for service, key in (("details", "author"), ("recommendations", "titles")):
        if service in CALLS:
            try:
                found[key] = call(service, f"/{service}/0", on_behalf_of=request)[key]
            except Unavailable as error:
                errors[service] = str(error)
    return 200, {**found, "errors": errors} if errors else found


if __name__ == "__main__":
    serve(answer)
