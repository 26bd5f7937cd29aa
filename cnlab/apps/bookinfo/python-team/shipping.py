"""What it costs to send a book, and sending it: POST makes a parcel. The twin of shipping.c."""

from typing import Any

from client import Unavailable, call
from service import CALLS, Request, serve

FREE_FROM_CENTS = 5000
POSTAGE_CENTS = 390
_parcels: list[Request] = []


def answer(request: Request) -> tuple[int, Any]:
    """Give days and postage; on POST, after making one parcel more."""
    if not request.path.startswith("/shipping"):
        return 404, {"error": f"no {request.path} here"}
    known = {"cents": 0, "copies": 1}
    try:
        for service, key in (("prices", "cents"), ("stock", "copies")):
            if service in CALLS:
                known[key] = call(service, f"/{service}/0", on_behalf_of=request)[key]
    except Unavailable as error:
        return 503, {"error": str(error)}
    if request.method == "POST":
        _parcels.append(request)
    postage = POSTAGE_CENTS if known["cents"] < FREE_FROM_CENTS else 0
    days = 2 if known["copies"] > 0 else 14
    return 200, {"id": 0, "days": days, "postage": postage, "parcels": len(_parcels)}


if __name__ == "__main__":
    serve(answer)
