"""A shop for one book, after Istio's Bookinfo: four services in three languages, which can grow to twelve.

Each language is the work of a team of its own, which has nothing but its own directory: no program is
imported from here or from another directory, all are run by path.

See: "Bookinfo Application" in Istio's documentation.
"""

from __future__ import annotations

from pathlib import Path

from cnlab.apps.application import Application, Language, Program, Service
from cnlab.errors import InvalidValue

_HERE = Path(__file__).parent
_PLACES: dict[Language, tuple[str, str]] = {
    "Python": ("python-team", "py"),
    "JavaScript": ("node-team", "js"),
    "C": ("c-team", "c"),
}
GROWTH: tuple[tuple[str, Language, tuple[str, ...]], ...] = (
    ("productpage", "Python", ("details", "reviews", "recommendations", "cart", "checkout", "search")),
    ("details", "JavaScript", ("prices", "stock")),
    ("reviews", "Python", ("ratings",)),
    ("ratings", "C", ()),
    ("prices", "Python", ()),
    ("recommendations", "Python", ("ratings", "prices")),
    ("stock", "C", ()),
    ("cart", "JavaScript", ("prices", "stock", "users")),
    ("checkout", "JavaScript", ("cart", "shipping")),
    ("shipping", "C", ("prices", "stock")),
    ("users", "Python", ()),
    ("search", "JavaScript", ("details", "recommendations")),
)
"""The services in the order in which they came, their language, and whom they call once that one is there."""


def program(service: str, language: Language) -> Program:
    """Return a service's program in its language, with its Python twin if it is written in another."""
    directory, suffix = _PLACES[language]
    twin = None if language == "Python" else _HERE / "python-team" / f"{service}.py"
    return Program(_HERE / directory / f"{service}.{suffix}", language, twin)


def client_library(language: Language) -> Path:
    """Return the source of the client library that the teams of a language share."""
    directory, suffix = _PLACES[language]
    return _HERE / directory / f"client.{'h' if language == 'C' else suffix}"


def bookinfo(services: int = 4, *, reviews: tuple[str, ...] = ("v1", "v2", "v3")) -> Application:
    """Return the application as it was when it had so many services.

    Args:
        services: how many; the first four are Istio's.
        reviews: the versions of reviews that run side by side.

    Raises:
        InvalidValue: `services` is not one of 2 to 12.
    """
    if not 2 <= services <= len(GROWTH):
        raise InvalidValue(f"{services} services: bookinfo has 2 to {len(GROWTH)}")
    here = [name for name, _, _ in GROWTH[:services]]
    return Application(
        "bookinfo",
        tuple(
            Service(
                name,
                program(name, language),
                versions=reviews if name == "reviews" else ("v1",),
                calls=tuple(called for called in calls if called in here),
            )
            for name, language, calls in GROWTH[:services]
        ),
    )
