"""Rollups: what is kept, what is refused, who counts what, and the helpers that read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from atoll.analytics import sketch
from support import tally
from support.fix_nodes import Node, Nodes
from support.fix_postgres import Connection

pytestmark = pytest.mark.slow

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = "insert into readings (id, taken_at, machine, temp) values (%s, %s, %s, %s)"


def make(node: Node, columns: str = tally.COLUMNS) -> None:
    node.run(f"create table readings ({columns})")
    (time,) = (c for c in ("taken_at", "at") if f" {c} " in columns)
    node.run(f"create index on readings ({time})")


def tend(node: Node) -> None:
    while node.owner("select atoll.tend_rollups()")[0][0] >= 10_000:
        pass


def settle(nodes: Nodes) -> None:
    for _ in range(2):
        for node in nodes:
            tend(node)
        nodes.sync()


def refused(node: Node, query: str, *values: Any) -> str:
    with pytest.raises(psycopg.Error) as caught:
        node.run(query, *values)
    assert caught.value.sqlstate in ("AT001", "AT003"), caught.value
    assert caught.value.diag.constraint_name is not None
    return caught.value.diag.constraint_name


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("'readings', '1 min', 'nothing'", "rollup-column"),
        ("'readings', '1 min', 'temp'", "rollup-column"),
        ("'readings', '1 min', 'taken_at', '{nothing}'", "rollup-column"),
        ("'readings', '1 min', 'taken_at', '{note}'", "rollup-column"),
        ("'readings', '0 min', 'taken_at'", "rollup-bucket"),
        ("'readings', '2 days', 'taken_at'", "rollup-bucket"),
        ("'readings', '1 month 1 day', 'taken_at'", "rollup-bucket"),
        ("'readings', null, 'taken_at'", "rollup-bucket"),
        ("'readings', '1 day', 'taken_at', zone => 'Mars'", "rollup-bucket"),
        ("'readings', '1 hour', 'taken_at', zone => 'Asia/Kolkata'", "rollup-bucket"),
        ("'readings', '1 min', 'taken_at', scope => 'moon'", "scope-malformed"),
        ("'readings', '1 min', 'taken_at', measures => '[]'", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"temp": []}'""", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"temp": ["p0"]}'""", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"temp": ["p100"]}'""", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"machine": ["avg"]}'""", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"note": ["distinct"]}'""", "rollup-measure"),
        ("""'readings', '1 min', 'taken_at', measures => '{"gone": ["avg"]}'""", "rollup-column"),
        ("'readings', '1 min', 'taken_at', '{n}'", "rollup-name"),
        ("'readings', '1 min', 'taken_at', '{machine,machine}'", "rollup-name"),
        ("'readings', '1 min', 'taken_at', name => 'a.b.c'", "rollup-name"),
        ("'readings', '1 min', 'taken_at', name => 'readings'", "rollup-exists"),
        ("'looked', '1 min', 'taken_at'", "rollup-table"),
        ("'passing', '1 min', 'taken_at'", "rollup-table"),
        ("""'slow', '1 min', 'taken_at', measures => '{"temp": ["max"]}'""", "rollup-index"),
        ("'nowhere', '1 min', 'taken_at'", "table-missing"),
        ("'atoll.node', '1 min', 'joined_at'", "not-owner"),
    ],
)
def test_a_mistake_is_explained(refusing_node: Node, wrong: str, code: str) -> None:
    assert refused(refusing_node, f"select atoll.rollup({wrong})") == code


@pytest.fixture(scope="module")
def refusing_node(lasting_nodes: Nodes) -> Node:
    node = lasting_nodes[0]
    make(node, f"{tally.COLUMNS}, note json, n integer")
    node.run("create view looked as select * from readings")
    node.run("create table slow (taken_at timestamptz, temp float8)")
    node.run("create unlogged table passing (taken_at timestamptz)")
    return node


def test_declaring_again_does_nothing_and_another_way_is_refused(node: Node) -> None:
    make(node)
    assert tally.rollup(node) == tally.rollup(node) == "public.readings_1min"
    assert refused(node, "select atoll.rollup('readings', '1 min', 'taken_at')") == "rollup-exists"
    query = "select atoll.rollup('readings', '1 min', 'taken_at', name => 'plain')"
    assert node.value(query) == "public.plain"
    node.run(ROW, 1, NOON, "a", 2.5)
    assert node.run("select * from plain") == [(NOON, 1)]


@pytest.mark.parametrize(
    ("bucket", "name"),
    [("1 s", "1s"), ("90 s", "90s"), ("15 min", "15min"), ("1 hour", "1h"), ("1 day", "1d")],
)
def test_buckets_are_counted_from_midnight(node: Node, bucket: str, name: str) -> None:
    make(node)
    assert tally.rollup(node, bucket) == f"public.readings_{name}"
    node.run(
        "insert into readings select g, %s::timestamptz + g * interval '977 s', 'a', g from generate_series(-99, 99) g",
        NOON,
    )
    width = node.value("select %s::interval", bucket)
    tally.check(tally.shown(node, f"readings_{name}"), tally.raw(node), width)


def test_days_and_months_begin_in_their_zone(node: Node) -> None:
    make(node)
    for bucket in ("1 day", "1 month"):
        node.run("select atoll.rollup('readings', %s, 'taken_at', zone => 'Europe/Lisbon')", bucket)
    # The clocks go forward on 29 March: that day has 23 hours.
    for number, at in enumerate(
        ("2026-03-28 23:59", "2026-03-29 00:00", "2026-03-29 22:59", "2026-03-29 23:00")
    ):
        node.run(ROW, number, f"{at}+00", "a", number)
    node.run("delete from readings where id = 3")
    node.run(ROW, 3, "2026-03-31 23:30+00", "a", 1)
    plain = "select date_trunc(%s, taken_at, 'Europe/Lisbon'), count(*) from readings group by 1 order by 1"
    for unit, name in (("day", "1d"), ("month", "1month")):
        assert node.run(f"select bucket, n from readings_{name} order by 1") == node.run(plain, unit)
    node.run("select atoll.refresh_rollup('readings_1d', '2026-03-29 12:00+00', '2026-03-29 13:00+00')")
    assert node.run("select bucket, n from readings_1d order by 1") == node.run(plain, "day")


@pytest.mark.parametrize("type_", ["timestamp", "date"])
def test_times_without_a_zone_stay_what_they_are(node: Node, type_: str) -> None:
    make(node, f"id integer primary key, taken_at {type_}, temp real")
    node.run("set timezone = 'Asia/Tokyo'")
    node.run("""select atoll.rollup('readings', '1 day', 'taken_at', measures => '{"temp": "max"}')""")
    node.run("insert into readings values (1, '2026-03-01', 1), (2, '2026-03-01', 2), (3, '2026-03-02', 3)")
    node.run("delete from readings where id = 2")
    query = "select bucket, n, temp_max from readings_1d order by 1"
    wanted = [(datetime(2026, 3, 1), 1, 1.0), (datetime(2026, 3, 2), 1, 3.0)]
    assert node.run(query) == wanted
    tend(node)
    assert node.run(query) == wanted
    node.run("select atoll.refresh_rollup('readings_1d')")
    assert node.run(query) == wanted


def test_rows_without_a_time_are_in_no_bucket(node: Node) -> None:
    make(node)
    tally.rollup(node)
    for number, at in enumerate((None, "infinity", "-infinity")):
        node.run(ROW, number, at, "a", 1)
    assert tally.shown(node) == []
    node.run("update readings set taken_at = %s", NOON)
    tally.check(tally.shown(node), tally.raw(node))
    node.run("update readings set taken_at = null")
    assert tally.shown(node) == []


def test_groups_are_told_apart_as_group_by_does(node: Node) -> None:
    columns = "id integer primary key, at timestamptz, size numeric, part text, kind uuid, is_new boolean, since timestamptz"
    make(node, columns)
    by = "{size,part,kind,is_new,since}"
    query = 'select atoll.rollup(\'readings\', \'1 min\', \'at\', %s, \'{"size": ["min"], "since": ["distinct", "max"]}\')'
    node.run(query, by)
    for number, (zone, size, part, since) in enumerate(
        [
            ("UTC", "1.0", "x", "2026-01-01 00:00+00"),
            ("Asia/Tokyo", "1.00", "x", "2026-01-01 01:00+01"),
            ("UTC", "1", None, None),
        ]
    ):
        node.run("select set_config('timezone', %s, false)", zone)
        query = (
            "insert into readings values (%s, %s, %s, %s, '00000000-0000-0000-0000-000000000001', true, %s)"
        )
        node.run(query, number, NOON, size, part, since)
    plain = "select date_trunc('minute', at), size, part, kind, is_new, since, count(*) from readings group by 1, 2, 3, 4, 5, 6 order by 7"
    shown = "select bucket, size, part, kind, is_new, since, n from readings_1min order by 7"
    assert node.run(shown) == node.run(plain)
    node.run("set timezone = 'Asia/Tokyo'")
    node.run("delete from readings where id = 1")
    assert node.run(shown) == node.run(plain)
    tend(node)
    assert node.run(shown) == node.run(plain)


def test_a_partitioned_table_is_counted_whichever_way_it_is_written(node: Node) -> None:
    node.run(
        "create table readings (id integer, taken_at timestamptz, machine text, temp float8, power numeric,"
        " visitor integer, primary key (id, taken_at)) partition by range (taken_at)"
    )
    node.run("create index on readings (taken_at)")
    node.run("create table march partition of readings for values from ('2026-03-01') to ('2026-04-01')")
    tally.rollup(node)
    node.run("create table april partition of readings for values from ('2026-04-01') to ('2026-05-01')")
    for table, at in (("readings", NOON), ("march", NOON), ("april", NOON + timedelta(days=40))):
        for number in range(3):
            query = f"insert into {table} values (%s, %s, 'a', %s)"
            node.run(query, number if table == "readings" else number + 10, at, number)
    tally.check(tally.shown(node), tally.raw(node))
    node.run("update readings set taken_at = taken_at + interval '40 days' where id = 1")
    node.run("delete from april where temp = 0")
    tally.check(tally.shown(node), tally.raw(node))
    node.run("truncate march")
    tally.check(tally.shown(node), tally.raw(node))
    node.run("truncate readings")
    assert tally.shown(node) == []


def test_what_a_rollup_needs_cannot_be_dropped_or_renamed(node: Node) -> None:
    make(node)
    node.run("select atoll.rollup('readings', '1 min', 'taken_at', '{machine}')")
    for change in ("rename column machine to device", "rename to measurements"):
        assert refused(node, f"alter table readings {change}") == "rollup-in-use"
    for change in ("drop column machine", "alter column machine type varchar(9)"):
        with pytest.raises(psycopg.Error, match="machine"):
            node.run(f"alter table readings {change}")
    node.run("alter table readings drop column temp, add column more integer, alter column power type float8")
    node.run("insert into readings (id, taken_at, machine) values (1, %s, 'a')", NOON)
    assert node.run("select machine, n from readings_1min") == [("a", 1)]


def test_a_table_that_is_dropped_stops_its_rollup_and_one_of_its_name_starts_it_again(node: Node) -> None:
    make(node)
    tally.rollup(node)
    node.run(ROW, 1, NOON, "a", 1)
    tend(node)
    node.run("drop table readings cascade")
    tend(node)
    assert node.value("select state from atoll.rollups") == "received"
    assert [row[2] for row in tally.shown(node)] == [1]
    make(node, "id integer primary key, taken_at timestamptz")
    tend(node)
    (state, problem) = node.run("select state, problem from atoll.rollups")[0]
    assert state == "stopped"
    assert "machine" in problem
    node.run("insert into readings values (1, now())")
    node.run("drop table readings")
    make(node)
    node.run(ROW, 2, NOON, "b", 1)
    tend(node)
    tally.check(tally.shown(node), tally.raw(node))
    assert node.value("select state from atoll.rollups") == "kept"


def test_a_table_that_is_locked_for_long_does_not_stop_its_rollup(node: Node) -> None:
    make(node)
    tally.rollup(node)
    node.run(ROW, 1, NOON, "a", 1)
    node.run("delete from readings")
    with node.app.transaction():
        node.run("lock table readings in access exclusive mode")
        node.owner("select atoll.tend_rollups()")
    assert node.run("select state, problem from atoll.rollups") == [("kept", None)]
    node.run(ROW, 2, NOON, "a", 1)
    tally.check(tally.shown(node), tally.raw(node))


def test_a_dropped_rollup_leaves_nothing_on_any_node(nodes: Nodes) -> None:
    one, two = nodes
    for node in nodes:
        make(node)
    tally.rollup(one)
    settle(nodes)
    for node in nodes:
        node.run(ROW, node.number, NOON, "a", 1)
    settle(nodes)
    assert two.value("select n from readings_1min") == 2
    assert refused(two, "select atoll.drop_rollup('nothing')") == "rollup-unknown"
    two.run("select atoll.drop_rollup('readings_1min')")
    settle(nodes)
    for node in nodes:
        assert node.owner("select count(*) from atoll.rollup_part") == [(0,)]
        left = "select count(*) from pg_class where relnamespace = 'atoll_side'::regnamespace and relname like '%%1min%%'"
        assert node.owner(left) == [(0,)]
        assert node.owner("select count(*) from pg_trigger where tgname like 'atoll\\_rollup%%'") == [(0,)]
        assert node.run("select to_regclass('readings_1min')") == [(None,)]
        node.run(ROW, 9, NOON, "a", 1)
    tally.rollup(one)
    settle(nodes)
    assert [node.value("select n from readings_1min") for node in nodes] == [4, 4]


def test_only_the_owner_may_declare_drop_and_refresh(node: Node) -> None:
    make(node)
    node.owner("create table public.theirs (id integer primary key, taken_at timestamptz)")
    assert refused(node, "select atoll.rollup('public.theirs', '1 min', 'taken_at')") == "not-owner"
    node.owner("select atoll.rollup('public.theirs', '1 min', 'taken_at')")
    assert refused(node, "select atoll.drop_rollup('public.theirs_1min')") == "not-owner"
    assert refused(node, "select atoll.refresh_rollup('public.theirs_1min')") == "not-owner"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        node.run("select * from public.theirs_1min")


def test_a_node_without_the_table_sees_what_the_others_have(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    for node in (one, two):
        make(node)
    tally.rollup(one)
    settle(three_nodes)
    for node in (one, two):
        node.run(ROW, node.number, NOON, "a", float(node.number))
    settle(three_nodes)
    assert three.value("select state from atoll.rollups") == "received"
    assert three.run("select n, temp_max, temp_avg from readings_1min") == [(2, 2.0, 1.5)]
    assert three.run("select node, temp_max from readings_1min_by_node order by 1") == [(1, 1.0), (2, 2.0)]
    assert refused(three, "select atoll.refresh_rollup('readings_1min')") == "rollup-idle"
    assert three.run("select to_regclass('readings')") == [(None,)]


def test_a_local_rollup_does_not_leave_its_node(nodes: Nodes) -> None:
    one, two = nodes
    for node in nodes:
        make(node)
    one.run("select atoll.rollup('readings', '1 min', 'taken_at', scope => 'local')")
    settle(nodes)
    one.run(ROW, 1, NOON, "secret", 1)
    settle(nodes)
    assert two.run("select * from readings_1min") == []
    assert two.owner("select count(*) from atoll.rollup_part") == [(0,)]
    assert one.value("select n from readings_1min") == 1


def test_a_table_that_is_shared_later_is_not_counted_twice(nodes: Nodes) -> None:
    one, two = nodes
    make(one)
    tally.rollup(one)
    one.run(ROW, 1, NOON, "a", 1)
    settle(nodes)
    assert two.value("select n from readings_1min") == 1
    one.share("readings")
    settle(nodes)
    two.run(ROW, 2, NOON, "a", 5)
    settle(nodes)
    for node in nodes:
        tally.check(tally.shown(node), tally.raw(node))
        assert node.value("select n from readings_1min") == 2
        assert node.owner("select distinct node from atoll.rollup_part") == [(node.number,)]


def test_rows_of_a_region_are_counted_by_one_of_its_nodes(three_nodes: Nodes) -> None:
    one = three_nodes[0]  # the third is in another region
    make(one)
    one.run("select atoll.share('readings', scope => 'region')")
    tally.rollup(one)
    three_nodes.sync()
    for node in three_nodes:
        if node.value("select to_regclass('readings') is null"):
            pytest.fail(f"{node} has no table")
        node.run(ROW, node.number, NOON, "a", 1)
    settle(three_nodes)
    assert [node.value("select n from readings_1min") for node in three_nodes] == [3, 3, 3]


def test_a_row_scoped_table_is_refused(node: Node) -> None:
    make(node)
    node.run("select atoll.share('readings', scope_column => 'machine')")
    assert refused(node, "select atoll.rollup('readings', '1 min', 'taken_at')") == "rollup-scoped"


def test_a_node_that_took_another_number_counts_its_rows_under_that(nodes: Nodes) -> None:
    one = nodes[0]
    for node in nodes:
        make(node)
    tally.rollup(one)
    settle(nodes)
    one.run(ROW, 1, NOON, "a", 1)
    settle(nodes)
    one.owner("update atoll.self set number = 40000")
    one.owner("select atoll.settle_in()")
    tend(one)
    assert one.run("select node, n from readings_1min_by_node") == [(40000, 1)]


def test_a_bulk_load_with_many_distinct_values_is_estimated(node: Node) -> None:
    make(node)
    tally.rollup(node)
    node.run(
        "insert into readings (id, taken_at, temp, visitor) select g, %s, exp(g / 3000.0), g from generate_series(1, 30000) g",
        NOON,
    )
    found = node.value("select visitor_distinct from readings_1min")
    assert abs(found - 30_000) < 30_000 * 0.044 * 4
    p95 = node.value("select temp_p95 from readings_1min")
    assert math.isclose(p95, math.exp(0.95 * 10), rel_tol=0.011)


async def test_codes_of_histograms_are_those_of_questions(connection: Connection) -> None:
    values = [
        "0",
        "1",
        "-1",
        "1e-300",
        "-7.25e100",
        "123456.789",
        "NaN",
        "Infinity",
        "-Infinity",
        "5e-324",
        "1.7e308",
    ]
    for value in values:
        literal = f"'{value}'::float8"
        query = f"select atoll.sketch_code({literal}), {sketch.bucket(literal)}"
        found = await (await connection.execute(query)).fetchone()  # type: ignore[arg-type]
        assert found is not None
        assert found[0] == found[1], value


def test_an_unusual_value_stands_out(node: Node) -> None:
    values = [10.0, 11.0, 9.0, 10.5, 9.5, 10.0, 30.0]
    query = "select atoll.robust_z(v) over (order by i rows 60 preceding) from unnest(%s::float8[]) with ordinality u (v, i)"
    found = [z for (z,) in node.run(query, values)]
    assert found[:4] == [None] * 4
    assert abs(found[5]) < 1 < 20 < found[6]
    flat = "select atoll.robust_z(v order by i) from unnest(%s::float8[]) with ordinality u (v, i)"
    assert node.value(flat, [5, 5, 5, 5, 5]) == 0
    assert node.value(flat, [5, 5, 5, 5, 4]) == -math.inf
    assert node.value(flat, [None, 5, 5]) is None


def test_levels_and_trends_are_smoothed(node: Node) -> None:
    source = "from unnest(%s::float8[]) with ordinality u (v, i)"
    assert node.value(f"select atoll.smooth(v, 0.5 order by i) {source}", [10, None, 20, 30]) == 22.5
    line = [3.0 * i + 1 for i in range(20)]
    assert math.isclose(
        node.value(f"select atoll.smooth_trend(v, 0.5, 0.3 order by i) {source}", line), line[-1]
    )
    ahead = node.run("select step, value, low, high from atoll.forecast(%s::float8[], 3)", line)
    assert ahead == [
        (step, line[-1] + 3 * step, line[-1] + 3 * step, line[-1] + 3 * step) for step in (1, 2, 3)
    ]
    (first, *_, last) = node.run("select * from atoll.forecast(%s::float8[], 5)", [1, 5, 2, 6, 3, 7])
    assert last[3] - last[2] > first[3] - first[2] > 0
    assert node.run("select * from atoll.forecast('{}', 3)") == []
    assert refused(node, "select atoll.forecast('{1}', 0)") == "steps-outside"
    assert refused(node, "select atoll.forecast('{1,2}', 1, alpha => 0)") == "weight-outside"
    assert refused(node, f"select atoll.smooth(v, 2) {source}", [1, 2]) == "weight-outside"


def test_sums_of_numbers_stay_exact_when_some_are_taken_out(node: Node) -> None:
    make(node)
    node.run(
        """select atoll.rollup('readings', '1 min', 'taken_at', measures => '{"temp": ["sum"], "power": ["sum"]}')"""
    )
    query = "insert into readings (id, taken_at, temp, power) values (%s, %s, %s, %s)"
    for number, (temp, power) in enumerate([(0.1, "0.1"), (1e17, "1e17"), (math.inf, "NaN"), (0.2, "0.2")]):
        node.run(query, number, NOON, temp, Decimal(power))
    assert node.run("select temp_sum from readings_1min") == [(math.inf,)]
    node.run("delete from readings where id in (1, 2)")
    assert node.run("select temp_sum, power_sum from readings_1min") == [(0.3, Decimal("0.3"))]
