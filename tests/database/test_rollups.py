from support.fix_nodes import Node, Nodes
TABLE = "id bigint primary key default atoll.id(), taken_at timestamptz, machine text, temp float8, power numeric, user_id integer"

def test_first(node: Node) -> None:
    node.run(f"create table readings ({TABLE})")
    node.run("insert into readings (taken_at, machine, temp, power, user_id) select '2026-01-01'::timestamptz + g * interval '7 s', 'm' || g % 3, g, g * 1.5, g % 40 from generate_series(1, 500) g")
    print(node.run("""select atoll.rollup('readings', '1 min', 'taken_at', '{machine}', '{"temp": ["avg", "max", "p95"], "power": ["sum", "min"], "user_id": ["distinct"]}')"""))
    print(node.run("select * from atoll.rollups"))
    print(node.run("select * from readings_1min order by 1, 2 limit 3"))
    node.run("insert into readings (taken_at, machine, temp, power, user_id) values ('2026-01-01', 'm1', 1000, 3, 4)")
    print(node.run("select * from readings_1min order by 1, 2 limit 3"))
    node.run("delete from readings where temp = 1000")
    print(node.run("select * from readings_1min order by 1, 2 limit 3"))
    print(node.owner("select atoll.tend_rollups()"))
    print(node.run("select * from readings_1min order by 1, 2 limit 3"))
    print(node.run("select * from readings_1min_by_node order by 1, 2 limit 3"))
