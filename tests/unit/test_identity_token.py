"""A token comes back as it was made, and whatever else is offered is refused with its reason."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.domain.errors import PolicyDenied
from atoll.identity.token import Token, decode, encode, hash_secret, make_secret

TOKEN = Token(
    "a-b-c", "ff00", ("10.0.0.1:7000", "[::1]:7000"), "i1", "s3cret", 2_000, name="till", tier="edge"
)
texts = st.text(min_size=1, max_size=30)


@given(
    st.builds(
        Token,
        texts,
        texts,
        st.lists(texts, max_size=4).map(tuple),
        texts,
        texts,
        st.integers(1, 2**40),
        *(st.none() | st.text(max_size=30) for _ in range(3)),
    )
)
def test_a_token_survives_being_written_and_read(token: Token) -> None:
    line = encode(token)
    assert decode(line, now=0) == token
    assert line.isascii()
    assert len(line.split()) == 1


def test_a_token_survives_a_terminal_that_wraps_lines() -> None:
    line = encode(TOKEN)
    assert decode(f"  {line[:40]}\n   {line[40:]}\n", now=0) == TOKEN


def sealed(content: object) -> str:
    body = json.dumps(content).encode()
    raw = hashlib.sha256(body).digest()[:4] + body
    return "atoll1_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


GOOD = json.loads(base64.urlsafe_b64decode(encode(TOKEN)[7:] + "===")[4:])
CASES = {
    "nothing": ("", "token-invalid"),
    "a word": ("hello", "token-invalid"),
    "another version": (encode(TOKEN).replace("atoll1_", "atoll2_"), "token-version"),
    "its end missing": (encode(TOKEN)[:-9], "token-damaged"),
    "its middle missing": (encode(TOKEN)[:60] + encode(TOKEN)[70:], "token-damaged"),
    "one letter changed": (encode(TOKEN)[:-5] + "AAAAA", "token-damaged"),
    "only the prefix": ("atoll1_", "token-damaged"),
    "not base64": ("atoll1_%%%%", "token-damaged"),
    "too long": ("atoll1_" + "A" * 100_000, "token-damaged"),
    "a list": (sealed([1, 2]), "token-damaged"),
    "no secret": (sealed({key: value for key, value in GOOD.items() if key != "secret"}), "token-damaged"),
    "a number as address": (sealed(GOOD | {"addresses": [7]}), "token-damaged"),
    "a text as expiry": (sealed(GOOD | {"expires_at": "soon"}), "token-damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_token_is_refused_with_a_reason(case: str) -> None:
    line, code = CASES[case]
    with pytest.raises(PolicyDenied) as caught:
        decode(line, now=0)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_token_ends_at_its_second() -> None:
    assert decode(encode(TOKEN), now=1_999.9)
    with pytest.raises(PolicyDenied) as caught:
        decode(encode(TOKEN), now=2_000)
    assert caught.value.code == "token-expired"


def test_later_versions_may_add_fields() -> None:
    assert decode(sealed(GOOD | {"colour": "blue"}), now=0) == TOKEN


def test_secrets_differ_and_only_their_hash_needs_to_be_kept() -> None:
    one, two = make_secret(), make_secret()
    assert one != two
    assert hash_secret(one) == hash_secret(one) != hash_secret(two)
    assert one not in hash_secret(one)
