"""What a peer may say to PostgreSQL, as tables of cases; the filter is pure, so bytes go in and come out."""

from __future__ import annotations

import random
import struct

import pytest

from atoll.link.startup import FrontendGuard, Refused, Rules, encode_error

GOOD = {"user": "atoll_link", "database": "atoll", "replication": "database"}


def startup(
    parameters: dict[str, str] | list[tuple[str, str]], code: int = 196608, end: bytes = b"\0"
) -> bytes:
    pairs = parameters.items() if isinstance(parameters, dict) else parameters
    body = b"".join(f"{key}\0{value}\0".encode() for key, value in pairs) + end
    return struct.pack("!II", len(body) + 8, code) + body


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


REFUSED_STARTUPS = {
    "a superuser": startup(GOOD | {"user": "atoll"}),
    "the application's role": startup(GOOD | {"user": "app"}),
    "another database": startup(GOOD | {"database": "postgres"}),
    "no database": startup({"user": "atoll_link"}),
    "no user": startup({"database": "atoll"}),
    "the user twice": startup([*GOOD.items(), ("user", "atoll")]),
    "the superuser first": startup([("user", "atoll"), *GOOD.items()]),
    "physical replication": startup(GOOD | {"replication": "true"}),
    "physical replication as yes": startup(GOOD | {"replication": "yes"}),
    "physical replication as on": startup(GOOD | {"replication": "on"}),
    "physical replication as 1": startup(GOOD | {"replication": "1"}),
    "replication in capitals": startup(GOOD | {"replication": "DATABASE"}),
    "a TLS request": struct.pack("!II", 8, 80877103),
    "a GSS request": struct.pack("!II", 8, 80877104),
    "a cancel request": struct.pack("!IIII", 16, 80877102, 1, 2),
    "protocol 2": startup(GOOD, code=2 << 16),
    "protocol 4": startup(GOOD, code=4 << 16),
    "a huge packet": struct.pack("!II", 1 << 30, 196608),
    "a negative length": struct.pack("!II", 2**32 - 1, 196608),
    "no end": startup(GOOD, end=b""),
    "an odd number of words": startup([*GOOD.items()], end=b"x\0\0"),
    "words after the end": startup([*GOOD.items(), ("", "")]) ,
    "http": b"GET / HTTP/1.1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_STARTUPS)
def test_a_startup_is_refused_with(case: str) -> None:
    with pytest.raises(Refused) as caught:
        FrontendGuard(Rules()).feed(REFUSED_STARTUPS[case])
    assert caught.value.response.startswith(b"E")


@pytest.mark.parametrize(
    "parameters",
    [
        GOOD,
        {"user": "atoll_link", "database": "atoll"},
        GOOD | {"options": "-c datestyle=ISO", "application_name": "s", "client_encoding": "UTF8"},
    ],
)
@pytest.mark.parametrize("code", [196608, 196610])
def test_the_link_s_role_may_start(parameters: dict[str, str], code: int) -> None:
    packet = startup(parameters, code)
    assert FrontendGuard(Rules()).feed(packet) == packet


REFUSED_QUERIES = [
    "BASE_BACKUP",
    "base_backup (LABEL 'x')",
    " \t\r\n\f\vBASE_BACKUP;",
    "TIMELINE_HISTORY 1",
    "UPLOAD_MANIFEST",
    "START_REPLICATION 0/0",
    'START_REPLICATION SLOT "x" 0/0',
    'START_REPLICATION SLOT "x" PHYSICAL 0/0',
    'START_REPLICATION SLOT "x LOGICAL" 0/0',
    'START_REPLICATION SLOT "a"" LOGICAL" PHYSICAL 0/0',
    "Start_Replication Slot x Physical 0/0 TIMELINE 1",
    "START_REPLICATION PHYSICAL 0/0",
    'CREATE_REPLICATION_SLOT "x" PHYSICAL',
    'CREATE_REPLICATION_SLOT "x" TEMPORARY PHYSICAL RESERVE_WAL',
    'CREATE_REPLICATION_SLOT "x" LOGICAL test_decoding',
    'CREATE_REPLICATION_SLOT "x" LOGICAL "pgoutput2"',
    'CREATE_REPLICATION_SLOT "x" LOGICALLY pgoutput',
]
ALLOWED_QUERIES = [
    "IDENTIFY_SYSTEM",
    "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '4', publication_names '\"p\"')",
    'start_replication slot s logical 16/B374D848 (proto_version \'1\')',
    'CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT \'use\')',
    'CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT',
    "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ",
    "COPY atoll.change TO STDOUT",
    "select 'BASE_BACKUP'",
    "",
]  # fmt: skip


def started() -> FrontendGuard:
    guard = FrontendGuard(Rules())
    guard.feed(startup(GOOD))
    return guard


@pytest.mark.parametrize("text", REFUSED_QUERIES)
def test_a_query_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        started().feed(query(text))


@pytest.mark.parametrize("text", ALLOWED_QUERIES)
def test_a_query_is_allowed(text: str) -> None:
    assert started().feed(query(text)) == query(text)


def test_a_query_is_still_looked_at_after_a_copy() -> None:
    guard = started()
    copying = query("START_REPLICATION SLOT s LOGICAL 0/0 ()") + message(b"d", b"r" * 34) + message(b"c", b"")
    assert guard.feed(copying) == copying
    with pytest.raises(Refused):
        guard.feed(query("BASE_BACKUP"))


@pytest.mark.parametrize(
    "bad",
    [
        message(b"F", b"\0\0\0\1"),
        message(b"\0", b""),
        b"Q\0\0\0\3",
        b"Q\x7f\xff\xff\xff",
        message(b"Q", b"select 1"),
        message(b"Q", b"select 1\0BASE_BACKUP\0"),
    ],
)
def test_a_message_that_postgresql_would_not_get_from_a_subscriber_is_refused(bad: bytes) -> None:
    with pytest.raises(Refused):
        started().feed(bad)


def feed_in_pieces(data: bytes, rng: random.Random) -> bytes:
    """What passes until something is refused, which has to happen."""
    guard, passed = FrontendGuard(Rules()), b""
    while data:
        size = rng.randrange(1, 400)
        try:
            passed += guard.feed(data[:size])
        except Refused:
            return passed
        data = data[size:]
    pytest.fail("nothing was refused")


def test_the_same_bytes_pass_in_any_pieces_and_nothing_of_a_refused_message_does() -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    allowed = (
        startup(GOOD) + b"".join(query(text) for text in ALLOWED_QUERIES) + message(b"d", rng.randbytes(3000))
    )
    whole = allowed + query("BASE_BACKUP") + query("select 1")
    for _ in range(200):
        passed = feed_in_pieces(whole, rng)
        assert allowed.startswith(passed)
        assert len(passed) > len(allowed) - 400 - len(query("BASE_BACKUP"))


def test_an_error_is_written_as_postgresql_writes_it() -> None:
    response = encode_error("no", "08006", hint="Try.")
    (length,) = struct.unpack("!I", response[1:5])
    assert length == len(response) - 1
    assert response[5:].split(b"\0") == [b"SFATAL", b"VFATAL", b"C08006", b"Mno", b"HTry.", b"", b""]
