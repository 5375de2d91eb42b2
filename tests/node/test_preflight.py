"""`atoll preflight` on real servers that lack something, and `atoll up` that refuses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.demo.ports import free_ports
from support.fix_foreign import PASSWORD, Foreign, foreign_server
from support.fix_home import NodeStarter, atoll

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[18, 16])
def poor(request: pytest.FixtureRequest) -> Iterator[Foreign]:
    """A server as it comes out of its box, with a role that has nothing but its login."""
    few = {"wal_level": "replica", "max_replication_slots": "1", "max_slot_wal_keep_size": "-1"}
    with foreign_server(request.param, **few) as made:
        made.superuser(f"create role nobody login password {quoted(PASSWORD)}", "postgres")
        made.superuser(
            "create database latin template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
        )
        yield made


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def look(dsn: str) -> tuple[int, dict[str, dict[str, object]]]:
    """The exit code, and the findings by name."""
    answer = atoll("preflight", dsn, "--json")
    told = json.loads(answer.stdout)
    assert told["fit"] == (answer.returncode == 0), answer
    return answer.returncode, {finding["name"]: finding for finding in told["findings"]}


def test_everything_that_is_missing_is_named_at_once(poor: Foreign) -> None:
    code, found = look(poor.dsn("nobody", "latin"))
    assert code == 3
    errors = {name for name, finding in found.items() if finding["level"] == "error"}
    assert errors == {
        "wal_level",
        "max_replication_slots",
        "replication",
        "pg_create_subscription",
        "createrole",
        "pg_signal_backend",
        "encoding",
        "create",
    }
    assert {"max_slot_wal_keep_size", "session_replication_role", "event triggers"} <= set(found)
    assert found["wal_level"]["needs_restart"]


def test_the_cures_cure(poor: Foreign) -> None:
    """What the findings say about a role, carried out by whoever may, leaves nothing to say about it."""
    poor.superuser("create database cured template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'")
    poor.superuser(f"create role learner login password {quoted(PASSWORD)}", "postgres")
    of_role = {"replication", "pg_create_subscription", "createrole", "pg_signal_backend", "create"}
    of_role |= {"session_replication_role"}
    _, found = look(poor.dsn("learner", "cured"))
    assert of_role <= set(found)
    for name in of_role:
        poor.superuser(str(found[name]["cure"]).split(";")[0], "cured")
    _, found = look(poor.dsn("learner", "cured"))
    assert not of_role & set(found)


def test_up_refuses_and_names_what_is_missing(poor: Foreign, start_node: NodeStarter) -> None:
    (port,) = free_ports(1)
    node = start_node(
        "--database",
        poor.dsn(),
        "--gateway",
        f"127.0.0.1:{port}",
        "--name",
        "x",
        waits="code: database-unfit",
    )
    assert node.wait() == 1
    assert "wal_level: it is replica" in node.output
    assert "max_replication_slots: it is 1" in node.output
    assert not poor.run("select 1 from pg_namespace where nspname = 'atoll'"), "nothing was installed"


def test_a_role_with_a_managed_service_s_rights_is_enough(foreign: Foreign) -> None:
    code, found = look(foreign.dsn())
    assert code == 0
    assert set(found) == {"session_replication_role", "event triggers"}
    text = atoll("preflight", foreign.dsn())
    assert "a node can use this database" in text.stdout


def test_tables_of_others_are_named(foreign: Foreign) -> None:
    foreign.superuser("create role clerk; create table ledger (id int); alter table ledger owner to clerk")
    try:
        _, found = look(foreign.dsn())
        assert 'grant "clerk" to "manager"' in str(found["ownership"]["cure"])
    finally:
        foreign.superuser("drop table ledger; drop role clerk")


def test_another_node_on_the_same_server_is_named(foreign: Foreign) -> None:
    foreign.superuser("create database other")
    foreign.superuser("select pg_create_logical_replication_slot('atoll_to_2', 'pgoutput')", "other")
    try:
        code, found = look(foreign.dsn())
        assert code == 3
        assert "atoll_to_2" in str(found["slots"]["problem"])
    finally:
        foreign.superuser("select pg_drop_replication_slot('atoll_to_2')", "other")


@pytest.mark.parametrize(
    ("dsn", "code"),
    [("host=127.0.0.1 port=1 user=x", "database-away"), ("no address = ", "database-address")],
)
def test_an_address_that_leads_nowhere_is_said_to(dsn: str, code: str) -> None:
    answer = atoll("preflight", dsn)
    assert answer.returncode == 1
    assert f"code: {code}" in answer.stderr


def test_a_wrong_password_is_not_repeated_in_the_log(foreign: Foreign, start_node: NodeStarter) -> None:
    (port,) = free_ports(1)
    dsn = foreign.dsn().replace("only for tests", "mistyped-secret")
    node = start_node("--database", dsn, "--gateway", f"127.0.0.1:{port}", "--name", "x", waits=None)
    node.wait_for("somebody else's")
    answer: dict[str, object] = {}
    for _ in range(300):
        answer = node.status()
        if "password authentication failed" in str(answer.get("reasons")):
            break
    assert "password authentication failed" in str(answer["reasons"])
    assert node.end() == 0
    said = node.output + (node.home / "logs/node.log").read_text() + json.dumps(answer)
    assert "mistyped-secret" not in said


def test_a_home_with_a_database_of_its_own_keeps_it(start_node: NodeStarter, home_folder: Path) -> None:
    assert start_node("--name", "x").end() == 0
    node = start_node("--database", "host=db.example.org", waits="code: home-database")
    assert node.wait() == 1
