"""The page of a book: asks every service that it may call, and shows what has come."""

from collections.abc import Mapping
from html import escape
from typing import Any

from client import Unavailable, call
from service import CALLS, VERSION, Request, serve

PRODUCT = {"id": 0, "title": "The Comedy of Errors"}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
body{color:#22262b}section{border:1px solid #d5d3cc;border-radius:8px;padding:.2rem 1rem;margin:1rem 0}
h2{font-size:1.1rem}
dt{float:left;clear:left;width:9rem;color:#6b7178}dd{margin-left:9rem}.error{color:#b93f38}
blockquote{margin:.6rem 0}.black{color:#22262b}.red{color:#b93f38}"""


def answer(request: Request) -> tuple[int, Any]:
    """Give the page, or what it is made of."""
    parts = request.path.strip("/").split("/")
    if parts in ([""], ["productpage"]):
        return 200, to_html(collect(request))
    if parts == ["api", "page"]:
        return 200, collect(request)
    if parts == ["api", "v1", "products"]:
        return 200, [PRODUCT]
    if parts[:4] == ["api", "v1", "products", "0"] and len(parts) == 5 and parts[4] in CALLS:
        try:
            return 200, call(parts[4], f"/{parts[4]}/0", on_behalf_of=request)
        except Unavailable as error:
            return 503, {"error": str(error)}
    return 404, {"error": f"no {request.path} here"}


def collect(request: Request) -> dict[str, Any]:
    """Ask all the services, one after the other; those that fail stand under ``errors``."""
    page: dict[str, Any] = {"product": PRODUCT, "errors": {}}
    for service in CALLS:
        try:
            page[service] = call(service, f"/{service}/0", on_behalf_of=request)
        except Unavailable as error:
            page["errors"][service] = str(error)
    return page


def to_html(page: Mapping[str, Any]) -> str:
    """Draw the page."""
    sections = "".join(f"<section><h2>{name.title()}</h2>{_section(name, page)}</section>" for name in CALLS)
    title = escape(page["product"]["title"])
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{sections}"
        f"<footer>productpage {escape(VERSION)}</footer></body></html>"
    )


def _section(name: str, page: Mapping[str, Any]) -> str:
    if name not in page:
        return f'<p class="error">Sorry, {name} are not available now: {escape(page["errors"][name])}</p>'
    value = dict(page[name])
    missing = "".join(f'<p class="error">{escape(text)}</p>' for text in value.pop("errors", {}).values())
    return (_reviews(value) if name == "reviews" else _facts(value)) + missing


def _reviews(value: Mapping[str, Any]) -> str:
    quotes = []
    for review in value["reviews"]:
        rating = review.get("rating", {"stars": 0, "color": "black"})
        stars = "★" * int(rating["stars"])
        quotes.append(
            f"<blockquote>{escape(review['text'])}<br><small>{escape(review['reviewer'])}</small> "
            f'<span class="{escape(rating["color"])}">{stars}</span></blockquote>'
        )
    return "".join(quotes)


def _facts(value: Mapping[str, Any]) -> str:
    facts = ((name, text) for name, text in value.items() if name != "id")
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in facts)
        + "</dl>"
    )


if __name__ == "__main__":
    serve(answer)
