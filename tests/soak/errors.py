"""What nodes and their servers may complain of while faults hit them.

Whatever is not in this list is of a kind that nobody has looked at, and fails the run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SERVER = re.compile(r" (?:ERROR|FATAL|PANIC):  (.*)$")
# Two processes of a server may write into one line, in the middle of it.
BEGINS = re.compile(r"(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ UTC \[)")
EXPECTED = tuple(
    re.compile(pattern)
    for pattern in (
        # A peer, or the way to it, is away.
        r'^apply worker for subscription "atoll_from_\d+" (failed|could not connect)',
        r"^could not (receive data|send data|start WAL streaming|connect to the publisher)",
        r"^could not connect to \d",
        r"^there is no link to node ",
        r'^replication slot "(atoll_to_\d+|pg_\d+_sync_\d+_\d+)" (does not exist|is active for PID)',
        r"^replication origin with ID \d+ is already active for PID",
        r"^terminating (walsender|logical replication)",
        r"^terminating (connection|background worker) due to (administrator|unexpected postmaster)",
        r"^terminating autovacuum process due to administrator",
        r"^connection to client lost$",
        r"^unexpected EOF on client connection",
        r"^canceling statement due to (user request|lock timeout|statement timeout)",
        # The server starts, stops, or was killed.
        r"^the database system is (starting up|shutting down|in recovery mode|not yet accepting connections)",
        r"^canceling authentication due to timeout$",  # somebody logs in while it stops
        r"^lock file .* is empty",
        r"^could not (create lock file|write lock file)",
        r"^terminating connection because of crash of another server process",
        # Writers meet each other, or an arriving change.
        r"^deadlock (detected|with an application: the transaction starts again)",
        r"^could not serialize access",
        # The disk is full (a line may be cut off by another one).
        r"No space left on d",
        r"^cannot exec(u$|ut$|ute$|ute .*)",
        # Who was put back asks under its new number before its row has come.
        r"^node \d+ is no member that is known here$",
        # A publication is made anew while it is read; a relay is told by another way first.
        r'^publication "atoll_to_\d+" does not exist',
        r"^node \d+ gets its changes from other nodes",
        # A column that the others do not know yet.
        r"^could not merge a change of .* is not known here$",
    )
)


def unknown_errors(home: Path) -> Counter[str]:
    """The kinds of errors that a node has logged and that no fault explains, numbers left out."""
    found: Counter[str] = Counter()
    for file in sorted(home.glob("logs/postgres.log*")):
        lines = (
            piece for line in file.read_text(errors="replace").splitlines() for piece in BEGINS.split(line)
        )
        messages = (match[1] for line in lines if (match := SERVER.search(line)))
        found.update(_kinds(messages))
    for file in sorted(home.glob("logs/node.log*")):
        for line in file.read_text(errors="replace").splitlines():
            said = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            if said.get("level") in ("error", "critical"):
                found.update(_kinds([said["message"]]))
    return found


def _kinds(messages: Iterable[str]) -> list[str]:
    odd = (text for text in messages if not any(known.search(text) for known in EXPECTED))
    return [re.sub(r"\d+", "N", text)[:160] for text in odd]
