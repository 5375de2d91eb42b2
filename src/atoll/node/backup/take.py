"""Taking a backup of a node that runs: its database, by PostgreSQL's low-level interface, and its home.

The server goes on as ever. What changes while it is copied is mended, when the copy starts, by the WAL from
the backup's begin to its end, which is part of it; a slot keeps that WAL meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from atoll import __version__
from atoll.domain.errors import ConfigError, DataError
from atoll.identity import authority, certificate
from atoll.node.backup.archive import Writer
from atoll.node.backup.wal import Wal
from atoll.node.home import Home
from atoll.node.postgres.server import Postgres
from atoll.sql import query

# Their content belongs to a running server, or is made anew by the next one.
EMPTIED = ("pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp")
EMPTIED_TOO = ("pg_subtrans",)
LEFT_OUT = re.compile(
    r"postmaster\.(pid|opts)|backup_label(\.old)?|tablespace_map|pg_internal\.init.*|pgsql_tmp.*|.*\.new"
)
LAST = "global/pg_control"
FOLLOW_BYTES = 16 * 1024**2
HOME_FILES = ("home.json", "atoll.toml", "credentials", "upstream_keys.json", "incarnation.json")

Told = Callable[[int, int], None]


def take(
    home: Home, postgres: Postgres, target: Path, *, with_authority: bool, told: Told, now: datetime
) -> Path:
    """The backup's path: `target`, or a new file in it where that is a folder. Never over an existing one."""
    if not (home.data / "PG_VERSION").exists():
        raise ConfigError(
            "backup-foreign",
            "cannot back this node up: its database is on a server of its own",
            hint="Use that server's backups; they are recognised when they are put back.",
        )
    identity = certificate.load_identity(home.keys).me
    if target.is_dir():
        target = target / f"{identity.name}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.atoll-backup"
    if target.exists():
        raise _exists(target)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            writer = Writer(file)
            _copy_database(home, postgres, writer, told)
            has_authority = _copy_home(home, writer, with_authority)
            writer.finish(
                node=identity.name,
                number=identity.number,
                atoll_id=identity.atoll_id,
                postgres=home.facts.postgres,
                release=__version__,
                made_at=now.astimezone(UTC).isoformat(timespec="seconds"),
                has_authority=has_authority,
            )
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, target)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise ConfigError(
            "backup-not-written", f"could not write backup {target}", detail=f"{error.strerror or error}."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def _copy_database(home: Home, postgres: Postgres, writer: Writer, told: Told) -> None:
    try:
        with psycopg.connect(postgres.conninfo(), autocommit=True, connect_timeout=10) as connection:
            if _value(connection, "tablespaces"):
                raise ConfigError(
                    "backup-tablespaces",
                    "cannot back a node up that has tablespaces of its own",
                    hint="Move their tables into the default tablespace.",
                )
            wal = Wal(connection, home.data / "pg_wal", writer, f"atoll_backup_{os.getpid()}")
            wal.begin()
            _copy_data(home.data, writer, wal, told)
            writer.text("data/backup_label", wal.finish().encode())
    except psycopg.Error as error:
        raise DataError(
            "backup-interrupted",
            "could not back the node up: its database ended the backup",
            detail=f"{str(error).strip()}.",
            hint="Try again.",
        ) from error


def _value(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> Any:
    row = connection.execute(query("backup", name)).fetchone()
    return row[0] if row else None


def _copy_data(data: Path, writer: Writer, wal: Wal, told: Told) -> None:
    found = list(_files(data, data))
    total = sum(size for _, size in found)
    done = followed = 0
    for folder in sorted({path.parent for path, _ in found} | set(_folders(data))):
        writer.folder(f"data/{folder.relative_to(data)}" if folder != data else "data")
    for path, size in sorted(found, key=lambda entry: str(entry[0].relative_to(data)) == LAST):
        try:
            with path.open("rb") as source:
                writer.file(f"data/{path.relative_to(data)}", source, size)
        except FileNotFoundError:
            continue  # dropped meanwhile: the WAL says so too
        done += size
        told(done, total)
        if done - followed >= FOLLOW_BYTES:
            wal.follow()
            followed = done


def _files(data: Path, folder: Path) -> Iterator[tuple[Path, int]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if LEFT_OUT.fullmatch(entry.name) or entry.is_symlink():
            continue
        if entry.is_dir():
            if folder == data and entry.name in (*EMPTIED, *EMPTIED_TOO):
                continue
            yield from _files(data, path)
        elif entry.is_file():
            try:
                yield path, entry.stat().st_size
            except FileNotFoundError:
                continue


def _folders(data: Path) -> Iterator[Path]:
    """Folders that have to be there, whether or not something is in them."""
    for place, names, _ in os.walk(data):
        yield from (Path(place) / name for name in names if not LEFT_OUT.fullmatch(name))
        if Path(place) == data:
            names[:] = [name for name in names if name not in (*EMPTIED, *EMPTIED_TOO)]


def _copy_home(home: Home, writer: Writer, with_authority: bool) -> bool:
    """The files around the database; says whether the authority's key is among them."""
    keys = sorted(path for path in home.keys.iterdir() if path.is_file() and not path.name.startswith("."))
    wanted = [path for path in keys if with_authority or path.name != authority.KEY_FILE]
    writer.folder("keys")
    for path in [home.path / name for name in HOME_FILES if (home.path / name).exists()] + wanted:
        writer.text(str(path.relative_to(home.path)), path.read_bytes())
    return any(path.name == authority.KEY_FILE for path in wanted)


def _exists(target: Path) -> ConfigError:
    return ConfigError(
        "backup-exists",
        f"cannot write backup {target}: there is such a file",
        hint="Choose another name, or a folder, in which each backup gets a name of its own.",
    )
