"""Processes of an earlier server: known by the folder they work in, never by a number in a file alone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.node.postgres.leftover import end_leftover, postmaster_of, processes_in


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the data folder."""
    process = subprocess.Popen(["sleep", "600"], cwd="/")
    yield process
    process.kill()
    process.wait()


def test_a_stranger_with_the_pid_of_a_stale_file_is_left_alone(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{stranger.pid}\n{tmp_path}\n")
    assert postmaster_of(tmp_path) is None
    assert asyncio.run(end_leftover(tmp_path)) is False
    assert stranger.poll() is None
    assert not (tmp_path / "postmaster.pid").exists()


def test_a_stale_file_of_a_process_that_is_gone_stays_for_postgres_to_check(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "postmaster.pid").write_text(f"{gone.pid}\n")
    assert asyncio.run(end_leftover(tmp_path)) is False
    assert (tmp_path / "postmaster.pid").exists()


@pytest.mark.parametrize("text", [None, "", "garbage", "-1\n"])
def test_without_a_readable_pid_nothing_is_ended(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "postmaster.pid").write_text(text)
    assert asyncio.run(end_leftover(tmp_path)) is False


def test_a_server_that_works_in_the_folder_is_ended(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "600"], cwd=tmp_path, start_new_session=True)
    (tmp_path / "postmaster.pid").write_text(f"{left.pid}\n")
    assert processes_in(tmp_path) == [left.pid]
    assert postmaster_of(tmp_path) == left.pid
    assert asyncio.run(end_leftover(tmp_path)) is True
    assert left.wait() == -signal.SIGINT
    assert processes_in(tmp_path) == []
