"""A sealed file is read by its receiver, whole and unchanged, or by nobody. Named after what is tried."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest

from atoll.data.transfer.lines import Change, Packer, unpack
from atoll.domain.errors import AtollError, DataError, PolicyDenied
from atoll.identity import authority, certificate
from atoll.identity.authority import Authority
from atoll.identity.certificate import PeerIdentity
from atoll.identity.sealed import PIECE_BYTES_MAX, Header, Sealer, unseal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENT = b"".join(bytes([i % 251]) * 997 for i in range(3000))


class Member:
    def __init__(self, issuer: Authority, number: int, name: str) -> None:
        self.key = certificate.make_key()
        request = certificate.make_request(self.key, name)
        self.pem = issuer.issue(request, number=number, name=name, now=NOW)
        self.me = PeerIdentity(issuer.atoll_id, number, name, "")
        self.issuer = issuer

    def seal(self, receiver: Member, content: bytes, **facts: Any) -> bytes:
        target = io.BytesIO()
        known: dict[str, Any] = {
            "id": "a",
            "atoll_id": self.issuer.atoll_id,
            "sender": self.me.number,
            "receiver": receiver.me.number,
            "made_at": "2026-01-01",
            "base": None,
            "received": None,
            "certificate": self.pem,
        }
        sealer = Sealer(target, self.key, receiver.pem, **(known | facts))
        for place in range(0, len(content), 100_000):
            sealer.write(content[place : place + 100_000])
        sealer.close()
        return target.getvalue()

    def read(self, sealed: bytes) -> tuple[Header, bytes]:
        header, pieces = unseal(
            io.BytesIO(sealed), key_pem=self.key, authority_pem=self.issuer.pem, me=self.me
        )
        return header, b"".join(pieces)


@pytest.fixture(scope="module")
def issuer() -> Authority:
    return authority.create(now=NOW)


@pytest.fixture(scope="module")
def ann(issuer: Authority) -> Member:
    return Member(issuer, 1, "ann")


@pytest.fixture(scope="module")
def bob(issuer: Authority) -> Member:
    return Member(issuer, 2, "bob")


def code(reader: Member, sealed: bytes) -> str:
    with pytest.raises(AtollError) as caught:
        reader.read(sealed)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, len(CONTENT)])
def test_the_receiver_reads_what_was_written(ann: Member, bob: Member, size: int) -> None:
    sealed = ann.seal(bob, CONTENT[:size])
    header, content = bob.read(sealed)
    assert content == CONTENT[:size]
    assert (header.sender, header.receiver) == (1, 2)
    assert bob.read(sealed)[1] == content


def test_the_content_is_not_in_the_clear(ann: Member, bob: Member) -> None:
    assert b"marker-of-a-row" not in ann.seal(bob, b"marker-of-a-row")


def test_somebody_else_cannot_read_it(ann: Member, bob: Member, issuer: Authority) -> None:
    sealed = ann.seal(bob, CONTENT)
    eve = Member(issuer, 3, "eve")
    assert code(eve, sealed) == "transfer-not-for-us"
    posing = Member(issuer, 2, "bob")
    assert code(posing, sealed) == "transfer-damaged"


def test_every_byte_counts(ann: Member, bob: Member) -> None:
    sealed = ann.seal(bob, CONTENT[:2000])
    for place in range(0, len(sealed), 7):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises((DataError, PolicyDenied)):
            bob.read(changed)


def test_a_file_that_is_cut_off_anywhere_is_refused(ann: Member, bob: Member) -> None:
    sealed = ann.seal(bob, CONTENT)
    pieces = len(CONTENT) // PIECE_BYTES_MAX
    ends = [
        len(sealed) - (len(CONTENT) - i * PIECE_BYTES_MAX) - 20 * (pieces + 1 - i) for i in range(pieces + 1)
    ]
    for end in [*range(0, 3000, 41), *ends, len(sealed) - 1]:
        assert code(bob, sealed[:end]) == "transfer-damaged", end


def test_pieces_cannot_be_repeated_swapped_or_added(ann: Member, bob: Member) -> None:
    sealed = ann.seal(bob, CONTENT)
    size = PIECE_BYTES_MAX + 20
    last = len(CONTENT) % PIECE_BYTES_MAX + 20
    start = len(sealed) - last - 2 * size
    head, one, two, end = (
        sealed[:start],
        sealed[start : start + size],
        sealed[start + size : -last],
        sealed[-last:],
    )
    assert bob.read(head + one + two + end)[1] == CONTENT
    for wrong in (
        head + two + one + end,
        head + one + one + two + end,
        head + one + end,
        head + one + two + end + end,
    ):
        assert code(bob, wrong) == "transfer-damaged"


def test_another_file_s_header_does_not_fit(ann: Member, bob: Member) -> None:
    first, second = ann.seal(bob, b"first", id="1"), ann.seal(bob, b"second", id="2")
    tail = 4 + 16 + len(b"second")
    assert code(bob, first[: len(first) - 4 - 16 - len(b"first")] + second[-tail:]) == "transfer-damaged"


def test_a_sender_cannot_pose_as_another(ann: Member, bob: Member, issuer: Authority) -> None:
    assert code(bob, ann.seal(bob, b"x", sender=3)) == "certificate-invalid"
    eve = Member(issuer, 3, "eve")
    assert code(bob, eve.seal(bob, b"x", sender=1, certificate=ann.pem)) == "transfer-damaged"


def test_a_stranger_is_no_sender(ann: Member, bob: Member) -> None:
    stranger = Member(authority.create(now=NOW), 1, "ann")
    assert code(bob, stranger.seal(bob, b"x")) == "wrong-authority"
    assert code(bob, stranger.seal(bob, b"x", atoll_id=ann.issuer.atoll_id)) == "wrong-authority"


def test_changes_are_read_as_they_were_written() -> None:
    written = [
        Change(
            i,
            "public.t",
            "I",
            i << 16,
            None,
            0,
            1,
            ["id", "x"],
            [f"{{{i}}}", '{"ä\n\\"\\\\"}' * (i % 50)],
            "global",
        )
        for i in range(500)
    ]
    put: list[bytes] = []
    packer = Packer(put.append)
    for change in written:
        packer.write(change)
    packer.close()
    whole = b"".join(put)
    for step in (1, 1000, len(whole)):
        pieces = [whole[place : place + step] for place in range(0, len(whole), step)]
        assert list(unpack(pieces)) == written
