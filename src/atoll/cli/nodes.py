"""`atoll nodes` and `atoll revoke`: who belongs to the atoll, and shutting one out."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres


def nodes(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the nodes of the atoll and how the links to them are."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "nodes", "nodes_seen")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    titles = ("#", "node", "region", "tier", "link", "rtt", "in", "out", "receives", "unconfirmed", "problem")
    right = ("#", "rtt", "in", "out", "unconfirmed")
    print_table(titles, [_cells(row) for row in found], right)


def _cells(row: dict[str, Any]) -> list[str]:
    start = [str(row["number"]), row["name"], row["region"], row["tier"]]
    if row["revoked_at"]:
        return [*start, "left" if row["ended"] == "left" else "revoked", *[""] * 6]
    if row["is_me"]:
        away = "was away for too long: takes over a copy" if row["is_absent"] else ""
        return [*start, "this node", *[""] * 5, away]
    if row["state"] is None:
        return [*start, "-", *[""] * 5, _absence(row)]
    rtt = f"{row['rtt_ms']:.1f} ms" if row["rtt_ms"] is not None else "-"
    problem = (row["problem"] or "") + ("; waits for a copy" if row["missed"] else "")
    if row["kept_until"] and row["state"] != "up":
        problem += f"; its changes are kept until {row['kept_until']:%Y-%m-%d %H:%M}"
    problem += f"; {_absence(row)}"
    return [
        *start,
        row["state"],
        rtt,
        size(row["bytes_in"]),
        size(row["bytes_out"]),
        row["receiving"] or "-",
        str(row["unconfirmed"]),
        problem.strip("; "),
    ]


def _absence(row: dict[str, Any]) -> str:
    """Until when the others wait for a member, or that they do not any more."""
    if row["is_absent"]:
        return f"away for too long since {row['absent_from']:%Y-%m-%d %H:%M}: has to take over a copy"
    return f"waited for until {row['absent_from']:%Y-%m-%d %H:%M}" if row["absent_from"] else ""


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def revoke(
    node: Annotated[str, typer.Argument(help="Name or number of the node.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: HomeOption = None,
) -> None:
    """Shut a node out: its certificate is refused from now on, by every node that hears of it."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import ConfigError, DataError

    postgres = running_postgres(find_home(home))
    known = [
        row for row in fetch(postgres, "nodes", "nodes_seen") if node in (row["name"], str(row["number"]))
    ]
    if not any(row["revoked_at"] is None for row in known):
        hint = "It has been revoked already." if known else "See who there is: atoll nodes"
        raise DataError("node-unknown", f'there is no node "{node}" to revoke', hint=hint)
    if any(row["is_me"] for row in known):
        raise ConfigError("node-itself", "a node cannot revoke itself", hint="Run this on another node.")
    if not yes:
        typer.confirm(f'Shut node "{known[0]["name"]}" out for good?', abort=True)
    heard = fetch(postgres, "members", "last_heard", {"node": node})
    fetch(postgres, "nodes", "revoke", {"node": node})
    typer.echo(f'node "{known[0]["name"]}" is revoked')
    if heard and heard[0]["n"]:
        typer.echo(
            f"what it wrote up to {heard[0]['covered']:%Y-%m-%d %H:%M:%S} is here"
            f" (last heard {heard[0]['heard_at']:%Y-%m-%d %H:%M:%S}); what it wrote later stays on it"
        )
    else:
        typer.echo("nothing that it wrote has been heard here; what it wrote stays on it")
