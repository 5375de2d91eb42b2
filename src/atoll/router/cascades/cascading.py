"""Asks the small model, listens how sure it is, and hands the request on where it is not.

Nothing is passed on before that is known, so nobody reads an answer that is taken back. The small model goes
on until the larger one begins to speak: where that fails, its answer is there. How the two are asked, by whom
and whether the request may go on at all is handed in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.router.policy import cascade
from atoll.router.policy.cascade import Policy, Verdict
from atoll.router.policy.confidence import Measure, Meter, agreement
from atoll.runtimes import answers, events
from atoll.runtimes.refusals import TOO_LONG

if TYPE_CHECKING:
    from atoll.runtimes.contract import Array

HELD_BYTES_MAX = 8 * 1024 * 1024  # of an answer that is held back; then what is known has to do
# Elsewhere it may be otherwise; the caller's other errors are errors everywhere.
LACKING = ("model-unknown", "model-unusable", "skill-missing", TOO_LONG, "no-place")

Body: TypeAlias = Mapping[str, Any]
Arrays: TypeAlias = "Mapping[str, Array]"
Open: TypeAlias = Callable[[Body], AbstractAsyncContextManager[AsyncIterator[bytes]]]
Infer: TypeAlias = "Callable[[Arrays], Awaitable[dict[str, Array]]]"
WhyNot: TypeAlias = Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Answer:
    """Who answers, why, and the events; known before the first of them is passed on."""

    model: str | None
    verdict: Verdict
    events: AsyncIterator[bytes]
    first_said: Sequence[bytes] = ()  # as far as it is known, where another one answers


@dataclass(frozen=True)
class Inferred:
    outputs: dict[str, Array]
    verdict: Verdict  # of the least sure row
    rows: int
    rows_gone_on: int
    unsure: tuple[Arrays, Arrays, Arrays | None] | None = None  # inputs, and both models' outputs for them


@dataclass
class _Trial:
    """The small model's answer, as far as it is known, and what may still come of it."""

    held: list[bytes] = field(default_factory=list)
    rest: AsyncIterator[bytes] | None = None
    confidence: float | None = None
    error: AtollError | None = None
    is_whole: bool = False
    lacks: str | None = None  # why it could not be measured

    async def all(self) -> AsyncGenerator[bytes, None]:
        for event in self.held:
            yield event
        if self.rest is not None:
            async for event in self.rest:
                yield event


@asynccontextmanager
async def generate(
    policy: Policy,
    path: str,
    body: Body,
    first: Open,
    then: Open,
    why_not: WhyNot,
    seconds: float | None = None,
) -> AsyncIterator[Answer]:
    """Entering waits until it is known who answers. The small model has `seconds`, unless nobody else may
    answer. Errors are those of a runtime."""
    cascade.check(policy, Skill.GENERATE)
    async with AsyncExitStack() as outer:
        small = await outer.enter_async_context(AsyncExitStack())
        trial = await _tried(policy, path, body, first, small, None if why_not() else seconds)
        verdict = _verdict(policy, trial.confidence, why_not)
        if trial.lacks is not None:
            verdict = replace(verdict, why=f"{verdict.why}, as {policy.first} {trial.lacks}")
        if verdict.goes_on:
            try:
                with _in_time():
                    async with asyncio.timeout(policy.patience_seconds):
                        told = await outer.enter_async_context(then(body))
            except AtollError as error:
                verdict = _gave_up(verdict, trial.error or error)
            else:
                await small.aclose()
                yield Answer(
                    policy.then, verdict, told, trial.held if trial.rest is None or trial.is_whole else ()
                )
                return
        if trial.error is not None:
            raise trial.error
        async with aclosing(trial.all()) as said:
            yield Answer(policy.first, verdict, said)


async def infer(
    policy: Policy,
    inputs: Arrays,
    first: Infer,
    then: Infer,
    why_not: WhyNot,
    seconds: float | None = None,
) -> Inferred:
    """The outputs, with those of the larger model for the rows, or the request, that went on."""
    from atoll.router.cascades import rows, scores

    cascade.check(policy, Skill.INFER)
    try:
        with _in_time():
            async with asyncio.timeout(None if why_not() else seconds):
                small = await first(inputs)
    except AtollError as error:
        if not _may_be_elsewhere(error) or why_not():
            raise
        return Inferred(await then(inputs), cascade.decide(policy, None), 0, 0)
    sure = scores.scores(small, policy.output, policy.calibration)
    verdict = _verdict(policy, float(sure.min()), why_not)
    if not verdict.goes_on:
        return Inferred(small, verdict, len(sure), 0, _unsure(policy, sure, inputs, small))
    chosen = rows.unsure(sure, policy.threshold, inputs, small) if policy.split_rows else None
    asked = inputs if chosen is None else rows.take(inputs, chosen)
    try:
        with _in_time():
            async with asyncio.timeout(policy.patience_seconds):
                large = await then(asked)
    except AtollError as error:
        return Inferred(small, _gave_up(verdict, error), len(sure), 0, _unsure(policy, sure, inputs, small))
    if chosen is None:
        return Inferred(large, verdict, len(sure), len(sure), (inputs, small, large))
    whole = rows.put(small, large, chosen)
    unsure = asked, rows.take(small, chosen), large
    return Inferred(whole, verdict, len(sure), len(chosen), unsure)


def _unsure(policy: Policy, sure: Array, inputs: Arrays, small: Arrays) -> Any:
    """Of what the small model answered all the same, the rows that it was not sure of."""
    from atoll.router.cascades import rows

    if not policy.keeps or sure.min() >= policy.threshold:
        return None
    chosen = rows.unsure(sure, policy.threshold, inputs, small)
    return (
        (inputs, small, None)
        if chosen is None
        else (rows.take(inputs, chosen), rows.take(small, chosen), None)
    )


def _verdict(policy: Policy, confidence: float | None, why_not: WhyNot) -> Verdict:
    """Whether it may go on is only asked where it would."""
    verdict = cascade.decide(policy, confidence)
    barred = why_not() if verdict.goes_on else ()
    return cascade.decide(policy, confidence, barred) if barred else verdict


def _gave_up(verdict: Verdict, error: AtollError) -> Verdict:
    return Verdict(False, verdict.confidence, f"{verdict.why}, but the larger model: {error.message}")


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise LinkError("runtime-slow", "could not answer in time") from None


def _may_be_elsewhere(error: AtollError) -> bool:
    return isinstance(error, LinkError) or error.code in LACKING


async def _tried(
    policy: Policy, path: str, body: Body, first: Open, stack: AsyncExitStack, seconds: float | None
) -> _Trial:
    """What the small model said, or why it could not, where that may be otherwise elsewhere."""
    try:
        with _in_time():
            async with asyncio.timeout(seconds):
                if policy.measure is Measure.AGREEMENT:
                    return await _sampled(policy, path, body, first)
                return await _measured(policy, path, body, first, stack)
    except AtollError as error:
        if not _may_be_elsewhere(error):
            raise
        await stack.aclose()
        return _Trial(error=error)


async def _measured(policy: Policy, path: str, body: Body, first: Open, stack: AsyncExitStack) -> _Trial:
    """Held back until the measure is known, which it may be before the answer's end."""
    asked = cascade.asked_first(policy, path, body)
    lacks = None
    try:
        told = await stack.enter_async_context(first(asked))
    except DataError as error:
        if error.code != "request-refused" or asked == body:
            raise
        # What was added for the measure may be all that it refuses, as many servers do.
        told, asked, lacks = await stack.enter_async_context(first(body)), dict(body), "takes no logprobs"
    meter = Meter(policy.measure, cascade.choices(body))
    said = _heard(told, meter, strips=asked != body and not body.get("logprobs"))
    trial, size = _Trial(rest=said, lacks=lacks), 0
    async for event in said:
        trial.held.append(event)
        size += len(event)
        if size > HELD_BYTES_MAX or meter.early(lambda value: cascade.is_sure(policy, value)) is not None:
            break
    else:
        trial.is_whole = True
    trial.confidence = policy.calibration.of(meter.value())
    return trial


async def _heard(told: AsyncIterator[bytes], meter: Meter, strips: bool) -> AsyncIterator[bytes]:
    """The meter hears what the engine says; the caller gets what was asked for."""
    async for event in told:
        content = events.content(event)
        if content is not None:
            meter.feed(content)
            event = _stripped(content) if strips and content.get("choices") else event
        yield event


def _stripped(content: Body) -> bytes:
    is_chat = content.get("object") != "text_completion"
    choices = [{**one, "logprobs": None} for one in content["choices"]]
    if is_chat:
        choices = [{name: value for name, value in one.items() if name != "logprobs"} for one in choices]
    return b"data: " + json.dumps({**content, "choices": choices}).encode() + b"\n\n"


async def _sampled(policy: Policy, path: str, body: Body, first: Open) -> _Trial:
    """The request itself, which is what is answered with, and beside it the same again at a temperature."""
    asked = (body, *cascade.asked_again(policy, body))
    own, *others = await asyncio.gather(*(_whole(first, one) for one in asked), return_exceptions=True)
    if isinstance(own, BaseException):
        raise own
    for other in others:
        if isinstance(other, BaseException) and not isinstance(other, AtollError):
            raise other
    # A sample that failed says nothing; how sure the model is, the others tell.
    said = [answers.gather(path, one) for one in (own, *others) if not isinstance(one, BaseException)]
    return _Trial(own, None, policy.calibration.of(agreement(said)))


async def _whole(first: Open, body: Body) -> list[bytes]:
    found, size = [], 0
    async with first(body) as told:
        async for event in told:
            found.append(event)
            size += len(event)
            if size > HELD_BYTES_MAX:
                raise LinkError("runtime-broken", "could not answer: the answer is too long to be held back")
    return found
