"""Packing gives back what was put in, keeps its bounds against a hostile peer, and pays where it is used."""

from __future__ import annotations

import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from atoll.domain.errors import LinkError
from atoll.link.compression import WINDOW_LOG, Packer, Path, Unpacker, should_compress

LIMIT = 256 * 1024
FAR, NEAR, LOOP = 0.030, 0.001, 0.0002


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_pieces_come_back_one_by_one(pieces: list[bytes]) -> None:
    packer, unpacker = Packer(), Unpacker(LIMIT)
    for piece in pieces:
        assert unpacker.unpack(packer.pack(piece)) == piece


def test_random_and_repetitive_pieces_of_any_size_come_back() -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    packer, unpacker = Packer(), Unpacker(LIMIT)
    for _ in range(200):
        size = rng.choice([0, 1, 100, 1023, 1024, 1025, 65_536, LIMIT])
        piece = rng.choice([rng.randbytes(size), b"\0" * size, (b"same row " * size)[:size]])
        assert unpacker.unpack(packer.pack(piece)) == piece


def test_what_was_sent_before_makes_the_next_small_piece_smaller() -> None:
    packer = Packer()
    row = b'{"id": 17, "customer": "harbour", "status": "paid", "note": "two espressos, one to go"}'
    first, second = packer.pack(row), packer.pack(row.replace(b"17", b"18"))
    assert len(second) < len(first) / 2


def bomb(raw_bytes: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=WINDOW_LOG, write_content_size=False
    )
    context = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = b"".join(context.compress(b"\0" * (1 << 20)) for _ in range(raw_bytes >> 20))
    return packed + context.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


def far_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    context = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return context.compress(b"x" * 100) + context.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


GOOD = Packer().pack(b"hello")
HOSTILE = {
    "nothing": b"",
    "half a size": b"\0\0",
    "garbage": b"\0\0\0\5" + b"\xff" * 50,
    "more than it says": struct.pack("!I", 4) + GOOD[4:],
    "less than it says": struct.pack("!I", 6) + GOOD[4:],
    "more than is allowed": struct.pack("!I", LIMIT + 1) + GOOD[4:],
    "a bomb of a gigabyte": struct.pack("!I", LIMIT) + bomb(1 << 30),
    "a window of 128 MiB": struct.pack("!I", 100) + far_window(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_frame_ends_the_connection(case: str) -> None:
    with pytest.raises(LinkError) as caught:
        Unpacker(LIMIT).unpack(HOSTILE[case])
    assert caught.value.code == "protocol"


@pytest.mark.parametrize(
    ("policy", "size", "path", "expected"),
    [
        ("on", 1, Path(LOOP), True),
        ("off", 10**6, Path(FAR), False),
        ("auto", 1000, Path(None), False),
        ("auto", 1000, Path(LOOP), False),
        ("auto", 1000, Path(NEAR), False),
        ("auto", 1000, Path(FAR), True),
        ("auto", 10, Path(FAR), False),
        ("auto", 1000, Path(NEAR, blocked_bytes_per_second=10e6), True),
        ("auto", 1000, Path(NEAR, blocked_bytes_per_second=100e6), False),
        ("auto", 1000, Path(LOOP, blocked_bytes_per_second=10e6), False),
        ("auto", 1000, Path(LOOP, limit_bytes_per_second=1_000_000), True),
        ("auto", 1000, Path(LOOP, limit_bytes_per_second=10**9), False),
    ],
)
def test_the_rule_of_auto(policy: str, size: int, path: Path, expected: bool) -> None:
    assert should_compress(policy, size, path) is expected  # type: ignore[arg-type]
