"""`atoll up` as a real process: it becomes ready, serves, stops in order, and leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import psycopg
import pytest

from atoll.demo.ports import free_ports
from support.fix_home import NodeStarter, atoll, eventually

GIB = 1024**3


def test_a_new_node_becomes_ready_serves_and_stops_in_order(
    start_node: NodeStarter, home_folder: Path
) -> None:
    node = start_node("--name", "one", "--region", "north", "--tier", "hub")
    assert node.get("/healthz") == (200, "ok\n")
    assert node.get("/readyz")[0] == 200
    assert 'atoll_node_info{name="one",postgres="18",region="north",tier="hub"' in node.get("/metrics")[1]
    assert "atoll_postgres_up 1.0" in node.get("/metrics")[1]
    assert node.end(signal.SIGTERM) == 0, node.output
    assert node.server_processes() == []
    again = start_node()
    assert "node one (hub, region north)" in again.output
    assert again.end(signal.SIGINT) == 0
    assert "received fast shutdown request" in (home_folder / "logs/postgres.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("major", ["16", "18"])
def test_the_chosen_postgres_runs_and_holds_data_over_a_restart(start_node: NodeStarter, major: str) -> None:
    node = start_node("--postgres", major)
    assert node.sql("create table fruit (name text, taste vector(2))").returncode == 0
    assert node.sql("insert into fruit values ('fig', '[1,2]')").returncode == 0
    assert node.status()["postgres"].startswith(f"{major}.")
    assert node.end() == 0
    again = start_node()
    assert "fig" in again.sql("table fruit").stdout


@pytest.mark.slow
def test_a_home_is_not_opened_with_another_postgres(start_node: NodeStarter, home_folder: Path) -> None:
    start_node("--postgres", "16").end()
    refused = atoll("up", "--home", str(home_folder), "--postgres", "18")
    assert refused.returncode == 1
    assert f"the home {home_folder} was made for PostgreSQL 16, not 18" in refused.stderr


@pytest.mark.slow
def test_after_kill_9_the_next_start_ends_what_was_left(start_node: NodeStarter) -> None:
    node = start_node()
    node.sql("create table fruit (name text)")
    assert node.sql("insert into fruit values ('fig')").returncode == 0
    left = node.server_processes()
    node.end(signal.SIGKILL)
    again = start_node()
    assert not set(left) & set(again.server_processes())
    assert "fig" in again.sql("table fruit").stdout
    assert again.end() == 0
    assert again.server_processes() == []


@pytest.mark.slow
def test_a_postmaster_that_outlived_its_node_is_ended_by_the_next(start_node: NodeStarter) -> None:
    node = start_node()
    postmaster = int((node.home / "data/postmaster.pid").read_text().split()[0])
    # Stopped, it cannot act on the death of the node, as one that hangs could not.
    os.kill(postmaster, signal.SIGSTOP)
    node.end(signal.SIGKILL)
    assert postmaster in node.server_processes()
    again = start_node(waits="ending what an earlier node left")
    os.kill(postmaster, signal.SIGCONT)
    again.wait_for("^READY")
    assert postmaster not in again.server_processes()


@pytest.mark.slow
def test_a_postgres_that_is_killed_is_started_again(start_node: NodeStarter) -> None:
    node = start_node()
    postmaster = int((node.home / "data/postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    eventually(lambda: "atoll_postgres_restarts_total 1.0" in node.get("/metrics")[1], "a restart is counted")
    eventually(lambda: node.get("/readyz")[0] == 200, "ready again")
    assert postmaster not in node.server_processes()
    assert node.sql("select 1").returncode == 0


@pytest.mark.slow
def test_a_second_node_on_the_same_home_is_refused_by_pid(start_node: NodeStarter, home_folder: Path) -> None:
    node = start_node()
    refused = atoll("up", "--home", str(home_folder), "--http", "off", "--link", "off")
    assert refused.returncode == 1
    assert f"another node runs in {home_folder} (pid {node.pid})" in refused.stderr
    assert "hint: " in refused.stderr
    assert node.get("/readyz")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--http", "--link", "--listen-postgres"])
def test_a_port_in_use_is_refused_by_name(home_folder: Path, flag: str) -> None:
    others = {"--http": "off", "--link": "off"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [part for pair in ({**others, flag: place}).items() for part in pair]
        refused = atoll("up", "--home", str(home_folder), *flags)
    assert refused.returncode == 1
    assert f"port {place.split(':')[1]} on 127.0.0.1 is in use" in refused.stderr
    assert flag in refused.stderr


@pytest.mark.slow
def test_a_home_of_another_layout_is_refused(home_folder: Path) -> None:
    home_folder.mkdir()
    facts = {"layout": 99, "postgres": 18, "uuid": "x"}
    (home_folder / "home.json").write_text(json.dumps(facts))
    refused = atoll("up", "--home", str(home_folder))
    assert refused.returncode == 1
    assert "has layout 99, and this Atoll knows layout 1" in refused.stderr


@pytest.mark.slow
def test_a_folder_with_something_else_in_it_is_refused_untouched(home_folder: Path) -> None:
    home_folder.mkdir()
    (home_folder / "thesis.txt").write_text("chapter one")
    refused = atoll("up", "--home", str(home_folder))
    assert refused.returncode == 1
    assert "is not empty and is not the home of a node" in refused.stderr
    assert [entry.name for entry in home_folder.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_below_the_disk_floor_reads_go_on_and_writes_come_back_with_room(start_node: NodeStarter) -> None:
    node = start_node()
    node.sql("create table fruit (name text)")
    node.sql("insert into fruit values ('fig')")
    node.end()
    full = start_node("--disk-floor", "100000TB")
    status, body = full.get("/readyz")
    assert status == 503
    assert "writes are refused" in json.loads(body)["reasons"]["disk"]
    assert "fig" in full.sql("table fruit").stdout
    assert "read-only transaction" in full.sql("insert into fruit values ('pear')").stderr
    assert full.status()["is_ready"] is False
    full.end()
    roomy = start_node()
    assert roomy.sql("insert into fruit values ('plum')").returncode == 0


@pytest.mark.slow
def test_a_postgres_that_cannot_start_is_explained(start_node: NodeStarter, home_folder: Path) -> None:
    start_node().end()
    with (home_folder / "data/postgresql.auto.conf").open("a") as file:
        file.write("shared_buffers = 'plenty'\n")
    node = start_node(waits=None)
    assert node.wait() == 1
    assert "error: PostgreSQL does not start" in node.output
    assert "shared_buffers" in node.output


@pytest.mark.slow
def test_postgres_listens_on_tcp_only_when_asked_and_only_with_a_password(start_node: NodeStarter) -> None:
    port = free_ports(1)[0]
    node = start_node("--listen-postgres", f"127.0.0.1:{port}")
    dsn = atoll("dsn", "--home", str(node.home)).stdout.strip()
    password = psycopg.conninfo.conninfo_to_dict(dsn)["password"]
    place = {"host": "127.0.0.1", "port": port, "dbname": "atoll"}
    with psycopg.connect(user="app", password=str(password), **place) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)
    for role in ("app", "atoll", "atoll_link"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(user=role, password="a guess", **place)
    assert node.status()["socket"].endswith(str(port))


@pytest.mark.slow
def test_a_disk_that_runs_full_stops_writes_until_there_is_room(
    start_node: NodeStarter, open_folder: Path
) -> None:
    free = shutil.disk_usage(open_folder).free
    if free < 6 * GIB:
        pytest.skip("too little free disk to tell this test from its neighbours")
    node = start_node("--disk-floor", str(free - GIB))
    assert node.sql("create table fruit (name text)").returncode == 0
    with (open_folder / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, 3 * GIB)
    eventually(lambda: node.get("/readyz")[0] == 503, "the node says that the disk is full")
    assert "read-only transaction" in node.sql("insert into fruit values ('pear')").stderr
    assert node.sql("table fruit").returncode == 0
    (open_folder / "ballast").unlink()
    eventually(lambda: node.get("/readyz")[0] == 200, "the node says that there is room")
    assert node.sql("insert into fruit values ('plum')").returncode == 0


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_postgres_that_hangs(
    start_node: NodeStarter, home_folder: Path
) -> None:
    node = start_node()
    with psycopg.connect(host=str(home_folder / "run"), user="atoll", dbname="atoll") as connection:
        row = connection.execute(
            "select pid from pg_stat_activity where backend_type = 'checkpointer'"
        ).fetchone()
    assert row is not None
    os.kill(row[0], signal.SIGSTOP)
    node.process.send_signal(signal.SIGTERM)
    node.wait_for("stopping")
    assert node.end(signal.SIGINT) == 0
    assert node.server_processes() == []
    assert "received immediate shutdown request" in (home_folder / "logs/postgres.log").read_text()


@pytest.mark.slow
def test_a_node_without_http_still_says_how_it_is(start_node: NodeStarter) -> None:
    node = start_node("--http", "off", "--disk-floor", "100000TB")
    assert (node.status()["http"], node.status()["is_ready"]) == (None, False)
    assert list(node.status()["reasons"]) == ["disk"]
    assert node.end() == 0
    assert node.status()["reasons"] == {"node": "no node runs in this home"}
