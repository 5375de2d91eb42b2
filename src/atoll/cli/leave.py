"""`atoll leave`: take a node out of the atoll in order, with everything that it wrote handed over first."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.node.postgres.server import Postgres

POLL_SECONDS = 0.2


def leave(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the others.")] = 60,
    abandon_authority: Annotated[
        bool, typer.Option("--abandon-authority", help="Leave though this node holds the authority's key.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Take this node out of the atoll: hand over what it wrote, then end its membership and stop it."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import ConfigError, LinkError, PolicyDenied
    from atoll.node.lock import holder
    from atoll.node.mesh import membership

    where = find_home(home)
    postgres = running_postgres(where)
    (me,) = fetch(postgres, "members", "me")
    if not me["members"]:
        raise ConfigError("leave-alone", "this node is alone: there is no atoll to leave")
    if membership.may_admit(where) and not abandon_authority:
        raise PolicyDenied(
            "leave-authority",
            f'could not leave: node "{me["name"]}" holds the authority\'s key',
            detail="Without it nobody can be invited to the atoll or shut out of it any more.",
            hint="To leave all the same: atoll leave --abandon-authority",
        )
    if not yes:
        typer.confirm(f'Take node "{me["name"]}" out of the atoll for good?', abort=True)
    fetch(postgres, "members", "hold_writes", (True,))
    for _ in range(2):
        # The second one says that everything from before the first is here: if the node joins again, only
        # what it wrote later is news.
        fetch(postgres, "fleet", "make_marks", (True,))
    late = _drain(postgres, timeout)
    if late:
        fetch(postgres, "members", "hold_writes", (False,))
        names = ", ".join(f"{row['name']} (link {row['link']}, {row['bytes']} bytes)" for row in late)
        raise LinkError(
            "leave-not-drained",
            "could not leave: not everybody has what this node wrote",
            detail=f"Waited {timeout:g} s for {names}. Writes are allowed again.",
            hint="Wait until their links are up; or shut this node out from another one: atoll revoke",
        )
    fetch(postgres, "members", "leave")
    _drain(postgres, min(timeout, 15.0))
    told = holder(where.path) or {}
    if told.get("pid"):
        os.kill(int(told["pid"]), signal.SIGTERM)
    typer.echo(f'node "{me["name"]}" has left; its home {where.path} keeps its data')


def _drain(postgres: Postgres, seconds: float) -> list[dict[str, Any]]:
    """Wait until all neighbours have confirmed what is in the log; who has not, in the end."""
    from atoll.cli.rows import fetch

    (place,) = fetch(postgres, "members", "place")
    deadline = time.monotonic() + seconds
    while late := fetch(postgres, "members", "behind", (place["place"],)):
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return late
