"""Pipelines in SQL: what is declared, what is queued for whom, what is taken and written, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from support.fix_nodes import Node, Nodes

TABLES = """
create table reading (id bigint primary key, temp float8, body text);
create table place (shop int, shelf text, at timestamptz default now(), primary key (shop, shelf));
"""
ADD = """
select atoll.add_pipeline('alerts', 'reading', 'array[r.temp]', 'bearing', 'alert',
                          condition => 'result->>''label'' <> ''fine''')
"""


@pytest.fixture
def shop(node: Node) -> Node:
    node.run(TABLES)
    return node


def add(node: Node, **changed: Any) -> None:
    told = {
        "pipeline": "alerts",
        "source": "reading",
        "input": "array[temp]",
        "model": "bearing",
        "output": "alert",
    }
    told |= changed
    names = ", ".join(f"{name} => %s" for name in told)
    node.run(f"select atoll.add_pipeline({names})", *told.values())


def queued(node: Node, pipeline: str = "alerts") -> list[dict[str, Any]]:
    found = node.owner("select key from atoll.pipeline_entry where pipeline = %s order by id", pipeline)
    return [key for (key,) in found]


def state(node: Node, pipeline: str = "alerts") -> tuple[Any, ...]:
    return node.run("select state, waiting, dead, problem from atoll.pipelines where name = %s", pipeline)[0]


class Worker:
    """Does what a worker does, with an answer of its own."""

    def __init__(self, node: Node, pipeline: str = "alerts") -> None:
        self.node, self.pipeline = node, pipeline
        query = "select read_sql, write_sql from atoll.pipeline_state where pipeline = %s"
        self.read_sql, self.write_sql = node.run(query, pipeline)[0]

    def read(self, most: int = 100, only: list[int] | None = None) -> list[tuple[Any, ...]]:
        with psycopg.RawCursor(self.node.app) as cursor:
            return cursor.execute(self.read_sql, [most, only]).fetchall()

    def write(self, results: dict[int, Any], taken: list[int] | None = None) -> tuple[int, int, int]:
        told = [json.dumps(result) for result in results.values()]
        with psycopg.RawCursor(self.node.app) as cursor:
            values = [taken or list(results), list(results), told, "bearing", "v1"]
            return cursor.execute(self.write_sql, values).fetchone()  # type: ignore[return-value]


def test_a_row_is_queued_read_and_its_score_written_with_the_version(shop: Node) -> None:
    add(shop, condition="result->>'label' <> 'fine'")
    shop.run("insert into reading values (1, 20.5), (2, 99)")
    shop.run("insert into reading values (3, 1) on conflict do nothing")
    worker = Worker(shop)
    rows = worker.read()
    assert [(json.loads(key), there, value) for _, _, key, there, value in rows] == [
        ({"id": 1}, True, [20.5]),
        ({"id": 2}, True, [99.0]),
        ({"id": 3}, True, [1.0]),
    ]
    results = {
        row[0]: {"label": label, "score": 0.9}
        for row, label in zip(rows, ("fine", "hot", "cold"), strict=True)
    }
    assert worker.write(results) == (3, 2, 2)
    found = shop.run(
        "select id, label, score, model, model_version, scored_at is not null from alert order by id"
    )
    assert found == [(2, "hot", 0.9, "bearing", "v1", True), (3, "cold", 0.9, "bearing", "v1", True)]
    assert queued(shop) == []


def test_a_row_that_is_written_again_meanwhile_is_scored_again_and_replaces_its_output(shop: Node) -> None:
    add(shop)
    shop.run("insert into reading values (1, 1)")
    worker = Worker(shop)
    first = worker.read()[0][0]
    shop.run("update reading set temp = 2")
    assert worker.write({first: {"label": "a"}}) == (1, 1, 1)
    (again,) = worker.read()
    assert again[4] == [2.0]
    assert worker.write({again[0]: {"label": "b"}}) == (1, 1, 1)
    assert shop.run("select id, label from alert") == [(1, "b")]


def test_what_was_taken_already_is_not_written_twice(shop: Node) -> None:
    shop.run("create table told (label text)")
    add(shop, output="told", columns="result->>'label' as label")
    shop.run("insert into reading values (1, 1)")
    worker = Worker(shop)
    entry = worker.read()[0][0]
    assert worker.write({entry: {"label": "a"}})[:2] == (1, 1)
    assert worker.write({entry: {"label": "a"}})[:2] == (0, 0)
    assert shop.run("table told") == [("a",)]


def test_deleted_rows_are_skipped(shop: Node) -> None:
    add(shop)
    shop.run("insert into reading values (1, 1)")
    shop.run("delete from reading")
    worker = Worker(shop)
    ((entry, _, _, there, value),) = worker.read()
    assert (there, value) == (False, None)
    assert worker.write({entry: {"label": "a"}}) == (1, 0, 0)


def test_a_key_of_several_columns_finds_its_row(shop: Node) -> None:
    add(shop, source="place", input="r.shelf", kind="text", task="embed")
    shop.run("insert into place values (1, 'it''s a \"shelf\"'), (1, 'b')")
    worker = Worker(shop)
    rows = worker.read()
    assert [row[4] for row in rows] == ['it\'s a "shelf"', "b"]
    worker.write({row[0]: {"embedding": [0.5, 1]} for row in rows})
    assert shop.run("select shop, shelf, embedding::text from alert order by shelf") == [
        (1, "b", "[0.5,1]"),
        (1, 'it\'s a "shelf"', "[0.5,1]"),
    ]


@pytest.mark.parametrize(
    ("mode", "here", "there"), [("own", [1], [2]), ("arriving", [2], [1]), ("all", [1, 2], [1, 2])]
)
def test_a_mode_says_whose_writes_are_scored(
    nodes: Nodes, mode: str, here: list[int], there: list[int]
) -> None:
    nodes[0].run(TABLES)
    nodes[0].share("reading")
    nodes.sync()
    add(nodes[0], mode=mode)
    nodes.sync()
    nodes[1].owner("select atoll.install_pipelines()")
    nodes[0].run("insert into reading values (1, 1)")
    nodes[1].run("insert into reading values (2, 2)")
    nodes.sync()
    assert [sorted(key["id"] for key in queued(node)) for node in nodes] == [here, there]


def test_decisions_travel_and_rows_stay(nodes: Nodes) -> None:
    nodes[0].run(TABLES)
    nodes[0].run("select atoll.share('reading', scope => 'node')")
    add(nodes[0], scope="global")
    nodes.sync()
    nodes[0].run("insert into reading values (1, 1)")
    worker = Worker(nodes[0])
    worker.write({worker.read()[0][0]: {"label": "hot"}})
    nodes.sync()
    assert nodes[1].run("select id, label from alert") == [(1, "hot")]
    assert nodes[1].run("table reading") == []


def test_a_node_without_the_source_says_so_and_catches_up_when_it_is_there(nodes: Nodes) -> None:
    nodes[0].run(TABLES)
    add(nodes[0])
    nodes.sync()
    nodes[1].owner("select atoll.install_pipelines()")
    assert state(nodes[1])[0::3] == ("failed", "table public.reading does not exist")
    nodes[1].run(TABLES)
    nodes[1].owner("select atoll.install_pipelines()")
    nodes[1].run("insert into reading values (1, 1)")
    assert state(nodes[1]) == ("running", 1, 0, None)
    assert nodes[1].run("select tableowner from pg_tables where tablename = 'alert'") == [("app",)]


def test_a_place_says_on_which_nodes_it_runs(nodes: Nodes) -> None:
    nodes[0].run(TABLES)
    nodes[0].share("reading")
    nodes.sync()
    add(nodes[1], place="here")
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.install_pipelines()")
        node.run("insert into reading values (%s, 1)", node.number)
    assert [queued(node) for node in nodes] == [[], [{"id": 2}]]
    assert state(nodes[0])[0] == "elsewhere"


def test_failed_rows_wait_longer_each_time_and_end_as_dead_letters(shop: Node) -> None:
    add(shop, tries_max=2)
    shop.run("insert into reading values (1, 1), (2, 2)")
    worker = Worker(shop)
    first, second = (row[0] for row in worker.read())
    shop.run("select atoll.fail_entries('alerts', %s, 'no good', true)", [first])
    assert [row[0] for row in worker.read()] == [second]
    shop.run("select atoll.fail_entries('alerts', %s, 'no good', true)", [first])
    assert state(shop)[:3] == ("running", 1, 1)
    assert shop.run("select key, tries, problem from atoll.dead_letters") == [({"id": 1}, 2, "no good")]
    assert shop.value("select atoll.retry_pipeline('alerts')") == 1
    assert [row[:2] for row in worker.read()] == [(first, 0), (second, 0)]


def test_a_row_has_one_dead_letter_at_most_and_none_once_it_is_scored(shop: Node) -> None:
    add(shop, tries_max=1)
    worker = Worker(shop)
    shop.run("insert into reading values (1, 1), (2, 2)")
    for _ in range(3):
        shop.run("update reading set temp = temp + 1 where id = 1")
        ids = [row[0] for row in worker.read() if row[2] == '{"id": 1}']
        for entry in ids:
            shop.run("select atoll.fail_entries('alerts', %s, 'no good', true)", [entry])
    assert state(shop)[1:3] == (1, 1)
    shop.run("update reading set temp = 0 where id = 1")
    worker.write({row[0]: {"label": "a"} for row in worker.read()})
    assert state(shop)[1:3] == (0, 0)


def test_a_wait_for_a_model_is_no_try(shop: Node) -> None:
    add(shop, tries_max=1)
    shop.run("insert into reading values (1, 1)")
    entry = Worker(shop).read()[0][0]
    shop.run("select atoll.fail_entries('alerts', %s, 'away', false)", [entry])
    assert state(shop)[1:3] == (1, 0)


def test_a_backfill_queues_in_stretches_what_is_there(shop: Node) -> None:
    shop.run("insert into reading select i, i from generate_series(1, 25) i")
    add(shop)
    shop.run("select atoll.backfill('alerts')")
    assert state(shop)[0] == "backfill"
    more = []
    while shop.value("select atoll.backfill_step('alerts', 10)"):
        more.append(len(queued(shop)))
        shop.run("insert into reading values (%s, 1)", -len(more))
    assert more == [10, 21, 27]
    assert sorted(key["id"] for key in queued(shop)) == sorted([*range(1, 26), -1, -2, -3])
    shop.run("select atoll.backfill('alerts', '{\"id\": 23}')")
    assert shop.value("select atoll.backfill_step('alerts', 10)")
    assert [key["id"] for key in queued(shop)][-2:] == [24, 25]


def test_another_version_scores_again_what_is_there_if_that_is_wanted(shop: Node) -> None:
    add(shop, rescore=True)
    add(shop, pipeline="other", output="other")
    for version, wanted in (("v1", ["running", "running"]), ("v2", ["backfill", "running"])):
        for name in ("alerts", "other"):
            shop.run("select atoll.say_pipeline(%s, 0, 0, null, %s)", name, version)
        assert [state(shop, name)[0] for name in ("alerts", "other")] == wanted


def test_of_several_entries_of_a_row_the_last_is_enough(shop: Node) -> None:
    add(shop)
    shop.run("insert into reading values (1, 1), (2, 2)")
    for value in range(5):
        shop.run("update reading set temp = %s where id = 1", value)
    assert shop.owner("select atoll.tidy_entries('alerts')") == [(5,)]
    assert queued(shop) == [{"id": 2}, {"id": 1}]


def test_a_writer_wakes_a_worker_that_sleeps_and_no_other(shop: Node) -> None:
    add(shop)
    number = shop.run("select number from atoll.pipeline_state")[0][0]
    with psycopg.connect(shop.database.conninfo("app"), autocommit=True) as worker:
        worker.execute("listen atoll_queued_alerts")
        shop.run("insert into reading values (1, 1)")
        assert list(worker.notifies(timeout=0.2)) == []
        with shop.app.transaction():
            shop.run("insert into reading values (2, 1)")
            sleep = "select pg_try_advisory_lock(x'61746f70'::int, %s)"
            assert worker.execute(sleep, [number]).fetchone() == (False,), "a writer saw it awake"
        assert worker.execute(sleep, [number]).fetchone() == (True,)
        shop.run("insert into reading values (3, 1)")
        assert [note.channel for note in worker.notifies(timeout=30, stop_after=1)] == ["atoll_queued_alerts"]


def test_scores_wake_listeners_with_key_and_label(shop: Node) -> None:
    add(shop)
    with psycopg.connect(shop.database.conninfo("app"), autocommit=True) as listener:
        listener.execute("listen atoll_pipeline_alerts")
        shop.run("insert into reading values (1, 1)")
        worker = Worker(shop)
        worker.write({worker.read()[0][0]: {"label": "hot"}})
        (note,) = listener.notifies(timeout=30, stop_after=1)
        assert json.loads(note.payload) == {"key": {"id": 1}, "label": "hot"}


def test_pausing_keeps_rows_and_dropping_forgets_them(shop: Node) -> None:
    add(shop)
    shop.run("select atoll.pause_pipeline('alerts')")
    shop.run("insert into reading values (1, 1)")
    assert state(shop)[:2] == ("paused", 1)
    shop.run("select atoll.pause_pipeline('alerts', false)")
    assert state(shop)[:2] == ("running", 1)
    shop.run("select atoll.drop_pipeline('alerts')")
    assert shop.run("table atoll.pipelines") == queued(shop) == []
    shop.run("insert into reading values (2, 1)")
    assert shop.run("select count(*) from pg_trigger where tgname like 'atoll_pipeline%'") == [(0,)]


def test_declaring_again_keeps_what_is_queued(shop: Node) -> None:
    add(shop)
    shop.run("insert into reading values (1, 1)")
    add(shop, input="array[r.temp * 2]")
    assert [row[4] for row in Worker(shop).read()] == [[2.0]]


def test_a_trigger_that_somebody_removed_is_put_back(shop: Node) -> None:
    add(shop)
    shop.owner("drop trigger atoll_pipeline_alerts_insert on reading")
    shop.owner("select atoll.install_pipelines()")
    shop.run("insert into reading values (1, 1)")
    assert queued(shop) == [{"id": 1}]


REFUSED = {
    "name": ({"pipeline": "Alerts!"}, "pipeline-name", "cannot name a pipeline 'Alerts!'"),
    "no table": ({"source": "nowhere"}, "table-missing", "table nowhere does not exist"),
    "view": ({"source": "shown"}, "pipeline-source", "cannot follow public.shown: it is not an ordinary table"),
    "partitioned": ({"source": "parted"}, "pipeline-source", "cannot follow public.parted: it is not an ordinary table"),
    "no key": ({"source": "keyless"}, "pipeline-source", "cannot follow table public.keyless: it has no primary key"),
    "system": ({"source": "atoll.node"}, "pipeline-source", "cannot follow table atoll.node: it belongs to the system"),
    "kind": ({"kind": "video"}, "pipeline-option", 'kind "video" does not exist'),
    "task": ({"task": "embed"}, "pipeline-option", 'tensor is not asked for task "embed"'),
    "mode": ({"mode": "some"}, "pipeline-option", 'mode "some" does not exist'),
    "batch": ({"batch_max": 0}, "pipeline-option", "batch_max is 1 to 4096, and tries_max 1 to 100"),
    "input": ({"input": "array[r.temperature]"}, "pipeline-expression", "cannot evaluate input: column r.temperature does not exist"),
    "input breaks out": ({"input": "1) from reading r; drop table reading; --"}, "pipeline-expression", "cannot evaluate input: "),
    "condition": ({"condition": "result->>'label'"}, "pipeline-expression", "cannot evaluate condition: argument of WHERE must be type boolean, not type text"),
    "columns": ({"output": "told", "columns": "r.id as nothing"}, "pipeline-expression", 'cannot write the columns to table public.told: column "nothing" of relation "told" does not exist'),
    "columns of nothing": ({"output": "told", "columns": "r.x as label"}, "pipeline-expression", "cannot evaluate columns: column r.x does not exist"),
    "columns without table": ({"columns": "r.id"}, "pipeline-output", "there is no table public.alert, and columns are given"),
    "no key in output": ({"output": "told"}, "pipeline-output", "table public.told has no column for the key of public.reading"),
    "itself": ({"output": "reading", "columns": "r.id"}, "pipeline-circle", "table public.reading would be scored from its own scores"),
    "place": ({"place": "atlantis"}, "place-unknown", 'there is no place "atlantis"'),
}  # fmt: skip


def test_a_mistake_is_an_error_at_once_and_leaves_nothing(shop: Node) -> None:
    shop.run(
        "create table keyless (x int); create view shown as table reading; create table told (label text)"
    )
    shop.run("create table parted (id int primary key) partition by range (id)")
    for what, (changed, code, message) in REFUSED.items():
        with pytest.raises(psycopg.Error) as caught:
            add(shop, **changed)
        assert caught.value.diag.constraint_name == code, what
        assert (caught.value.diag.message_primary or "").startswith(message), what
        assert shop.run("select count(*) from atoll.pipeline") == [(0,)]
        assert shop.run("select to_regclass('alert'), to_regclass('reading') is not null") == [(None, True)]


def test_a_circle_of_pipelines_is_refused(shop: Node) -> None:
    add(shop)
    with pytest.raises(psycopg.Error, match="would be scored from its own scores"):
        add(
            shop,
            pipeline="back",
            source="alert",
            input="array[r.score]",
            output="reading",
            columns="r.id, r.score as temp",
        )


def test_expressions_run_with_the_rights_of_the_application(shop: Node) -> None:
    shop.owner("create table public.secret (word text)")
    shop.owner("insert into public.secret values ('hidden')")
    with pytest.raises(psycopg.Error, match="permission denied for table secret"):
        add(shop, input="(select word from secret)")
    add(shop)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.run("table atoll.pipeline_entry")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.run("update atoll.pipeline set input = '1'")


def test_what_an_application_declares_by_itself_is_never_run_by_the_node(shop: Node) -> None:
    add(shop)
    again = "select atoll.declare_pipeline(jsonb_populate_record(p, %s::jsonb), 'all') from atoll.pipeline p"
    evil = {"definition": json.dumps(["alter role app superuser"])}
    shop.run(again, json.dumps(evil))
    assert "superuser" not in shop.run("select definition from atoll.pipeline")[0][0]
    for where in (
        {"output": "public.nowhere"},
        {"output": "alert; drop table reading"},
        {"source": "reading; select"},
    ):
        with pytest.raises(psycopg.Error):
            shop.run(again, json.dumps(evil | where))
    assert shop.run("select rolsuper from pg_roles where rolname = 'app'") == [(False,)]


def test_an_output_of_ones_own_is_made_where_it_is_missing(nodes: Nodes) -> None:
    nodes[0].run(TABLES)
    nodes[0].run("create table told (n int primary key, label text, check (n > 0))")
    nodes[0].share("reading")
    add(nodes[0], output="told", columns="r.id::int as n, result->>'label' as label")
    nodes.sync()
    nodes[1].owner("select atoll.install_pipelines()")
    nodes[1].run("insert into reading values (5, 1), (6, 1)")
    worker = Worker(nodes[1])
    worker.write({row[0]: {"label": "x"} for row in worker.read()})
    assert nodes[1].run("table told") == [(5, "x"), (6, "x")]


def test_only_the_owner_of_a_table_has_it_followed(shop: Node) -> None:
    shop.owner("create table public.theirs (id int primary key, x float8)")
    shop.owner("grant all on public.theirs to app")
    with pytest.raises(psycopg.Error, match=r"app is not owner of public\.theirs"):
        add(shop, source="theirs", input="array[r.x]")
