"""Puts in place what the sites work with: tables, pipelines, a rollup, a stock, the help desk's documents."""

from __future__ import annotations

import psycopg

from atoll.demo.scenario import PRICES, RAW_TABLES, START_QTY
from atoll.demo.sites.desk import articles
from atoll.sql import query

STATEMENTS = (
    "make_tables",
    "share_stock",
    "share_orders",
    "share_decision",
    "make_raw_tables",
    *(f"share_{table}" for table in RAW_TABLES),
    "share_article",
    "search_article",
    "roll_up_vibration",
    *(f"decide_{table}" for table in RAW_TABLES),
)


async def declare(dsn: str) -> None:
    """On one node; the others follow."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for name in STATEMENTS:
            await connection.execute(query("demo", name))
        for item, price in PRICES.items():
            await connection.execute(query("demo", "add_item"), (item, START_QTY, price))


async def add_documents(dsn: str) -> int:
    """Where they are to stay; how many."""
    known = articles()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for article in known:
            await connection.execute(query("demo", "add_article"), (article.title, article.body))
    return len(known)
