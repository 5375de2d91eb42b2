"""docs/sql.md and the database say the same: what an application may call and see, and nothing else."""

from __future__ import annotations

import re

from docs import pages
from support.fix_postgres import Connection

SIGNATURES = """
select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
  from pg_proc p
 where p.pronamespace = 'atoll'::regnamespace and has_function_privilege(p.oid, 'execute')
"""
RELATIONS = """
select c.relname from pg_class c
 where c.relnamespace = 'atoll'::regnamespace and c.relkind in ('r', 'v')
   and has_table_privilege(c.oid, 'select')
"""
SETTINGS = "select name, value, about from atoll.setting where name <> 'future_bound'"
PAGE = pages.read("docs/sql.md")


def documented_signatures() -> dict[str, str]:
    found = re.findall(r"^### atoll\.(\w+)\n\n`atoll\.(\1\(.*)`$", PAGE, re.MULTILINE)
    return dict(found)


async def test_functions_that_an_application_may_call_are_documented(app_connection: Connection) -> None:
    rows = await (await app_connection.execute(SIGNATURES)).fetchall()
    parts = set(re.findall(r"`atoll\.(\w+)`", pages.section(PAGE, "## Also callable")))
    assert {name for name, *_ in rows} == documented_signatures().keys() | parts
    assert not documented_signatures().keys() & parts


async def test_signatures_are_those_of_the_page(app_connection: Connection) -> None:
    rows = await (await app_connection.execute(SIGNATURES)).fetchall()
    documented = documented_signatures()
    exist = {
        name: re.sub(
            r"::(timestamp with time zone|\w+( precision)?(\[\])?)", "", f"{name}({arguments}) → {result}"
        )
        for name, arguments, result in rows
        if name in documented
    }
    assert documented == exist


async def test_relations_that_an_application_may_read_are_documented(app_connection: Connection) -> None:
    rows = await (await app_connection.execute(RELATIONS)).fetchall()
    documented = pages.first_cells(PAGE, "### Tables and views")
    assert sorted(documented) == sorted(f"atoll.{name}" for (name,) in rows)


async def test_settings_in_the_database_are_those_of_the_page(connection: Connection) -> None:
    text = pages.section(pages.read("docs/settings.md"), "## Settings in the database")
    for name, value, about in await (await connection.execute(SETTINGS)).fetchall():
        assert f"| `{name}` | `{value}` | {about} |" in text


async def test_functions_that_pages_name_exist(connection: Connection) -> None:
    named = {
        name
        for page in pages.pages()
        for name in re.findall(r"\batoll\.(\w+)\(", pages.read(page))
        if not name.startswith("_")
    }
    query = "select proname from pg_proc where pronamespace = 'atoll'::regnamespace"
    exist = {name for (name,) in await (await connection.execute(query)).fetchall()}
    assert named - exist == set()
