"""When a stream's bytes are compressed, and how: zstd level 1 with one running context per direction.

The context remembers what was sent before, so that a one-row change costs a few bytes. Each frame is flushed
on its own. `auto` follows benchmarks/link_compression.py: one-row messages shrink to a third and pay below
about 60 MB/s, bulk to less than a fifth below about 350 MB/s, for 3 and 150 microseconds a message. So it
compresses where the round trip, a blocked sender or the rate limit shows a slower network than that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zstandard

from atoll.domain.errors import LinkError
from atoll.link.settings import Compression

LEVEL = 1
WINDOW_LOG = 17
WINDOW_BYTES_MAX = 1 << WINDOW_LOG
SIZE_BYTES = 4
# Input goes in small slices: a slice can grow to at most 32 MiB before the declared size is checked.
SLICE_BYTES = 1024

SMALL_BYTES = 64
FAR_RTT_SECONDS = 0.005
NEAR_RTT_SECONDS = 0.0005
SLOW_BYTES_PER_SECOND = 50e6


@dataclass(frozen=True)
class Path:
    """What is known of the way to the peer: its best round trip, its rate while it was the bottleneck, and
    the rate that the operator allows."""

    rtt_seconds: float | None
    blocked_bytes_per_second: float | None = None
    limit_bytes_per_second: int | None = None


def should_compress(policy: Compression, size: int, path: Path) -> bool:
    """Decide for one piece of `size` bytes."""
    if policy != "auto":
        return policy == "on"
    if size < SMALL_BYTES:
        return False
    if path.limit_bytes_per_second is not None and path.limit_bytes_per_second < SLOW_BYTES_PER_SECOND:
        return True
    if path.rtt_seconds is None or path.rtt_seconds >= FAR_RTT_SECONDS:
        return path.rtt_seconds is not None
    rate = path.blocked_bytes_per_second
    # On loopback it is the receiver that blocks, not the network.
    return rate is not None and rate < SLOW_BYTES_PER_SECOND and path.rtt_seconds > NEAR_RTT_SECONDS


class Packer:
    """Compresses one direction; the other end needs every frame, in order."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, window_log=WINDOW_LOG, write_content_size=False, write_checksum=False
        )
        self._context = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def pack(self, piece: bytes | memoryview) -> bytes:
        head = self._context.compress(piece)
        tail = self._context.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        return struct.pack("!I", len(piece)) + head + tail


class Unpacker:
    def __init__(self, piece_bytes_max: int) -> None:
        self._piece_bytes_max = piece_bytes_max
        self._context = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()

    def unpack(self, payload: bytes) -> bytes:
        """The piece, exactly as long as it says; anything else breaks the connection."""
        if len(payload) < SIZE_BYTES:
            raise LinkError("protocol", "the peer sent a packed frame that is too short")
        (size,) = struct.unpack_from("!I", payload)
        if size > self._piece_bytes_max:
            raise LinkError("protocol", f"the peer sent a packed frame of {size} bytes")
        pieces: list[bytes] = []
        total = 0
        body = memoryview(payload)[SIZE_BYTES:]
        try:
            for begin in range(0, len(body), SLICE_BYTES):
                piece = self._context.decompress(body[begin : begin + SLICE_BYTES])
                total += len(piece)
                if total > size:
                    break
                pieces.append(piece)
        except zstandard.ZstdError as error:
            raise LinkError("protocol", "the peer sent a packed frame that cannot be read") from error
        if total != size:
            raise LinkError("protocol", "the peer sent a packed frame of another size than it says")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
