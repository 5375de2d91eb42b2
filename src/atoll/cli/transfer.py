"""`atoll export` and `atoll import`: changes in a file, for sites that no link reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping


def export(
    target: Annotated[str, typer.Argument(help="File to write. Nothing is overwritten.")],
    for_node: Annotated[str, typer.Option("--for", metavar="NODE", help="Name or number of the receiver.")],
    since: Annotated[
        str,
        typer.Option(help="arrived: what it has not confirmed; last: what is new since the last file; all."),
    ] = "arrived",
    certificate: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The receiver's keys/node.pem, if it was never met here."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write what another node lacks into a file that only that node can read."""
    import asyncio
    from datetime import UTC, datetime
    from pathlib import Path

    from atoll.data.transfer.export import Exported, Since
    from atoll.data.transfer.export import export as write
    from atoll.domain.errors import ConfigError
    from atoll.identity import files
    from atoll.identity.certificate import load_identity

    found = find_home(home)
    if since not in list(Since):
        raise ConfigError("config-invalid", f'invalid since "{since}"', hint="It is arrived, last or all.")
    postgres = running_postgres(found)
    path = Path(target).expanduser().resolve()
    pem = files.read_text(Path(certificate).expanduser()) if certificate else None

    async def run() -> Exported:
        async with await postgres.connect() as connection:
            return await write(
                connection,
                load_identity(found.keys),
                path,
                node=for_node,
                since=Since(since),
                certificate_pem=pem,
                now=datetime.now(UTC),
            )

    done = asyncio.run(run())
    builds = "everything" if done.base is None else f"what is new since {done.base[:8]}"
    typer.echo(f'{done.path} for node "{done.receiver}": {builds}, {path.stat().st_size} bytes')
    _print_rows(done.rows)


def bring_in(
    file: Annotated[str, typer.Argument(help="What `atoll export` wrote for this node.")],
    home: HomeOption = None,
) -> None:
    """Merge a file that another node wrote for this one."""
    import asyncio
    from pathlib import Path

    from atoll.data.transfer.bring_in import BroughtIn
    from atoll.data.transfer.bring_in import bring_in as merge
    from atoll.identity.certificate import load_identity

    found = find_home(home)
    postgres = running_postgres(found)
    path = Path(file).expanduser().resolve()

    async def run() -> BroughtIn:
        async with await postgres.connect() as connection:
            return await merge(connection, load_identity(found.keys), path)

    done = asyncio.run(run())
    again = "; it had been imported before" if done.was_read else ""
    typer.echo(f'merged what node "{done.sender}" wrote at {done.made_at}{again}')
    _print_rows(done.rows, "new ")
    if done.parked:
        typer.echo(f"note: {done.parked} changes wait; see why with: atoll parked", err=True)


def _print_rows(rows: Mapping[str, int], what: str = "") -> None:
    for table, count in rows.items():
        if not table.startswith("atoll."):
            typer.echo(f"  {table}  {count} {what}rows")
