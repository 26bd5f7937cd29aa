"""How many copies there are. The twin of stock.c."""

from typing import Any

from service import Request, serve


def answer(request: Request) -> tuple[int, Any]:
    """Give the number."""
    if not request.path.startswith("/stock"):
        return 404, {"error": f"no {request.path} here"}
    return 200, {"id": 0, "copies": 7}


if __name__ == "__main__":
    serve(answer)
