"""SCRAM-SHA-256: against the published example, against itself, and against liars."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.link.scram import Client, ScramError, Server

# RFC 7677, section 3.
USER_NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
SIGNATURE = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_the_published_example() -> None:
    """PostgreSQL leaves the name to the startup packet; the example has one, so only that part differs."""
    client = Client("pencil", USER_NONCE)
    client._bare = f"n=user,r={USER_NONCE}"
    final = client.final(CHALLENGE)
    assert final.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client.check(SIGNATURE)


def exchange(known: str, shown: str, *, swap: bytes = b"") -> None:
    server, client = Server(known, "servers", b"0123456789abcdef"), Client(shown, "clients")
    final = client.final(server.challenge(client.first()))
    answer = server.verify(final)
    client.check(swap or answer)


@given(st.text(min_size=1, max_size=40))
def test_both_sides_agree_on_any_password(password: str) -> None:
    exchange(password, password)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_another_password_is_refused(known: str, shown: str) -> None:
    if Server(known, "", b"salt")._salted == Server(shown, "", b"salt")._salted:
        return
    with pytest.raises(ScramError, match="does not know the password"):
        exchange(known, shown)


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    with pytest.raises(ScramError, match="could not prove"):
        exchange("secret", "secret", swap=b"v=" + base64.b64encode(b"x" * 32))


@pytest.mark.parametrize(
    "challenge",
    [
        b"r=somebody elses,s=AAAA,i=4096",
        b"r=clients,s=AAAA,i=4096",
        b"r=clientsmore,s=AAAA,i=0",
        b"r=clientsmore,s=AAAA,i=99999999999",
        b"r=clientsmore,s=not base 64,i=4096",
        b"r=clientsmore,s=\xff,i=4096",
        b"r=clientsmore," + b"x" * 5000,
        b"",
    ],
)
def test_a_challenge_that_is_wrong_is_refused(challenge: bytes) -> None:
    with pytest.raises(ScramError):
        Client("secret", "clients").final(challenge)


def test_an_answer_to_another_question_is_refused() -> None:
    one, other = (Server("secret", nonce, b"0123456789abcdef") for nonce in ("one", "other"))
    client = Client("secret", "clients")
    other.challenge(client.first())
    final = client.final(one.challenge(client.first()))
    assert one.verify(final).startswith(b"v=")
    with pytest.raises(ScramError, match="another question"):
        other.verify(final)


@pytest.mark.parametrize("first", [b"p=tls-unique,,n=,r=x", b"n,a=other,n=,r=x", b"n,,n=", b"", b"n,,"])
def test_a_first_message_that_asks_for_more_is_refused(first: bytes) -> None:
    with pytest.raises(ScramError):
        Server("secret", "nonce", b"0123456789abcdef").challenge(first)
