"""What all nodes offer of their models, as a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLES = (
    "model",
    "node",
    "version",
    "skills",
    "context",
    "state",
    "queue",
    "tokens/s",
    "region",
    "price",
    "way",
)


def cells(row: dict[str, Any]) -> list[str]:
    adapters = [f"{row['model']}:{name}" for name in row["adapters"]]
    round_trip = f"{row['rtt_ms']:.1f} ms" if row["rtt_ms"] is not None else "linked"
    return [
        ", ".join([row["model"], *adapters]),
        row["node"],
        row["version"],
        ", ".join(row["skills"]),
        f"{row['context_tokens'] or ''}",
        row["state"],
        f"{row['queue']}",
        f"{row['tokens_per_second']:.0f}" if row["tokens_per_second"] is not None else "",
        row["region"],
        f"{row['price_in']:g}/{row['price_out']:g}" if row["is_upstream"] else "",
        "here" if row["is_here"] else round_trip if row["is_linked"] else "no link",
    ]


def print_offers(rows: Sequence[dict[str, Any]]) -> None:
    from atoll.cli.rows import print_table

    print_table(TITLES, [cells(row) for row in rows], ("context", "queue", "tokens/s"))
