"""The table of bounds in ARCHITECTURE.md has the numbers that the program has."""

from __future__ import annotations

import re

import pytest

from atoll.analytics import answer, merge, planner, route, service
from atoll.analytics.asking import BYTES_IN_ALL_MAX
from atoll.cli import demo, rows
from atoll.data.consistency import receipts
from atoll.identity import token
from atoll.link import compression, gateway, startup
from atoll.link.settings import LinkSettings
from atoll.node import search as search_of_node
from atoll.node.mesh import asking, orphans, pulse, reconcile
from atoll.node.postgres import course, disk, supervise
from atoll.observe import logs
from atoll.registry.formats import source
from atoll.runtimes.onnx.wants import Wants
from atoll.web import app, connection, feed, language, plain, tensor_wire, tensors
from atoll.web import search as search_over_http
from atoll.web.questions import BODY_BYTES_MAX
from docs import pages

LINK = LinkSettings()
ANSWER = answer.Bounds()
WANTS = Wants()
NUMBERS = ("no", "one", "two", "three", "four", "five")
TABLE = pages.section(pages.read("ARCHITECTURE.md"), "## Bounds")
BOUNDS = {
    "buckets of a receipt": f"{receipts.BUCKETS_MIN} to {receipts.BUCKETS_MAX:,};"
    f" {receipts.ROWS_PER_STEP_MAX:,}",
    "looking for orphans": f"stretches of {orphans.ROWS_PER_STRETCH:,} rows; {orphans.SHARE * 100:g} % of a"
    f" core; {orphans.OPEN_MAX:,} listed, {orphans.HANDLED_AT_ONCE_MAX} dealt with at a time",
    "pause between two starts": f"{course.PAUSE_SECONDS_MIN:g} s, doubling to {course.PAUSE_SECONDS_MAX:g} s",
    "stopping PostgreSQL": f"{supervise.FAST_STOP_SECONDS_MAX:g} s fast",
    "log files": f"{logs.FILE_BYTES_MAX // 1024**2} MB each, {NUMBERS[logs.FILES_KEPT]} older",
    "what a library says over and over": (
        f"once in {logs.AGAIN_SECONDS:g} s, with how often it was; {logs.KINDS_MAX}"
    ),
    "HTTP connections": (
        f"{app.CONNECTIONS_MAX}; {app.WAITING_MAX:,}; {app.KNOWN_MAX:,}, {app.KNOWN_LETTERS_MAX}"
    ),
    "until the head of a request is there": (
        f"{connection.HEAD_SECONDS_MAX:g} s; {connection.IDLE_SECONDS_MAX:g} s;"
        f" {connection.STILL_SECONDS_MAX:g} s"
    ),
    "the head of a request": f"{plain.HEAD_BYTES_MAX // 1024} kB",
    "places that a whole answer is asked for": str(language.WHOLE_TRIES_MAX),
    "a command that waits": f"{rows.SETTLE_SECONDS_MAX:g} s",
    "one step of tending a subscription": f"{reconcile.STEP_SECONDS_MAX:g} s",
    "pause before dialling": f"{LINK.backoff_first_seconds:g} s, doubling to {LINK.backoff_last_seconds:g} s",
    "a silent peer": f"{LINK.silent_after_seconds:g} s, asked every {LINK.ping_every_seconds:g} s",
    "TLS handshake and greeting": f"{LINK.greeting_seconds_max:g} s; {LINK.strangers_max} at once",
    "requests in flight on a control connection": str(LINK.requests_max),
    "a control message": f"{LINK.message_bytes_max // 1024**2} MB; {LINK.greeting_bytes_max // 1024} kB",
    "streams per peer": str(LINK.streams_max),
    "bytes held per stream": f"one chunk of {LINK.chunk_bytes_max // 1024} kB",
    "compression window": f"{compression.WINDOW_BYTES_MAX // 1024} kB",
    "a local connection": f"{gateway.LINK_SECONDS_MAX:g} s; {LINK.streams_max} of them",
    "a startup packet": f"{startup.STARTUP_BYTES_MAX // 1000} kB; {startup.QUERY_BYTES_MAX // 1024**2} MB",
    "a token": f"{token.LENGTH_MAX // 1024} kB",
    "an answer to an errand": f"{asking.ANSWER_SECONDS_MAX:g} s",
    "marks that applications ask for": f"{1 / pulse.ASKED_EVERY_SECONDS:g} a second",
    "feeds read over HTTP": f"{feed.READERS_MAX}; {feed.UNCONFIRMED_MAX:,} rows or"
    f" {feed.UNCONFIRMED_SECONDS_MAX:g} s; {feed.SLOW_SECONDS_MAX:g} s",
    "an ONNX model": f"{WANTS.at_once_max}; {WANTS.waiting_max}; {WANTS.wait_seconds_max:g} s;"
    f" {WANTS.run_seconds_max:g} s",
    "rows of waiting requests": f"{WANTS.merged_rows_max}; {WANTS.texts_max:,}",
    "the body of an inference request": f"{tensors.BODY_BYTES_MAX // 1024**2} MB;"
    f" {tensor_wire.JSON_BYTES_MAX // 1024**2} MB; {tensors.BODIES_BYTES_MAX // 1024**2} MB;"
    f" {tensors.BODY_SECONDS_MAX:g} s",
    "an answer with tensors": f"{tensor_wire.ANSWER_BYTES_MAX // 1024**2} MB;"
    f" {tensor_wire.JSON_ELEMENTS_MAX:,}",
    "entries in a model file": f"{source.STEPS_MAX:,}; {source.PIECE_BYTES_MAX // 1024**2} MB",
    "spare file": f"{disk.SPARE_BYTES // 1024**2} MB",
    "an answer to a question": f"{ANSWER.rows_max:,} rows, {ANSWER.bytes_max // 1024**2} MB;"
    f" pages of {ANSWER.page_bytes_max // 1024} kB",
    "the answers to a question": f"{BYTES_IN_ALL_MAX // 1024**2} MB; merged within {merge.MEMORY[:-2]} MB",
    "questions at once": f"{service.ASKED_AT_ONCE_MAX} asked, {ANSWER.at_once_max} answered;"
    f" {ANSWER.seconds_max:g} s each; a page waits {ANSWER.idle_seconds_max:g} s",
    "steps of a question": str(route.STEPS_MAX),
    "a question, as": f"{planner.SQL_LENGTH_MAX:,} characters; {BODY_BYTES_MAX // 1024} kB over HTTP",
    "searches over HTTP": f"{search_of_node.SEARCHES_MAX}; {search_of_node.SECONDS_MAX} s;"
    f" {search_over_http.BODY_BYTES_MAX // 1024} kB",
    "the demo": f"{demo.WRITES_MAX:,} writes a second per node, {demo.SECONDS_MAX / 3600:g} h of cut",
}


@pytest.mark.parametrize("what", BOUNDS)
def test_a_bound_is_what_the_table_says(what: str) -> None:
    row = re.search(rf"^\| {re.escape(what)}.*? \| (.*?) \|", TABLE, re.MULTILINE)
    assert row, f"no bound for {what}"
    assert BOUNDS[what] in row[1]
