"""What went over the wire, as both sides remember it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer."""

    method: str
    path: str  # with the query
    status: int
    uploaded: int  # bytes of the request's body
    downloaded: int  # bytes of the answer's body
    seconds: float  # from the request's headers to the answer's

    def __str__(self) -> str:
        return f"{self.method} {self.path} → {self.status}"
