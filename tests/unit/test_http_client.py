"""Connections to servers, on real sockets: which are used again, what they hold, how long they wait."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from atoll.runtimes.http import client as client_module
from atoll.runtimes.http.client import Client
from support.fix_link import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
MEGABYTE = 1024 * 1024
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers as it is told, request by request."""

    answer: Answer
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


def says(text: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return answer


@asynccontextmanager
async def running(
    answer: Answer, host: str = "127.0.0.1", secrets: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    found = Server(answer)
    listening = await asyncio.start_server(found.serve, host, 0, ssl=secrets)
    found.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield found


@asynccontextmanager
async def asking(server: Server, silence_seconds: float = 30.0) -> AsyncIterator[Client]:
    client = Client(f"http://127.0.0.1:{server.port}", silence_seconds)
    yield client
    client.close()


async def said(client: Client, body: bytes = b"") -> bytes:
    connection, _ = await client.ask("POST", "/v1/x", body)
    try:
        return b"".join([part async for part in iter_parts(connection.read)])
    finally:
        client.leave(connection)


async def iter_parts(read: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while part := await read():
        yield part


async def test_a_connection_is_used_again_where_its_reply_was_whole() -> None:
    async with running(says(OK)) as server, asking(server) as client:
        assert [await said(client) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 1
        server.answer = says(CLOSING)
        assert [await said(client) for _ in range(2)] == [b"ok"] * 2
        assert server.connections == 2
        server.answer = says(ENDLESS)
        connection, _ = await client.ask("POST", "/v1/x")
        assert await connection.read() == b"hello"
        client.leave(connection)
        await eventually(lambda: server.open == 0, "the server sees that nobody listens")
        server.answer = says(OK)
        assert await said(client) == b"ok"


async def test_a_connection_that_has_ended_meanwhile_is_not_used() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async with running(once) as server, asking(server) as client:
        for number in range(1, 4):
            assert await said(client) == b"ok"
            await eventually(lambda: server.open == 0 and not client._connections, "it has ended")
            assert server.connections == number


async def test_where_each_request_takes_its_own_connection_the_next_is_there_before_it(
    tmp_path: Path,
) -> None:
    server, path = Server(says(CLOSING)), tmp_path / "socket"
    client = Client("http://engine", 30.0, socket=str(path))
    async with await asyncio.start_unix_server(server.serve, path):
        assert await said(client) == b"ok"
        assert server.connections == 1
        client.prepare()
        client.prepare()
        await eventually(lambda: server.connections == 2, "one is opened, though nobody asks")
        assert await said(client) == b"ok"
        assert server.connections == 2
        client.prepare()
        await eventually(lambda: server.connections == 3, "one for the next")
        (waiting,) = client._idle
        waiting.close()  # as a server does that has waited long enough
        await eventually(lambda: not client._idle, "it is not kept")
        assert await said(client) == b"ok"
        assert server.connections == 4
        client.prepare()
        preparing = client._preparing
        assert preparing is not None
        client.close()
        await eventually(preparing.cancelled, "nobody waits for it")
        await eventually(lambda: server.open == 0 and not client._connections, "nothing stays open")
        client.prepare()
        await asyncio.sleep(0.05)
        assert not client._connections, "it is not asked any more"


async def test_a_connection_that_cannot_be_made_ready_is_nobodys_trouble(tmp_path: Path) -> None:
    client = Client("http://engine", 30.0, socket=str(tmp_path / "nobody"))
    client.prepare()
    await eventually(lambda: client._preparing is None, "it was tried")
    with pytest.raises(OSError, match="No such file"):
        await client.ask("GET", "/health")


async def test_what_can_be_used_again_is_not_made_ready() -> None:
    async with running(says(OK)) as server, asking(server) as client:
        client.prepare()
        assert await said(client) == b"ok"
        client.prepare()
        assert client._preparing is None
        assert server.connections == 1


async def test_what_nobody_asked_for_ends_a_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK)

    async with running(talk) as server, asking(server) as client:
        assert await said(client) == b"ok"
        await eventually(lambda: server.open == 0, "it was closed")
        assert await said(client) == b"ok"
        assert server.connections == 2


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "IDLE_SECONDS_MAX", 0.05)
    async with running(says(OK)) as server, asking(server, silence_seconds=600.0) as client:
        assert [await said(client) for _ in range(2)] == [b"ok"] * 2
        await eventually(lambda: server.open == 0, "the connection is closed")


async def test_a_slow_reader_holds_the_server_back_and_is_waited_for() -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MEGABYTE))
        for _ in range(64):
            writer.write(bytes(MEGABYTE))
            await writer.drain()
            sent += MEGABYTE

    async with running(pour) as server, asking(server, silence_seconds=0.2) as client:
        connection, _ = await client.ask("POST", "/v1/x")
        await asyncio.sleep(0.5)  # longer than it may be silent
        assert sent < 32 * MEGABYTE
        size = 0
        while part := await connection.read():
            size += len(part)
            assert len(part) <= MEGABYTE
        assert size == 64 * MEGABYTE
        client.leave(connection)


async def test_silence_has_an_end_but_a_slow_taker_is_not_silent() -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(40):
            await reader.readexactly(MEGABYTE)
            await asyncio.sleep(0.05)
        writer.write(OK)

    async with running(take) as server, asking(server, silence_seconds=1.0) as client:
        assert await said(client, bytes(40 * MEGABYTE)) == b"ok"
        with pytest.raises(TimeoutError):
            await said(client)
        await eventually(lambda: server.open == 0, "it is left")


async def test_an_answer_before_the_request_was_taken_is_heard() -> None:
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig"
    async with running(says(refusal)) as server, asking(server) as client:
        connection, reply = await client.ask("POST", "/v1/x", bytes(64 * MEGABYTE))
        assert (reply.status, await connection.read()) == (413, b"big")
        client.leave(connection)
        await eventually(lambda: not client._connections, "half a request is left on it")


async def test_closing_breaks_off_what_is_under_way() -> None:
    async with running(says(b"")) as server, asking(server) as client:
        asked = asyncio.create_task(said(client))
        await eventually(lambda: bool(server.heads), "it is asked")
        client.close()
        with pytest.raises(ConnectionError):
            await asked
        with pytest.raises(ConnectionError):
            await said(client)


async def test_an_address_may_have_a_path_and_be_of_any_kind() -> None:
    async with running(says(OK), "::1") as server:
        client = Client(f"http://[::1]:{server.port}/far/", 30.0, {"Authorization": "Bearer k"})
        assert await said(client, b"{}") == b"ok"
        client.close()
        lines = server.heads[0].split(b"\r\n")
        assert lines[0] == b"POST /far/v1/x HTTP/1.1"
        assert {b"Host: [::1]:%d" % server.port, b"Authorization: Bearer k", b"Content-Length: 2"} <= set(
            lines
        )


def write_certificate(file: Path, host: str) -> None:
    """Signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))


async def test_a_server_shows_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "certificate.pem"
    write_certificate(file, "localhost")
    secrets = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secrets.load_cert_chain(file)
    async with running(says(OK), secrets=secrets) as server:
        for trusted, host in (("", "localhost"), (str(file), "127.0.0.1")):
            monkeypatch.setenv("SSL_CERT_FILE", trusted or "/dev/null")
            client = Client(f"https://{host}:{server.port}", 30.0)
            with pytest.raises(ssl.SSLCertVerificationError):
                await said(client)
            client.close()
        client = Client(f"https://localhost:{server.port}", 30.0)
        assert [await said(client) for _ in range(2)] == [b"ok"] * 2
        assert server.connections == 1
        client.close()
