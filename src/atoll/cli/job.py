"""`atoll job`: requests that are answered later: what waits, what came of it, and ending or repeating it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

STATES = ("waiting", "working", "done", "refused", "cancelled", "dead", "late")
group = typer.Typer(help="Jobs: requests of models that are answered later.", no_args_is_help=True)
IdArgument = Annotated[int, typer.Argument(metavar="ID", min=0, max=2**63 - 1, help="Id of the job.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@group.command("list")
def list_jobs(
    state: Annotated[
        str | None,
        typer.Option(help="Only: waiting, working, done, refused, cancelled, dead or late."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=10_000, help="So many, the latest ones.")] = 100,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the jobs that this node knows of."""
    from atoll.cli.rows import fetch, print_table

    if state not in (None, *STATES):
        raise typer.BadParameter(f'there is no state "{state}"', param_hint="--state")
    found = fetch(running_postgres(find_home(home)), "jobs", "listing", {"state": state, "most": most})
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    rows = [
        [
            str(row["id"]),
            row["model"],
            row["state"],
            row["scope"],
            row["asked_by"],
            row["done_by"] or "",
            str(row["tries"]),
            f"{row['made_at']:%Y-%m-%d %H:%M:%S}",
            "" if row["state"] == "done" else row["problem"] or "",  # of a try before
        ]
        for row in found
    ]
    print_table(
        ("job", "model", "state", "scope", "from", "by", "tries", "made", "problem"), rows, ("tries",)
    )


@group.command()
def show(job: IdArgument, home: HomeOption = None) -> None:
    """Print all of a job as JSON: what was asked, how it is, what came of it."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError

    found = fetch(running_postgres(find_home(home)), "jobs", "show", (job,))
    if not found:
        raise DataError("job-unknown", f"there is no job {job} on this node", hint="See: atoll job list")
    typer.echo(json.dumps(found[0], indent=1, default=str, ensure_ascii=False))


@group.command()
def cancel(job: IdArgument, home: HomeOption = None) -> None:
    """End a job that has no result yet."""
    is_done = _do(home, "cancel", job)
    typer.echo(f"{job} is cancelled" if is_done else f"{job} has come to its end before")


@group.command()
def retry(job: IdArgument, home: HomeOption = None) -> None:
    """Have a job tried again that is dead or late."""
    is_done = _do(home, "retry", job)
    typer.echo(
        f"{job} is tried again" if is_done else f"{job} was not given up: there is nothing to try again"
    )


def _do(home: str | None, what: str, job: int) -> Any:
    from atoll.cli.rows import fetch

    return fetch(running_postgres(find_home(home)), "jobs", what, (job,))[0]["is_done"]
