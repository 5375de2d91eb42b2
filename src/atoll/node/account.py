"""Which operating-system user runs PostgreSQL, and which paths that user can reach.

PostgreSQL refuses to run as root, so a node run by root drops to a user of its own for the server. Everything
else runs as whoever started the node. Reachability is judged from owners and mode bits along the path.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from atoll.domain.errors import ConfigError

SYSTEM_USER = "atoll"
SPARE_USER = "postgres"


@dataclass(frozen=True)
class Account:
    """A user of the operating system."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def is_self(self) -> bool:
        return self.uid == os.geteuid()

    def own(self, path: Path) -> None:
        """Hand a path over to this user, where that is possible and needed."""
        if not self.is_self and os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def current_account() -> Account:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError as error:
        raise ConfigError(
            "user-unknown",
            f"user {uid} has no name on this machine",
            detail="PostgreSQL recognises the node by the name of its user.",
            hint="Add the user to /etc/passwd, or run the node as another user.",
        ) from error
    return Account(name, uid, os.getegid(), tuple(os.getgroups()))


def server_account() -> Account:
    """The user that runs PostgreSQL: whoever runs the node, or a system user where that is root."""
    if os.geteuid() != 0:
        return current_account()
    for name in (SYSTEM_USER, SPARE_USER):
        found = _look_up(name)
        if found is None and name == SYSTEM_USER:
            found = _create(name)
        if found is not None:
            return found
    raise ConfigError(
        "no-server-user",
        "cannot run PostgreSQL as root",
        detail=f'There is no user "{SYSTEM_USER}" or "{SPARE_USER}", and none could be made.',
        hint=f"Run: useradd --system {SYSTEM_USER}; or run the node as an ordinary user.",
    )


def first_closed(path: Path, account: Account) -> Path | None:
    """The first folder on the way to an absolute path that the account may not pass, if there is one."""
    if account.uid == 0:
        return None
    for folder in (*reversed(path.parents), path):
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        except PermissionError:
            return folder
        if stat.S_ISDIR(status.st_mode) and not _may_pass(status, account):
            return folder
    return None


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid or status.st_gid in account.groups:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _look_up(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def _create(name: str) -> Account | None:
    program = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        return None
    command = [program, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    subprocess.run(command, capture_output=True, timeout=30, check=False)
    return _look_up(name)
