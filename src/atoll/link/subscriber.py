"""What a peer's subscription says to our PostgreSQL, and nothing else: a pure check of each query.

A peer's publication holds what the peer may have. So it may read by no other publication, from no other slot,
and its plain queries may call nothing but what a subscription of PostgreSQL 16 to 18 calls. Its copy of the
change log is PostgreSQL's to filter, by a policy on the table (sql/functions/47_readers.sql) that goes by
the peer's number, which `announce` writes into the startup packet.
"""

from __future__ import annotations

import re
import struct
from typing import NoReturn

SETTING = "atoll.peer"
MESSAGE_TYPES = frozenset(b"QXpdcf")
QUERIES = frozenset({b"SELECT", b"COPY", b"BEGIN", b"COMMIT", b"IDENTIFY_SYSTEM"})
SEARCH_PATH = b"SELECT pg_catalog.set_config('search_path', '', false);"
CALLS = frozenset(
    b"array_agg array_length pg_get_expr pg_get_publication_tables pg_get_replica_identity_index"
    b" and any case copy distinct in join lateral on or select when where with".split()
)
LITERAL = re.compile(rb"'[^']*'")
CALL = re.compile(rb"([A-Za-z0-9_.]+)[ \t\n\r\f\v]*\(")
STRANGE = re.compile(rb"""[\\$;]|--|/\*|"[ \t\n\r\f\v]*\(""")
COPY = re.compile(
    rb"COPY \(SELECT [a-z, ]+ FROM (?:ONLY )?atoll\.change WHERE .+\) TO STDOUT(?: WITH \(FORMAT binary\))?",
    re.S,
)
SYNC_SLOT = rb'"?pg_[0-9]+_sync_[0-9]+_[0-9]+"?'
MAKE_SLOT = re.compile(
    rb"CREATE_REPLICATION_SLOT " + SYNC_SLOT + rb"(?: TEMPORARY)? LOGICAL pgoutput \(SNAPSHOT 'use'\)"
)
DROP_SLOT = re.compile(
    rb'DROP_REPLICATION_SLOT (?:"?(?P<own>atoll_to_[0-9]+)"?|' + SYNC_SLOT + rb")(?: WAIT)?"
)
START = re.compile(
    rb'START_REPLICATION SLOT (?:"(?P<own>atoll_to_[0-9]+)"|' + SYNC_SLOT + rb") LOGICAL [0-9A-F]+/[0-9A-F]+"
    rb" \((?P<options>(?:[a-z_]+ '[^']*'(?:, )?)+)\)"
)
PUBLICATIONS = re.compile(rb"publication_names '([^']*)'")


class Unusual(Exception):
    """A subscription does not say this."""


def announce(packet: bytes, peer: int) -> bytes:
    """The startup packet with the peer's number in its options; it has been checked before."""
    fields = packet[8:].split(b"\0")[:-2]
    given = dict(zip(fields[::2], fields[1::2], strict=True))
    if given.get(b"replication") != b"database":
        _refuse("only a subscription may connect over a link")
    options = given.get(b"options", b"")
    if SETTING.encode() in options.lower() or b"role" in options.lower():
        _refuse(f"a peer cannot set {SETTING} itself")
    given[b"options"] = options + f" -c {SETTING}={peer}".encode()
    body = b"".join(name + b"\0" + value + b"\0" for name, value in given.items()) + b"\0"
    return struct.pack("!I", len(body) + 8) + packet[4:8] + body


def check(query: bytes, peer: int) -> None:
    """Raises Unusual unless a subscription of this peer says so. `query` is without its final zero."""
    own = b"atoll_to_%d" % peer
    word = query.split(None, 1)[0].upper() if query.strip() else b""
    if word == b"START_REPLICATION":
        found = START.fullmatch(query)
        names = PUBLICATIONS.findall(found["options"]) if found else []
        if found is None or found["own"] not in (None, own) or names != [b'"%s"' % own]:
            _refuse("only the peer's own slot and publication are allowed on a link")
    elif word == b"CREATE_REPLICATION_SLOT":
        if not MAKE_SLOT.fullmatch(query):
            _refuse("only slots of a subscription's first copy are made over a link")
    elif word == b"DROP_REPLICATION_SLOT":
        found = DROP_SLOT.fullmatch(query)
        if found is None or found["own"] not in (None, own):
            _refuse("only the peer's own slots are dropped over a link")
    elif word not in QUERIES:
        _refuse("only what a subscription says is allowed on a link")
    elif query != SEARCH_PATH:
        _check_plain(query)


def _check_plain(query: bytes) -> None:
    bare = LITERAL.sub(b"''", query.strip().removesuffix(b";"))
    calls = {name.lower().removeprefix(b"pg_catalog.") for name in CALL.findall(bare)}
    if STRANGE.search(bare) or b"\\" in query or not calls <= CALLS or b"'" in bare.replace(b"''", b""):
        _refuse("only what a subscription asks for is allowed on a link")
    if query[:4].upper() == b"COPY" and not COPY.fullmatch(query.strip()):
        _refuse("only the change log may be copied over a link")


def _refuse(message: str) -> NoReturn:
    raise Unusual(message)
