"""Asking a model for text, by the name that a caller gives: `base` or `base:adapter`.

A request of which nothing was answered yet may be asked once more: where its engine broke, the next one takes
it. An engine that failed and is still there is not asked twice: an upstream would be paid twice. After the
first word a request stays where it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.runtimes.contract import Ask, Embeddings, Runtime
from atoll.runtimes.within import Within
from atoll.serving.service import Serving

TRIES_MAX = 2
TEXTS_MAX = 2048
NOTICE_SECONDS_MAX = 2.0
AGAIN = ("runtime-broken",)


def split(model: str) -> tuple[str, str | None]:
    base, _, adapter = model.partition(":")
    return base, adapter or None


def generate(
    serving: Serving,
    model: str,
    path: str,
    body: Mapping[str, Any],
    scopes: frozenset[str] = frozenset(),
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """The events of an answer, from the first word on."""
    base, adapter = split(model)
    return _Asking(serving, base, Ask(path, body, adapter, scopes))


class _Asking:
    def __init__(self, serving: Serving, model: str, ask: Ask) -> None:
        self._serving = serving
        self._model = model
        self._ask = ask
        self._runtime: Runtime | None = None

    async def __aenter__(self) -> AsyncIterator[bytes]:
        for tries_left in reversed(range(TRIES_MAX)):
            self._runtime = None
            try:
                self._open = Within(self._serving.use(self._model, adapter=self._ask.adapter), self._answer)
                return await self._open.__aenter__()
            except BaseException as error:
                runtime = self._runtime
                if not (tries_left and runtime is not None and _may_ask_again(error)):
                    raise
                if not await self._serving.until_another(self._model, runtime, NOTICE_SECONDS_MAX):
                    raise
        raise AssertionError("the last try returns or raises")

    def _answer(self, runtime: Runtime) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        self._runtime = runtime
        return runtime.generate(self._ask)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, problem, trace)


async def embed(serving: Serving, model: str, texts: list[str]) -> Embeddings:
    base, adapter = split(model)
    for tries_left in reversed(range(TRIES_MAX)):
        async with serving.use(base, adapter=adapter) as runtime:
            try:
                return await runtime.embed(texts)
            except AtollError as error:
                if not (tries_left and _may_ask_again(error)):
                    raise
                broken = error
        if not await serving.until_another(base, runtime, NOTICE_SECONDS_MAX):
            raise broken
    raise AssertionError("the last try returns or raises")


def _may_ask_again(error: BaseException) -> bool:
    return isinstance(error, LinkError) and error.code in AGAIN


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """What a request would have embedded; one text may stand by itself."""
    given = body.get("input")
    return read_texts([given] if isinstance(given, str) else given)


def read_texts(given: Any) -> list[str]:
    """What is to be embedded, if it is a list of texts and not too many."""
    if isinstance(given, list) and given and all(isinstance(one, int | list) for one in given):
        raise DataError(
            "request-malformed",
            "the input is numbers of tokens, and each model numbers its own",
            hint="Send texts. In LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).",
        )
    if not isinstance(given, list) or not given or not all(isinstance(text, str) for text in given):
        raise DataError("request-malformed", "the input is not a text or a list of texts")
    if len(given) > TEXTS_MAX:
        raise DataError("request-malformed", f"a request embeds {TEXTS_MAX} texts at most")
    return given
