"""Bodies made from a description of an interface, and answers compared with it.

Of JSON schemas it knows the words that the description uses. Bodies are valid, nearly valid (one place of a
valid one is spoilt), or no bodies at all.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    *("$ref", "anyOf", "enum", "const", "type", "properties", "required", "items", "additionalProperties"),
    *("minimum", "maximum", "minItems", "maxItems"),
}
NEST: Any = "x"
for _ in range(500):
    NEST = [NEST]
JUNK: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        2**31,
        2**63,
        2**64,
        10**400,
        -(10**30),
        1e308,
        float("nan"),
        float("inf"),
    ),
    *("", "x", "\x00", "\ud800", "\U0001f41a" * 50, "é" * 5000, "x" * 100_000, "../../etc/passwd"),
    *([], {}, [None], [[]], [[1], [2, 3]], {"": None}, {"x": {"y": []}}, [0] * 5000, NEST),
]
NOT_JSON = (
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"{" * 50_000,
        b"[" * 200_000,
    ),
    *(b'{"a": NaN}', b'{"a": 1e999}', b"{'a': 1}", b'{"a": "\xc3\x28"}', b"\x00" * 100, b"a=b&c=d"),
)


@dataclass(frozen=True)
class Usual:
    """Values that make sense, by the names of fields, and names that are never left away."""

    values: Mapping[str, list[Any]]
    always: frozenset[str]


class Description:
    """One that was read from a node."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told = told
        self._schemas = told["components"]["schemas"]

    def operations(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for path, methods in self.told["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def resolved(self, schema: Schema) -> Schema:
        assert set(schema) <= KNOWN, f"nobody would look at {set(schema) - KNOWN}"
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    # Comparing

    def problems(self, value: Any, schema: Schema, where: str = "it") -> Iterator[str]:
        """What is not as the schema says."""
        schema = self.resolved(schema)
        if "anyOf" in schema:
            if all(any(self.problems(value, one)) for one in schema["anyOf"]):
                yield f"{where} is none of what it may be"
            return
        if ("const" in schema and value != schema["const"]) or value not in schema.get("enum", [value]):
            yield f"{where} is {value!r}"
        kinds = schema.get("type", list(JSON_TYPES))
        names = [kinds] if isinstance(kinds, str) else kinds
        is_kind = any(isinstance(value, JSON_TYPES[name]) for name in names)
        if not is_kind or (isinstance(value, bool) and "boolean" not in names):
            yield f"{where} is {type(value).__name__} and not {names}"
        elif isinstance(value, dict):
            yield from (f"{where} has no {name}" for name in schema.get("required", ()) if name not in value)
            for name, one in schema.get("properties", {}).items():
                if name in value:
                    yield from self.problems(value[name], one, f"{where}.{name}")
        elif isinstance(value, list):
            for number, one in enumerate(value):
                yield from self.problems(one, schema.get("items", {}), f"{where}[{number}]")

    # Making

    def values(self, schema: Schema, usual: Usual, name: str = "") -> st.SearchStrategy[Any]:
        """Valid values."""
        schema = self.resolved(schema)
        if name in usual.values:
            return st.sampled_from(usual.values[name])
        if "anyOf" in schema:
            return st.one_of([self.values(one, usual) for one in schema["anyOf"]])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        told = schema.get("type", "null")
        return st.one_of(
            [self._of(kind, schema, usual) for kind in ([told] if isinstance(told, str) else told)]
        )

    def _of(self, kind: str, schema: Schema, usual: Usual) -> st.SearchStrategy[Any]:
        low, high = schema.get("minimum"), schema.get("maximum")
        if kind == "object":
            return self._objects(schema, usual)
        if kind == "array":
            least, most = schema.get("minItems", 0), min(3, schema.get("maxItems", 3))
            return st.lists(self.values(schema.get("items", {}), usual), min_size=least, max_size=most)
        return {
            "string": st.text(max_size=20),
            "integer": st.integers(low, high),
            "number": st.floats(low, high, allow_nan=False, allow_infinity=False),
            "boolean": st.booleans(),
            "null": st.none(),
        }[kind]

    def _objects(self, schema: Schema, usual: Usual) -> st.SearchStrategy[Any]:
        known = schema.get("properties", {})
        needed = {name for name in known if name in usual.always or name in schema.get("required", ())}
        others = sorted(set(known) - needed)
        if not known:
            inner = schema.get("additionalProperties", {"type": ["string", "integer", "boolean", "null"]})
            return st.dictionaries(st.text(max_size=8), self.values(inner, usual), max_size=3)
        made = {name: self.values(one, usual, name) for name, one in known.items()}
        if not others:
            return st.fixed_dictionaries(made)
        # Of the others few at once: each has bounds of its own, and one that is refused hides the rest.
        some = st.lists(st.sampled_from(others), max_size=3, unique=True)
        return some.flatmap(
            lambda chosen: st.fixed_dictionaries({name: made[name] for name in sorted({*needed, *chosen})})
        )


def spoilt(value: Any, seed: int, kept: frozenset[str]) -> Any:
    """The value with one place spoilt. `kept` are names whose value is not to become one that costs much."""
    chance = random.Random(seed)
    found = copy.deepcopy(value)
    places = list(_places(found))
    if not places or chance.random() < 0.05:
        return chance.choice(JUNK)
    inside, key = chance.choice(places)
    if key in kept:
        inside[key] = chance.choice([junk for junk in JUNK if type(junk) in (str, list, dict, bool)])
    elif (way := chance.random()) < 0.15:
        del inside[key]
    elif way < 0.25 and isinstance(inside, dict):
        inside[chance.choice(["x", "", "lora", "id_slot", "n_predict", "grammar"])] = chance.choice(JUNK)
    else:
        inside[key] = chance.choice(JUNK)
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list) and inner:
            yield from _places(inner)


def written(value: Any) -> bytes:
    """As JSON, or nearly."""
    return json.dumps(value).encode()
