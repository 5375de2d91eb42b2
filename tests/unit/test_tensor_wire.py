"""Inference requests and answers as bytes: every datatype both ways, and everything that is refused."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import numpy as np
import orjson
import pytest

from atoll.domain.errors import DataError
from atoll.runtimes.tensor_data import DTYPES, NAMES, from_bytes, from_json, to_bytes, to_json
from atoll.web import tensor_wire
from atoll.web.tensor_wire import read_inference, write_answer

SEED = 5


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5], **changes}


def request(*inputs: dict[str, Any], **more: Any) -> bytearray:
    return bytearray(json.dumps({"inputs": list(inputs), **more}).encode())


def refused(body: bytearray, length: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_inference(body, length)
    assert caught.value.code == "request-refused"
    return f"{caught.value.message} {caught.value.detail} {caught.value.hint}"


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_goes_both_ways_as_json_and_as_bytes(datatype: str) -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        array = np.array(["", "wave", "café 波", 'a"\\\n'], object)
    elif dtype.kind == "f":
        array = rng.normal(size=50).astype(dtype)
    elif dtype.kind == "b":
        array = rng.integers(0, 2, 50).astype(bool)
    else:
        bounds = np.iinfo(dtype)
        array = np.array([bounds.min, bounds.max, 0, 1], dtype)
    as_json = orjson.loads(orjson.dumps(to_json(array), option=orjson.OPT_SERIALIZE_NUMPY))
    found = from_json("x", datatype, as_json, array.size)
    assert found.tolist() == array.tolist()
    assert NAMES[found.dtype] == datatype
    held = memoryview(bytearray(to_bytes(array)))
    found = from_bytes("x", datatype, held, array.size)
    texts = [text.encode() if isinstance(text, str) else text for text in array.tolist()]
    assert found.tolist() == (texts if datatype == "BYTES" else array.tolist())


def test_a_request_is_read() -> None:
    asked = read_inference(
        request(
            tensor(shape=[1, 2], data=[[1, 2.5]]),
            tensor(name="t", datatype="BYTES", shape=[1], data=["wave"]),
            id="seven",
            outputs=[{"name": "y"}, {"name": "z", "parameters": {"binary_data": True}}],
            parameters={"timeout": 1_500_000},
        ),
        None,
    )
    assert asked.inputs["x"].tolist() == [[1.0, 2.5]]
    assert asked.inputs["x"].dtype == np.float32
    assert asked.inputs["t"].tolist() == ["wave"]
    assert (asked.id, asked.seconds_max, dict(asked.wanted)) == ("seven", 1.5, {"y": False, "z": True})


def test_raw_tensors_follow_each_other_and_are_not_copied() -> None:
    first = np.arange(6, dtype=np.int16)
    head = request(
        {"name": "a", "datatype": "INT16", "shape": [2, 3], "parameters": {"binary_data_size": 12}},
        tensor(),
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 13}},
    )
    body = head + first.tobytes() + struct.pack("<I4sI1s", 4, b"\xff\x00ab", 1, b"c")
    asked = read_inference(body, len(head))
    assert asked.inputs["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert asked.inputs["b"].tolist() == [b"\xff\x00ab", b"c"]
    body[len(head)] = 9
    assert asked.inputs["a"][0, 0] == 9


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 5}, "name of an input"),
        ({"datatype": "FLOAT"}, "FP16, FP32"),
        ({"datatype": []}, "datatype"),
        ({"shape": None}, "shape"),
        ({"shape": [-1]}, "list of sizes"),
        ({"shape": [True, 2]}, "list of sizes"),
        ({"shape": [2**40, 2**40]}, "elements"),
        ({"shape": [1] * 33}, "list of sizes"),
        ({"shape": [3]}, "2 elements, and its shape says 3"),
        ({"data": "AAAA"}, "not a list"),
        ({"data": [[1], [2, 3]]}, "ragged"),
        ({"data": ["1", "2"]}, "elements that are not"),
        ({"data": [None, 1]}, "elements that are not"),
        ({"data": [{}, []]}, "x"),
        ({"data": [1e300, 1]}, "FP32 cannot hold"),
        ({"datatype": "FP16", "data": [70000, 1]}, "FP16 cannot hold"),
        ({"datatype": "INT32", "data": [1.5, 2]}, "elements that are not"),
        ({"datatype": "INT32", "data": [True, False]}, "elements that are not"),
        ({"datatype": "INT8", "data": [128, 0]}, "INT8 cannot hold"),
        ({"datatype": "UINT64", "data": [-1, 0]}, "UINT64 cannot hold"),
        ({"datatype": "INT64", "data": [2**63, 0]}, "INT64 cannot hold"),
        ({"datatype": "BOOL", "data": [0, 1]}, "elements that are not"),
        ({"datatype": "BYTES", "data": ["a", 1]}, "not text"),
        ({"parameters": []}, "x"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
        ({"parameters": {"binary_data_size": 8}}, "no size"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(changes: dict[str, Any], words: str) -> None:
    if changes.get("parameters") == []:
        assert read_inference(request(tensor(**changes)), None).inputs["x"].tolist() == [1, 2.5]
    else:
        assert words in refused(request(tensor(**changes)))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"inputs": 3}', b'{"inputs": [3]}', b"[" * 100_000),
        *(request(tensor(), tensor()), request(tensor(), id=5), request(tensor(), outputs={"name": "y"})),
        request(tensor(), outputs=[{"name": "y", "parameters": {"classification": 3}}]),
        *(request(tensor(), parameters={"timeout": -1}), request(tensor(), parameters=[1])),
    ],
    ids=lambda body: bytes(body[:20]).hex(),
)
def test_a_request_that_cannot_be_understood_is_refused(body: bytes) -> None:
    refused(bytearray(body))


@pytest.mark.parametrize(
    ("datatype", "size", "raw"),
    [
        ("FP32", 8, b"1234567"),
        ("FP32", 8, b"123456789"),
        ("FP32", 7, b"1234567"),
        ("FP32", -1, b""),
        ("FP32", 2**60, b""),
        ("FP32", "8", b"12345678"),
        ("BOOL", 2, b"\x01\x02"),
        ("BYTES", 4, b"\xff\xff\xff\xff"),
        ("BYTES", 3, b"\x00\x00\x00"),
        ("BYTES", 8, bytes(8) + b"more"),
        ("BYTES", 12, bytes(12)),
        ("BYTES", 4, bytes(4)),
    ],
)
def test_raw_bytes_that_do_not_fit_are_refused(datatype: str, size: Any, raw: bytes) -> None:
    described = {"name": "x", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": size}}
    head = request(described)
    assert "x" in refused(head + raw, len(head)) or "left" in refused(head + raw, len(head))


def test_json_that_is_too_long_is_refused_with_the_other_way() -> None:
    body = bytearray(b" " * (tensor_wire.JSON_BYTES_MAX + 1))
    assert "binary" in refused(body)
    assert "body has" in refused(bytearray(b"{}"), 3)


def test_an_answer_has_what_was_asked_for_as_it_was_asked_for() -> None:
    outputs = {"y": np.array([[1.5, np.nan]], np.float32), "t": np.array(["wave", "é"], object)}
    outputs["z"] = np.arange(6, dtype=np.int64).reshape(2, 3).T
    asked = read_inference(request(tensor(), id="7"), None)
    body, length = write_answer(asked, "m", "2", outputs)
    assert length is None
    told = json.loads(body)
    assert (told["model_name"], told["model_version"], told["id"]) == ("m", "2", "7")
    assert told["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, None]},
        {"name": "t", "datatype": "BYTES", "shape": [2], "data": ["wave", "é"]},
        {"name": "z", "datatype": "INT64", "shape": [3, 2], "data": [0, 3, 1, 4, 2, 5]},
    ]
    asked = read_inference(request(tensor(), parameters={"binary_data_output": True}), None)
    body, length = write_answer(asked, "m", None, outputs)
    assert length is not None
    sizes = [each["parameters"]["binary_data_size"] for each in json.loads(body[:length])["outputs"]]
    assert sizes == [8, 14, 48]
    assert np.frombuffer(body[length + 22 :], np.int64).tolist() == [0, 3, 1, 4, 2, 5]


def test_an_answer_too_large_for_json_is_refused_and_goes_raw() -> None:
    outputs = {"y": np.zeros(tensor_wire.JSON_ELEMENTS_MAX + 1, np.int8)}
    with pytest.raises(DataError, match="too many for JSON"):
        write_answer(read_inference(request(tensor()), None), "m", None, outputs)
    asked = read_inference(
        request(tensor(), outputs=[{"name": "y", "parameters": {"binary_data": True}}]), None
    )
    body, length = write_answer(asked, "m", None, outputs)
    assert len(body) == (length or 0) + tensor_wire.JSON_ELEMENTS_MAX + 1


def test_damaged_requests_are_read_or_refused_but_nothing_else() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    head = request(
        tensor(), {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 9}}
    )
    whole = head + struct.pack("<I1sI", 1, b"c", 0)
    refusals = 0
    for number in range(3000):
        body = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            body[rng.randrange(len(body))] = rng.randrange(256)
        if number % 5 == 0:
            del body[rng.randrange(len(body)) :]
        try:
            read_inference(body, len(head))
        except DataError:
            refusals += 1
    assert refusals > 1000
