"""Append tables: facts are stated once, on whichever node, and end the same everywhere."""

from __future__ import annotations

import pytest

from support.fix_nodes import Nodes

pytestmark = pytest.mark.slow


@pytest.fixture
def readings(three_nodes: Nodes) -> Nodes:
    three_nodes[0].run(
        "create table reading (sensor text, at timestamptz, value float8, note text, primary key (sensor, at))"
    )
    three_nodes[0].share("reading", kind="append")
    three_nodes.sync()
    return three_nodes


def settle(nodes: Nodes) -> list[tuple[object, ...]]:
    nodes.sync()
    assert [node.parked() for node in nodes] == [[]] * len(nodes)
    for node in nodes:
        node.run("set timezone = 'UTC'")
    return nodes.same("public.reading")


def test_facts_of_all_nodes_come_together(readings: Nodes) -> None:
    for node in readings:
        node.run(
            f"insert into reading select 's{node.number}', '2024-01-01Z'::timestamptz + i * interval '1 min', i, null from generate_series(1, 700) i"
        )
        node.run(f"insert into reading values ('one {node.number}', '2024-01-01Z', 'NaN', 'x')")
    assert len(settle(readings)) == 2103


def test_a_fact_stated_twice_is_one_fact(readings: Nodes) -> None:
    a, b, c = readings
    for node in (a, b):
        node.run("insert into reading values ('s', '2024-01-01Z', 1, null), ('t', '2024-01-01Z', 1, null)")
    news = a.changes()
    b.receive(news + news)
    c.receive(news)
    a.receive(b.changes())
    assert settle(readings) == readings.same("public.reading")
    assert [node.conflicts() for node in readings] == [[], [], []]


def test_two_facts_under_one_key_end_the_same_in_every_order_whatever_the_time_zone(readings: Nodes) -> None:
    zones = ("Asia/Kolkata", "America/St_Johns", "UTC")
    for node, zone in zip(readings, zones, strict=True):
        node.apply.execute(f"set timezone = '{zone}'".encode())
        node.run(f"set timezone = '{zone}'")
    for node in readings:
        node.run(
            f"insert into reading values ('s', '2024-03-31 01:30Z', {node.number % 3}, null), ('s{node.number}', '2024-03-31Z', 1, null)"
        )
    assert ("s", "2024-03-31 01:30:00+00", "2", None) in settle(readings)
    for node in readings:
        kinds = {row[0] for row in node.conflicts()}
        assert kinds == {"fact"}


def test_a_fact_that_lost_is_listed_with_its_values(readings: Nodes) -> None:
    a, b, _ = readings
    a.run("insert into reading values ('s', '2024-01-01Z', 1, 'lost')")
    b.run("insert into reading values ('s', '2024-01-01Z', 2, 'won')")
    settle(readings)
    for node in (a, b):
        ((kind, column, key, lost, _won),) = node.conflicts()
        assert (kind, column, key["sensor"]) == ("fact", None, "s")
        assert '"lost"' in lost


def test_existing_facts_are_taken_up(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table event (id int primary key, what jsonb, seen bytea)")
    a.run("insert into event select i, jsonb_build_object('n', i), '\\x00ff' from generate_series(1, 600) i")
    a.share("event", kind="append")
    nodes.sync()
    assert b.parked() == []
    assert len(nodes.same("public.event", "id")) == 600


def test_partitions_of_facts_can_be_dropped_by_age(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table event (id int, day date, primary key (id, day)) partition by range (day)")
    a.run("create table event_1 partition of event for values from ('2024-01-01') to ('2024-02-01')")
    a.run("create table event_2 partition of event for values from ('2024-02-01') to ('2024-03-01')")
    a.share("event", kind="append")
    nodes.sync()
    b.run("insert into event values (1, '2024-01-05'), (2, '2024-02-05')")
    b.run("insert into event_2 values (3, '2024-02-06')")
    nodes.sync()
    assert len(nodes.same("public.event")) == 3
    a.run("alter table event detach partition event_1")
    assert len(a.rows("event")) == 2
