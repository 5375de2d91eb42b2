"""Columns whose meaning is kept as vectors: who makes them, when they go, who may see them, what is compared."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from atoll.node.search import work
from support.fix_nodes import Node, Nodes

TABLE = "create table note (shop int, id int, body text, lang text default 'en', primary key (shop, id))"
MEANINGS = {"refund": [1, 0, 0], "cold": [0, 1, 0], "door": [0, 0, 1]}
FOUND = "select (key->>'id')::integer from atoll.search('note', {}) order by rank"


@pytest.fixture
def shop(node: Node) -> Node:
    node.run(TABLE)
    node.run("insert into note values (1, 1, 'refund'), (1, 2, 'cold'), (1, 3, 'door'), (1, 4, null)")
    embed(node)
    return node


def embed(node: Node, model: str = "tiny", dimensions: int = 3, **more: Any) -> str:
    told = {"tbl": "note", "col": "body", "model": model, "dimensions": dimensions, **more}
    names = ", ".join(f"{name} => %s" for name in told)
    return str(node.value(f"select atoll.embed_column({names})", *told.values()))


def make_vectors(node: Node, version: str = "v1", model: str = "tiny", longer: int = 0) -> int:
    """What a worker does, with vectors of its own; also the rows of a backfill."""
    ((name, read, write),) = node.run(
        "select s.pipeline, s.read_sql, s.write_sql from atoll.pipeline_state s"
    )
    while node.value("select atoll.backfill_step(%s, 100)", name):
        pass
    with psycopg.RawCursor(node.app) as cursor:
        rows = cursor.execute(read, [1000, None]).fetchall()
        told = {
            row[0]: json.dumps({"embedding": MEANINGS.get(row[4], [1, 1, 1]) + [0] * longer})
            for row in rows
            if row[4] is not None
        }
        cursor.execute(write, [[row[0] for row in rows], list(told), list(told.values()), model, version])
    node.run("select atoll.say_pipeline(%s, 0, 0, null, %s)", name, version)
    return len(told)


def vectors(node: Node) -> list[Any]:
    return [key for (key,) in node.owner("select id from public.note_body_vector order by id")]


def test_rows_are_found_by_the_vectors_of_a_column(shop: Node) -> None:
    assert shop.run("select * from atoll.query_model('note')") == [("tiny", None, True)]
    assert make_vectors(shop) == 3
    near = "vector => array[0.9, 0.1, 0]"
    assert shop.run(FOUND.format(near)) == [(1,), (2,), (3,)]
    assert shop.run(FOUND.format(f"'door', {near}, k => 2")) == [(3,), (1,)]
    assert shop.run(FOUND.format(near + ", filter => '{\"id\": [2, 3]}'")) == [(2,), (3,)]
    ((row,),) = shop.run(f"select \"row\" from atoll.search('note', {near}, k => 1)")
    assert row == {"shop": 1, "id": 1, "body": "refund", "lang": "en"}
    assert shop.run("select * from atoll.query_model('note')") == [("tiny", "v1", False)]
    assert shop.run("select text, embedding, problem from atoll.searches") == [(["body"], "body", None)]


def test_vectors_of_another_version_are_not_compared(shop: Node) -> None:
    make_vectors(shop)
    near = "vector => array[1, 0, 0]"
    assert shop.run(FOUND.format(near + ", version => 'v2'")) == []
    shop.run("update note set lang = 'de' where id = 3")
    make_vectors(shop, "v2")
    assert shop.run(FOUND.format(near + ", version => 'v2'")) == [(3,)]
    make_vectors(shop, "v2")
    assert shop.run(FOUND.format(near + ", version => 'v2'"))[0] == (1,), "the rest is made anew"
    assert shop.run("select count(distinct model_version) from note_body_vector") == [(1,)]


def test_a_vector_goes_with_its_row_or_its_text_whoever_changes_that(shop: Node) -> None:
    make_vectors(shop)
    shop.run("update note set lang = 'fr'")
    assert vectors(shop) == [1, 2, 3]
    shop.run("update note set body = 'door' where id = 1")
    shop.run("update note set body = null where id = 2")
    assert vectors(shop) == [3]
    make_vectors(shop)
    assert vectors(shop) == [1, 3]
    with shop.apply.transaction():  # as the apply worker does
        shop.apply.execute("delete from note where id = 1")
    assert vectors(shop) == [3]
    shop.run("truncate note")
    assert vectors(shop) == []
    shop.owner("drop table note_body_vector")
    shop.run("insert into note values (1, 7, 'cold')")
    shop.run("delete from note")


async def test_the_index_holds_the_vectors_and_serves_searches(shop: Node) -> None:
    make_vectors(shop)
    async with await shop.database.connect() as connection:
        await work(connection)
        await work(connection)  # there is nothing left to do
        (names,) = await (
            await connection.execute(
                "select array_agg(tablename::text order by 1) from pg_indexes where schemaname = 'public' and indexname like 'atoll_search%'"
            )
        ).fetchone() or ((),)
        await connection.execute("set enable_seqscan = off; set enable_sort = off")
        ((plan,),) = await (
            await connection.execute(
                "explain (format json) select m.id from public.note m join public.note_body_vector v"
                " on v.shop = m.shop and v.id = m.id and m.body is not null and v.model = 'tiny'"
                " and public.vector_dims(v.embedding) = 3 order by public.l2_normalize(v.embedding)::public.halfvec(3)"
                " operator(public.<=>) '[1,0,0]'::public.halfvec(3) limit 2"
            )
        ).fetchall()
    assert names == ["note", "note_body_vector"]
    assert "atoll_search_" in json.dumps(plan)
    assert shop.run("select indexed from atoll.searches") == [(True,)]
    assert shop.run(FOUND.format("vector => array[1, 0, 0], k => 1")) == [(1,)]


def test_declaring_again_changes_nothing_and_another_model_takes_over(shop: Node) -> None:
    make_vectors(shop)
    declared = "select declared from atoll.pipeline"
    before = shop.run(declared)
    assert embed(shop) == "public.note_body_vector"
    assert (shop.run(declared), vectors(shop)) == (before, [1, 2, 3])
    embed(shop, "larger", 4)
    assert vectors(shop) == []
    assert make_vectors(shop, "w1", "larger", 1) == 3
    assert shop.run(FOUND.format("vector => array[0, 0, 1, 0], k => 1")) == [(3,)]
    with pytest.raises(psycopg.Error, match="has 3 dimensions"):
        shop.run(FOUND.format("vector => array[1, 0, 0]"))
    assert shop.run("select count(*) from atoll.pipeline") == [(1,)]


def test_whoever_may_not_read_the_column_does_not_see_its_vectors(node: Node) -> None:
    node.owner(TABLE.replace("note", "public.note"))
    node.owner("insert into public.note values (1, 1, 'refund'), (1, 2, 'cold'), (1, 3, 'door')")
    node.owner("select atoll.embed_column('public.note', 'body', 'tiny', 3)")
    seen, near = "select id from note_body_vector order by id", "vector => array[1, 0, 0]"
    node.owner("grant select (shop, id) on public.note to app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        make_vectors(node)
    node.owner("grant select on public.note to app")
    assert make_vectors(node) == 3
    assert node.run(seen) == [(1,), (2,), (3,)]
    node.owner("alter table public.note enable row level security")
    assert node.run(seen) == []
    node.owner("create policy mine on public.note to app using (id <> 1)")
    assert node.run(seen) == [(2,), (3,)]
    assert node.run(FOUND.format(near)) == [(2,), (3,)]
    node.owner("update public.note set body = 'door' where id in (1, 2)")
    assert make_vectors(node) == 1, "the worker embeds what the application may see"
    assert [row for (row,) in node.owner("select id from public.note_body_vector order by id")] == [2, 3]
    node.owner("revoke select on public.note from app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        node.run(seen)


def test_words_find_rows_where_the_column_is_embedded_no_more(shop: Node) -> None:
    make_vectors(shop)
    shop.run("select atoll.drop_pipeline('note_body_vector')")
    assert shop.run(FOUND.format("'cold'")) == [(2,)]
    assert shop.run("select problem from atoll.searches") == [('column "body" is not embedded on this node',)]
    with pytest.raises(psycopg.Error, match="searched by words only"):
        shop.run(FOUND.format("vector => array[1, 0, 0]"))
    shop.owner("select atoll.install_embeddings()")
    assert shop.run("select count(*) from pg_trigger where tgname like 'atoll_vectors%'") == [(0,)]
    embed(shop)
    assert make_vectors(shop) == 3


def test_every_node_embeds_the_rows_that_it_holds(nodes: Nodes) -> None:
    here, there = nodes[0], nodes[1]
    here.run(TABLE)
    here.share("note")
    nodes.sync()
    here.run("insert into note values (1, 1, 'refund'), (1, 2, 'cold')")
    embed(here)
    nodes.sync()
    for node in (here, there):
        node.owner("select atoll.install_pipelines()")
        node.owner("select atoll.install_embeddings()")
        make_vectors(node)
    assert there.run(FOUND.format("vector => array[0, 1, 0], k => 1")) == [(2,)]
    there.run("update note set body = 'door' where id = 1")
    nodes.sync()
    assert vectors(here) == [2]
    make_vectors(here)
    assert here.run(FOUND.format("vector => array[0, 0, 1], k => 1")) == [(1,)]
    assert here.run("select count(*) from atoll.shared_table where name like '%vector%'") == [(0,)]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"tbl": "nothing"}, "table-missing"),
        ({"col": "nothing"}, "embedding-column"),
        ({"col": "id"}, "embedding-column"),
        ({"kind": "image"}, "embedding-column"),
        ({"kind": "smell"}, "embedding-column"),
        ({"dimensions": 0}, "embedding-column"),
        ({"dimensions": 5000}, "embedding-column"),
        ({"into_table": "note"}, "pipeline-output"),
        ({"place": "nowhere"}, "place-unknown"),
        ({"model": ""}, "pipeline-option"),
    ],
)
def test_what_cannot_be_embedded_is_refused(node: Node, changed: dict[str, Any], code: str) -> None:
    node.run(TABLE)
    with pytest.raises(psycopg.Error) as caught:
        embed(node, **{"model": "tiny", **changed})
    assert caught.value.diag.constraint_name == code
    assert node.run("select * from atoll.embedding") == []


def test_only_the_owner_may_and_odd_names_do(node: Node) -> None:
    node.owner(TABLE.replace("note", "public.note"))
    with pytest.raises(psycopg.Error, match="is not owner"):
        embed(node)
    node.run('create table "Odd ""Table" ("Key." text primary key, "The Body" varchar(90))')
    made = embed(node, tbl='"Odd ""Table"', col="The Body")
    assert made == 'public."Odd ""Table_The Body_vector"'
    node.run("""insert into "Odd ""Table" values ('a', 'cold'), ('b', 'door')""")
    make_vectors(node)
    found = node.run("""select key from atoll.search('"Odd ""Table"', vector => array[0, 0, 1], k => 1)""")
    assert found == [({"Key.": "b"},)]
    node.run("""update "Odd ""Table" set "Key." = 'c' where "Key." = 'b'""")
    assert node.owner(f"select count(*) from {made}") == [(1,)]
