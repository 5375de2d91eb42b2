"""`POST /query`: a question over HTTP, answered as JSON, as lines with progress, or as an Arrow stream.

Whoever asks shows the password of the application's role (HTTP Basic, user `app`). Who hangs up has the
question withdrawn on every node.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.analytics.question import NodeReport, Question
from atoll.analytics.service import Outcome
from atoll.domain.errors import AtollError, DataError
from atoll.web.bodies import load, read_body
from atoll.web.callers import check_login, failure, told, while_there

BODY_BYTES_MAX = 256 * 1024
SECONDS_MAX = 300.0
ARROW = "application/vnd.apache.arrow.stream"
LINES = "application/x-ndjson"
FIELDS = {"sql", "on", "seconds", "exact", "local_joins", "arrow"}
Say = Callable[[NodeReport], None]
Ask = Callable[[Question, Say], Awaitable[Outcome]]


def question_route(ask: Ask, password: Callable[[], str]) -> Route:
    async def query(request: Request) -> Response:
        try:
            check_login(request, password())
            question, wants_arrow = _read(
                await read_body(request, BODY_BYTES_MAX, "question-malformed", "a question")
            )
        except AtollError as error:
            return failure(error)
        accept = request.headers.get("accept", "")
        kind = ARROW if ARROW in accept else LINES if LINES in accept else "application/json"
        return cast("Response", _Answer(ask, question, kind, wants_arrow))

    return Route("/query", query, methods=["POST"])


class _Answer:
    """A response that works for as long as its reader is there."""

    background = None

    def __init__(self, ask: Ask, question: Question, kind: str, wants_arrow: bool) -> None:
        self._ask = ask
        self._question = question
        self._kind = kind
        self._wants_arrow = wants_arrow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._lines(send) if self._kind == LINES else self._whole(scope, receive, send)
        await while_there(scope, receive, answer)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        from atoll.analytics import results

        try:
            outcome = await self._ask(self._question, lambda report: None)
        except AtollError as error:
            await failure(error)(scope, receive, send)
            return
        headers = {"Atoll-Complete": "true" if outcome.report["complete"] else "false"}
        if self._kind == ARROW:
            content = await asyncio.to_thread(results.as_stream, outcome.table, outcome.report)
            response = Response(content, media_type=ARROW, headers=headers)
        else:
            found = await asyncio.to_thread(results.as_json, outcome.table)
            response = JSONResponse({**found, "report": outcome.report}, headers=headers)
        await response(scope, receive, send)

    async def _lines(self, send: Send) -> None:
        """Each node's report as it comes, then the result or an error."""
        from atoll.analytics import results

        reports: asyncio.Queue[NodeReport | None] = asyncio.Queue()
        asking = asyncio.ensure_future(self._ask(self._question, reports.put_nowait))
        asking.add_done_callback(lambda task: reports.put_nowait(None))
        head = [(b"content-type", LINES.encode())]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": head})
            while (report := await reports.get()) is not None:
                await _line(send, {"node": report.as_json()})
            try:
                outcome = await asking
                if self._wants_arrow:
                    stream = await asyncio.to_thread(results.as_stream, outcome.table, outcome.report)
                    found: dict[str, Any] = {"arrow": base64.b64encode(stream).decode()}
                else:
                    found = await asyncio.to_thread(results.as_json, outcome.table)
                await _line(send, {"result": {**found, "report": outcome.report}})
            except AtollError as error:
                await _line(send, {"error": told(error)})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def _line(send: Send, found: dict[str, Any]) -> None:
    body = json.dumps(found).encode() + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _read(body: bytes) -> tuple[Question, bool]:
    try:
        told = load(body)
        on = told.get("on", [])
        question = Question(
            sql=_typed(told["sql"], str),
            on=tuple(_typed(part, str) for part in ([on] if isinstance(on, str) else on)),
            seconds_max=min(max(float(told.get("seconds", 30.0)), 0.1), SECONDS_MAX),
            is_exact=_typed(told.get("exact", False), bool),
            joins_locally=_typed(told.get("local_joins", False), bool),
        )
        if unknown := sorted(set(told) - FIELDS):
            raise ValueError(f"unknown field {unknown[0]}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            "question-malformed",
            "cannot understand the question",
            detail='It has to be a JSON object with "sql" and, where wanted, "on", "seconds", "exact",'
            ' "local_joins" and "arrow".',
        ) from error
    return question, bool(told.get("arrow", False))


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
