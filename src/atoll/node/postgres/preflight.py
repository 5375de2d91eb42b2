"""What somebody else's PostgreSQL must have before a node may use it: all that is missing, with its cure.

Looking reads only; judging is pure. A finding is an error where the node could not work, else a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from atoll.domain.errors import ConfigError
from atoll.sql import query

VERSION_MIN = 160000
# For eight peers: each takes a sender and a slot one way, a worker and an origin the other way, and now and
# then two workers and two slots more while a table is copied.
SIZES: Mapping[str, int] = {
    "max_replication_slots": 10,
    "max_wal_senders": 10,
    "max_worker_processes": 16,
    "max_logical_replication_workers": 10,
    "max_active_replication_origins": 10,
}

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Finding:
    """One thing that is missing: what it is called, what is the matter, and what to do."""

    name: str
    problem: str
    cure: str
    is_error: bool = True
    needs_restart: bool = False

    @property
    def level(self) -> Literal["error", "warning"]:
        return "error" if self.is_error else "warning"


@dataclass(frozen=True)
class Facts:
    """What a look at the server has found."""

    version: int
    settings: Mapping[str, str]
    role: str
    database: str
    encoding: str
    is_standby: bool
    is_superuser: bool
    may_replicate: bool
    may_create: bool
    may_subscribe: bool
    may_signal: bool
    may_switch: bool
    may_make_roles_of_link: bool
    other_owners: Sequence[str]
    belongs_to: str | None
    slots_elsewhere: Sequence[str]
    triggers_elsewhere: Sequence[str]


async def look(connection: psycopg.AsyncConnection[Row], atoll_id: str | None = None) -> Facts:
    """Read everything at once; the database may already be a node's of the atoll that is named."""
    cursor = connection.cursor(row_factory=dict_row)
    version = connection.info.server_version
    if version < VERSION_MIN:
        return _too_old(connection, version)
    await cursor.execute(
        query("preflight", "facts"), {"names": [*SIZES, "wal_level", "max_slot_wal_keep_size"]}
    )
    row = await cursor.fetchone()
    assert row is not None
    belongs_to = None
    if row.pop("is_installed"):
        await cursor.execute(query("preflight", "tenant"), {"atoll_id": atoll_id})
        found = await cursor.fetchone()
        belongs_to = found["name"] if found else None
    return Facts(version=version, belongs_to=belongs_to, **row)


def _too_old(connection: psycopg.AsyncConnection[Row], version: int) -> Facts:
    """Older servers do not know all that would be asked; nothing else matters then."""
    nothing: Sequence[str] = ()
    yes = dict.fromkeys(
        (
            "is_superuser",
            "may_replicate",
            "may_create",
            "may_subscribe",
            "may_signal",
            "may_switch",
            "may_make_roles_of_link",
        ),
        True,
    )
    info = connection.info
    return Facts(
        version, {}, info.user, info.dbname, "UTF8", False, **yes,
        other_owners=nothing, belongs_to=None, slots_elsewhere=nothing, triggers_elsewhere=nothing,
    )  # fmt: skip


def judge(facts: Facts) -> list[Finding]:
    """Everything that is missing, errors first."""
    if facts.version < VERSION_MIN:
        return [
            Finding(
                "server_version",
                f"PostgreSQL is version {facts.version // 10000}",
                "Use 16 or newer.",
            )
        ]
    found = [*_of_server(facts), *_of_sizes(facts), *_of_role(facts), *_of_database(facts)]
    return sorted(found, key=lambda finding: not finding.is_error)


def refuse_unfit(place: str, findings: Sequence[Finding]) -> None:
    """Refuse a server that a node cannot work on, and say everything that is missing at once."""
    errors = [finding for finding in findings if finding.is_error]
    if not errors:
        return
    raise ConfigError(
        "database-unfit",
        f"cannot run a node on PostgreSQL at {place}",
        detail="\n".join(f"{finding.name}: {finding.problem}. {finding.cure}" for finding in errors),
        hint="Look again with: atoll preflight DSN",
    )


def _of_server(facts: Facts) -> Iterator[Finding]:
    if facts.is_standby:
        yield Finding("pg_is_in_recovery", "the server is a standby", "Give the address of its primary.")
    if facts.settings.get("wal_level") != "logical":
        yield Finding(
            "wal_level",
            f"it is {facts.settings.get('wal_level')}",
            "alter system set wal_level = logical; (managed: rds.logical_replication = 1,"
            " cloudsql.logical_decoding = on, or the parameter of that name)",
            needs_restart=True,
        )
    if facts.settings.get("max_slot_wal_keep_size") == "-1":
        yield Finding(
            "max_slot_wal_keep_size",
            "it is not bounded: a peer that is away can fill the disk",
            "alter system set max_slot_wal_keep_size = '4GB'; select pg_reload_conf();",
            is_error=False,
        )


def _of_sizes(facts: Facts) -> Iterator[Finding]:
    for name, least in SIZES.items():
        told = facts.settings.get(name)
        if told is not None and int(told) < least:
            yield Finding(
                name,
                f"it is {told}, and eight peers need {least}",
                f"alter system set {name} = {least};",
                is_error=int(told) < 2,
                needs_restart=True,
            )


def _of_role(facts: Facts) -> Iterator[Finding]:
    role = f'"{facts.role}"'
    if not facts.may_replicate:
        yield Finding(
            "replication",
            f"role {role} may not replicate",
            f"alter role {role} replication; (Amazon RDS: grant rds_replication to {role};)",
        )
    if not facts.may_subscribe:
        yield Finding(
            "pg_create_subscription",
            f"role {role} may not subscribe",
            f"grant pg_create_subscription to {role};",
        )
    if not facts.may_make_roles_of_link:
        yield Finding(
            "createrole",
            f"role {role} may not make or change the link's role",
            f"alter role {role} createrole; where atoll_link exists:"
            f" grant atoll_link to {role} with admin option;",
        )
    if not facts.may_signal:
        yield Finding(
            "pg_signal_backend",
            f"role {role} may not end a peer's sender",
            f"grant pg_signal_backend to {role};",
        )
    if not facts.may_switch:
        yield Finding(
            "session_replication_role",
            f"role {role} may not switch it: triggers of your own fire when a parked change is merged later",
            f"grant set on parameter session_replication_role to {role};",
            is_error=False,
        )
    if not facts.is_superuser:
        yield Finding(
            "event triggers",
            f"role {role} may not make them: changes of a shared table's columns are noticed, not refused",
            "Nothing to do; change columns of shared tables as the documentation says.",
            is_error=False,
        )


def _of_database(facts: Facts) -> Iterator[Finding]:
    database = f'"{facts.database}"'
    if facts.encoding != "UTF8":
        yield Finding(
            "encoding", f"database {database} is {facts.encoding}", "Use a database with encoding UTF8."
        )
    if not facts.may_create:
        yield Finding(
            "create",
            f'role "{facts.role}" may not create in database {database}',
            f'grant create on database {database} to "{facts.role}";',
        )
    if facts.belongs_to is not None:
        yield Finding(
            "atoll.self",
            f'database {database} belongs to node "{facts.belongs_to}"',
            "Run that node's home, or give this node a database of its own on another server.",
        )
    if facts.slots_elsewhere:
        yield Finding(
            "slots",
            f"another database of the server has a node: slot {facts.slots_elsewhere[0]}",
            "Give each node a server of its own; names of slots belong to a whole server.",
        )
    if facts.other_owners:
        owners = ", ".join(f'"{owner}"' for owner in facts.other_owners)
        yield Finding(
            "ownership",
            f'tables of {owners} cannot be shared by role "{facts.role}"',
            f'To share them: grant {owners} to "{facts.role}";',
            is_error=False,
        )
    if facts.triggers_elsewhere:
        yield Finding(
            "triggers",
            f"tables have triggers that act on what arrives: {', '.join(facts.triggers_elsewhere)}",
            "alter table TABLE enable trigger NAME; unless that is meant.",
            is_error=False,
        )
