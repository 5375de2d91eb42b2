"""A table is altered while every node writes to it: by `atoll migrate`, psql and Alembic, one node away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from support.fix_mesh import Mesh, MeshNode, make_seed
from support.load import Load

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

COLUMNS = """
    select string_agg(format('%%s %%s', attname, format_type(atttypid, atttypmod)), ', ' order by attname)
      from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped
"""
REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "a1", None


def upgrade():
    op.add_column("boat", sa.Column("length", sa.Integer(), server_default="7", nullable=False))
    op.create_index("boat_by_length", "boat", ["length"])
    op.alter_column("boat", "name", new_column_name="title")
    op.create_check_constraint("boat_floats", "boat", "length > 0")


def downgrade():
    op.drop_constraint("boat_floats", "boat")
    op.alter_column("boat", "title", new_column_name="name")
    op.drop_index("boat_by_length", "boat")
    op.drop_column("boat", "length")
"""
ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


async def until_same_shape(mesh: Mesh, table: str) -> str:
    wanted = (await mesh.sql(mesh.nodes[0], COLUMNS, table))[0][0]
    for node in mesh.live():
        await mesh.until(node, f"select ({COLUMNS}) = %s", table, wanted)
    return str(wanted)


async def test_tables_are_altered_while_every_node_writes_and_one_is_away(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    async with Load(mesh, make_seed()) as load:
        await load.written(30)
        said = await mesh.run(
            "migrate",
            "-c",
            "alter table stock add column shelf text not null default 'low'",
            "--home",
            str(one.home),
        )
        assert "public.stock: add column shelf text default 'low'::text not null" in said
        await load.written(30)
        await mesh.around(three).cut()
        await mesh.app(two, "alter table sale add column paid boolean default false")
        await mesh.app(two, "alter table journal add column remark text default 'none'")
        await mesh.app(one, "create index sale_by_item on sale (item)")
        await load.written(40)
        await mesh.app(three, "alter table stock add column place jsonb default '{}'")
        await load.written(30)
        await mesh.around(three).calm()
        await load.written(30)
    await mesh.settle()
    await load.verify()
    for table in ("stock", "sale", "journal"):
        await until_same_shape(mesh, table)
    assert "place jsonb, qty bigint, shelf text" in await until_same_shape(mesh, "stock")
    for node in mesh.nodes:
        assert await mesh.sql(node, "select true from pg_indexes where indexname = 'sale_by_item'") == [
            (True,)
        ]


async def test_what_takes_something_away_waits_for_every_node_or_is_forced(mesh: Mesh) -> None:
    one, _, three = mesh.nodes
    await mesh.share("lamp", "id bigint primary key, colour text, watts int")
    await mesh.app(one, "insert into lamp values (1, 'red', 40)")
    await mesh.settle()
    await mesh.around(three).cut()
    await mesh.until(one, "select state <> 'up' from atoll.link_state where peer = 3")
    drop = ("migrate", "-c", "alter table lamp drop column colour", "--home", str(one.home))
    refused = await mesh.run(*drop, fails=True)
    assert "code: members-not-ready" in refused
    assert "n3" in refused
    shown = await mesh.run(*drop, "--force", "--dry-run")
    assert "public.lamp: drop column colour" in shown
    assert "colour text" in (await mesh.sql(one, COLUMNS, "lamp"))[0][0]
    await mesh.run(*drop, "--force")
    await mesh.app(three, "update lamp set colour = 'blue', watts = 60 where id = 1")
    await mesh.around(three).calm()
    await mesh.settle()
    assert await until_same_shape(mesh, "lamp") == "id bigint, watts integer"
    assert await mesh.same("select * from lamp") == [(1, 60)]
    await mesh.app(one, "alter table lamp alter column watts type numeric(8, 2)")
    await mesh.settle()
    assert await until_same_shape(mesh, "lamp") == "id bigint, watts numeric(8,2)"


def alembic_of(node: MeshNode, folder: Path) -> Config:
    versions = folder / "versions"
    versions.mkdir()
    (versions / "a1.py").write_text(REVISION)
    (folder / "env.py").write_text(ENVIRONMENT)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    url = node.dsn(as_owner=False).replace("postgresql://", "postgresql+psycopg://")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


async def test_alembic_alters_a_table_on_all_nodes_and_takes_it_back(mesh: Mesh, tmp_path: Path) -> None:
    one, two, three = mesh.nodes
    await mesh.share("boat", "id bigint primary key, name text")
    await mesh.app(one, "insert into boat values (1, 'Pequod')")
    config = alembic_of(two, tmp_path)
    for _ in range(2):
        await mesh.settle()
        await asyncio.to_thread(command.upgrade, config, "head")
        await mesh.app(three, "select 1")
        await mesh.settle()
        assert await until_same_shape(mesh, "boat") == "id bigint, length integer, title text"
        await mesh.app(three, "update boat set length = length + 3, title = upper(title)")
        await mesh.settle()
        assert await mesh.same("select id, title, length from boat") == [(1, "PEQUOD", 10)]
        await asyncio.to_thread(command.downgrade, config, "base")
        await mesh.settle()
        assert await until_same_shape(mesh, "boat") == "id bigint, name text"
        assert await mesh.same("select * from boat") == [(1, "PEQUOD")]
