"""What a model's server is asked, as JSON: the same that was asked, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.domain.errors import DataError
from atoll.runtimes.bodies import BODY_BYTES_MAX, is_deeper, write, write_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_is_what_was_asked(body: dict[str, Any]) -> None:
    assert json.loads(write_json(body)) == body


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), object(), {1, 2}, b"bytes"])
@given(VALUES)
def test_what_is_no_json_is_refused(wrong: Any, beside: Any) -> None:
    for body in ({"a": wrong, "b": beside}, {"a": [beside, {"b": [wrong]}]}):
        with pytest.raises(ValueError, match=r"."):
            write_json(body)
        with pytest.raises(DataError, match="not JSON"):
            write(body)


def test_what_is_too_long_is_refused() -> None:
    assert len(write("x" * (BODY_BYTES_MAX - 2))) == BODY_BYTES_MAX
    with pytest.raises(DataError, match="too long"):
        write("x" * (BODY_BYTES_MAX - 1))


def test_knots_are_refused() -> None:
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(DataError, match="not JSON"):
        write(knot)


@given(st.lists(st.booleans(), max_size=40), VALUES)
def test_how_deep_it_is_is_known_to_a_level(nests: list[bool], beside: Any) -> None:
    body: Any = "at the bottom"
    for is_object in nests:
        body = {"a": 1, "b": body} if is_object else [2, body]
    assert not is_deeper(body, len(nests) + 1)
    assert not nests or is_deeper(body, len(nests))
    assert is_deeper([beside, body, beside], len(nests) + 1)
    assert is_deeper([body] * 3, 0)
