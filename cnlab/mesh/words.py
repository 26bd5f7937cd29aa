"""The words of a configuration, checked: a wrong one is refused in a line that says what would be right."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from cnlab.errors import InvalidValue

Json = dict[str, Any]

_PATH_WORDS = ("prefix", "path", "safe_regex")
_MATCH_WORDS = (*_PATH_WORDS, "method", "headers", "source")
_HEADER_WORDS = ("exact", "prefix", "suffix", "contains", "regex", "present")
_RETRY_ON = (
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited"),
    *("retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers"),
    *("http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted"),
    "unavailable",
)
"""See: "x-envoy-retry-on" and "x-envoy-retry-grpc-on" in Envoy's documentation of its router."""
_FAULT_WORDS = {"delay": ("fixed_delay", "percentage"), "abort": ("http_status", "percentage")}


def check_service(service: str, services: Collection[str], *, kind: str = "service") -> None:
    """Refuse a service that is not there."""
    if service not in services:
        known = ", ".join(sorted(services)) or "none"
        raise InvalidValue(f"unknown {kind} {service!r}; there are {known}")


def check_match(service: str, match: Json, services: Collection[str]) -> Json:
    """Check what a rule matches, and return it."""
    where = f"route({service}), match"
    check_words(where, match, _MATCH_WORDS)
    if len(paths := [word for word in _PATH_WORDS if word in match]) > 1:
        raise InvalidValue(f"{where}: {' and '.join(paths)} exclude each other")
    for word in ("method", "safe_regex"):
        check_text(f"{where}, {word}", match.get(word, ""))
    for word in ("prefix", "path"):
        if word in match and not str(match[word]).startswith("/"):
            raise InvalidValue(f"{where}: {word} {match[word]!r} does not begin with /")
    if "source" in match:
        check_service(match["source"], services)
    check_mapping(f"{where}, headers", match.get("headers", {}))
    for name, value in match.get("headers", {}).items():
        if not re.fullmatch(r"[-!#$%&'*+.^_`|~0-9A-Za-z:]+", name):
            raise InvalidValue(f"{where}: {name!r} is no name of a header")
        if not isinstance(value, str):
            if not isinstance(value, dict) or len(value) != 1:
                raise InvalidValue(f"{where}: header {name}: a text, or one of {', '.join(_HEADER_WORDS)}")
            check_words(f"{where}, header {name}", value, _HEADER_WORDS)
    return match


def check_fault(service: str, fault: Json) -> Json:
    """Check a fault, and return it."""
    where = f"fault({service})"
    check_words(where, fault, tuple(_FAULT_WORDS))
    for kind, words in fault.items():
        check_words(f"{where}, {kind}", words, _FAULT_WORDS[kind])
        if (needed := _FAULT_WORDS[kind][0]) not in words:
            raise InvalidValue(f"{where}, {kind}: {needed} is missing")
        check_percent(f"{where}, {kind}", words.get("percentage", 100))
    if "delay" in fault:
        check_duration(where, "fixed_delay", fault["delay"]["fixed_delay"])
    return fault


def check_retries(where: str, retries: Json) -> None:
    """Refuse a reason to try again that Envoy does not know: it would say nothing, and never try again."""
    check_mapping(where, retries)
    for reason in str(retries.get("retry_on", "")).replace(",", " ").split():
        if reason not in _RETRY_ON:
            raise InvalidValue(f"{where}: retry_on {reason!r}; the reasons are {', '.join(_RETRY_ON)}")


def check_mapping(where: str, value: object) -> None:
    """Refuse what is no dict of words and values."""
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{where}: expected words and values, {{…: …}}, got {value!r}")


def check_text(where: str, value: object) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        raise InvalidValue(f"{where}: expected a text, got {value!r}")


def check_number(where: str, value: object, *, least: int = 0) -> None:
    """Refuse what is no whole number, or too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidValue(f"{where}: expected a whole number, {least} or more, got {value!r}")


def check_words(where: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a word that is not among those that are known."""
    check_mapping(where, given)
    unknown = [word for word in given if word not in known]
    if unknown:
        raise InvalidValue(f"{where}: unknown word {unknown[0]!r}; the words are {', '.join(known)}")


def check_duration(where: str, word: str, value: object) -> None:
    """Refuse what is no duration in seconds, written as protobuf's JSON does."""
    if not isinstance(value, str) or not re.fullmatch(r"\d+(\.\d{1,9})?s", value):
        raise InvalidValue(f"{where}: {word} {value!r} is no duration such as '0.5s'")


def check_percent(where: str, value: object) -> None:
    """Refuse what is no percentage."""
    if not isinstance(value, int | float) or not 0 <= value <= 100:
        raise InvalidValue(f"{where}: {value!r} is not from 0 to 100 percent")
