"""The text of PostgreSQL's configuration: settings, who may log in, which user is which role. Pure.

The sizes are for eight peers and room to spare: each needs a sender, a slot and, the other way, an apply
worker, an origin and now and then two workers that copy tables. Who may log in: the node's own users by what
the kernel says about them, everybody else by password, and nobody for a physical copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.node.values import Address

OWNER = "atoll"
LINK_ROLE = "atoll_link"
APP_ROLE = "app"
DATABASE = "atoll"
DEFAULT_PORT = 5432
DISK_FILE = "atoll.disk.conf"
DISK_FILE_BYTES = 64


@dataclass(frozen=True)
class Wishes:
    """What the settings of the node say about its PostgreSQL."""

    major: int
    run: Path
    listen: Address | None
    wal_keep: int
    is_durable: bool = True

    @property
    def port(self) -> int:
        return self.listen.port if self.listen else DEFAULT_PORT


def settings(wishes: Wishes) -> dict[str, str]:
    """Every setting that differs from PostgreSQL's default."""
    found = {
        "listen_addresses": (wishes.listen.host if wishes.listen else ""),
        "port": str(wishes.port),
        "unix_socket_directories": str(wishes.run),
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "128MB",
        "huge_pages": "off",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_checkpoints": "off",
        "logging_collector": "off",
        "password_encryption": "scram-sha-256",
        "wal_level": "logical",
        # A commit of the apply worker is not waited for; a relay sees it when the WAL writer has run.
        "wal_writer_delay": "10ms",
        "wal_retrieve_retry_interval": "200ms",
        "max_slot_wal_keep_size": f"{max(1, wishes.wal_keep // 1024**2)}MB",
        "wal_sender_timeout": "30s",
        "wal_receiver_timeout": "30s",
        "max_worker_processes": "40",
        "max_wal_senders": "32",
        "max_replication_slots": "48",
        "max_logical_replication_workers": "28",
        "max_sync_workers_per_subscription": "2",
    }
    if wishes.major >= 18:
        found["max_active_replication_origins"] = "48"
        # Reads by the backends themselves: no three more processes on a small machine.
        found["io_method"] = "sync"
    if not wishes.is_durable:
        found |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    return found


def conf_text(wishes: Wishes) -> str:
    lines = ["# Written by the node at each start; what you change here is lost. Use ALTER SYSTEM."]
    lines += [f"{name} = {_quoted(value)}" for name, value in settings(wishes).items()]
    lines += [f"include_if_exists = '{DISK_FILE}'"]
    return "\n".join(lines) + "\n"


def command_line(wishes: Wishes) -> list[str]:
    """The settings that ALTER SYSTEM must not be able to change, because the node stands on them."""
    fixed = ("listen_addresses", "port", "unix_socket_directories", "wal_level", "unix_socket_permissions")
    found: Mapping[str, str] = settings(wishes)
    return [part for name in fixed for part in ("-c", f"{name}={found[name]}")]


def hba_text(wishes: Wishes) -> str:
    own = f"{OWNER},{LINK_ROLE}"
    lines = [
        "# Written by the node at each start. No line allows a physical copy of the server.",
        f"local all {own} peer map=atoll",
        "local all all scram-sha-256",
    ]
    if wishes.listen:
        lines += [f"host all {own} all reject", "host all all all scram-sha-256"]
    return "\n".join(lines) + "\n"


def ident_text(users: Iterable[str]) -> str:
    lines = ["# Written by the node at each start: which user of the machine may be which role."]
    for user in sorted(set(users)):
        quoted = '"' + user.replace('"', '""') + '"'
        lines += [f"atoll {quoted} {role}" for role in (OWNER, LINK_ROLE)]
    return "\n".join(lines) + "\n"


def disk_text(is_full: bool) -> bytes:
    """Always as long, so that it can be written in place on a disk that is full."""
    text = b"default_transaction_read_only = on\n" if is_full else b"# the disk has room\n"
    return text.ljust(DISK_FILE_BYTES - 1, b"#") + b"\n"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
