"""How fast are bytes through a link, and what does it add to a round trip?

A client and a source talk over the gateways of two nodes (Unix socket, TLS, Unix socket), each node in its
own process, without compression; the baseline, in the same run, is a plain asyncio proxy in two processes
(Unix socket, TCP, Unix socket). Prints machine, seed, rates, round trips, processor time, and the ratios.

    python benchmarks/link_throughput.py [--megabytes 512] [--trips 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import random
import socket
import statistics
import struct
import tempfile
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atoll.demo.ports import free_ports
from atoll.identity import authority as authorities
from atoll.identity.certificate import load_identity, make_key, make_request, save_identity
from atoll.link.gateway import Gateway
from atoll.link.peers import Links
from atoll.link.report import Peer
from atoll.link.settings import LinkSettings

MEGABYTE = 1024 * 1024
STARTUP = b"\0\x03\0\0user\0atoll_link\0database\0atoll\0replication\0database\0\0"
SPAWN = multiprocessing.get_context("spawn")


def serve_source(path: str) -> None:
    """The far end: after a startup packet, each CopyData of 8 bytes asks for that many bytes back."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    block = random.Random(1).randbytes(MEGABYTE)
    while True:
        connection, _ = listening.accept()
        with closing(connection):
            receive(connection, 4 + len(STARTUP))
            while request := receive(connection, 13):
                (size,) = struct.unpack("!Q", request[5:])
                for begin in range(0, size, MEGABYTE):
                    connection.sendall(block[: min(MEGABYTE, size - begin)])


def receive(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            return b""
        found += part
    return bytes(found)


def run_node(number: int, folder: str, port: int, compression: str) -> None:
    asyncio.run(_run_node(number, Path(folder), port, compression))


async def _run_node(number: int, folder: Path, port: int, compression: Any) -> None:
    links = Links(
        load_identity(folder / f"node{number}"),
        release="bench",
        boot=str(number),
        is_revoked=lambda number, serial: False,
        settings=LinkSettings(compression=compression),
        listen=("127.0.0.1", port) if number == 1 else None,
        rng=random.Random(number),
    )
    gateway = Gateway(links, folder=folder / f"peers{number}", postgres_socket=folder / "source")
    await links.start()
    if number == 2:
        links.set_peers([Peer(1, "n1", (f"127.0.0.1:{port}",))])
        await links.until_up(1)
        await gateway.set_peers([1])
    await asyncio.Event().wait()


def run_proxy(side: str, folder: str, port: int) -> None:
    asyncio.run(_run_proxy(side, folder, port))


async def _run_proxy(side: str, folder: str, port: int) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if side == "near":
            far = await asyncio.open_connection("127.0.0.1", port)
        else:
            far = await asyncio.open_unix_connection(f"{folder}/source")
        await asyncio.gather(pump(reader, far[1]), pump(far[0], writer))

    if side == "near":
        await asyncio.start_unix_server(serve, f"{folder}/plain")
    else:
        await asyncio.start_server(serve, "127.0.0.1", port)
    await asyncio.Event().wait()


@contextmanager
def processes(*calls: tuple[Any, tuple[Any, ...]]) -> Any:
    started = [SPAWN.Process(target=target, args=args, daemon=True) for target, args in calls]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def cpu_seconds(process: Any) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(path: str, megabytes: int, trips: int, between: list[Any]) -> dict[str, float]:
    """Bulk rate and round-trip time through the socket at `path`; `between` are the processes on the way."""
    with closing(connect(path)) as connection:
        times = sorted(ask(connection, 64) for _ in range(trips))
        before = sum(map(cpu_seconds, between))
        seconds = min(ask(connection, megabytes * MEGABYTE) for _ in range(3))
        used = sum(map(cpu_seconds, between)) - before
    return {
        "MB/s": megabytes / seconds,
        "p50 us": statistics.median(times) * 1e6,
        "p99 us": times[int(len(times) * 0.99)] * 1e6,
        "cpu ms/MB": used / (3 * megabytes) * 1e3,
    }


def connect(path: str) -> socket.socket:
    """Try again until everything in between is up and an answer comes back."""
    deadline = time.monotonic() + 30
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            connection.sendall(struct.pack("!I", 4 + len(STARTUP)) + STARTUP)
            ask(connection, 64)
            return connection
        except (OSError, AssertionError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def ask(connection: socket.socket, size: int) -> float:
    began = time.perf_counter()
    connection.sendall(b"d" + struct.pack("!IQ", 12, size))
    buffer = bytearray(MEGABYTE)
    while size:
        got = connection.recv_into(buffer, min(size, MEGABYTE))
        assert got, "the connection was closed"
        size -= got
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--trips", type=int, default=2000)
    parser.add_argument("--compression", default="off", choices=["off", "on", "auto"])
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}, seed 1")
    with tempfile.TemporaryDirectory(prefix="atl") as folder:
        authority = authorities.create(now=datetime.now(UTC))
        for number in (1, 2):
            key = make_key()
            request = make_request(key, f"n{number}")
            pem = authority.issue(request, number=number, name=f"n{number}", now=datetime.now(UTC))
            save_identity(
                Path(folder, f"node{number}"), key_pem=key, certificate_pem=pem, authority_pem=authority.pem
            )
        found = {}
        with processes((serve_source, (f"{folder}/source",))):
            port = free_ports(1)[0]
            with processes(*((run_proxy, (side, folder, port)) for side in ("far", "near"))) as between:
                found["plain"] = measure(f"{folder}/plain", options.megabytes, options.trips, between)
            port = free_ports(1)[0]
            nodes = ((run_node, (number, folder, port, options.compression)) for number in (1, 2))
            with processes(*nodes) as between:
                path = f"{folder}/peers2/.s.PGSQL.1"
                found["link"] = measure(path, options.megabytes, options.trips, between)
    for name, figures in found.items():
        print(f"{name:>6}: " + "  ".join(f"{key} {value:9.2f}" for key, value in figures.items()))
    plain, link = found["plain"], found["link"]
    print(f" ratio: rate {link['MB/s'] / plain['MB/s']:.2f} x plain,", end=" ")
    print(f"added per round trip {link['p50 us'] - plain['p50 us']:.0f} us (p50)")


if __name__ == "__main__":
    main()
