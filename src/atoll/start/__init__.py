"""The models that come with the package, so that a node answers in its first minute without a network.

start.json names each with its hash; examples/models has the program that trains it and its card. Loading
and serving them is left to others: here are only files and what is known of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class StartModel:
    """One shipped file. The skills are words of the runtimes' contract: generate, embed, infer."""

    name: str
    path: Path
    sha256: str
    bytes: int
    description: str
    license: str
    data: str
    skills: tuple[str, ...]
    input: str
    labels: tuple[str, ...] = ()


def start_models() -> tuple[StartModel, ...]:
    """All that start.json names, in its order."""
    listed = json.loads((HERE / "start.json").read_text("utf-8"))
    return tuple(
        StartModel(
            path=HERE / entry.pop("file"),
            skills=tuple(entry.pop("skills")),
            labels=tuple(entry.pop("labels", ())),
            **entry,
        )
        for entry in listed
    )
