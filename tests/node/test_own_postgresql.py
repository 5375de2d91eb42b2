"""A node that is founded on somebody else's PostgreSQL, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atoll.demo.ports import free_ports
from support.fix_foreign import Foreign
from support.fix_home import NodeStarter, atoll, eventually

pytestmark = pytest.mark.slow


def test_a_founder_on_somebody_elses_server(
    foreign: Foreign, start_node: NodeStarter, open_folder: Path
) -> None:
    gateway, other, link = free_ports(3)
    told = ("--database", foreign.dsn(), "--gateway", f"127.0.0.1:{gateway}", "--link", f"127.0.0.1:{link}")
    node = start_node(*told, "--name", "harbour")
    home = ("--home", str(node.home))
    foreign.run("create table boat (id text primary key)")
    assert atoll("share", "boat", *home).returncode == 0
    assert "public.boat" in atoll("tables", *home).stdout
    assert atoll("invite", *home).stdout.startswith("atoll1_")
    assert atoll("check", *home).returncode == 0
    assert (node.home / "atoll.toml").stat().st_mode & 0o077 == 0
    assert not (node.home / "data").exists()
    code, text = node.get("/metrics")
    assert code == 200
    assert "atoll_postgres_up 1.0" in text
    assert "atoll_disk_free_bytes" not in text

    twin = open_folder / "twin"
    shutil.copytree(node.home, twin, ignore=shutil.ignore_patterns("lock", "run"))
    second = start_node("--gateway", f"127.0.0.1:{other}", home=twin, waits=None)
    eventually(lambda: "still uses the database" in str(second.status()["reasons"]), "the twin waits")
    assert second.end() == 0
    assert node.end() == 0


def test_an_address_that_no_server_can_dial_is_refused(foreign: Foreign, start_node: NodeStarter) -> None:
    told = ("--database", foreign.dsn(), "--gateway", "0.0.0.0:7700", "--name", "x")
    assert start_node(*told, waits="code: gateway-nowhere").wait() == 1


def test_the_bundled_psql_is_not_asked_for_tls(
    foreign: Foreign, start_node: NodeStarter, tmp_path: Path
) -> None:
    told = ("--database", foreign.dsn(), "--gateway", f"127.0.0.1:{free_ports(1)[0]}", "--name", "x")
    node = start_node(*told, waits="somebody else's")
    dsn = foreign.dsn().replace("sslmode=disable", "sslmode=require")
    home = str(node.home)
    answer = atoll("sql", "-c", "select 1", "--home", home, PATH=str(tmp_path), ATOLL_DATABASE=dsn)
    assert "code: psql-without-tls" in answer.stderr
