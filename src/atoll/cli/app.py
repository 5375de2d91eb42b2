"""The command `atoll`: its list of commands, and errors turned into words and exit codes.

A command is a module of this package with a function of the same name; to add one, write it and register it
here. A command's module imports what it needs inside of its function, so that `atoll --help` stays quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from atoll import __version__
from atoll.cli import (
    ask,
    backup,
    budget,
    cache,
    chat,
    check,
    compress,
    conflicts,
    demo,
    distill,
    dsn,
    embed_column,
    job,
    join,
    key,
    leave,
    logs,
    measure,
    migrate,
    model,
    nodes,
    orphans,
    pipeline,
    preflight,
    prune,
    query,
    repair,
    rollups,
    rounds,
    route,
    runtime,
    scope,
    search,
    sql,
    status,
    tables,
    topology,
    transfer,
    tune,
    up,
)
from atoll.domain.errors import AtollError

app = typer.Typer(
    name="atoll",
    help="AI that runs where the data is: every site a node, every node equal, all of them converge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo.demo)
app.command()(up.up)
app.command()(join.invite)
app.command()(join.join)
app.command()(preflight.preflight)
app.command()(status.status)
app.command()(nodes.nodes)
app.command()(leave.leave)
app.command()(nodes.revoke)
app.command()(topology.topology)
app.command()(topology.link)
app.command()(tables.share)
app.command()(tables.unshare)
app.command()(tables.tables)
app.command()(migrate.migrate)
app.command()(scope.scope)
app.command()(scope.regions)
app.command()(check.check)
app.command()(repair.receipt)
app.command()(repair.repair)
app.command()(conflicts.conflicts)
app.command()(conflicts.revert)
app.command()(conflicts.parked)
app.command()(orphans.orphans)
app.add_typer(model.group, name="model")
app.add_typer(compress.group, name="compress")
app.command()(measure.measure)
app.add_typer(pipeline.group, name="pipeline")
app.add_typer(job.group, name="job")
app.add_typer(budget.group, name="budget")
app.add_typer(cache.group, name="cache")
app.command()(chat.chat)
app.command()(chat.embed)
app.command()(chat.infer)
app.add_typer(key.group, name="key")
app.add_typer(route.group, name="route")
app.add_typer(runtime.group, name="runtime")
app.command()(rollups.rollups)
app.command()(tune.tune)
app.command()(prune.prune)
app.command()(distill.distill)
app.add_typer(rounds.group, name="round")
app.command()(sql.sql)
app.command()(query.query)
app.command()(search.search)
app.command("embed-column")(embed_column.embed_column)
app.command()(ask.ask)
app.command()(dsn.dsn)
app.command()(logs.logs)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(transfer.export)
app.command("import")(transfer.bring_in)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"atoll {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command are given after its name."""


def main() -> NoReturn:
    """Run a command. 0 is success, 1 an error that is explained, 2 a mistake in the command line."""
    _keep_only(sys.argv[1] if len(sys.argv) > 1 else "")
    try:
        app(prog_name="atoll")
    except AtollError as error:
        sys.exit(_explain(error))
    except BaseExceptionGroup as group:
        known = _first_known(group)
        if known is None:
            raise
        sys.exit(_explain(known))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it.
        sys.stdout = None
        sys.exit(141)
    sys.exit(0)


def _keep_only(name: str) -> None:
    """Making all commands ready takes longer than most of them run; where one is named, it is enough."""
    commands = [c for c in app.registered_commands if c.callback and name == (c.name or c.callback.__name__)]
    groups = [group for group in app.registered_groups if group.name == name]
    if commands or groups:
        app.registered_commands, app.registered_groups = commands, groups


def _explain(error: AtollError) -> int:
    typer.echo(f"error: {error.message}", err=True)
    if error.detail:
        typer.echo(f"detail: {error.detail}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)
    typer.echo(f"code: {error.code}", err=True)
    return 1


def _first_known(group: BaseExceptionGroup[BaseException]) -> AtollError | None:
    for error in group.exceptions:
        found = _first_known(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, AtollError):
            return found
    return None
