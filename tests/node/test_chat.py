"""A conversation with a model of a node, as somebody has it who sits at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.fix_home import MYSELF, NodeStarter, atoll_command, clean_environment

SECONDS_MAX = 60.0
END = b"\x04"


class Terminal:
    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self._shown = ""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, pattern: str) -> str:
        """What is shown up to there, since the last time."""
        ends_at = time.monotonic() + SECONDS_MAX
        while (found := re.search(pattern, self._shown)) is None:
            assert time.monotonic() < ends_at, f"no {pattern!r} in {self._shown!r}"
            if select.select([self._master], [], [], 1.0)[0]:
                self._shown += self._read()
        shown, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return shown

    def _read(self) -> str:
        try:
            return os.read(self._master, 65536).decode(errors="replace")
        except OSError as error:  # its last word was read before
            raise AssertionError(f"it ended with {self._shown!r}") from error


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        atoll_command(MYSELF, arguments),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=clean_environment() | {"COLUMNS": "500"},
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.slow
def test_a_conversation_goes_on_after_what_is_too_long_and_forgets_its_beginning(
    start_node: NodeStarter,
) -> None:
    node = start_node()
    with terminal("chat", "--model", "nobody", "--home", str(node.home)) as shown:
        assert ">" not in shown.until("code: model-unknown"), "before anything is asked"
        assert shown.process.wait(SECONDS_MAX) == 1
    with terminal("chat", "--tokens", "4", "--home", str(node.home)) as shown:
        shown.until("> ")
        for _ in range(2):
            shown.type(b"word " * 200 + b"\n")
            assert "forgotten" not in shown.until("\n> ")
        shown.type(b"word " * 200 + b"\n")
        assert "what was said first is forgotten" in shown.until("\n> ")
        shown.type(b"word " * 700 + b"\n")
        assert "code: prompt-too-long" in shown.until("\n> ")
        shown.type(b"What is a receipt?\n")
        assert "error" not in shown.until("\n> ")
        shown.type(END)
        assert shown.process.wait(SECONDS_MAX) == 0
