"""The commands beside `up`, against a real node: what they print and the codes that they exit with."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from support.fix_home import NodeStarter, atoll

pytestmark = pytest.mark.slow


def test_sql_keeps_the_exit_codes_and_the_output_of_psql(start_node: NodeStarter, open_folder: Path) -> None:
    node = start_node()
    home = str(node.home)
    assert "app" in node.sql("select current_user").stdout
    assert "atoll" in node.sql("select current_user", "--admin").stdout
    assert node.sql("select 1/0").returncode == 1
    script = open_folder / "script.sql"
    script.write_text("create table fruit (name text);\ninsert into fruit values ('fig');\ntable fruit;\n")
    assert "fig" in atoll("sql", "--home", home, str(script)).stdout
    script.write_text("select 1/0;\nselect 'not reached';\n")
    broken = atoll("sql", "--home", home, str(script))
    assert broken.returncode == 3
    assert "not reached" not in broken.stdout
    assert atoll("sql", "--home", home, str(script), "-c", "select 1").returncode == 2


def test_dsn_is_an_address_that_a_driver_can_use(start_node: NodeStarter) -> None:
    node = start_node()
    address = atoll("dsn", "--home", str(node.home)).stdout.strip()
    with psycopg.connect(address) as connection:
        connection.execute("create table fruit (name text)")
        connection.execute("create schema orchard")
        assert connection.execute("select current_user").fetchone() == ("app",)
    admin = atoll("dsn", "--admin", "--home", str(node.home)).stdout.strip()
    with psycopg.connect(admin) as connection:
        assert connection.execute(
            "select rolsuper from pg_roles where rolname = current_user"
        ).fetchone() == (True,)


def test_the_application_and_the_link_can_do_no_more_than_they_need(start_node: NodeStarter) -> None:
    node = start_node()
    assert "permission denied" in node.sql("copy (select 1) to '/tmp/never'").stderr
    roles = node.sql(
        "select rolname, rolsuper, rolreplication, rolcreaterole from pg_roles", "--admin"
    ).stdout
    lines = [line.replace(" ", "") for line in roles.splitlines()]
    assert "app|f|f|f" in lines
    assert "atoll_link|f|t|f" in lines
    with pytest.raises(psycopg.OperationalError, match="entry for replication"):
        psycopg.connect(host=str(node.home / "run"), user="atoll_link", replication="true")


def test_status_says_whether_the_node_runs(start_node: NodeStarter) -> None:
    node = start_node("--name", "one")
    seen = node.status()
    assert (seen["is_running"], seen["is_ready"], seen["pid"], seen["name"]) == (True, True, node.pid, "one")
    assert f"http://{seen['http']}" == node.http
    assert seen["reasons"] == {}
    shown = atoll("status", "--home", str(node.home))
    assert shown.returncode == 0
    assert ": ready" in shown.stdout
    node.end()
    stopped = atoll("status", "--home", str(node.home))
    assert stopped.returncode == 3
    assert "not running" in stopped.stdout
    asked = atoll("sql", "-c", "select 1", "--home", str(node.home))
    assert asked.returncode == 1
    assert "code: node-not-running" in asked.stderr


def test_logs_shows_the_last_lines_of_the_node_and_of_postgres(start_node: NodeStarter) -> None:
    node = start_node("--log-level", "debug")
    home = str(node.home)
    assert "PostgreSQL started with pid" in atoll("logs", "--home", home).stdout
    stored = atoll("logs", "--json", "--home", home).stdout.splitlines()
    assert all(json.loads(line)["level"] for line in stored)
    assert "ready to accept connections" in atoll("logs", "--postgres", "--home", home).stdout
    assert len(atoll("logs", "--postgres", "-n", "2", "--home", home).stdout.splitlines()) == 2


@pytest.mark.parametrize("command", ["status", "sql", "dsn", "logs"])
def test_without_a_home_a_command_says_how_to_make_one(home_folder: Path, command: str) -> None:
    refused = atoll(command, "--home", str(home_folder))
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"error: no node lives in {home_folder}",
        "hint: Make one with `atoll up`, or name its folder with --home.",
        "code: no-home",
    ]


def test_the_home_comes_from_the_environment_too(home_folder: Path) -> None:
    assert f"no node lives in {home_folder}" in atoll("status", ATOLL_HOME=str(home_folder)).stderr


def test_a_mistake_in_the_command_line_exits_with_2() -> None:
    assert atoll("up", "--colour", "blue").returncode == 2
    assert atoll("fly").returncode == 2
    assert atoll("--version").stdout.startswith("atoll ")
