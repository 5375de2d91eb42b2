"""Logs: bounded files, lines for programs and for people, and no harm when they cannot be written."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from atoll.cli.logs import readable
from atoll.observe.logs import AGAIN_SECONDS, KINDS_MAX, RotatingFile, Seldom, start_logging, stop_logging


def test_a_rotating_file_keeps_a_bounded_number_of_bounded_files(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", bytes_max=100, kept=3)
    for number in range(100):
        file.write(b"%08d\n" % number)
    file.close()
    sizes = {entry.name: entry.stat().st_size for entry in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1", "log.2", "log.3"}
    assert all(size <= 100 for size in sizes.values())
    assert (tmp_path / "log").read_text().endswith("00000099\n")


def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    RotatingFile(tmp_path / "missing" / "log").write(b"lost\n")


def test_the_log_is_json_in_the_file_and_plain_for_people(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start_logging(tmp_path / "node.log", "info", "text")
    log = logging.getLogger("atoll.test")
    log.info("the sea is %s", "calm", extra={"peer": "two"})
    log.debug("not this")
    try:
        raise ValueError("a wave")
    except ValueError:
        log.exception("it broke")
    stop_logging()
    first, second = [json.loads(line) for line in (tmp_path / "node.log").read_text().splitlines()]
    assert (first["message"], first["level"], first["peer"]) == ("the sea is calm", "info", "two")
    assert "ValueError: a wave" in second["trace"]
    shown = capfd.readouterr().err
    assert "the sea is calm\n" in shown
    assert "not this" not in shown
    assert readable(json.dumps(first)).endswith(" info: the sea is calm")


@pytest.mark.parametrize("line", ["", "not json", "[]", "1", "{}"])
def test_a_line_of_somebody_else_is_shown_as_it_is(line: str) -> None:
    assert readable(line) == line


def test_a_library_says_the_same_once_a_minute_and_then_how_often_it_was() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)

    def said(name: str, message: str, error: object = None) -> int | None:
        """How often it was left out before, where it is said."""
        record = logging.makeLogRecord({"name": name, "msg": message, "args": (), "exc_info": error})
        return getattr(record, "unsaid", 0) if seldom.filter(record) else None

    assert [said("uvicorn.error", "full") for _ in range(4)] == [0, None, None, None]
    assert (said("uvicorn.error", "odd"), said("psycopg.pool", "full")) == (0, 0)
    assert [said("atoll.web", "ours") for _ in range(2)] == [0, 0]
    assert [said("uvicorn.error", "full", (KeyError, KeyError(), None)) for _ in range(2)] == [0, 0]
    now = AGAIN_SECONDS
    assert [said("uvicorn.error", "full") for _ in range(2)] == [3, None]
    for number in range(3 * KINDS_MAX):
        said("uvicorn.error", f"kind {number}")
    assert len(seldom._said) <= KINDS_MAX
