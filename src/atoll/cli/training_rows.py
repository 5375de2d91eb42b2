"""Rows to learn from: of a file, or of a query that runs with the rights of the role that asks.

So whoever may not see a row cannot train on it; a row's scope holds because it is not on nodes outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import find_home, foreign_postgres, postgres_port

if TYPE_CHECKING:
    from atoll.training.examples import Example

SqlOption = Annotated[
    str | None,
    typer.Option("--from", metavar="SQL", help="Rows of a query on this node: prompt and answer, or text."),
]
RowsOption = Annotated[
    Path | None, typer.Option("--rows", metavar="FILE", help="Rows of a file: lines of JSON, or plain text.")
]
RoleOption = Annotated[
    str | None, typer.Option(help="Role that reads the rows, one of app's; app if not given.")
]
DsnOption = Annotated[str | None, typer.Option(help="Address to read the rows from, instead of the node's.")]


def read_examples(
    file: Path | None, sql: str | None, role: str | None, dsn: str | None, home: str | None
) -> list[Example]:
    from atoll.training.examples import of_rows, read_file

    _check(file, sql, role, dsn)
    if file is not None:
        return read_file(file)
    return of_rows(_of_query(sql or "", role, dsn or _address(home)))


@contextmanager
def file_of_rows(
    file: Path | None, sql: str | None, role: str | None, dsn: str | None, home: str | None
) -> Iterator[Path]:
    """For a classifier: columns of a query are its inputs, by their names, and `label` what is right."""
    _check(file, sql, role, dsn)
    if file is not None:
        yield file
        return
    with TemporaryDirectory(prefix="atoll-rows-") as folder:
        found = Path(folder) / "rows.jsonl"
        with found.open("w") as lines:
            for row in _of_query(sql or "", role, dsn or _address(home)):
                label = {"label": row.pop("label")} if "label" in row else {}
                lines.write(json.dumps({"inputs": row, **label}, default=_as_json) + "\n")
        yield found


def _as_json(value: Any) -> float | str:
    """Numbers of PostgreSQL that Python has no literal for; whatever else is no number is told as such."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _check(file: Path | None, sql: str | None, role: str | None, dsn: str | None) -> None:
    if (file is None) is (sql is None):
        raise typer.BadParameter("give --from SQL or --rows FILE")
    if sql is None and (role or dsn):
        raise typer.BadParameter("--role and --dsn are for --from")


def _address(home: str | None) -> str:
    from atoll.node import credentials

    found = find_home(home)
    foreign = foreign_postgres(found)
    return foreign.dsn if foreign else credentials.dsn(found, postgres_port(found))


def _of_query(sql: str, role: str | None, address: str) -> list[Any]:
    import psycopg
    from psycopg.rows import dict_row
    from psycopg.sql import SQL, Identifier

    from atoll.domain.errors import LinkError
    from atoll.sql.errors import explained
    from atoll.training.examples import ROWS_MAX

    try:
        with psycopg.connect(address, application_name="atoll tune", row_factory=dict_row) as connection:
            if role is not None:
                connection.execute(SQL("set role {}").format(Identifier(role)))
            connection.execute("set transaction read only")
            with connection.cursor("rows") as cursor:  # on the server, so that too many are not fetched
                cursor.execute(sql.encode())
                return cursor.fetchmany(ROWS_MAX + 1)
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            raise LinkError("database-away", "could not reach the database", detail=f"{error}.") from error
        raise explained(error) from error
    except psycopg.Error as error:
        raise explained(error) from error
