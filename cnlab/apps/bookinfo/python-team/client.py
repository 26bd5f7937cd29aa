"""The client library of the Python teams: calls to other services with timeout, retries, load balancing.

It follows the manners of urllib3: only methods that are idempotent are tried again, after an exponential
backoff, or when the server says in Retry-After. ``CLIENT=plain`` switches all that off, for where something
else takes care of it; the headers of a trace are passed on in any case, as nothing else can.

See: RFC 9110, 9.2.2 "Idempotent Methods" and 10.2.3 "Retry-After".
"""

import http.client
import itertools
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from service import NAME, VERSION, Request

TRIES = 3
TIMEOUT_S = 2.0
BACKOFF_S = 0.05
LONGEST_RETRY_AFTER_S = 2.0
IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"}
RETRYABLE = {429, 502, 503, 504}
PROPAGATED = ("traceparent", "tracestate", "x-request-id", "end-user")
_IS_PLAIN = os.environ.get("CLIENT") == "plain"
_PLAIN_TIMEOUT_S = 15.0
_turns: dict[str, "itertools.count[int]"] = {}


class Unavailable(Exception):  # noqa: N818 - reads as what happened
    """A service gave no useful answer, for all we tried."""


def call(service: str, path: str, *, on_behalf_of: Request, method: str = "GET") -> Any:
    """Ask another service and return the JSON value that it answers.

    Raises:
        Unavailable: it did not answer, or answered with an error.
    """
    tries = TRIES if method in IDEMPOTENT and not _IS_PLAIN else 1
    headers = _headers(service, on_behalf_of)
    turn = next(_turns.setdefault(service, itertools.count()))
    for attempt in range(tries):
        wait_s = BACKOFF_S * 2**attempt
        try:
            status, retry_after, body = _exchange(_address(service, turn + attempt), method, path, headers)
        except (OSError, http.client.HTTPException) as error:
            reason = f"{service}: {type(error).__name__}"
        else:
            if status < 400:
                return json.loads(body)
            reason = f"{service} answered {status}"
            if status not in RETRYABLE:
                break
            if retry_after.isdecimal():
                wait_s = min(float(retry_after), LONGEST_RETRY_AFTER_S)
        if attempt < tries - 1:
            time.sleep(wait_s)
    raise Unavailable(reason)


def _exchange(address: str, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
    host, _, port = address.rpartition(":")
    timeout_s = _PLAIN_TIMEOUT_S if _IS_PLAIN else TIMEOUT_S
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.getheader("retry-after", ""), response.read()
    finally:
        connection.close()


def _address(service: str, turn: int) -> str:
    """Take one address after the other: round robin, and for another try the next one."""
    variable = service.upper().replace("-", "_") + "_ADDR"
    addresses = os.environ.get(variable, "").split(",")
    if addresses == [""]:
        raise Unavailable(f"{service}: no address, {variable} is not set")
    return addresses[turn % len(addresses)]


def _headers(service: str, request: Request) -> dict[str, str]:
    """Say whom we want and who we are, and pass on what ties this call to the one that caused it."""
    traced = {
        name: text
        for name, text in request.headers.items()
        if name.lower() in PROPAGATED or name.lower().startswith("x-b3-")
    }
    return {**traced, "host": service, "user-agent": f"{NAME}/{VERSION}", "connection": "close"}
