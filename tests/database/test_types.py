"""Values of every type arrive as they left: the same text, whatever the sessions' settings, fast way and careful way."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.fix_nodes import Node, Nodes

pytestmark = pytest.mark.slow

KINDS = '''
    create type mood as enum ('calm', 'rough', 'Very "Rough"');
    create domain depth as numeric(8, 2) check (value >= 0);
    create domain depths as int[];
    create type place as (name text, at point, spots int[], "Odd ""Name""" date);
    create type spot as (x int, "Y" text);
    create domain home as place;
'''

# A type, and values of it, written as SQL.
TYPES: list[tuple[str, list[str]]] = [
    ("smallint", ["-32768", "0", "32767"]),
    ("integer", ["-2147483648", "2147483647"]),
    ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    ("numeric", ["'NaN'", "'Infinity'", "'-Infinity'", "1.0", "1.00", "-0.000", "1e-40", "12345678901234567890.123456789"]),
    ("numeric(10,2)", ["0", "-99999999.99"]),
    ("real", ["'NaN'", "'-0'", "'0'", "'Infinity'", "'-Infinity'", "1.1", "3.4028235e38", "1e-45"]),
    ("double precision", ["'NaN'", "'-0'", "'Infinity'", "0.1", "1.7976931348623157e308", "5e-324", "0.30000000000000004"]),
    ("money", ["'-92233720368547758.08'", "'12.34'"]),
    ("boolean", ["true", "false"]),
    ("text", ["''", "'NULL'", "'a,b{c}\"d\\\\e'", "E'line\\nline\\ttab'", "'ünï—🌊'", "'  spaces  '", "'null'"]),
    ("varchar(5)", ["'abc'", "'abcde'"]),
    ("char(5)", ["'ab'", "''"]),
    ('"char"', ["'x'", "''"]),
    ("name", ["'Some Name'"]),
    ("bytea", ["''", "'\\x00ff'", "'\\xdeadbeef'", "decode(repeat('5c', 40), 'hex')"]),
    ("json", ["""'{"a" : 1,  "a": 2}'""", "'null'", "' [1.0, 1.00] '"]),
    ("jsonb", ["""'{"a": null, "b": [1.0, "x"]}'""", "'null'", "'[]'", "'1.50'"]),
    ("jsonpath", ["'$.a[*] ? (@ > 1)'"]),
    ("xml", ["'<a>b &amp; c</a>'"]),
    ("uuid", ["'00000000-0000-0000-0000-000000000000'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("date", ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'2024-02-29'"]),
    ("time", ["'24:00'", "'00:00:00.000001'"]),
    ("timetz", ["'23:59:59.999999+14'", "'00:00-12:30'"]),
    ("timestamp", ["'infinity'", "'0001-01-01 BC'", "'2024-02-29 12:34:56.789012'"]),
    ("timestamptz", ["'-infinity'", "'2024-03-31 02:30:00+01'", "'1900-01-01 00:00:00Z'", "'294276-12-31 23:59:59Z'"]),
    ("interval", ["'1 day'", "'24 hours'", "'-1 year 2 mons -3 days 04:05:06.789'", "'0'", "'178000000 years'"]),
    ("inet", ["'::1'", "'10.1.2.3/8'"]),
    ("cidr", ["'10.0.0.0/8'", "'2001:db8::/32'"]),
    ("macaddr", ["'08:00:2b:01:02:03'"]),
    ("macaddr8", ["'08:00:2b:01:02:03:04:05'"]),
    ("bit(3)", ["B'101'"]),
    ("varbit", ["B''", "B'1010'"]),
    ("point", ["'(1.5,-0)'", "'(NaN,Infinity)'"]),
    ("line", ["'{1,2,3}'"]),
    ("lseg", ["'[(0,0),(1,1)]'"]),
    ("box", ["'(1,1),(0,0)'"]),
    ("path", ["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]),
    ("polygon", ["'((0,0),(1,1),(2,0))'"]),
    ("circle", ["'<(1,2),3>'"]),
    ("tsvector", ["'fat:2A cat:3 ''it''''s'':1'", "''"]),
    ("tsquery", ["'fat & !cat <-> rat:ab*'"]),
    ("int4range", ["'empty'", "'[1,5)'", "'(,)'"]),
    ("numrange", ["'[1.0,1.00]'", "'(1,2]'"]),
    ("tstzrange", ["'[2024-01-01 00:00Z,infinity)'", "'(,2024-01-01 00:00Z)'"]),
    ("datemultirange", ["'{}'", "'{[2024-01-01,2024-01-05),[2024-02-01,)}'"]),
    ("pg_lsn", ["'16/B374D848'"]),
    ("oid", ["4294967295"]),
    ("xid8", ["'18446744073709551615'"]),
    ("int[]", ["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:2]={1,2,3}'", "'[-1:0][2:3]={{1,2},{3,4}}'"]),
    ("text[]", ["array['', 'NULL', 'null', 'a,b', '\"', '\\', '{}']", "array[null]::text[]"]),
    ("bytea[]", ["array['\\x00'::bytea, null]"]),
    ("jsonb[]", ["""array['{"a": [1, "}"]}'::jsonb]"""]),
    ("box[]", ["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("timestamptz[]", ["array['2024-01-01 00:00Z'::timestamptz]"]),
    ("interval[]", ["array['1 day', '24 hours']::interval[]"]),
    ("int4range[]", ["array['[1,5)', 'empty']::int4range[]"]),
    ("mood", ["'calm'", "'Very \"Rough\"'"]),
    ("mood[]", ["array['calm', 'Very \"Rough\"']::mood[]"]),
    ("depth", ["0", "12.5"]),
    ("depths", ["'{1,2}'", "'[3:4]={1,2}'"]),
    ("depth[]", ["array[1, 2.5]::depth[]"]),
    ("place", ["row('a,\"b\"', '(1,2)', '[2:3]={1,2}', 'infinity')::place", "row(null, null, null, null)::place", "row('', null, '{}', null)::place"]),
    ("place[]", ["array[row('a', '(1,2)', '{1}', null)::place, null]"]),
    ("home", ["row('x', '(1,2)', null, '2024-01-01')::place"]),
    ("vector(3)", ["'[1,2.5,-0]'", "'[1e-30,3,1e30]'"]),
    ("halfvec(2)", ["'[1.5,-2]'"]),
    ("sparsevec(5)", ["'{1:1.5,3:2}/5'"]),
    ("vector[]", ["array['[1,2,3]'::vector, null]"]),
]  # fmt: skip

KEYS: list[tuple[str, list[str]]] = [
    ("text", ["'a'", "'A'", "''", "'ü'", "'a,\"b\\'"]),
    ("uuid", ["'00000000-0000-0000-0000-000000000001'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    ("timestamptz", ["'2024-01-01 00:00Z'", "'infinity'"]),
    ("bytea", ["'\\x00'", "'\\x'"]),
    ("numeric", ["1", "'NaN'", "1.5"]),
    ("float8", ["1", "'NaN'", "0.1"]),
    ("inet", ["'10.0.0.1'", "'::1'"]),
    ("int[]", ["'{1,2}'", "'[0:1]={1,2}'", "'{}'"]),
    ("int4range", ["'[1,2)'", "'empty'"]),
    ("mood", ["'calm'", "'Very \"Rough\"'"]),
    ("depth", ["1.5", "0"]),
    ("spot", ["row(1, 'a')::spot", "row(2, null)::spot"]),
    ("jsonb", ["'{\"a\": 1}'", "'1'"]),
    ("boolean", ["true", "false"]),
    ("bit(3)", ["B'101'", "B'000'"]),
    ("char(4)", ["'ab'", "'cd'"]),
    ("varchar", ["'ab'", "'cd'"]),
    ("date", ["'2024-01-01'", "'infinity'"]),
    ("interval", ["'1 day'", "'1 mon'"]),
    ("macaddr", ["'08:00:2b:01:02:03'"]),
    ("oid", ["7"]),
    ('"char"', ["'x'"]),
    ("name", ["'x'"]),
    ("pg_lsn", ["'16/B374D848'"]),
]  # fmt: skip

SETTINGS = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "timezone": "Asia/Kolkata",
    "xmlbinary": "hex",
    "search_path": "pg_temp",
    "array_nulls": "on",
}


@pytest.fixture
def usable(nodes: Nodes) -> list[tuple[str, list[str]]]:
    """The types that this server has, made on both nodes."""
    found = []
    for node in nodes:
        node.run(KINDS)
    for kind, values in TYPES:
        if nodes[0].value("select to_regtype(%s) is not null", kind):
            found.append((kind, values))
    try:
        nodes[0].run("select xml '<a/>'")
    except psycopg.errors.FeatureNotSupported:
        found = [one for one in found if one[0] != "xml"]
    return found


def exact(node: Node, table: str) -> list[Any]:
    """Rows as bytes: what a type's binary output function sends, in order of the key."""
    node.run("reset all")
    names = [
        row[0]
        for row in node.run(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            table,
        )
    ]
    with node.app.cursor(binary=False) as cursor:
        quoted = ", ".join('"' + name.replace('"', '""') + '"::text' for name in names)
        return cursor.execute(f"select {quoted} from {table} order by id").fetchall()  # type: ignore[call-overload]


def test_every_type_arrives_as_it_left(nodes: Nodes, usable: list[tuple[str, list[str]]]) -> None:
    a, b = nodes
    columns = [f"c{number}" for number in range(len(usable))]
    a.run(
        "create table kind (id int primary key, "
        + ", ".join(f"{c} {kind}" for c, (kind, _) in zip(columns, usable, strict=True))
        + ")"
    )
    a.share("kind")
    nodes.sync()
    assert b.owner("select name, problem from atoll.local_table where problem is not null") == []
    most = max(len(values) for _, values in usable)
    for number in range(most):
        line = ", ".join(values[number % len(values)] for _, values in usable)
        a.run(f"insert into kind values ({number}, {line})")
    nodes.sync()
    assert b.parked() == []
    assert exact(b, "kind") == exact(a, "kind")
    nodes.same("public.kind")


def test_every_type_arrives_as_it_left_from_sessions_with_odd_settings(
    nodes: Nodes, usable: list[tuple[str, list[str]]]
) -> None:
    a, b = nodes
    columns = [f"c{number}" for number in range(len(usable))]
    a.run(
        "create table kind (id int primary key, "
        + ", ".join(f"{c} {kind}" for c, (kind, _) in zip(columns, usable, strict=True))
        + ")"
    )
    a.share("kind")
    nodes.sync()
    lines = []
    for number in range(3):
        cells = [f"({values[number % len(values)]})::{kind}" for kind, values in usable]
        lines.append(f"({number}, {', '.join(cells)})")
    a.run("create table staged as table kind")
    a.run(f"insert into staged values {', '.join(lines)}")
    for node in nodes:
        for name, value in SETTINGS.items():
            node.app.execute("select set_config(%s, %s, false)", [name, value])
    for name, value in SETTINGS.items():
        b.apply.execute("select set_config(%s, %s, false)", [name, value])
    a.run("insert into public.kind table public.staged")  # many rows, fast way
    a.run(f"update public.kind set {columns[0]} = {columns[0]} where id = 0")  # nothing
    for column in columns:  # one row, column by column
        a.run(
            f"update public.kind k set {column} = s.{column} from public.staged s where k.id = 0 and s.id = 1"
        )
    b_first = [change for change in a.changes() if change.tbl == "public.kind"]
    b.receive(b_first[1:] + b_first)  # out of order: the careful way
    assert b.parked() == []
    a.run("delete from public.kind where id = 2")
    a.run("insert into public.kind select * from public.staged where id = 2")  # the careful way, written here
    nodes.sync()
    assert b.parked() == []
    assert exact(b, "kind") == exact(a, "kind")
    b.apply.execute("reset timezone")  # states are read as the session writes times
    nodes.same("public.kind")


def test_values_that_are_equal_but_written_differently_are_told_apart(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table kind (id int primary key, f float8, n numeric, j json, i interval, b jsonb)")
    a.share("kind")
    a.run("insert into kind values (1, '0', 1.0, '{}', '1 day', '1.0'), (2, '0', 1.0, '{}', '1 day', '1.0')")
    nodes.sync()
    a.run("update kind set f = '-0', n = 1.00, j = '{ }', i = '24 hours', b = '1.00' where id = 1")
    a.run("update kind set f = '-0', n = 1.00, j = '{ }', i = '24 hours', b = '1.00' where id > 0")
    nodes.sync()
    assert (
        b.run("select f::text, n::text, j::text, i::text, b::text from kind")
        == [("-0", "1.00", "{ }", "24:00:00", "1.00")] * 2
    )
    nodes.same("public.kind")


def test_a_key_may_be_of_any_type_that_has_an_order(nodes: Nodes) -> None:
    a, b = nodes
    for node in nodes:
        node.run(KINDS)
    for number, (kind, values) in enumerate(KEYS):
        table = f"kind{number}"
        a.run(f"create table {table} (id {kind} primary key, x int, q int)")
        a.share(table, '{"q": "counter"}')
        a.run(f"insert into {table} values " + ", ".join(f"({value}, 1, 1)" for value in values))
    nodes.sync()
    for number, (kind, values) in enumerate(KEYS):
        table = f"kind{number}"
        for value in values:
            a.run(f"update {table} set x = 2 where id = ({value})::{kind}")
            b.run(f"update {table} set x = 3, q = q + 1 where id = ({value})::{kind}")
        b.run(f"update {table} set q = q + 1")
    nodes.sync()
    for number, (kind, values) in enumerate(KEYS):
        assert a.value(f"select count(*) from kind{number} where q = 3") == len(values), kind
        nodes.same(f"public.kind{number}", "id::text")
        a.run(f"delete from kind{number}")
    nodes.sync()
    for number, (kind, _) in enumerate(KEYS):
        assert nodes.same(f"public.kind{number}") == [], kind
    assert [node.parked() for node in nodes] == [[], []]
