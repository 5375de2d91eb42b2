"""Whoever does not belong is refused, told why, and counted by reason; and the listener goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atoll.demo.ports import free_ports
from atoll.domain.errors import AtollError, ConfigError, LinkError, PolicyDenied
from atoll.identity import authority as authorities
from atoll.identity.certificate import make_key, make_request, save_identity
from atoll.identity.token import Token, hash_secret
from atoll.link.dial import dial, split_address
from atoll.link.greeting import Hello, Purpose
from atoll.link.join import join
from atoll.link.peers import Links
from atoll.link.report import Peer
from atoll.link.stream import Pipe
from atoll.link.tls import make_client_context, make_stranger_context
from atoll.link.wire import Kind, encode_header, encode_message
from support.fix_link import FAST, Shore, connect, echo, eventually, peer_of, shore

__all__ = ["shore"]


def address(links: Links) -> str:
    return f"127.0.0.1:{links.port}"


async def ask(links: Links, context: ssl.SSLContext, message: dict[str, Any] | Hello) -> dict[str, Any]:
    framed, _, answer = await dial(address(links), context, FAST, message, None, set())
    framed.close()
    return answer


async def test_a_node_of_another_atoll_is_refused_on_both_sides(shore: Shore) -> None:
    stranger = shore.identity(2, authorities.create(now=datetime.now(UTC)))
    one, two = await shore.links(1), await shore.links(2, identity=stranger)
    two.set_peers([peer_of(one)])
    await eventually(lambda: two.refusals().get("wrong-authority"), "refusal by the dialling node")
    assert "does not belong to this atoll" in (two.report()[0].last_error or "")
    # A dialler that would not check must be refused by the listener.
    careless = make_stranger_context(None)
    careless.load_cert_chain(stranger.certificate_path, stranger.key_path)
    with pytest.raises(LinkError):
        await ask(one, careless, Hello(Purpose.CONTROL, "t", "b", 2))
    await eventually(lambda: one.refusals().get("wrong-authority"), "refusal by the listening node")


@pytest.mark.parametrize("purpose", [Purpose.CONTROL, Purpose.STREAM, Purpose.ANSWER])
async def test_without_a_certificate_nothing_is_given_but_the_authority(
    shore: Shore, purpose: Purpose
) -> None:
    one = await shore.links(1)
    context = make_stranger_context(shore.authority.pem)
    assert await ask(one, context, Hello(Purpose.AUTHORITY, "t", "b")) == {"authority": shore.authority.pem}
    with pytest.raises(PolicyDenied) as caught:
        await ask(one, context, Hello(purpose, "t", "b", 2))
    assert caught.value.code == "no-certificate"
    assert one.refusals() == {"no-certificate": 1}


async def test_an_expired_certificate_is_refused(shore: Shore) -> None:
    one = await shore.links(1)
    key, long_ago = make_key(), datetime.now(UTC) - timedelta(days=4000)
    request = make_request(key, "n2")
    pem = shore.authority.issue(request, number=2, name="n2", now=long_ago)
    old = save_identity(
        shore.folder / "old", key_pem=key, certificate_pem=pem, authority_pem=shore.authority.pem
    )
    with pytest.raises(AtollError):
        await ask(one, make_client_context(old), Hello(Purpose.CONTROL, "t", "b", 2))
    await eventually(lambda: one.refusals().get("certificate-expired"))


async def test_a_revoked_node_loses_its_link_and_its_streams_and_gets_no_new_ones(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    for links in (one, two):
        links.serve_streams(echo)
    await connect(one, two)
    pipe = Pipe(await two.open_stream(1))
    shore.revoked.add(2)
    with pytest.raises(PolicyDenied) as caught:
        await pipe.read()
    assert caught.value.code == "revoked"
    refused = one.refusals().get("revoked", 0)
    await eventually(lambda: one.refusals().get("revoked", 0) > refused, "refusal at the handshake")
    one.set_peers([])
    assert one.report()[0].streams == 0
    with pytest.raises(LinkError):
        await two.request(1, "anything", {})


async def test_a_copy_of_this_home_is_refused(shore: Shore) -> None:
    one = await shore.links(1)
    twin = make_client_context(shore.identity(1))
    with pytest.raises(PolicyDenied) as caught:
        await ask(one, twin, Hello(Purpose.CONTROL, "t", "b", 1))
    assert caught.value.code == "own-number"


class Guests:
    """Real invitations in memory: single use, expiring."""

    def __init__(self, shore: Shore) -> None:
        self.shore = shore
        self.open = {"i1": hash_secret("s1"), "old": hash_secret("s1")}
        self.wishes: list[dict[str, Any]] = []

    async def redeem(
        self, invitation: str, secret_sha256: str, csr: str, wishes: dict[str, Any]
    ) -> dict[str, Any]:
        if self.open.get(invitation, secret_sha256) != secret_sha256 or invitation not in ("i1", "old"):
            raise PolicyDenied("token-unknown", "cannot join: nobody made this token")
        if invitation == "old":
            raise PolicyDenied("token-expired", "cannot join: the token has expired", hint="Ask for another.")
        if invitation not in self.open:
            raise PolicyDenied("token-used", "cannot join: the token has been used")
        del self.open[invitation]
        self.wishes.append(wishes)
        pem = self.shore.authority.issue(csr, number=9, name=wishes["name"], now=datetime.now(UTC))
        return {"certificate": pem, "number": 9, "name": wishes["name"], "peers": [{"number": 1}]}


def token(shore: Shore, links: Links, invitation: str = "i1", secret: str = "s1", **changes: Any) -> Token:
    made = Token(
        shore.authority.atoll_id, shore.authority.fingerprint, (address(links),), invitation, secret, 2**40,
        name="preset",
    )  # fmt: skip
    return replace(made, **changes)


async def join_with(offered: Token, key: str) -> dict[str, Any]:
    return await join(offered, key, wishes={"name": "wish", "tier": "edge"}, release="t", settings=FAST)


async def test_a_token_lets_one_node_in_once(shore: Shore) -> None:
    guests = Guests(shore)
    one, key = await shore.links(1, invitations=guests), make_key()
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    joined = await join_with(token(shore, one, addresses=(dead, address(one))), key)
    assert (joined["number"], joined["name"], joined["peers"]) == (9, "preset", [{"number": 1}])
    assert guests.wishes == [{"name": "preset", "tier": "edge"}]
    identity = save_identity(
        shore.folder / "joined",
        key_pem=key,
        certificate_pem=joined["certificate"],
        authority_pem=joined["authority"],
    )
    nine = await shore.links(9, identity=identity)
    nine.set_peers([peer_of(one)])
    await nine.until_up(1)
    with pytest.raises(PolicyDenied) as caught:
        await join_with(token(shore, one), make_key())
    assert caught.value.code == "token-used"
    assert one.refusals() == {"token-used": 1}


REFUSED_TOKENS = {
    "an expired token": ({"invitation": "old"}, "token-expired"),
    "an unknown token": ({"invitation": "i7"}, "token-unknown"),
    "a wrong secret": ({"secret": "guess"}, "token-unknown"),
    "another authority": ({"fingerprint": "00" * 32}, "wrong-authority"),
    "another atoll": ({"atoll_id": "11111111-2222-3333-4444-555555555555"}, "wrong-node"),
    "no address": ({"addresses": ()}, "no-address"),
}


@pytest.mark.parametrize("case", REFUSED_TOKENS)
async def test_joining_is_refused_with(shore: Shore, case: str) -> None:
    changes, code = REFUSED_TOKENS[case]
    guests = Guests(shore)
    one = await shore.links(1, invitations=guests)
    with pytest.raises(AtollError) as caught:
        await join_with(token(shore, one, **changes), make_key())
    assert caught.value.code == code
    assert "i1" in guests.open
    if code.startswith("token"):
        assert one.refusals() == {code: 1}


async def test_a_node_without_the_authority_s_key_admits_nobody(shore: Shore) -> None:
    one = await shore.links(1)
    with pytest.raises(PolicyDenied) as caught:
        await join_with(token(shore, one), make_key())
    assert caught.value.code == "no-authority"


def junk(seed: int) -> bytes:
    rng = random.Random(seed)
    return rng.randbytes(rng.randrange(1, 5000))


HELLO = Hello(Purpose.CONTROL, "t", "b", 2).as_message()
BAD_FIRST_FRAMES = {
    "an unknown kind": b"\x99\0\0\0",
    "kind zero": b"\0\0\0\0",
    "too long a message": encode_header(Kind.MESSAGE, 1_000_000),
    "a ping of the wrong size": encode_header(Kind.PING, 3) + b"abc",
    "data": encode_header(Kind.DATA, 3) + b"abc",
    "the end": encode_header(Kind.EOF, 0),
    "no json": encode_header(Kind.MESSAGE, 3) + b"abc",
    "nested json": encode_header(Kind.MESSAGE, 60_000) + b"[" * 60_000,
    "a list": encode_header(Kind.MESSAGE, 2) + b"[]",
    "an unknown purpose": encode_header(Kind.MESSAGE, 13) + b'{"hello":"x"}',
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


async def raw(links: Links, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", links.port, ssl=context, server_hostname="")


async def hung_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Wait until the other side has closed."""
    try:
        async with asyncio.timeout(20):
            while await reader.read(65536):
                pass
    except OSError as error:
        return not isinstance(error, TimeoutError)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
    return True


@pytest.mark.parametrize("case", BAD_FIRST_FRAMES)
async def test_a_greeting_is_refused_that_begins_with(shore: Shore, case: str) -> None:
    one = await shore.links(1)
    reader, writer = await raw(one, make_client_context(shore.identity(2)))
    writer.write(BAD_FIRST_FRAMES[case])
    assert await hung_up(reader, writer)
    await eventually(lambda: one.refusals() == {"protocol": 1}, "counting")


async def test_another_protocol_version_is_refused_with_a_hint(shore: Shore) -> None:
    one = await shore.links(1)
    with pytest.raises(LinkError) as caught:
        await ask(one, make_client_context(shore.identity(2)), HELLO | {"versions": [7, 9]})
    assert caught.value.code == "version-mismatch"
    assert caught.value.hint


@pytest.mark.parametrize(
    "frame",
    [
        encode_header(Kind.DATA, 3) + b"abc",
        encode_header(Kind.MESSAGE, 16_000_000),
        encode_header(Kind.MESSAGE, 2) + b"{}",
        encode_header(Kind.MESSAGE, 4) + b"null",
        encode_header(Kind.PACKED, 4) + b"abcd",
        b"\xff" * 64,
    ],
)
async def test_a_control_connection_ends_when_the_peer_breaks_the_rules(shore: Shore, frame: bytes) -> None:
    one = await shore.links(1)
    one.set_peers([Peer(2, "n2")])
    reader, writer = await raw(one, make_client_context(shore.identity(2)))
    hello = encode_message(HELLO)
    writer.write(encode_header(Kind.MESSAGE, len(hello)) + hello)
    await one.until_up(2)
    writer.write(frame)
    assert await hung_up(reader, writer)
    await eventually(lambda: one.report()[0].state == "waiting")


async def test_random_bytes_never_stop_the_listener(shore: Shore) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    one, two = await shore.links(1), await shore.links(2)
    context = make_client_context(shore.identity(3))
    for step in range(20):
        if step % 2:
            reader, writer = await raw(one, context)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(junk(seed + step))
        writer.write_eof() if not step % 2 else writer.close()
        assert await hung_up(reader, writer)
    await connect(one, two)
    await eventually(lambda: sum(one.refusals().values()) >= 10, "counting")


async def test_whoever_says_nothing_is_let_go_and_a_crowd_is_kept_out(shore: Shore) -> None:
    settings = replace(FAST, greeting_seconds_max=0.3, strangers_max=3)
    one = await shore.links(1, settings=settings)
    crowd = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(6)]
    gone = await asyncio.gather(*(hung_up(*visitor) for visitor in crowd))
    assert all(gone)
    await eventually(lambda: one.refusals() == {"crowded": 3, "deadline": 3}, "counting")
    two = await shore.links(2)
    await connect(one, two)


@pytest.mark.parametrize("turns", range(5))
async def test_a_listener_that_stops_drops_no_connection_it_has_just_taken(shore: Shore, turns: int) -> None:
    one = await shore.links(1)
    gc.collect()
    with socket.create_connection(("127.0.0.1", one.port)) as visitor:
        for _ in range(turns):
            await asyncio.sleep(0)
        await one.stop()
        # What nobody closed is collected now, and its warning fails the test.
        gc.collect()
        visitor.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert visitor.recv(1) == b""


async def test_a_listener_outlives_a_lack_of_file_descriptors(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as visitor:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            visitor.connect(("127.0.0.1", one.port))
            await eventually(lambda: one.refusals().get("accept-failed"), "refusal")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await connect(one, two)


async def test_a_port_in_use_is_said_clearly(shore: Shore) -> None:
    one = await shore.links(1)
    two = Links(shore.identity(2), release="t", boot="b", is_revoked=never, listen=("127.0.0.1", one.port))
    with pytest.raises(ConfigError) as caught:
        await two.start()
    assert caught.value.code == "port-in-use"
    await two.stop()


def never(number: int, serial: str) -> bool:
    return False


@pytest.mark.parametrize("bad", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "host:-1"])
def test_an_address_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError):
        split_address(bad)


def test_addresses_are_split() -> None:
    assert split_address("a.b:1") == ("a.b", 1)
    assert split_address("[::1]:65535") == ("::1", 65535)
