"""What a cascade was not sure of, kept to learn from: written beside the requests, which do not wait for it.

An example has the scope of what was in its request, so it goes no further than that might.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from atoll.domain.errors import AtollError
from atoll.router.policy.cascade import Verdict
from atoll.sql import query
from atoll.sql.outbox import Outbox
from atoll.sql.sessions import Connect, Connection

if TYPE_CHECKING:
    from atoll.runtimes.contract import Array

BYTES_MAX = 64 * 1024  # of a request, and of each answer
ROWS_MAX = 64  # of one request for tensors
ELEMENTS_MAX = 8192  # of a row
KEPT_MAX = 10_000  # of each route
TIDY_SECONDS = 600.0
TIDIED_AT_ONCE = 5000
BESIDE = ("model", "provider", "stream", "stream_options", "user", "metadata", "store")

Events = AsyncIterator[bytes]
Arrays = Mapping[str, "Array"]


@dataclass(frozen=True)
class Example:
    route: str
    path: str
    asked: Mapping[str, Any]
    first: str
    measure: str
    scope: str
    confidence: float | None = None
    first_said: Any = None
    then: str | None = None
    then_said: Any = None


Offer = Callable[[Example], None]


class Examples:
    """Runs for as long as the node does. What is more than can be written in time is let go."""

    def __init__(self, connect: Connect) -> None:
        self._outbox = Outbox(connect, "examples", self._write)
        self._tidied_at = -TIDY_SECONDS

    def offer(self, example: Example) -> None:
        self._outbox.offer(example)

    async def run(self) -> None:
        """Until cancelled."""
        await self._outbox.run()

    async def _write(self, connection: Connection, example: Example) -> None:
        said = {"asked": Jsonb(example.asked)} | {
            name: None if value is None else Jsonb(value)
            for name, value in (("first_said", example.first_said), ("then_said", example.then_said))
        }
        await connection.execute(query("examples", "keep"), {**vars(example), **said})
        if time.monotonic() - self._tidied_at >= TIDY_SECONDS:
            await connection.execute(query("examples", "tidy"), (TIDIED_AT_ONCE, KEPT_MAX))
            self._tidied_at = time.monotonic()


async def learnt(
    events: Events, example: Example, verdict: Verdict, first_said: Sequence[bytes], offer: Offer
) -> AsyncGenerator[bytes, None]:
    """The events as they are; when they have come to their end, what was said is an example."""
    kept: list[bytes] = []
    size = 0
    async for event in events:
        size += len(event)
        if size <= BYTES_MAX:
            kept.append(event)
        yield event
    said = what_was_said(example.path, kept) if size <= BYTES_MAX else None
    if said is None or len(repr(example.asked)) > BYTES_MAX:
        return
    asked = {name: value for name, value in example.asked.items() if name not in BESIDE}
    if verdict.goes_on:
        found = replace(example, first_said=what_was_said(example.path, first_said), then_said=said)
    else:
        found = replace(example, first_said=said, then=None)
    offer(replace(found, asked=asked))


def what_was_said(path: str, events: Sequence[bytes]) -> str | None:
    """The text of an answer; nothing where it is not whole, or calls a tool."""
    from atoll.runtimes.answers import gather

    try:
        answer = gather(path, events)
    except (AtollError, KeyError, TypeError, AttributeError):
        return None
    parts = [*(answer.get("choices") or ()), *(answer.get("content") or ())]
    for item in answer.get("output") or ():
        parts += item.get("content") or ()
    texts = [one.get("text", (one.get("message") or {}).get("content")) for one in parts]
    whole = "".join(text for text in texts if isinstance(text, str))
    return whole.replace("\0", "") or None


def rows_as_examples(
    example: Example, inputs: Arrays, small: Arrays, large: Arrays | None
) -> Iterator[Example]:
    """One for each row, of those that are small enough to be kept, and finite, as JSON is."""
    import numpy as np

    every = [*inputs.values(), *small.values(), *(large or {}).values()]
    count = len(next(iter(inputs.values()), ()))
    if not count or any(array.shape[:1] != (count,) or array.dtype.kind not in "biuf" for array in every):
        return
    if any(array.size // count > ELEMENTS_MAX for array in every):
        return
    for row in range(min(count, ROWS_MAX)):
        if not all(np.isfinite(array[row]).all() for array in every):
            continue
        yield replace(
            example,
            asked={name: array[row].tolist() for name, array in inputs.items()},
            first_said={name: array[row].tolist() for name, array in small.items()},
            then_said=None if large is None else {name: array[row].tolist() for name, array in large.items()},
            then=None if large is None else example.then,
        )
