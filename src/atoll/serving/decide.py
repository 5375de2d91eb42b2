"""What to load and unload next. Pure: what is known of every berth goes in, one step comes out.

A berth is the place of one model in memory. The rules, in their order: what nobody wants any more goes; a
next version takes over from the one before it; what is asked for or kept warm is loaded where it fits; an
idle model makes room for one that is asked for; what was idle for long goes. A model that is answering
somebody is never unloaded, except for its own next version, and then its callers are answered first. What
could never fit is refused at once, instead of waiting for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MEGABYTE = 1024**2
PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 30.0


class State(StrEnum):
    """How a berth is."""

    EMPTY = "empty"  # its files are here, and it is loaded when somebody asks
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"  # unloaded once the last of its callers has gone


@dataclass(frozen=True)
class Berth:
    """What the decision needs to know of one model."""

    model: str
    state: State
    memory_bytes: int  # measured where it is loaded, else estimated
    is_wanted: bool
    is_kept: bool  # loaded without being asked for, and not unloaded for being idle
    asking: int  # callers that wait or are being answered
    idle_seconds: float
    pause_seconds: float  # until it may be tried again, after it broke; for ever where it was refused
    next_bytes: int | None = None  # what its next version needs, where that is wanted instead


@dataclass(frozen=True)
class Load:
    model: str


@dataclass(frozen=True)
class Replace:
    model: str


@dataclass(frozen=True)
class Unload:
    model: str
    why: str


@dataclass(frozen=True)
class Refuse:
    model: str
    why: str


Step = Load | Replace | Unload | Refuse
IN_MEMORY = (State.LOADING, State.READY, State.LEAVING)


def next_step(
    berths: Sequence[Berth], memory_max_bytes: int, idle_seconds_max: float, lent_bytes: int = 0
) -> Step | None:
    """The next step; it is taken, and then asked again. What is lent to other nodes comes back some time."""
    for berth in berths:
        if berth.state is State.READY and not berth.is_wanted and not berth.asking:
            return Unload(berth.model, "it is not wanted any more")
    taken = taken_bytes(berths) + lent_bytes
    for berth in berths:
        if berth.state is State.READY and berth.next_bytes is not None and berth.pause_seconds <= 0:
            if taken + berth.next_bytes <= memory_max_bytes:
                return Replace(berth.model)
            return Unload(berth.model, "its next version needs its room")
    for berth in sorted(_due(berths), key=lambda one: (-min(one.asking, 1), one.memory_bytes, one.model)):
        if berth.memory_bytes > memory_max_bytes:
            return Refuse(
                berth.model,
                f"it needs {_megabytes(berth.memory_bytes)},"
                f" and models may take {_megabytes(memory_max_bytes)} on this node",
            )
        step = _make_room(berths, berth, memory_max_bytes, taken)
        if step is not None:
            return step
    for berth in berths:
        if _is_idle(berth) and not berth.is_kept and berth.idle_seconds >= idle_seconds_max:
            return Unload(berth.model, f"nobody asked for it for {berth.idle_seconds:.0f} s")
    return None


def waits_for_rest(berths: Sequence[Berth]) -> bool:
    """Could a step be due as soon as a model has answered all its callers?"""
    return any(
        not one.is_wanted or (one.state is State.EMPTY and (one.asking or one.is_kept)) for one in berths
    )


def taken_bytes(berths: Sequence[Berth]) -> int:
    return sum(berth.memory_bytes for berth in berths if berth.state in IN_MEMORY)


def pause_before(attempt: int) -> float:
    """Seconds before a model that broke is tried for the so-manieth time."""
    return (
        float(min(PAUSE_SECONDS_MIN * 2 ** min(attempt - 1, 16), PAUSE_SECONDS_MAX)) if attempt > 0 else 0.0
    )


def _due(berths: Sequence[Berth]) -> list[Berth]:
    return [
        berth
        for berth in berths
        if berth.state is State.EMPTY
        and berth.is_wanted
        and (berth.asking or berth.is_kept)
        and berth.pause_seconds <= 0
    ]


def _make_room(berths: Sequence[Berth], newcomer: Berth, memory_max_bytes: int, taken: int) -> Step | None:
    """Load it, or unload the idle model that was used least lately; nothing where the others are busy."""
    if taken + newcomer.memory_bytes <= memory_max_bytes:
        return Load(newcomer.model)
    idle = [berth for berth in berths if _is_idle(berth) and (newcomer.asking or not berth.is_kept)]
    if not newcomer.asking or newcomer.memory_bytes > memory_max_bytes - taken + sum(
        berth.memory_bytes for berth in idle
    ):
        return None
    leaver = max(idle, key=lambda one: (not one.is_kept, one.idle_seconds, one.model))
    return Unload(leaver.model, f'it made room for "{newcomer.model}"')


def _is_idle(berth: Berth) -> bool:
    return berth.state is State.READY and not berth.asking


def _megabytes(size: int) -> str:
    return f"{-(-size // MEGABYTE)} MB"
