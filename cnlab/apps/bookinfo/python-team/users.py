"""Who is asking: the header end-user says it, and nobody checks."""

from typing import Any

from service import Request, serve


def answer(request: Request) -> tuple[int, Any]:
    """Give what is known of the user."""
    if not request.path.startswith("/users"):
        return 404, {"error": f"no {request.path} here"}
    return 200, {"id": 0, "name": request.headers.get("end-user", "guest")}


if __name__ == "__main__":
    serve(answer)
