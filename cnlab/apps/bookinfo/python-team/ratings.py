"""The ratings of a book: how many stars each reviewer gave. The twin of ratings.c."""

from typing import Any

from service import Request, serve

STARS = {"Reviewer1": 5, "Reviewer2": 4}


def answer(request: Request) -> tuple[int, Any]:
    """Give the stars."""
    if not request.path.startswith("/ratings"):
        return 404, {"error": f"no {request.path} here"}
    return 200, {"id": 0, "ratings": STARS}


if __name__ == "__main__":
    serve(answer)
