"""A rollup on a server of somebody else's, where the node has no superuser's rights and no event triggers."""

from __future__ import annotations

import pytest

from atoll.demo.ports import free_ports
from support.fix_foreign import Foreign
from support.fix_home import NodeStarter, atoll, eventually

pytestmark = pytest.mark.slow


def test_a_rollup_is_kept_without_a_superuser(foreign: Foreign, start_node: NodeStarter) -> None:
    told = ("--database", foreign.dsn(), "--gateway", f"127.0.0.1:{free_ports(1)[0]}", "--name", "harbour")
    home = ("--home", str(start_node(*told).home))
    foreign.run("create table tide (id int primary key, at timestamptz, port text, metres float8)")
    foreign.run("create index on tide (at)")
    foreign.run(
        """select atoll.rollup('tide', '1 hour', 'at', '{port}', '{"metres": ["avg", "max", "p95"]}')"""
    )
    foreign.run("insert into tide select g, '2026-03-01 12:00+00', 'Faro', g from generate_series(1, 9) g")
    foreign.run("delete from tide where id = 9")
    assert foreign.run("select n, metres_avg, metres_max from tide_1h") == [(8, 4.5, 8.0)]
    assert "public.tide_1h" in atoll("rollups", *home).stdout
    # Nobody can refuse this at once here; the rollup stops, and those who write the table go on.
    foreign.run("alter table tide rename column port to harbour")
    eventually(lambda: "stopped" in atoll("rollups", *home).stdout, "the rollup stops")
    foreign.run("insert into tide values (10, now(), 'Faro', 1)")
    foreign.run("alter table tide rename column harbour to port")
    eventually(lambda: "kept" in atoll("rollups", *home).stdout, "the rollup goes on")
    eventually(lambda: foreign.run("select sum(n) from tide_1h") == [(9,)], "everything is counted")
