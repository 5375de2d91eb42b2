"""A real node scores rows as they are written: each once, through crashes, bad rows and an absent model."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from atoll.node import credentials
from atoll.node.home import open_home
from support.fix_home import NodeStarter, RunningNode, atoll, engines_of, eventually

pytestmark = pytest.mark.slow
TABLE = "create table reading (id bigint primary key, a float8, b float8, c float8, d float8)"


def connect(node: RunningNode) -> psycopg.Connection[Any]:
    return psycopg.connect(credentials.dsn(open_home(node.home)), autocommit=True)


def run(node: RunningNode, *arguments: str) -> str:
    done = atoll(*arguments, "--home", str(node.home))
    assert done.returncode == 0, done.stderr
    return done.stdout


def add(app: psycopg.Connection[Any], **changed: str) -> None:
    told = {"source": "reading", "input": "array[a, b, c, d]", "model": "tiny", "output": "verdict"} | changed
    names = ", ".join(f"{name} => %s" for name in told)
    app.execute(f"select atoll.add_pipeline('alerts', {names})", list(told.values()))  # type: ignore[arg-type]


def state(app: psycopg.Connection[Any], what: str = "state") -> Any:
    return app.execute("select to_jsonb(p) from atoll.pipelines p").fetchall()[0][0][what]


@pytest.fixture
def node(start_node: NodeStarter) -> RunningNode:
    return start_node()


def test_every_row_is_scored_once_though_the_node_is_killed_in_between(
    node: RunningNode, start_node: NodeStarter, tiny_onnx: Path
) -> None:
    from support.graphs import scores

    run(node, "model", "add", str(tiny_onnx))
    with connect(node) as app:
        app.execute(TABLE)
        app.execute("create table said (id bigint, label text, score float8, model_version text)")
        columns = "r.id, result->>'label' as label, (result->>'score')::float8 as score"
        add(app, output="said", columns=columns)
        app.execute("insert into reading select i, i % 7, i % 5, i % 3, 1 from generate_series(1, 2000) i")
        eventually(lambda: app.execute("select from said limit 1").fetchall(), "the first score")
    node.end(signal.SIGKILL)
    again = start_node()
    with connect(again) as app:
        print(f"scored before the kill, or since: {app.execute('select from said').rowcount} of 2000")
        app.execute("insert into reading select i, 1, 1, 1, 1 from generate_series(2001, 2010) i")
        eventually(lambda: state(app, "waiting") == 0, "an empty queue")
        found = app.execute("select id, label, score from said order by id").fetchall()
        assert [row[0] for row in found] == list(range(1, 2011)), "each row once"
        rows = app.execute("select a, b, c, d from reading order by id").fetchall()
        wanted = scores(np.array(rows, np.float32))
        assert [int(label) for _, label, _ in found] == wanted.argmax(axis=1).tolist()
        assert np.allclose([score for *_, score in found], wanted.max(axis=1))
        ((version,),) = app.execute("select distinct model_version from said").fetchall()
        assert version == json.loads(run(again, "model", "show", "tiny"))[0]["version"]


def test_a_bad_row_waits_alone_and_a_listener_hears_of_the_others(node: RunningNode, tiny_onnx: Path) -> None:
    run(node, "model", "add", str(tiny_onnx))
    with connect(node) as app, connect(node) as listener:
        app.execute("create table note (id int primary key, x text)")
        wish = ("--on", "note", "--input", "x::float8[]", "--model", "tiny", "--into", "verdict")
        run(node, "pipeline", "add", "alerts", *wish, "--tries", "2")
        listener.execute("listen atoll_pipeline_alerts")
        app.execute(
            "insert into note values (1, '{1,2,3,4}'), (2, 'nonsense'), (3, '{1,2}'), (4, '{4,3,2,1}')"
        )
        heard = {
            json.loads(note.payload)["key"]["id"] for note in listener.notifies(timeout=60, stop_after=2)
        }
        assert heard == {1, 4}
        eventually(lambda: state(app, "dead") == 2, "two dead letters")
        told = run(node, "pipeline", "dead", "alerts")
        assert "alerts: 2 given up; see: atoll pipeline dead alerts" in run(node, "status")
        assert "malformed array literal" in told
        assert 'input "x" has shape [2]' in told
        app.execute("update note set x = '{1,1,1,1}' where id = 2")
        eventually(
            lambda: app.execute("select from verdict where id = 2").fetchall(), "a score of the mended row"
        )
        assert state(app, "dead") == 1, "a row that was scored since is no dead letter any more"
        assert run(node, "pipeline", "retry", "alerts") == "1 rows are tried again\n"
        eventually(lambda: state(app, "dead") == 1, "it dies again")
        eventually(
            lambda: 'atoll_pipeline_dead{pipeline="alerts"}' in node.get("/metrics")[1],
            "the metric of dead letters",
        )
        (listed,) = json.loads(run(node, "pipeline", "list", "--json"))
        assert (listed["name"], listed["scored"] > 0, listed["problem"]) == ("alerts", True, None)


def test_rows_wait_for_a_model_that_is_away_and_for_a_pause_to_end(
    node: RunningNode, tiny_onnx: Path
) -> None:
    with connect(node) as app:
        app.execute(TABLE)
        app.execute("insert into reading select i, 1, 2, 3, 4 from generate_series(1, 2500) i")
        add(app)
        app.execute("insert into reading values (0, 1, 2, 3, 4)")
        eventually(lambda: state(app) == "waiting", "trouble")
        assert state(app, "problem") == 'this node has no model "tiny"'
        run(node, "model", "add", str(tiny_onnx))
        eventually(
            lambda: app.execute("select from verdict").rowcount == 1, "the score of the row that waited"
        )
        app.execute("select atoll.pause_pipeline('alerts')")
        eventually(lambda: state(app) == "paused", "a pause")
        app.execute("select atoll.backfill('alerts')")
        app.execute("insert into reading values (-1, 1, 2, 3, 4)")
        assert state(app, "waiting") == 1
        app.execute("select atoll.pause_pipeline('alerts', false)")
        eventually(lambda: app.execute("select from verdict").rowcount == 2502, "the scores of all")
        run(node, "pipeline", "drop", "alerts")
        assert json.loads(run(node, "pipeline", "list", "--json")) == []


def test_no_score_is_lost_or_doubled_when_node_engine_and_database_are_killed_in_turns(
    node: RunningNode, start_node: NodeStarter
) -> None:
    """A language model's scores, into a table that would show it if a row were scored twice."""
    rows = 240
    with connect(node) as app:
        app.execute("create table note (id int primary key, body text)")
        app.execute("create table said (id int, words text, model_version text)")
        told = {"source": "note", "input": "body", "model": "pebble", "output": "said", "kind": "text"}
        options = '{"max_tokens": 3, "temperature": 0}'
        columns = "r.id, result->>'text' as words"
        add(app, **told, task="generate", options=options, columns=columns)
        app.execute("insert into note select i, 'Row ' || i from generate_series(1, %s) i", [rows])

    at_kills = []
    for what in ("engine", "database", "node") * 2:
        goes_on = min(scored(node) + 8, rows)
        eventually(partial(lambda on, least: scored(on) >= least, node, goes_on), "it goes on")
        at_kills.append((what, scored(node)))
        node = strike(what, node, start_node)
    print(f"scored at each kill: {at_kills}")
    eventually(lambda: scored(node) >= rows, "every row is scored")
    with connect(node) as app:
        eventually(lambda: state(app, "waiting") == 0, "an empty queue")
        assert state(app, "dead") == 0
        found = app.execute("select id, words from said order by id").fetchall()
        assert [number for number, _ in found] == list(range(1, rows + 1)), "each row once"
        assert all(words is not None for _, words in found)


def scored(node: RunningNode) -> int:
    """How many scores there are; none that can be seen while the database is away."""
    try:
        with connect(node) as app:
            return len(app.execute("select from said").fetchall())
    except psycopg.OperationalError:
        return -1


def strike(what: str, node: RunningNode, start_node: NodeStarter) -> RunningNode:
    """kill -9."""
    if what == "node":
        node.end(signal.SIGKILL)
        return start_node()
    found: list[int] = []

    def is_there() -> bool:
        pid = node.home / "data" / "postmaster.pid"
        found[:] = engines_of(node) if what == "engine" else list(map(int, pid.read_text().split()[:1]))
        return bool(found)

    eventually(is_there, f"there is a {what} to be killed")
    os.kill(found[0], signal.SIGKILL)
    return node
