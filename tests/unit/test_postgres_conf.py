"""The text of PostgreSQL's configuration: what must be in it, and what must never be."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.node.postgres.conf import (
    DISK_FILE_BYTES,
    Wishes,
    command_line,
    conf_text,
    disk_text,
    hba_text,
    ident_text,
    settings,
)
from atoll.node.values import Address

QUIET = Wishes(18, Path("/home/o'neil/run"), None, 1024**3)
OPEN = Wishes(16, Path("/run"), Address("0.0.0.0", 6000), 1)


def test_only_a_socket_is_listened_on_unless_asked() -> None:
    assert settings(QUIET)["listen_addresses"] == ""
    assert "host" not in hba_text(QUIET).replace("the host", "")
    assert settings(OPEN)["listen_addresses"] == "0.0.0.0"
    assert settings(OPEN)["port"] == "6000"


def test_what_the_node_stands_on_cannot_be_changed_from_inside() -> None:
    assert "wal_level=logical" in command_line(QUIET)
    assert "listen_addresses=" in command_line(QUIET)


@pytest.mark.parametrize("wishes", [QUIET, OPEN])
def test_the_wal_of_an_absent_peer_is_bounded_and_no_output_plugin_is_named(wishes: Wishes) -> None:
    kept = settings(wishes)["max_slot_wal_keep_size"]
    assert kept.endswith("MB")
    assert int(kept.removesuffix("MB")) >= 1
    assert not [name for name in settings(wishes) if "plugin" in name]


def test_eight_peers_fit() -> None:
    found = settings(QUIET)
    names = ("max_wal_senders", "max_replication_slots", "max_logical_replication_workers")
    assert all(int(found[name]) >= 8 * 3 for name in names)
    assert int(found["max_worker_processes"]) > int(found["max_logical_replication_workers"])
    assert "max_active_replication_origins" not in settings(OPEN)
    assert int(found["max_active_replication_origins"]) >= 16


@pytest.mark.parametrize("wishes", [QUIET, OPEN])
def test_nobody_gets_in_without_being_known_and_nobody_copies_the_server(wishes: Wishes) -> None:
    lines = [line.split() for line in hba_text(wishes).splitlines() if not line.startswith("#")]
    assert all(line[1] == "all" for line in lines)
    methods = {word for line in lines for word in line[3:] if word not in ("all", "map=atoll")}
    assert methods <= {"peer", "scram-sha-256", "reject"}
    own = next(number for number, line in enumerate(lines) if line[2] == "atoll,atoll_link")
    assert own == 0


def test_text_is_quoted() -> None:
    assert "unix_socket_directories = '/home/o''neil/run'" in conf_text(QUIET)
    assert '"a""b"' in ident_text(['a"b'])
    assert ident_text(["me", "me"]) == ident_text(["me"])


def test_the_word_about_the_disk_never_needs_more_room() -> None:
    assert len(disk_text(True)) == len(disk_text(False)) == DISK_FILE_BYTES
    assert disk_text(True).startswith(b"default_transaction_read_only = on\n")
    assert b"default_transaction_read_only" not in disk_text(False)
