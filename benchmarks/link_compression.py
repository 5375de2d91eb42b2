"""When does compressing a link pay?

Packs what replication sends (one-row changes, one message each; and 64 KiB pieces of bulk changes; and bytes
that do not compress) with the link's own packer, and compares with sending them raw in the same run: ratio,
processor time per megabyte, time added to each message, and the network rate below which packing is faster.

    python benchmarks/link_compression.py [--megabytes 32] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import struct
import time
from collections.abc import Iterator

from atoll.link.compression import LEVEL, WINDOW_LOG, Packer, Unpacker
from atoll.link.wire import HEADER_BYTES, Kind, encode_header

MEGABYTE = 1024 * 1024
PIECE_BYTES = 64 * 1024
WORDS = ["espresso", "oat milk", "paid", "open", "shipped", "returned", "till", "shelf", "Mumbai", "Boston"]


def make_row(rng: random.Random, number: int) -> dict[str, object]:
    return {
        "id": (0x1B00_0000_0000 + number) << 16 | 3,
        "customer": rng.randrange(100_000),
        "status": rng.choice(WORDS),
        "note": " ".join(rng.choices(WORDS, k=4)),
        "amount": round(rng.random() * 200, 2),
        "at": f"2031-05-{rng.randrange(1, 29):02}T11:21:{rng.randrange(60):02}.{rng.randrange(10**6)}+00:00",
    }


def make_change(rng: random.Random, number: int, rows: int) -> bytes:
    """One insert into the change log, as pgoutput writes it: columns as text, each with its length."""
    stamp = (1_900_000_000_000 + number) << 22
    body = json.dumps([make_row(rng, number * rows + row) | {"s": stamp} for row in range(rows)])
    columns = ["3", str(number), "public.orders", "I", "global", str(stamp), body]
    fields = b"".join(b"t" + struct.pack("!I", len(text)) + text.encode() for text in columns)
    insert = b"I" + struct.pack("!IcH", 16411, b"N", len(columns)) + fields
    return (
        b"d"
        + struct.pack("!I", len(insert) + 29)
        + b"w"
        + struct.pack("!QQQ", number, number, stamp)
        + insert
    )


def one_row_changes(rng: random.Random, size: int) -> Iterator[bytes]:
    number = 0
    while size > 0:
        number += 1
        yield (change := make_change(rng, number, 1))
        size -= len(change)


def bulk_pieces(rng: random.Random, size: int) -> Iterator[bytes]:
    held, number = b"", 0
    while size > 0:
        while len(held) < PIECE_BYTES:
            number += 1
            held += make_change(rng, number, 500)
        yield held[:PIECE_BYTES]
        held = held[PIECE_BYTES:]
        size -= PIECE_BYTES


def noise(rng: random.Random, size: int) -> Iterator[bytes]:
    for _ in range(size // PIECE_BYTES):
        yield rng.randbytes(PIECE_BYTES)


def measure(name: str, pieces: list[bytes]) -> None:
    total = sum(map(len, pieces))
    began = time.process_time()
    raw = [encode_header(Kind.DATA, len(piece)) + piece for piece in pieces]
    raw_seconds = time.process_time() - began
    packer, unpacker = Packer(), Unpacker(PIECE_BYTES)
    began = time.process_time()
    packed = [packer.pack(piece) for piece in pieces]
    pack_seconds = time.process_time() - began
    began = time.process_time()
    same = all(unpacker.unpack(frame) == piece for frame, piece in zip(packed, pieces, strict=True))
    unpack_seconds = time.process_time() - began
    assert same, "unpacking did not give back what was packed"
    ratio = sum(map(len, raw)) / sum(len(frame) + HEADER_BYTES for frame in packed)
    added = (pack_seconds + unpack_seconds - raw_seconds) / len(pieces) * 1e6
    # Sent one after the other, packing wins when what it saves on the wire takes longer than what it costs.
    saved = total * (1 - 1 / ratio)
    break_even = saved / max(1e-9, pack_seconds + unpack_seconds - raw_seconds) / MEGABYTE
    per_mb = MEGABYTE / total * 1e3
    print(
        f"{name:<10} {total / len(pieces):>8.0f} B/message  ratio {ratio:5.2f} x raw  "
        f"pack {pack_seconds * per_mb:6.2f} ms/MB  unpack {unpack_seconds * per_mb:6.2f} ms/MB  "
        f"raw {raw_seconds * per_mb:5.2f} ms/MB  adds {added:6.1f} us/message  "
        f"pays below {break_even if ratio > 1 else 0:5.0f} MB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(
        f"seed {options.seed}, zstd level {LEVEL}, window {(1 << WINDOW_LOG) // 1024} KiB; "
        "baseline: raw frames"
    )
    size = options.megabytes * MEGABYTE
    for name, make in (("one row", one_row_changes), ("bulk", bulk_pieces), ("noise", noise)):
        measure(name, list(make(random.Random(options.seed), size)))


if __name__ == "__main__":
    main()
