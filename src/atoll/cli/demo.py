"""`atoll demo`: three sites that decide beside their data, one of them cut off and healed, and proved."""

from __future__ import annotations

from typing import Annotated

import typer

WRITES_MAX = 1000
SECONDS_MAX = 3600.0


def demo(
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End when all is proved, instead of staying up.")
    ] = False,
    writes: Annotated[int, typer.Option(min=1, max=WRITES_MAX, help="Writes a second on each node.")] = 16,
    seconds: Annotated[
        float, typer.Option(min=1, max=SECONDS_MAX, help="How long one node is cut off.")
    ] = 8.0,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a picture that moves.")] = False,
    home: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder for the homes, which is kept; a temporary one if not given."
        ),
    ] = None,
) -> None:
    """Run three nodes that decide beside their data, cut one off, heal, and prove what Atoll promises.

    It exits with 1 where a promise was not kept.
    """
    import asyncio
    import shutil
    import sys
    from pathlib import Path

    from rich.console import Console

    from atoll.demo.run import run_demo
    from atoll.demo.scenario import Pace

    # What to type in another terminal: the program that was called here, unless a shell finds it by its name.
    called, found = Path(sys.argv[0]), shutil.which("atoll")
    is_known = found is not None and called.is_file() and Path(found).samefile(called)
    command = str(called) if called.is_file() and not is_known else "atoll"
    pace = Pace(writes_per_second=writes, cut_seconds=seconds)
    folder = Path(home).expanduser().resolve() if home else None
    # A pipe gets no escape codes, whatever the environment says about colours.
    console = Console(highlight=False, force_terminal=sys.stdout.isatty() and not plain)
    code = asyncio.run(run_demo(pace, folder, console, command, waits=not no_wait))
    if code:
        raise typer.Exit(code)
