"""The folder of a node: where it is, what may become one, and who holds it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.domain.errors import ConfigError
from atoll.node import credentials
from atoll.node.account import Account, current_account, first_closed
from atoll.node.home import (
    LONGEST_SOCKET,
    ROOT_HOME,
    SOCKET_PATH_BYTES_MAX,
    check_free,
    choose_home,
    lay_out,
    make_home,
    open_home,
    write_file,
)
from atoll.node.lock import HomeLock, holder

STRANGER = Account("stranger", 54321, 54321, ())
HOLD = """
import sys, time
from pathlib import Path
from atoll.node.lock import HomeLock

lock = HomeLock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
time.sleep(600)
"""


def test_a_made_home_is_opened_again_as_it_was(tmp_path: Path) -> None:
    made = make_home(tmp_path, 18, current_account())
    assert open_home(tmp_path) == made
    assert made.facts.postgres == 18
    for folder in (made.path, made.keys, made.logs, made.run, made.peers):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_sockets_of_a_long_path_are_in_a_short_private_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    home = make_home(deep, 18, current_account())
    try:
        assert len(os.fsencode(home.run)) + len(LONGEST_SOCKET) <= SOCKET_PATH_BYTES_MAX
        assert stat.S_IMODE(home.run.stat().st_mode) == 0o700
        assert open_home(deep).run == home.run
    finally:
        home.peers.rmdir()
        home.run.rmdir()


def test_a_run_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path, 18, current_account())
    home.peers.rmdir()
    home.run.rmdir()
    home.run.symlink_to("/tmp")
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        lay_out(home, current_account())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layout": 1}', "1", '{"layout": 1, "postgres": []}'])
def test_a_damaged_home_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "home.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_home(tmp_path)
    assert caught.value.code == "home-damaged"


def test_a_home_killed_while_it_was_made_may_be_made_again(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("{}")
    (tmp_path / "home.json.123.new").write_text("{")
    check_free(tmp_path)
    (tmp_path / "notes").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        check_free(tmp_path)


def test_a_file_is_not_a_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_free(tmp_path / "file")


def test_the_lock_ends_with_its_process_and_names_it(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == b"held\n"
        assert holder(tmp_path) == {"pid": process.pid}
        with pytest.raises(ConfigError, match=f"pid {process.pid}") as caught:
            HomeLock(tmp_path).take()
        assert caught.value.code == "home-in-use"
        process.kill()
        process.wait()
        assert holder(tmp_path) is None
    lock = HomeLock(tmp_path)
    lock.take()
    lock.tell({"pid": 1, "http": "a longer word than before"})
    lock.tell({"pid": 2})
    assert holder(tmp_path) == {"pid": 2}
    lock.release()
    assert holder(tmp_path) is None


def test_a_closed_folder_on_the_way_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    open_, closed = tmp_path / "open", tmp_path / "open" / "closed"
    closed.mkdir(parents=True)
    open_.chmod(0o755)
    closed.chmod(0o700)
    own = Account("own", os.geteuid() or 4242, os.getegid(), ())
    # Folders above the test's own may be closed to a stranger; what matters is the order.
    above = first_closed(open_, STRANGER)
    assert above != open_
    assert first_closed(closed / "deeper", STRANGER) == (above or closed)
    if os.geteuid() == 0:
        assert first_closed(closed, Account("root", 0, 0, ())) is None
        os.chown(closed, own.uid, -1)
    assert first_closed(closed, own) in (above, None)


def test_the_default_home_moves_where_the_server_cannot_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "me"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(closed))
    choice = choose_home(None, {}, STRANGER)
    assert choice.path == ROOT_HOME
    assert choice.note
    assert str(closed) in choice.note
    assert choose_home(None, {}, Account("root", 0, 0, ())).path == closed / ".atoll"
    with pytest.raises(ConfigError, match="cannot reach the home"):
        choose_home(str(closed / "home"), {}, STRANGER)
    with pytest.raises(ConfigError, match="cannot reach the home"):
        choose_home(None, {"ATOLL_HOME": str(closed / "home")}, STRANGER)


def test_a_flag_wins_over_the_variable() -> None:
    root = Account("root", 0, 0, ())
    assert choose_home("/a/flag", {"ATOLL_HOME": "/a/variable"}, root).path == Path("/a/flag")
    assert choose_home(None, {"ATOLL_HOME": "/a/variable"}, root).path == Path("/a/variable")


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    write_file(tmp_path / "f", "one")
    write_file(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_the_password_is_made_once_and_escaped_in_the_dsn(tmp_path: Path) -> None:
    home = make_home(tmp_path, 18, current_account())
    assert credentials.password(home) == credentials.password(home)
    home.credentials.write_text(json.dumps({"app": "a/b c@d"}))
    assert "app:a%2Fb%20c%40d@/atoll?host=" in credentials.dsn(home)
    assert "&port=6000" in credentials.dsn(home, 6000)
    assert "postgresql://atoll@/" in credentials.dsn(home, is_admin=True)
    home.credentials.write_text("not json")
    with pytest.raises(ConfigError, match="cannot understand"):
        credentials.password(home)
