"""What is in the cart and what it costs. The twin of cart.js."""

from typing import Any

from client import Unavailable, call
from service import CALLS, Request, serve

DEFAULTS = {"prices": ("cents", 0), "stock": ("copies", 1), "users": ("name", "guest")}


def answer(request: Request) -> tuple[int, Any]:
    """Give the cart; without a price there is none."""
    if not request.path.startswith("/cart"):
        return 404, {"error": f"no {request.path} here"}
    known: dict[str, Any] = {}
    try:
        for service, (key, default) in DEFAULTS.items():
            known[key] = default
            if service in CALLS:
                known[key] = call(service, f"/{service}/0", on_behalf_of=request)[key]
    except Unavailable as error:
        return 503, {"error": str(error)}
    items = min(2, known["copies"])
    return 200, {"id": 0, "of": known["name"], "items": items, "total": items * known["cents"]}


if __name__ == "__main__":
    serve(answer)
