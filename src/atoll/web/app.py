"""HTTP of a node: is the process alive, is the node ready, what are its numbers.

The routes are told what they need (a question for the reasons why the node is not ready, a registry of
metrics); the server runs on a socket that somebody else has bound and leaves signals to the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from atoll.web import strays
from atoll.web.outgoing import Outgoing

CONNECTIONS_MAX = 256
HEAD_SECONDS_MAX = 30.0
STILL_SECONDS_MAX = 60.0
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
    app = Starlette(
        routes=[*own, *routes],
        exception_handlers={404: strays.refuse, 405: strays.refuse, Exception: strays.confess},
    )
    app.router.redirect_slashes = False
    return app


UVICORN_TICKS = 5


class _Connection(H11Protocol):
    """Breaks off where no head of a request comes, or nothing of an answer is taken.

    uvicorn by itself would wait for good; places are few, and an engine may be held meanwhile.
    """

    _head: asyncio.TimerHandle | None = None
    _still: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._outgoing = Outgoing(transport)
        super().connection_made(self._outgoing)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        self._outgoing.flush()
        super().on_response_complete()
        self._wait_for_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._still)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head)
        _cancel(self._still)
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        _cancel(self._head)
        self._head = self.loop.call_later(HEAD_SECONDS_MAX, self._look_for_head)

    def _look_for_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if left := self.transport.get_write_buffer_size():
            self._wait_for_reader(left)  # the end of the answer before is still on its way
        else:
            self.transport.abort()

    def _wait_for_reader(self, left: int) -> None:
        _cancel(self._still)
        self._still = self.loop.call_later(STILL_SECONDS_MAX, self._look_for_reader, left)

    def _look_for_reader(self, left_before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left == 0:
            self._wait_for_head()
        elif left < left_before:
            self._wait_for_reader(left)
        else:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class _Server(uvicorn.Server):
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
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
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
