"""`atoll sql`: the bundled psql on the node's database, in the place of this process."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated

import typer

from atoll.cli.home import HomeOption, find_home, foreign_postgres, postgres_port, running

TERMINFO = "/etc/terminfo:/lib/terminfo:/usr/share/terminfo:/usr/lib/terminfo"


def sql(
    file: Annotated[str | None, typer.Argument(help="File of SQL to run; - is standard input.")] = None,
    command: Annotated[
        list[str] | None, typer.Option("-c", "--command", metavar="SQL", help="SQL to run.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="As the owner of everything, not as app.")] = False,
    home: HomeOption = None,
) -> None:
    """Run SQL on the node's database, or open its psql."""
    from atoll.node import credentials
    from atoll.node.postgres.conf import APP_ROLE, DATABASE, OWNER
    from atoll.node.postgres.programs import bundled

    if file and command:
        raise typer.BadParameter("give a file or -c, not both")
    found = find_home(home)
    environment = dict(os.environ)
    environment.setdefault("TERMINFO_DIRS", TERMINFO)
    foreign = foreign_postgres(found)
    if foreign is not None:
        where, secret = foreign.address()
        environment |= {"PGPASSWORD": secret} if secret else {}
        psql = _psql_with_tls() if foreign.wants_tls else str(bundled(found.facts.postgres).path("psql"))
    else:
        running(found)
        role = OWNER if admin else APP_ROLE
        environment["PGPASSWORD"] = "" if admin else credentials.password(found)
        where = ["-h", str(found.run), "-p", str(postgres_port(found)), "-U", role, "-d", DATABASE]
        psql = str(bundled(found.facts.postgres).path("psql"))
    arguments = [psql, "--no-psqlrc", "--no-password", *where]
    if command or file:
        arguments += ["-v", "ON_ERROR_STOP=1"]
    arguments += [part for one in command or () for part in ("-c", one)]
    arguments += ["-f", file] if file else []
    sys.stdout.flush()
    os.execve(psql, arguments, environment)  # noqa: S606 (psql takes over the terminal and the exit code)


def _psql_with_tls() -> str:
    """The machine's own psql: the bundled one is built without TLS."""
    from atoll.domain.errors import ConfigError

    found = shutil.which("psql")
    if found is None:
        raise ConfigError(
            "psql-without-tls",
            "cannot open psql: the address of the database demands TLS, and the bundled psql speaks none",
            hint="Install PostgreSQL's psql, or use another client with what `atoll dsn` prints.",
        )
    return found
