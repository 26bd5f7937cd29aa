"""The HTTP side of the control plane: configuration in, answers out, all JSON but for ``/metrics``.

    PUT  /config?timeout_s=5   {"configuration": …, "workloads": […]}
                               -> {"version": 7, "refusals": [], "nodes": {"reviews-v1-0": {"CDS": "6", …}}}
    GET  /status  /acks?since=0  /accesslog?since=0  /traces  /decisions  /metrics
    POST /rotate?service=reviews

A wrong configuration is answered with 400, nodes that do not answer with 504. All this is for whoever may
open the UNIX socket in the mesh's private directory; at the TCP port, where Prometheus asks and anybody on
this machine may, there is ``/metrics`` alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cnlab.errors import CnlabError, InvalidValue
from cnlab.mesh.control_plane.wanted import Wanted
from cnlab.mesh.pilot.resources import Json
from cnlab.mesh.settings import ControlPlaneSettings

if TYPE_CHECKING:
    from cnlab.mesh.control_plane.server import ControlPlane
    from cnlab.mesh.mixer.telemetry import Record
    from cnlab.mesh.mixer.traces import Trace

_LOG = logging.getLogger(__name__)
_LARGEST_BODY = 32 << 20


async def start(plane: ControlPlane, settings: ControlPlaneSettings) -> list[web.AppRunner]:
    """Listen, for us and for scrapers; return what is to be cleaned up in the end."""
    pages = Pages(plane)
    metrics = web.get("/metrics", pages.metrics)
    ours = await _runner(
        metrics,
        web.put("/config", pages.configure),
        web.get("/status", pages.status),
        web.get("/acks", pages.acks),
        web.get("/accesslog", pages.access_log),
        web.get("/traces", pages.traces),
        web.get("/decisions", pages.decisions),
        web.post("/rotate", pages.rotate),
    )
    everybodys = await _runner(metrics)
    await web.TCPSite(everybodys, settings.address, settings.ports.monitoring).start()
    await web.UnixSite(ours, settings.api_socket).start()
    return [ours, everybodys]


async def _runner(*routes: web.RouteDef) -> web.AppRunner:
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_say_what_is_wrong])
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    return runner


class Pages:
    """One method a path."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def configure(self, request: web.Request) -> web.Response:
        """Take over what is wanted, and say what became of it."""
        try:
            wanted = Wanted.from_dict(await request.json())
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidValue(f"body of PUT /config: {type(error).__name__}: {error}") from None
        timeout_s = float(request.query.get("timeout_s", 5))
        refusals = await self._plane.configure(wanted, timeout_s=timeout_s)
        answer = {
            "version": self._plane.version,
            "refusals": [asdict(one) for one in refusals],
            "nodes": {name: one.versions for name, one in self._plane.discovery.status().items()},
        }
        return _json(answer)

    async def status(self, request: web.Request) -> web.Response:
        """Say who is connected, and what each node has."""
        nodes = {name: _plain(one) for name, one in self._plane.discovery.status().items()}
        return _json({"pid": os.getpid(), "version": self._plane.version, "nodes": nodes})

    async def acks(self, request: web.Request) -> web.Response:
        """Return what nodes have answered since a time, which is in seconds since the epoch."""
        since = float(request.query.get("since", 0))
        return _json([asdict(one) for one in self._plane.discovery.log if one.time_s > since])

    async def access_log(self, request: web.Request) -> web.Response:
        """Return the requests that sidecars have reported since a time."""
        records = self._plane.access_log.records(since=float(request.query.get("since", 0)))
        head = f'{{"now": {json.dumps(time.time())}, "records": '
        return _text(head + await asyncio.to_thread(_listed, records) + "}")

    async def traces(self, request: web.Request) -> web.Response:
        """Return the traces that are remembered, oldest first."""
        return _text(await asyncio.to_thread(_listed, self._plane.traces.traces()))

    async def decisions(self, request: web.Request) -> web.Response:
        """Return what policies have decided."""
        return _json([_plain(one) for one in self._plane.authorizer.decisions])

    async def metrics(self, request: web.Request) -> web.Response:
        """Return our own metrics as OpenMetrics text."""
        accept = request.headers.get("Accept", "")
        text, content_type = self._plane.books.exposition(self._plane, accept)
        return web.Response(body=text.encode(), headers={"Content-Type": content_type})

    async def rotate(self, request: web.Request) -> web.Response:
        """Issue new certificates."""
        return _json(await self._plane.rotate(request.query.get("service")))


@web.middleware
async def _say_what_is_wrong(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:  # an answer too, such as 404
        raise
    except TimeoutError as error:
        return _json({"error": str(error)}, status=504)
    except (CnlabError, ValueError) as error:
        notes = getattr(error, "__notes__", [])
        return _json({"error": str(error), "kind": type(error).__name__, "notes": notes}, status=400)
    except Exception as error:  # a mistake of ours, or a word that nobody has thought of
        _LOG.exception("%s %s", request.method, request.path)
        return _json({"error": f"{type(error).__name__}: {error}"}, status=400)


def _plain(value: Any) -> Json:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{value!r} is no dataclass")


def _listed(many: Sequence[Record | Trace]) -> str:
    """Return them as a JSON list, made one by one: sidecars ask policies on the thread beside this one."""
    return f"[{', '.join(json.dumps(one.as_dict()) for one in many)}]"


def _json(value: object, status: int = 200) -> web.Response:
    return _text(json.dumps(value), status)


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/json")
