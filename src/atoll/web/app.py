"""HTTP of a node: is the process alive, is the node ready, what are its numbers.

The routes are told what they need (a question for the reasons why the node is not ready, a registry of
metrics); the server runs on a socket that somebody else has bound and leaves signals to the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Message, Receive, Scope, Send

from atoll.web import strays
from atoll.web.connection import Connection

CONNECTIONS_MAX = 256
KNOWN_MAX, KNOWN_LETTERS_MAX = 1024, 256
GRACEFUL_SECONDS_MAX = 2


def make_app(
    reasons: Callable[[], Mapping[str, str]], registry: CollectorRegistry, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application; other parts add their routes."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        found = dict(reasons())
        return JSONResponse({"ready": not found, "reasons": found}, status_code=503 if found else 200)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return _App([*own, *routes])


class _App(Starlette):
    """Remembers which route answers a path: trying one after the other costs as much as some answers do."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        super().__init__(
            routes=routes,
            exception_handlers={404: strays.refuse, 405: strays.refuse, Exception: strays.confess},
        )
        self.router.redirect_slashes = False
        self._known: dict[tuple[str, str], _Known] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = self._known.get((scope["method"], scope["path"])) or self._find(scope)
        if known is None:
            await super().__call__(scope, receive, send)
            return
        scope["path_params"] = known.parameters
        request, has_begun = Request(scope, receive), False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            response = await known.endpoint(request)
            await response(scope, receive, sending)
        except Exception as error:
            if not has_begun:
                await (await strays.confess(request, error))(scope, receive, send)
            raise

    def _find(self, scope: Scope) -> _Known | None:
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL and isinstance(route, Route):
                known = _Known(route.endpoint, found["path_params"])
                self._remember((scope["method"], scope["path"]), known)
                return known
        return None

    def _remember(self, asked: tuple[str, str], known: _Known) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        if len(asked[1]) <= KNOWN_LETTERS_MAX:
            self._known[asked] = known


@dataclass(frozen=True)
class _Known:
    endpoint: Callable[[Request], Awaitable[Response]]
    parameters: dict[str, Any]


UVICORN_TICKS = 5
WAITING_MAX = 2048  # connections that are not taken yet


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """asyncio takes as many connections in a turn as may wait, and looks in vain for one more."""
        await super().startup(sockets)
        for one in sockets or []:
            one.listen(WAITING_MAX)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the node's."""
        yield

    async def main_loop(self) -> None:
        """Look after connections twice a second, not ten: an idle node is to cost nothing."""
        tick = 0
        while not await self.on_tick(tick):
            tick = (tick + UVICORN_TICKS) % 864_000
            await asyncio.sleep(UVICORN_TICKS / 10)


class WebServer:
    """Serves an application on a bound socket until it is cancelled."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and without it each
        # answer waits 40 ms on a connection that stays open: for the word that its head has arrived.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=1,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_graceful_shutdown=GRACEFUL_SECONDS_MAX,
            )
        )

    async def run(self) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._server.should_exit = True
            await asyncio.wait({serving}, timeout=GRACEFUL_SECONDS_MAX + 1)
            serving.cancel()
            raise
