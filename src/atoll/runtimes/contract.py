"""What any loaded model can be asked, whichever engine is behind it.

A runtime is one model in one engine. A language model is asked in the protocol of its callers (the path and
the JSON body of OpenAI's or Anthropic's HTTP API) and answers with the bytes of server-sent events, so
nothing on the way has to understand them. A tensor model is asked with arrays. What a runtime is not
made for, it refuses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from atoll.domain.models import Skill, TensorFacts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"


STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


@dataclass(frozen=True)
class Ask:
    """A request for text. It is always streamed towards the engine, because only that can be taken back."""

    path: str  # one of STREAMED
    body: Mapping[str, Any]  # as the caller sent it; `model` and `stream` do not matter here
    adapter: str | None = None
    scopes: frozenset[str] = frozenset()  # of the rows that are quoted in it: where it may go
    deadline_seconds: float | None = None  # what is left until nobody waits any more
    hops: int = 0  # nodes that have passed it on


@dataclass(frozen=True)
class Facts:
    """What is known of a model once it is loaded."""

    skills: frozenset[Skill]
    memory_bytes: int
    context_tokens: int | None = None
    dimensions: int | None = None
    adapters: tuple[str, ...] = ()
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embeddings:
    """One row per text, of length one each."""

    vectors: NDArray[np.float32]
    tokens: int


class Pouring(AsyncIterator[bytes]):
    """Events that can be handed on in the turn of the loop in which they come, without waking a task."""

    @abstractmethod
    async def pour(self, hand_on: Callable[[bytes], bool]) -> None:
        """Hand on what comes, one or several at once, until no more is wanted or there is something else.

        What that is, the end or an error, the next step of the iteration says.
        """


class Runtime(Protocol):
    """One model in one engine. Safe for many callers at once; a caller that is cancelled costs nothing more.

    Errors: DataError for what the caller can mend (code `request-refused`, or `skill-missing`), LinkError for
    what may succeed later or elsewhere (`runtime-broken` while the engine is away, `runtime-crowded` where
    its queue is full, `runtime-slow` where it did not begin in time). A runtime that has ended is broken.
    """

    async def start(self) -> Facts:
        """Load, warm up and say what was loaded. DataError `model-unusable` where the file is no good."""

    async def stop(self) -> None:
        """Unload. Requests that are under way are broken off. Safe to repeat."""

    async def ended(self) -> str:
        """Wait until the engine has ended by itself, and say why."""

    def generate(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Entering it waits for the engine's first word, so that what fails before can be tried elsewhere.

        The iterator gives whole events, each with its blank line; leaving the block early frees the engine.
        """

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of some texts."""

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        """The outputs that are wanted, or all of them."""
