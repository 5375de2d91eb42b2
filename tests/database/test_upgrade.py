"""A newer version of the functions reaches tables that an older one installed, and keeps what they know."""

from __future__ import annotations

import pytest
from psycopg import AsyncConnection

from atoll import sql
from support.fix_nodes import Nodes


@pytest.mark.parametrize("kind", ["merge", "append"])
async def test_tables_of_an_older_version_get_new_functions_and_go_on(nodes: Nodes, kind: str) -> None:
    here, there = nodes
    here.run("create table item (id bigint primary key, name text)")
    here.share("item", kind=kind)
    nodes.sync()
    here.run("insert into item values (1, 'before')")
    # An older version: its function for INSERT does nothing.
    broken = (
        'create or replace function atoll_side."public.item__insert"() returns trigger language plpgsql as {}'
    )
    here.owner(broken.format("'begin return null; end'"))
    here.owner("delete from atoll.migration where name like 'functions %%'")
    async with await AsyncConnection.connect(here.database.conninfo(), autocommit=True) as connection:
        await sql.install(connection)
    here.run("insert into item values (2, 'after')")
    nodes.sync()
    assert nodes.same("item") == [("1", "before"), ("2", "after")]
    assert there.parked() == []
