"""The command `atoll`: its list of commands, and errors turned into words and exit codes.

A command is a function in a module of this package, or a group of commands; to add one, write it and name it
here. Only the module of the command that is wanted is loaded, and it imports what it needs inside of its
function, so that `atoll` stays quick on a small machine.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from atoll import __version__
from atoll.cli.explaining import explain
from atoll.domain.errors import AtollError

COMMANDS = {
    "demo": "demo:demo",
    "up": "up:up",
    "invite": "join:invite",
    "join": "join:join",
    "preflight": "preflight:preflight",
    "status": "status:status",
    "nodes": "nodes:nodes",
    "leave": "leave:leave",
    "revoke": "nodes:revoke",
    "topology": "topology:topology",
    "link": "topology:link",
    "share": "tables:share",
    "unshare": "tables:unshare",
    "tables": "tables:tables",
    "migrate": "migrate:migrate",
    "scope": "scope:scope",
    "regions": "scope:regions",
    "check": "check:check",
    "receipt": "repair:receipt",
    "repair": "repair:repair",
    "conflicts": "conflicts:conflicts",
    "revert": "conflicts:revert",
    "parked": "conflicts:parked",
    "orphans": "orphans:orphans",
    "model": "model:group",
    "compress": "compress:group",
    "measure": "measure:measure",
    "pipeline": "pipeline:group",
    "job": "job:group",
    "budget": "budget:group",
    "cache": "cache:group",
    "chat": "chat:chat",
    "embed": "chat:embed",
    "infer": "chat:infer",
    "key": "key:group",
    "route": "route:group",
    "runtime": "runtime:group",
    "rollups": "rollups:rollups",
    "tune": "tune:tune",
    "prune": "prune:prune",
    "distill": "distill:distill",
    "round": "rounds:group",
    "sql": "sql:sql",
    "query": "query:query",
    "search": "search:search",
    "embed-column": "embed_column:embed_column",
    "ask": "ask:ask",
    "dsn": "dsn:dsn",
    "logs": "logs:logs",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "export": "transfer:export",
    "import": "transfer:bring_in",
}


def program(only: str = "") -> typer.Typer:
    """The command line: all commands, or the one of this name where there is such a one."""
    app = typer.Typer(
        name="atoll",
        help="AI that runs where the data is: every site a node, every node equal, all of them converge.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in [only] if only in COMMANDS else COMMANDS:
        module, _, what = COMMANDS[name].partition(":")
        found = getattr(import_module(f"atoll.cli.{module}"), what)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    app.callback()(_options)
    return app


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"atoll {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command are given after its name."""


def main() -> NoReturn:
    """Run a command. 0 is success, 1 an error that is explained, 2 a mistake in the command line."""
    try:
        program(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="atoll")
    except AtollError as error:
        explain(error)
        sys.exit(1)
    except BaseExceptionGroup as group:
        known = _first_known(group)
        if known is None:
            raise
        explain(known)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said to it.
        sys.stdout = None
        sys.exit(141)
    sys.exit(0)


def _first_known(group: BaseExceptionGroup[BaseException]) -> AtollError | None:
    for error in group.exceptions:
        found = _first_known(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, AtollError):
            return found
    return None
