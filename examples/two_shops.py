"""Two shops sell from one stock, each on its own node, at the same time.

    python examples/two_shops.py DSN-OF-ONE-NODE DSN-OF-ANOTHER

The table is made and shared on one node; the other makes it by itself. Its quantity is a counter, so every
sale counts, wherever it was made.
"""

from __future__ import annotations

import sys
import time

import psycopg

TABLE = """
create table if not exists article (
    id    bigint primary key default atoll.id(),
    name  text not null,
    qty   integer not null,
    price numeric
)"""
WAIT_SECONDS_MAX = 60


def main(here_dsn: str, there_dsn: str) -> None:
    with (
        psycopg.connect(here_dsn, autocommit=True) as here,
        psycopg.connect(there_dsn, autocommit=True) as there,
    ):
        here.execute(TABLE)
        here.execute("""select atoll.share('article', merge => '{"qty": "counter"}')""")
        row = here.execute(
            "insert into article (name, qty, price) values ('rope', 10, 4.50) returning id"
        ).fetchone()
        assert row is not None
        article = row[0]
        wait_for(there, article, qty=10)

        # Both sell and neither waits for the other.
        here.execute("update article set qty = qty - 3 where id = %s", [article])
        there.execute("update article set qty = qty - 4, price = 4.75 where id = %s", [article])

        wait_for(here, article, qty=3)
        wait_for(there, article, qty=3)
        print("both shops have 3 left")


def wait_for(shop: psycopg.Connection, article: int, qty: int) -> None:
    """What the other shop wrote arrives a moment later, or when the network is back."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            found = shop.execute("select qty from article where id = %s", [article]).fetchone()
        except psycopg.errors.UndefinedTable:
            found = None
        if found == (qty,):
            return
        time.sleep(0.1)
    sys.exit(f"no quantity of {qty} within {WAIT_SECONDS_MAX} seconds")


if __name__ == "__main__":
    main(*sys.argv[1:3])
