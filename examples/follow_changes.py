"""Follows a shared table: prints each change, this node's own and those that arrive, until Ctrl-C.

    python examples/follow_changes.py DSN TABLE [HOW-MANY]

The feed is named after the table. Start the program again, and it goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import psycopg

from atoll.data.feed import follow

WORDS = {"I": "new", "U": "changed", "D": "gone"}


async def main(dsn: str, table: str, how_many: int | None = None) -> None:
    seen = 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        # Asking for the next batch says that this one is done, so end between two batches.
        async for batch in follow(connection, f"follow-{table}", [table]):
            for change in batch:
                values = " ".join(f"{name}={value}" for name, value in sorted(change.row.items()))
                print(f"{WORDS[change.op]:<7} node {change.origin}  {values}", flush=True)
            seen += len(batch)
            if how_many is not None and seen >= how_many:
                place = [f"follow-{table}", batch[-1].xid, batch[-1].pos]
                await connection.execute("select atoll.move_feed(%s, %s::xid8, %s)", place)
                return


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
