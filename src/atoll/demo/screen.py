"""Where the demo is shown: a live picture in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from atoll.demo import words
from atoll.demo.picture import HEIGHT_MIN, WIDTH_MIN, draw
from atoll.demo.view import SiteView, View

LINE_EVERY_SECONDS = 2.0


class Screen(Protocol):
    """Shows one view after another while it is open."""

    is_fleeting: bool
    """What it shows gives way to what comes next, so people need a moment to read it."""

    def show(self, view: View) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LivePicture:
    """The terminal's other screen: what was there before comes back at the end."""

    is_fleeting = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)

    def show(self, view: View) -> None:
        width, height = self._console.size
        self._live.update(draw(view, width, height), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class PlainLines:
    """A line for each thing that happens, and one with the numbers every few seconds."""

    is_fleeting = False

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told = 0
        self._line_at = 0.0

    def show(self, view: View) -> None:
        for told in view.story[self._told :]:
            self._write(f"[{told.at:5.1f} s] {told.text}")
        self._told = len(view.story)
        if view.is_playing and view.seconds - self._line_at >= LINE_EVERY_SECONDS:
            self._line_at = view.seconds
            self._write(numbers(view))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


def numbers(view: View) -> str:
    """Everything that moves, in one line."""
    decided = ", ".join(f"{site.name} {site.decided:,} in {_half(site)}" for site in view.sites)
    behind = ", ".join(f"{road.one}-{road.other} {words.lag(road.lag_seconds)}" for road in view.roads)
    waiting = sum(road.waiting for road in view.roads)
    stayed, crossed = (words.size(sum(sizes)) for sizes in zip(*map(_sizes, view.sites), strict=True))
    return (
        f"[{view.seconds:5.1f} s]   decided: {decided}; {stayed} stayed, {crossed} crossed; lag: {behind};"
        f" {words.count(waiting, 'row')} waiting; {words.count(view.conflict_count, 'conflict')}"
    )


def _half(site: SiteView) -> str:
    return "-" if site.deciding is None else words.duration(site.deciding.p50)


def _sizes(site: SiteView) -> tuple[int, int]:
    return site.raw_bytes, site.crossed_bytes


def choose_screen(console: Console) -> Screen:
    """A live picture where there is a terminal that can show it."""
    width, height = console.size
    fits = width >= WIDTH_MIN and height >= HEIGHT_MIN
    can_draw = console.encoding.lower().startswith("utf") and not console.is_dumb_terminal
    if console.file.isatty() and console.is_terminal and fits and can_draw:
        return LivePicture(console)
    return PlainLines(lambda line: print(line, file=console.file, flush=True))
