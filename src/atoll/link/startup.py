"""What a peer may say to our PostgreSQL: a pure filter on the frontend half of the protocol.

The far end of a stream reaches PostgreSQL over a socket where the node's own operating-system user could be
anybody, a superuser included. So only one role and one database pass, and of the replication commands only
the logical ones: a role that can replicate could otherwise copy the whole cluster. What a peer may say
further is the subscriber's part.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NoReturn

from atoll.link import subscriber

PROTOCOL_MAJOR = 3
STARTUP_BYTES_MAX = 10_000
QUERY_BYTES_MAX = 1024 * 1024
MESSAGE_HEADER_BYTES = 5
# Types of the protocol that a client may send; a function call ("F") is not among them.
CLIENT_TYPES = frozenset(b"QPBEDCSHXpdcf")

SPACE = rb"[ \t\n\r\f\v]"
SLOT = rb'(?:"(?:[^"]|"")+"|[A-Za-z0-9_]+)'
FIRST_WORD = re.compile(SPACE + rb"*([A-Za-z_]+)")
LOGICAL_ONLY = {
    b"START_REPLICATION": re.compile(
        SPACE + rb"*START_REPLICATION" + SPACE + rb"+SLOT" + SPACE + b"+" + SLOT + SPACE + rb"+LOGICAL\b",
        re.IGNORECASE,
    ),
    b"CREATE_REPLICATION_SLOT": re.compile(
        SPACE + rb"*CREATE_REPLICATION_SLOT" + SPACE + b"+" + SLOT + rb"(?:" + SPACE + rb"+TEMPORARY)?"
        + SPACE + rb"+LOGICAL" + SPACE + rb'+"?(?P<plugin>[A-Za-z0-9_]+)',
        re.IGNORECASE,
    ),
}  # fmt: skip
NEVER = frozenset({b"BASE_BACKUP", b"TIMELINE_HISTORY", b"UPLOAD_MANIFEST"})


@dataclass(frozen=True)
class Rules:
    """The only role, database and output plugin that a peer may use."""

    user: str = "atoll_link"
    database: str = "atoll"
    plugin: str = "pgoutput"
    only_subscriptions: bool = True
    peer: int | None = None
    """Whose subscription it has to be; anybody's if none is named."""


class Refused(Exception):
    """The peer asked for what it may not; `response` is what PostgreSQL would have answered."""

    def __init__(self, message: str, detail: str, sqlstate: str = "28000") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.response = encode_error(message, sqlstate, detail=detail)


class FrontendGuard:
    """Feed it what the peer sends; it returns what may be passed on, whole messages only where it looks."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._pending = bytearray()
        self._started = False
        self._pass = 0

    def feed(self, chunk: bytes | memoryview) -> bytes:
        """Raises Refused; nothing of the offending message has been passed on then."""
        self._pending += chunk
        passed = bytearray()
        while self._take(passed):
            pass
        return bytes(passed)

    def _take(self, passed: bytearray) -> bool:
        """Move one message, or what there is of one that need not be looked at, to `passed`."""
        pending = self._pending
        if self._pass:
            size = min(self._pass, len(pending))
            self._pass -= size
        elif not self._started:
            size = self._startup_size()
            if size:
                self._take_startup(bytes(pending[:size]), passed)
                del pending[:size]
                return True
        elif len(pending) < MESSAGE_HEADER_BYTES:
            return False
        else:
            size = self._message_size()
        passed += pending[:size]
        del pending[:size]
        return size > 0

    def _take_startup(self, packet: bytes, passed: bytearray) -> None:
        check_startup(packet, self._rules)
        if self._rules.peer is not None:
            try:
                packet = subscriber.announce(packet, self._rules.peer)
            except subscriber.Unusual as error:
                _refuse(str(error))
        passed += packet
        self._started = True

    def _startup_size(self) -> int:
        if len(self._pending) < 8:
            return 0
        size: int
        size, code = struct.unpack_from("!II", self._pending)
        if code >> 16 != PROTOCOL_MAJOR:
            _refuse(f"protocol request {code >> 16}.{code & 0xFFFF} is not allowed on a link")
        if not 8 < size <= STARTUP_BYTES_MAX:
            _refuse("the startup packet has an invalid length", "08P01")
        return size if len(self._pending) >= size else 0

    def _message_size(self) -> int:
        kind: int
        size: int
        kind, size = struct.unpack_from("!BI", self._pending)
        allowed = CLIENT_TYPES if self._rules.peer is None else subscriber.MESSAGE_TYPES
        if kind not in allowed or size < 4:
            _refuse(f"message type {kind} is not allowed on a link", "08P01")
        if kind != ord("Q"):
            self._pass = 1 + size - MESSAGE_HEADER_BYTES
            return MESSAGE_HEADER_BYTES
        if size > QUERY_BYTES_MAX:
            _refuse("the query is too long for a link", "54000")
        if len(self._pending) <= size:
            return 0
        check_query(bytes(self._pending[MESSAGE_HEADER_BYTES : 1 + size]), self._rules)
        return 1 + size


def check_startup(packet: bytes, rules: Rules) -> None:
    """Only our role, only our database, and no physical replication."""
    body = packet[8:]
    fields = body.split(b"\0")
    if not body.endswith(b"\0\0") and body != b"\0":
        _refuse("the startup packet is malformed", "08P01")
    pairs = fields[:-2]
    if len(pairs) % 2 or b"" in pairs[::2]:
        _refuse("the startup packet is malformed", "08P01")
    given: dict[bytes, bytes] = {}
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        if name in given:
            _refuse("the startup packet names a parameter twice", "08P01")
        given[name] = value
    if given.get(b"user") != rules.user.encode():
        _refuse(f'only role "{rules.user}" is allowed on a link')
    if given.get(b"database") != rules.database.encode():
        _refuse(f'only database "{rules.database}" is allowed on a link')
    if given.get(b"replication", b"database") != b"database":
        _refuse("physical replication is not allowed on a link")


def check_query(query: bytes, rules: Rules) -> None:
    """Refuses replication commands that are not logical; everything else is PostgreSQL's to judge."""
    if query[-1:] != b"\0" or b"\0" in query[:-1]:
        _refuse("the query is malformed", "08P01")
    if rules.peer is not None:
        try:
            subscriber.check(query[:-1], rules.peer)
        except subscriber.Unusual as error:
            _refuse(str(error), "42501")
    first = FIRST_WORD.match(query)
    word = first[1].upper() if first else b""
    if word in NEVER:
        _refuse(f"{word.decode()} is not allowed on a link", "42501")
    pattern = LOGICAL_ONLY.get(word)
    if pattern is None:
        return
    match = pattern.match(query)
    if match is None:
        _refuse("only logical replication is allowed on a link", "42501")
    plugin = match.groupdict().get("plugin")
    if plugin is not None and plugin != rules.plugin.encode():
        _refuse(f'only output plugin "{rules.plugin}" is allowed on a link', "42501")


def encode_error(message: str, sqlstate: str, *, detail: str | None = None, hint: str | None = None) -> bytes:
    """A FATAL ErrorResponse as PostgreSQL sends it."""
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message, "D": detail, "H": hint}
    body = b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items() if value) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


def _refuse(message: str, sqlstate: str = "28000") -> NoReturn:
    raise Refused(message, "The node at the other end of the link asked for it.", sqlstate)
