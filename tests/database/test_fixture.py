"""The database that tests are given: fresh each time, with Atoll in it, open to an application."""

from __future__ import annotations

import psycopg
import pytest

from support.fix_postgres import Connection, Database, DatabaseMaker


async def test_each_database_is_fresh_and_has_atoll_in_it(make_database: DatabaseMaker) -> None:
    first, second = make_database(), make_database()
    async with await first.connect() as connection:
        await connection.execute("create table only_here ()")
        assert (await connection.execute("select from pg_namespace where nspname = 'atoll'")).rowcount == 1
    async with await second.connect() as connection:
        assert (await connection.execute("select from pg_class where relname = 'only_here'")).rowcount == 0


async def test_the_application_makes_its_tables_and_is_nobody_special(
    database: Database, app_connection: Connection
) -> None:
    await app_connection.execute("create table fruit (name text, taste vector(2))")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await app_connection.execute("create role other superuser")


async def test_the_server_is_the_one_that_was_asked_for(connection: Connection, postgres_major: int) -> None:
    assert connection.info.server_version // 10000 == postgres_major


async def test_what_a_test_replicates_does_not_keep_its_database_alive(make_database: DatabaseMaker) -> None:
    database = make_database()
    async with await database.connect() as connection:
        await connection.execute("select pg_create_logical_replication_slot('left_behind', 'pgoutput')")
        await connection.execute(
            "create subscription left_behind connection 'host=/nowhere' publication nothing"
            " with (connect = false)"
        )
