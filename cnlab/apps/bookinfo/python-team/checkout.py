"""What there is to pay, and paying: POST has the order shipped. The twin of checkout.js."""

import itertools
from typing import Any

from client import Unavailable, call
from service import CALLS, Request, serve

_numbers = itertools.count(1)


def answer(request: Request) -> tuple[int, Any]:
    """Give the sum of cart and postage; on POST, and an order number."""
    if not request.path.startswith("/checkout"):
        return 404, {"error": f"no {request.path} here"}
    postage = 0
    try:
        total = call("cart", "/cart/0", on_behalf_of=request)["total"]
        if "shipping" in CALLS:
            shipping = call("shipping", "/shipping/0", on_behalf_of=request, method=request.method)
            postage = shipping["postage"]
    except Unavailable as error:
        return 503, {"error": str(error)}
    order = {"order": next(_numbers)} if request.method == "POST" else {}
    return 200, {"id": 0, "total": total + postage, **order}


if __name__ == "__main__":
    serve(answer)
