"""Asking a model about some rows: each gets a result or an error of its own, and all the answering version.

An error of one row never takes another with it: what is refused together is asked again in halves. What is
no row's fault (the model is loading, crowded, away, unknown here) is raised.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.pipelines import results
from atoll.pipelines.arrays import unfit
from atoll.pipelines.decode import Row, decode, gather
from atoll.pipelines.job import Job
from atoll.pipelines.results import Result
from atoll.runtimes.contract import Ask, Facts, Runtime
from atoll.runtimes.refusals import TOO_LONG
from atoll.serving.asking import split
from atoll.serving.service import Serving

OF_A_ROW = ("request-refused", TOO_LONG, "row-unfit")
TEXT_LENGTH_MAX = 1_000_000
CHAT = "/v1/chat/completions"
IN_THREADS = ("image", "audio")


@dataclass(frozen=True)
class Answer:
    """One for each row, in their order."""

    found: list[Result | AtollError]
    version: str


async def score(serving: Serving, job: Job, values: Sequence[Any]) -> Answer:
    base, adapter = split(job.model)
    async with serving.use(base, adapter=adapter) as runtime:
        loaded = serving.loaded(base)
        if loaded is None:
            raise LinkError("runtime-broken", f'model "{base}" is not loaded any more')
        version = loaded.wanted.version
        if adapter is not None:
            version += f":{loaded.wanted.adapters[adapter]}"
        if job.task == "embed" and job.kind == "text":
            return Answer(await _embed(runtime, _texts(values)), version)
        if job.task == "generate":
            asks = [_generate(runtime, job, text, adapter) for text in _texts(values)]
            return Answer([_own(one) for one in await asyncio.gather(*asks, return_exceptions=True)], version)
        return Answer(await _infer(runtime, loaded.facts, job, values), version)


def _texts(values: Sequence[Any]) -> list[str]:
    return [value if isinstance(value, str) else json.dumps(value, default=str) for value in values]


def _own(outcome: Result | BaseException) -> Result | AtollError:
    """A row's own error is its answer; any other is everybody's."""
    if isinstance(outcome, dict) or (isinstance(outcome, DataError) and outcome.code in OF_A_ROW):
        return outcome
    raise outcome


async def _infer(
    runtime: Runtime, facts: Facts, job: Job, values: Sequence[Any]
) -> list[Result | AtollError]:
    rows = (
        await asyncio.to_thread(_decoded, job, values, facts)
        if job.kind in IN_THREADS
        else _decoded(job, values, facts)
    )
    found: list[Result | AtollError] = [row if isinstance(row, DataError) else {} for row in rows]
    good = [(at, row) for at, row in enumerate(rows) if not isinstance(row, DataError)]
    labels = results.read_labels(facts.details, job.options)
    is_logits = job.options.get("scores", facts.details.get("scores")) == "logits"
    wanted = tuple(job.options.get("outputs", ()))
    # Where a model lets one row's values into another's result, each is asked alone.
    together = good if facts.details.get("merges", True) else []
    groups = gather([row for _, row in together], facts.inputs) if together else []
    groups += [([at], gather([row], facts.inputs)[0][1]) for at, (_, row) in enumerate(good) if not together]

    async def ask(inputs: Row, low: int, high: int) -> Sequence[Result | AtollError]:
        outputs = await runtime.infer({name: array[low:high] for name, array in inputs.items()}, wanted)
        if job.task == "embed":
            return results.of_vectors(outputs, high - low)
        return results.of_outputs(outputs, high - low, labels, is_logits)

    for places, inputs in groups:
        for place, answer in zip(places, await _in_halves(len(places), partial(ask, inputs)), strict=True):
            found[good[place][0]] = answer
    return found


def _decoded(job: Job, values: Sequence[Any], facts: Facts) -> list[Row | DataError]:
    found: list[Row | DataError] = []
    for value in values:
        try:
            found.append(decode(job.kind, value, facts.inputs, {**facts.details, **job.options}))
        except DataError as error:
            found.append(error)
        except (TypeError, ValueError) as error:
            found.append(unfit("the row and the options do not go together", f"{error}."))
    return found


async def _embed(runtime: Runtime, texts: Sequence[str]) -> list[Result | AtollError]:
    async def ask(low: int, high: int) -> Sequence[Result | AtollError]:
        found = await runtime.embed(texts[low:high])
        return [results.of_vector(vector) for vector in found.vectors]

    return await _in_halves(len(texts), ask)


async def _in_halves(
    count: int, ask: Callable[[int, int], Awaitable[Sequence[Result | AtollError]]]
) -> list[Result | AtollError]:
    """Answers about `count` rows; of those that are refused together, only the one to blame is."""

    async def part(low: int, high: int) -> list[Result | AtollError]:
        try:
            return list(await ask(low, high))
        except DataError as error:
            if error.code not in OF_A_ROW:
                raise
            if high - low == 1:
                return [error]
        middle = (low + high) // 2
        return [*await part(low, middle), *await part(middle, high)]

    return await part(0, count)


async def _generate(runtime: Runtime, job: Job, text: str, adapter: str | None) -> Result:
    body = {"messages": [{"role": "user", "content": text}], **job.options}
    if isinstance(system := body.pop("system", None), str):
        body["messages"] = [{"role": "system", "content": system}, *body["messages"]]
    said, length = [], 0
    async with runtime.generate(Ask(CHAT, body, adapter)) as events:
        async for event in events:
            piece = _piece(event)
            said.append(piece)
            length += len(piece)
            if length > TEXT_LENGTH_MAX:
                raise DataError("row-unfit", f"the model said more than {TEXT_LENGTH_MAX:,} characters")
    return results.of_text("".join(said))


def _piece(event: bytes) -> str:
    """The words in a server-sent event."""
    line = event.decode(errors="replace").strip()
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return ""
    try:
        told = json.loads(line[5:])
        if "error" in told:
            raise LinkError("runtime-broken", f"the model broke off: {told['error'].get('message', '')}")
        return "".join(choice.get("delta", {}).get("content") or "" for choice in told.get("choices", ()))
    except (ValueError, AttributeError, TypeError) as error:
        raise LinkError("runtime-broken", f"the model's answer cannot be understood: {error}") from error
