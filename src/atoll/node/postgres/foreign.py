"""PostgreSQL that somebody else runs: reached by its address, used with whatever rights the address gives.

The node does not start, stop or configure it. Its subscriptions come to the node through the door, so what
they dial is not the gateway's socket: the address is exchanged as a statement passes, and noted beside the
subscription for a role that may not read where its own subscription dials.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import psycopg
from psycopg import sql as compose
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atoll.domain.errors import ConfigError
from atoll.link.pilot import Harbour
from atoll.node.account import Account, current_account
from atoll.node.postgres.conf import DEFAULT_PORT, LINK_ROLE
from atoll.node.values import Address

CONNECT_SECONDS_MAX = 5
# What somebody may have set for the role or the database, and the node's own sessions must not inherit.
SESSION = {
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
PILOT_SOCKET = "pilot"
NO_TLS = ("disable", "allow")
WITH_TLS = ("require", "verify-ca", "verify-full")

Row = tuple[Any, ...]


@dataclass(frozen=True)
class DoorAddress:
    """Where the server finds the node's door, and what it shows there."""

    address: Address
    password: str = field(repr=False)
    has_tls: bool

    @property
    def mark(self) -> str:
        """Tells one door from another without giving anything away."""
        told = f"{self.address} {self.password} {self.has_tls}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def conninfo(self, peer: int) -> str:
        return make_conninfo(
            host=self.address.host,
            port=self.address.port,
            user=f"node_{peer}",
            dbname="atoll",
            password=self.password,
            sslmode="require" if self.has_tls else "disable",
            gssencmode="disable",
        )


@dataclass(frozen=True)
class ForeignPostgres:
    """The server, as the node sees it: an address, and the ways between the two."""

    dsn: str = field(repr=False)
    run: Path
    door: DoorAddress
    link_password: str = field(repr=False)

    @property
    def socket(self) -> Path:
        """Where the gateway finds the pilot."""
        return self.run / PILOT_SOCKET

    @property
    def account(self) -> Account:
        """Nobody but the node itself opens its sockets."""
        return current_account()

    @property
    def port(self) -> int:
        return int(str(self.told("port", DEFAULT_PORT)).split(",")[0])

    @property
    def place(self) -> str:
        """Where it is, for people: without the password."""
        return f"{self.told('host', 'localhost')}:{self.told('port', DEFAULT_PORT)}/{self.database}"

    @property
    def database(self) -> str:
        return str(self.told("dbname", self.told("user", "")))

    @property
    def wants_tls(self) -> bool:
        return self.told("sslmode", "prefer") in WITH_TLS

    def address(self) -> tuple[list[str], str | None]:
        """What psql takes to come here, and the password apart: arguments can be seen by everybody."""
        told = parse(self.dsn)
        secret = told.pop("password", None)
        return ["-d", make_conninfo(**told)], secret

    def told(self, key: str, otherwise: object) -> object:
        return parse(self.dsn).get(key) or otherwise

    async def connect(self, database: str | None = None) -> psycopg.AsyncConnection[Row]:
        """A connection as the address's role, outside of any transaction."""
        more = {"dbname": database} if database else {}
        connection = await Session.connect(
            self.dsn,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS_MAX,
            application_name="atoll",
            **cast("dict[str, Any]", more),
        )
        connection.peers, connection.door = self.run / "peers", self.door
        wanted = {**SESSION, "atoll.door": self.door.mark}
        await connection.execute(
            "select set_config(name, value, false) from unnest(%s::text[], %s::text[]) s (name, value)",
            [list(wanted), list(wanted.values())],
        )
        return connection

    def harbour(self) -> Harbour:
        """Where the pilot leads peers: the first of the hosts, as the link's role."""
        told = parse(self.dsn)
        host = str(told.get("host") or "localhost").split(",")[0]
        mode = str(told.get("sslmode") or "prefer")
        return Harbour(
            host=host,
            port=self.port,
            database=self.database,
            user=LINK_ROLE,
            password=self.link_password,
            tls=None if host.startswith("/") or mode in NO_TLS else make_tls(told, mode),
            is_tls_required=mode in WITH_TLS,
        )

    async def set_up(self) -> None:
        """Bring the link's role to what it should be."""
        text = importlib.resources.files("atoll.node.postgres").joinpath("foreign_roles.sql").read_bytes()
        async with await self.connect() as connection:
            await connection.execute(
                "select set_config('atoll.link_password', %s, false)", [self.link_password]
            )
            await connection.execute(text)


class Exchanging(psycopg.AsyncCursor[Row]):
    """Statements about subscriptions name the gateway's socket; what goes to the server names the door."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Exchanging:
        session = cast("Session", self.connection)
        if not isinstance(query, compose.Composed) or session.door is None:
            return await super().execute(query, params, **options)
        found: str | None = None
        parts: list[compose.Composable] = []
        for part in query:
            peer = session.peer_of(part)
            if peer is not None:
                found, part = part._obj, compose.Literal(session.door.conninfo(peer))
            parts.append(part)
        await super().execute(compose.Composed(parts), params, **options)
        if found is not None:
            name = next(part for part in parts if isinstance(part, compose.Identifier))
            note = compose.Literal(f"{session.door.mark} {found}")
            await super().execute(compose.SQL("comment on subscription {} is {}").format(name, note))
        return self


class Session(psycopg.AsyncConnection[Row]):
    """A connection whose subscriptions go through the door."""

    peers: Path | None = None
    door: DoorAddress | None = None
    exchanging: ClassVar[type[Exchanging]] = Exchanging

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = self.exchanging

    def peer_of(self, part: compose.Composable) -> int | None:
        """The number of the peer whose socket a part of a statement names."""
        if not isinstance(part, compose.Literal) or not isinstance(part._obj, str):
            return None
        if not part._obj.startswith(f"host={self.peers} "):
            return None
        return int(str(conninfo_to_dict(part._obj)["port"]))


def parse(dsn: str) -> dict[str, Any]:
    """What an address says; the words of the error do not repeat it, because it may hold a password."""
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            "database-address",
            "cannot read the address of the database",
            hint="For example: postgresql://manager:PASSWORD@db.example.org:5432/shop?sslmode=require",
        ) from error


def make_tls(told: dict[str, Any], mode: str) -> ssl.SSLContext:
    """As libpq does: `require` encrypts, `verify-ca` knows the authority, `verify-full` the host too."""
    root = told.get("sslrootcert")
    context = ssl.create_default_context(cafile=None if root in (None, "system") else str(root))
    context.check_hostname = mode == "verify-full"
    if mode not in ("verify-ca", "verify-full"):
        context.verify_mode = ssl.CERT_NONE
    if told.get("sslcert"):
        context.load_cert_chain(str(told["sslcert"]), told.get("sslkey"))
    return context
