"""The rows of a tuning: weights in pieces, out and in again, and the averaging by the node that keeps it.

How a statement is run is handed in, so this knows no connection.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.domain.errors import DataError
from atoll.training.rounds import PIECE_BYTES, PIECES_MAX, Part, Wish, averaged, is_due, problem, read_wish
from atoll.training.steps import Say

if TYPE_CHECKING:
    from atoll.training.rounds import Weights

START = 0  # the node whose parts are what a round begins with
Fetch = Callable[[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Tuning:
    name: str
    base: str
    wish: Wish
    keeper: int
    keeper_name: str
    me: int
    nodes: int
    is_ended: bool


def find(fetch: Fetch, name: str) -> Tuning:
    rows = fetch("one", (name,))
    if not rows:
        raise DataError(
            "tuning-unknown",
            f'there is no tuning "{name}" on this node',
            hint="See: atoll round list",
        )
    row = rows[0]
    return Tuning(
        name=name,
        base=row["base"],
        wish=read_wish(row["wish"]),
        keeper=row["keeper"],
        keeper_name=row["keeper_name"],
        me=row["me"],
        nodes=row["nodes"],
        is_ended=row["is_ended"],
    )


def newest(fetch: Fetch, name: str) -> int | None:
    """The newest round that has begun, as far as it is here."""
    return max((row["round"] for row in fetch("parts", (name,)) if row["node"] == START), default=None)


def sent(fetch: Fetch, tuning: Tuning) -> int | None:
    """The newest round that this node has sent its part of."""
    rows = fetch("parts", (tuning.name,))
    return max((row["round"] for row in rows if row["node"] == tuning.me), default=None)


def put(fetch: Fetch, name: str, number: int, node: int, rows: int, weights: Weights) -> bool:
    """False where the tuning has ended."""
    data = _packed(weights)
    pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    if len(pieces) > PIECES_MAX:
        raise DataError(
            "tuning-large",
            f"an adapter of {len(data) / 1024**2:.0f} MB is more than rows should carry",
            hint="Open the tuning with a smaller --rank.",
        )
    told = {"name": name, "round": number, "node": node, "rows": rows, "pieces": len(pieces)}
    told["hash"] = hashlib.sha256(data).hexdigest()
    return all(fetch("put", told | {"piece": at, "weights": one}) for at, one in enumerate(pieces))


def get(fetch: Fetch, name: str, number: int, node: int) -> Weights | None:
    """None where not all of it is here, or it is not what was sent."""
    rows = fetch("weights", {"name": name, "round": number, "node": node})
    data = b"".join(row["weights"] for row in rows)
    if not rows or hashlib.sha256(data).hexdigest() != rows[0]["hash"]:
        return None
    return _unpacked(data)


def _packed(weights: Weights) -> bytes:
    import numpy as np

    file = io.BytesIO()
    named: dict[str, Any] = dict(weights)
    np.savez(file, allow_pickle=False, **named)
    return file.getvalue()


def _unpacked(data: bytes) -> Weights | None:
    """None where it is not what it should be: members may err."""
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as listed:
            if sum(one.file_size for one in listed.infolist()) > PIECES_MAX * PIECE_BYTES:
                return None
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError):
        return None


def average(fetch: Fetch, tuning: Tuning, say: Say) -> bool:
    """By the keeper: begins the next round where the newest is over. Whether it did."""
    rows = fetch("parts", (tuning.name,))
    begun = {row["round"]: row for row in rows if row["node"] == START}
    if not begun or tuning.is_ended or max(begun) >= tuning.wish.rounds:
        return False
    number = max(begun)
    have = {row["node"]: row["rows"] for row in rows if row["round"] == number and row["node"] != START}
    if not is_due(len(have), tuning.nodes, begun[number]["age_seconds"], tuning.wish):
        return False
    before = get(fetch, tuning.name, number, START)
    if before is None:
        return False
    parts = []
    for node, count in have.items():
        part = Part(node, count, get(fetch, tuning.name, number, node) or {})
        if (why := problem(part, before, tuning.wish)) is not None:
            say(f"round {number + 1}: the part of node {node} does not count: {why}")
        else:
            parts.append(part)
    if len(parts) < min(tuning.wish.least, tuning.nodes):
        return False
    put(
        fetch,
        tuning.name,
        number + 1,
        START,
        sum(part.rows for part in parts),
        averaged(before, parts, tuning.wish),
    )
    fetch("forget", {"name": tuning.name, "round": number})
    if number + 1 == tuning.wish.rounds:
        fetch("end", (tuning.name,))
    say(f"round {number + 1} of {tuning.wish.rounds}: the mean of {len(parts)} of {tuning.nodes} nodes")
    return True
