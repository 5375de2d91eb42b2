"""A peer's connection says what a subscription says, and cannot reach what is not the peer's."""

from __future__ import annotations

import struct

import pytest

from atoll.link.startup import FrontendGuard, Refused, Rules
from atoll.link.subscriber import Unusual, announce, check

OWN = """START_REPLICATION SLOT "atoll_to_7" LOGICAL 0/1A2B (proto_version '4', streaming 'parallel',\
 origin 'any', publication_names '"atoll_to_7"', binary 'true')"""
SAID = [
    "SELECT pg_catalog.set_config('search_path', '', false);",
    "IDENTIFY_SYSTEM",
    "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ",
    "COMMIT",
    OWN,
    OWN.replace("atoll_to_7", "pg_16384_sync_16390_7412", 1),
    "CREATE_REPLICATION_SLOT \"pg_1_sync_2_3\" LOGICAL pgoutput (SNAPSHOT 'use')",
    "DROP_REPLICATION_SLOT pg_1_sync_2_3 WAIT",
    'DROP_REPLICATION_SLOT "atoll_to_7" WAIT',
    "SELECT t.pubname FROM\n pg_catalog.pg_publication t WHERE\n t.pubname IN ('atoll_to_7')",
    "SELECT DISTINCT  (CASE WHEN (array_length(gpt.attrs, 1) = c.relnatts)   THEN NULL ELSE gpt.attrs END)"
    "  FROM pg_publication p,  LATERAL pg_get_publication_tables(p.pubname) gpt,  pg_class c WHERE"
    " gpt.relid = 17 AND c.oid = gpt.relid   AND p.pubname IN ( 'atoll_to_7' )",
    "SELECT a.attnum,       a.attname,       a.atttypid,       a.attnum = ANY(i.indkey)  FROM"
    " pg_catalog.pg_attribute a  LEFT JOIN pg_catalog.pg_index i       ON (i.indexrelid ="
    " pg_get_replica_identity_index(17)) WHERE a.attnum > 0::pg_catalog.int2   AND NOT a.attisdropped"
    " AND a.attrelid = 17 ORDER BY a.attnum",
    "COPY (SELECT origin, seq, tbl, vals, scope FROM ONLY atoll.change WHERE (((target IS NULL) OR (target ="
    " 7)) AND (scope = ANY ('{region:eu,node:7,global}'::text[])))) TO STDOUT WITH (FORMAT binary)",
]
NEVER = [
    OWN.replace("atoll_to_7", "atoll_to_8"),
    OWN.replace("SLOT \"atoll_to_7\"", "SLOT \"atoll_to_8\""),
    OWN.replace("'\"atoll_to_7\"'", "'\"atoll_to_7\",\"atoll_to_8\"'"),
    OWN.replace("binary 'true'", "publication_names '\"atoll_to_8\"'"),
    OWN.replace("atoll_to_7\" LOGICAL", "mine\" LOGICAL"),
    "CREATE_REPLICATION_SLOT mine LOGICAL pgoutput",
    "CREATE_REPLICATION_SLOT pg_1_sync_2_3 LOGICAL test_decoding (SNAPSHOT 'use')",
    "DROP_REPLICATION_SLOT atoll_to_8",
    "BASE_BACKUP",
    "SET atoll.peer = '8'",
    "SELECT set_config('atoll.peer', '8', false)",
    "SELECT pg_catalog.set_config('atoll.peer', '8', false);",
    "SELECT * FROM pg_logical_slot_peek_binary_changes('atoll_to_8', null, null)",
    "SELECT \"pg_logical_slot_peek_changes\"('atoll_to_8', null, null)",
    "SELECT \"pg_logical_slot_peek_changes\" /* */ ('atoll_to_8', null, null)",
    "SELECT E'\\'' || lo_import('/etc/passwd') || '\\''",
    "SELECT $$'$$ || lo_import('x') || $$'$$",
    "SELECT 1; DO 'begin end'",
    "DO $$ begin perform set_config('atoll.peer', '8', false); end $$",
    "SELECT 'a' || lo_import ('x')",
    "COPY atoll.parked TO STDOUT",
    "COPY (SELECT change FROM atoll.parked WHERE (true)) TO STDOUT",
    "COPY (SELECT origin FROM ONLY atoll.change WHERE (true)) TO '/tmp/x'",
    "EXECUTE something",
    "",
]  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_a_subscription_may_say(said: str) -> None:
    check(said.encode(), 7)


@pytest.mark.parametrize("said", NEVER)
def test_a_peer_may_not_say(said: str) -> None:
    with pytest.raises(Unusual):
        check(said.encode(), 7)


def startup(**parameters: str) -> bytes:
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, 196608) + body


GOOD = {"user": "atoll_link", "database": "atoll", "replication": "database"}


def test_the_peer_s_number_is_written_into_its_startup() -> None:
    told = announce(startup(**GOOD, options="-c datestyle=ISO"), 7)
    assert b"options\0-c datestyle=ISO -c atoll.peer=7\0" in told
    assert struct.unpack("!I", told[:4])[0] == len(told)
    assert FrontendGuard(Rules(peer=7)).feed(startup(**GOOD)) == announce(startup(**GOOD), 7)


@pytest.mark.parametrize(
    "parameters",
    [
        GOOD | {"options": "-c atoll.peer=8"},
        GOOD | {"options": "-c Atoll.Peer=8"},
        GOOD | {"options": "-c role=atoll"},
        {"user": "atoll_link", "database": "atoll"},
    ],
)
def test_a_peer_cannot_start_as_another(parameters: dict[str, str]) -> None:
    with pytest.raises(Refused):
        FrontendGuard(Rules(peer=7)).feed(startup(**parameters))


def test_a_statement_that_was_prepared_is_refused() -> None:
    guard = FrontendGuard(Rules(peer=7))
    guard.feed(startup(**GOOD))
    with pytest.raises(Refused):
        guard.feed(b"P" + struct.pack("!I", 6 + 8) + b"\0SELECT 1\0")
