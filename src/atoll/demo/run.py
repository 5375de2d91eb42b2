"""Runs the demo from its first line to its exit code, and ends it in order whenever somebody asks.

Ctrl-C, SIGTERM and a terminal that goes away all end it the same way: nodes stopped, folder removed. Asked
again meanwhile, the nodes stop at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from rich.console import Console

from atoll.demo import epilogue, stage
from atoll.demo.promises import are_kept
from atoll.demo.scenario import SITES, Pace
from atoll.demo.screen import choose_screen
from atoll.demo.show import Show
from atoll.demo.stage import Stage

KEPT, BROKEN, INTERRUPTED = 0, 1, 130


async def run_demo(pace: Pace, folder: Path | None, console: Console, command: str, *, waits: bool) -> int:
    """The exit code: whether every promise was kept, or that somebody ended it before that was known."""
    code = INTERRUPTED
    with _Ending() as ending:
        try:
            async with stage.opened(folder, SITES) as nodes:
                ending.stage = nodes
                try:
                    code = await _perform(nodes, pace, console)
                    if waits and code == KEPT:
                        _tell(console, epilogue.addresses(nodes, command, is_kept=folder is not None))
                        await nodes.watch()
                finally:
                    ending.begin()
                    console.print("\nstopping the nodes", style="dim")
        except asyncio.CancelledError:
            if not ending.was_asked:
                raise
    if folder is not None:
        text = f"the homes are kept in {folder}; run one with: {command} up --home {folder}/NAME"
        console.print(text, markup=False, soft_wrap=True)
    return code


async def _perform(nodes: Stage, pace: Pace, console: Console) -> int:
    with choose_screen(console) as screen:
        outcome = await Show(nodes, pace, screen).play()
    _tell(console, epilogue.summary(outcome))
    return KEPT if are_kept(outcome) else BROKEN


def _tell(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        label, text = line[: epilogue.LABEL], line[epilogue.LABEL :]
        console.print(label, style="bold" if label.strip() else None, end="", markup=False)
        console.print(text, markup=False, soft_wrap=True)


class _Ending:
    """Turns signals into one cancellation; later ones only make the nodes hurry."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.was_asked = False
        self._is_ending = False
        self._task = asyncio.current_task()

    def begin(self) -> None:
        """The nodes are being stopped: from here on nothing may interrupt that."""
        self._is_ending = True

    def __call__(self) -> None:
        if not self._is_ending and self._task is not None:
            self.was_asked = self._is_ending = True
            self._task.cancel()
        elif self.stage is not None:
            self.stage.hurry()

    def __enter__(self) -> _Ending:
        for sign in self.SIGNALS:
            asyncio.get_running_loop().add_signal_handler(sign, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sign in self.SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(sign)
