"""A disk without one free byte, a real one: reads go on, over a restart as well, and writes come back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults import fill
from support.fix_home import NodeStarter, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    """A file system of its own with room for little more than a node."""
    folder = open_folder / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=280m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_on_a_disk_without_a_byte_reads_go_on(start_node: NodeStarter, small_disk: Path) -> None:
    home = small_disk / "home"
    node = start_node("--disk-floor", "48MB", home=home)
    node.sql("create table fruit (name text)")
    node.sql("insert into fruit values ('fig')")
    ballast = fill(small_disk)
    eventually(lambda: node.get("/readyz")[0] == 503, "the node says that the disk is full")
    assert "fig" in node.sql("table fruit").stdout
    assert "read-only transaction" in node.sql("insert into fruit values ('pear')").stderr
    node.end(signal.SIGKILL)
    again = start_node("--disk-floor", "48MB", home=home)
    assert "fig" in again.sql("table fruit").stdout
    assert again.get("/readyz")[0] == 503
    ballast.unlink()
    eventually(lambda: again.get("/readyz")[0] == 200, "the node says that there is room")
    assert again.sql("insert into fruit values ('plum')").returncode == 0
    assert again.end() == 0
