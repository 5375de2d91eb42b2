"""A backup of a node that runs becomes a node again; one that is damaged does not."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from atoll.cli.home import running_postgres
from atoll.node import credentials
from atoll.node.backup.take import take
from atoll.node.home import open_home
from support.fix_home import NodeStarter, RunningNode, atoll, eventually

ROWS = "insert into fruit (name) select 'fig ' || g from generate_series(1, 2000) g"


def fruit_node(start_node: NodeStarter) -> RunningNode:
    node = start_node("--name", "orchard")
    assert (
        node.sql("create table fruit (id bigint primary key default atoll.id(), name text)").returncode == 0
    )
    assert atoll("share", "fruit", "--home", str(node.home)).returncode == 0
    assert node.sql(ROWS).returncode == 0
    return node


def backed_up(node: RunningNode, target: Path, *options: str) -> Path:
    done = atoll("backup", str(target), "--home", str(node.home), *options)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split("  ")[0])


def count(node: RunningNode) -> int:
    found = re.search(r"(?m)^\s*(\d+)$", node.sql("select count(*) from fruit").stdout)
    assert found
    return int(found[1])


@pytest.mark.slow
def test_a_founder_alone_is_restored_with_its_rows_under_a_new_number(
    start_node: NodeStarter, open_folder: Path
) -> None:
    node = fruit_node(start_node)
    file = backed_up(node, open_folder, "--with-authority")
    assert re.fullmatch(r"orchard-\d{8}T\d{6}Z\.atoll-backup", file.name)
    assert node.sql("insert into fruit (name) values ('after')").returncode == 0
    assert node.end() == 0
    home = open_folder / "again"
    done = atoll("restore", str(file), "--home", str(home))
    assert done.returncode == 0, done.stderr
    assert 'node "orchard" as of ' in done.stdout
    settings = home / "data" / "postgresql.auto.conf"
    assert "default_transaction_read_only = 'on'" in settings.read_text()
    again = start_node(home=home)
    assert again.status()["is_ready"], again.status()
    assert again.status()["number"] > 32767
    assert "default_transaction_read_only" not in settings.read_text()
    assert count(again) == 2000
    assert again.sql("insert into fruit (name) values ('new')").returncode == 0
    assert again.end() == 0
    # The mark serves once.
    number = json.loads(atoll("nodes", "--json", "--home", str(start_node(home=home).home)).stdout)
    assert [row["revoked_at"] is None for row in number] == [False, True]


@pytest.mark.slow
def test_a_backup_is_taken_while_rows_are_written(start_node: NodeStarter, open_folder: Path) -> None:
    node = fruit_node(start_node)
    writing = (
        "do $$ begin for i in 1..300 loop insert into fruit (name) values ('w'); commit; end loop; end $$"
    )
    before = count(node)
    assert node.sql(writing).returncode == 0
    file = backed_up(node, open_folder / "one")
    assert node.sql(writing).returncode == 0
    node.end()
    home = open_folder / "again"
    assert atoll("restore", str(file), "--home", str(home)).returncode == 0
    again = start_node(home=home)
    assert before + 300 <= count(again) <= before + 600
    eventually(
        lambda: "number" in again.status()["reasons"], "without the authority it waits for a certificate"
    )
    assert again.sql("insert into fruit (name) values ('new')").returncode == 0


@pytest.mark.slow
def test_a_backup_needs_no_more_wal_kept_than_is_written_while_a_file_is_copied(
    start_node: NodeStarter, open_folder: Path
) -> None:
    node = start_node("--name", "orchard", "--wal-keep", "48MB")
    postgres = running_postgres(open_home(node.home))
    much = "insert into fig select g, repeat('x', 2000) from generate_series({}, {}) g"
    with (
        psycopg.connect(credentials.dsn(open_home(node.home)), autocommit=True) as app,
        psycopg.connect(postgres.conninfo(), autocommit=True) as owner,
    ):
        app.execute("create table fig (id int primary key, name text)")
        app.execute(much.format(1, 60_000))  # 120 MB since the latest checkpoint, and as much to copy
        written, copied = 60_000, 0

        def write(done: int, total: int) -> None:
            nonlocal written, copied
            if done - copied > 10_000_000:
                app.execute(much.format(written + 1, written + 10_000))
                owner.execute("checkpoint")
                written, copied = written + 10_000, done

        home, now = open_home(node.home), datetime.now(UTC)
        take(home, postgres, open_folder / "one", with_authority=True, told=write, now=now)
        assert written > 90_000, "less was written meanwhile than is kept"
    node.end()
    assert atoll("restore", str(open_folder / "one"), "--home", str(open_folder / "again")).returncode == 0
    again = start_node(home=open_folder / "again")
    with psycopg.connect(credentials.dsn(open_home(again.home))) as app:
        assert app.execute("select count(*) from fig").fetchone() == (written,)


@pytest.mark.slow
def test_what_is_damaged_or_in_the_way_is_refused_and_nothing_is_written(
    start_node: NodeStarter, open_folder: Path
) -> None:
    node = fruit_node(start_node)
    file = backed_up(node, open_folder / "one")
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    again = atoll("backup", str(file), "--home", str(node.home))
    assert "there is such a file" in again.stderr
    into = atoll("restore", str(file), "--home", str(node.home))
    assert "a node lives there" in into.stderr
    whole = file.read_bytes()
    wrongs = {
        "cut": whole[: len(whole) // 2],
        "changed": whole[: len(whole) // 2]
        + bytes([whole[len(whole) // 2] ^ 1])
        + whole[len(whole) // 2 + 1 :],
        "empty": b"",
        "other": b"something else entirely",
    }
    for name, content in wrongs.items():
        wrong = open_folder / name
        wrong.write_bytes(content)
        home = open_folder / f"home-{name}"
        refused = atoll("restore", str(wrong), "--home", str(home))
        assert refused.returncode == 1, name
        assert "code: backup-damaged" in refused.stderr
        assert not home.exists()
    assert not list(open_folder.glob(".home-*"))


@pytest.mark.slow
def test_the_authority_stays_at_home_unless_asked_for(start_node: NodeStarter, open_folder: Path) -> None:
    from atoll.node.backup import archive

    node = fruit_node(start_node)
    without = archive.verify(backed_up(node, open_folder / "without"))
    assert "keys/node.key" in without.files
    assert "keys/authority.key" not in without.files
    assert not without.has_authority
    asked = archive.verify(backed_up(node, open_folder / "with", "--with-authority"))
    assert "keys/authority.key" in asked.files


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_an_entry_that_leaves_the_home_is_refused(tmp_path: Path, name: str) -> None:
    from atoll.domain.errors import DataError
    from atoll.node.backup import archive

    file = tmp_path / "crafted"
    with file.open("wb") as target:
        writer = archive.Writer(target)
        writer.text(name, b"x")
        facts = {"node": "x", "number": 1, "atoll_id": "", "postgres": 18, "release": "", "made_at": ""}
        writer.finish(**facts, has_authority=False)
    with pytest.raises(DataError, match="damaged"):
        archive.verify(file)
