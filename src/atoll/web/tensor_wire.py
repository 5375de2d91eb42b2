"""The bodies of an inference request and its answer, in the Open Inference Protocol version 2.

Tensors are JSON, or raw bytes after the JSON (the binary tensor data extension), in each direction and for
each tensor by itself. Whether they fit a model is asked elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from atoll.domain.errors import DataError
from atoll.runtimes.tensor_data import DTYPES, NAMES, Array, from_bytes, from_json, reject, to_bytes, to_json

JSON_BYTES_MAX = 8 * 1024**2
JSON_ELEMENTS_MAX = 1_000_000
ANSWER_BYTES_MAX = 256 * 1024**2
DIMENSIONS_MAX = 32
SECONDS_MAX = 300.0
KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}


@dataclass(frozen=True)
class Inference:
    """What is asked of a model."""

    inputs: Mapping[str, Array]
    wanted: Mapping[str, bool]
    """The outputs, and whether each is to come as raw bytes; empty where all are wanted."""
    is_raw: bool
    """How outputs come that are not named."""
    id: str | None
    seconds_max: float


def read_inference(body: bytearray, json_length: int | None) -> Inference:
    """`json_length` is the header Inference-Header-Content-Length: what comes after it is raw."""
    length = len(body) if json_length is None else json_length
    if length > len(body):
        reject(f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes")
    if length > JSON_BYTES_MAX:
        words = f"the JSON of a request has {JSON_BYTES_MAX // 1024**2} MB at most"
        reject(words, hint="Send large tensors as binary data.")
    view = memoryview(body)
    try:
        told = _typed(orjson.loads(view[:length]), dict, "the request")
    except ValueError as error:
        raise DataError("request-refused", "the request is not JSON", detail=f"{error}.") from error
    raw = _Raw(view[length:])
    inputs: dict[str, Array] = {}
    for tensor in _typed(told.get("inputs"), list, '"inputs"'):
        name = _typed(_typed(tensor, dict, "an input").get("name"), str, "the name of an input")
        if name in inputs:
            reject(f'input "{name}" is given twice')
        inputs[name] = _read_tensor(name, tensor, raw)
    raw.check_end()
    parameters = _parameters(told)
    is_raw = parameters.get("binary_data_output", False) is True
    return Inference(
        inputs=inputs,
        wanted=_read_wanted(told.get("outputs"), is_raw),
        is_raw=is_raw,
        id=None if told.get("id") is None else _typed(told["id"], str, '"id"'),
        seconds_max=_read_seconds(parameters.get("timeout", 0)),
    )


def write_answer(
    asked: Inference, model: str, version: str | None, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """The body, and where the raw bytes in it begin; None where there are none."""
    described, pieces = [], []
    for name, array in outputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": NAMES[array.dtype], "shape": array.shape}
        if asked.wanted.get(name, asked.is_raw):
            pieces.append(to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(pieces[-1])}
        elif array.size > JSON_ELEMENTS_MAX:
            words = f'output "{name}" has {array.size} elements, too many for JSON'
            reject(words, hint="Ask for it as binary data.")
        else:
            tensor["data"] = to_json(array)
        described.append(tensor)
    if (size := sum(map(len, pieces))) > ANSWER_BYTES_MAX:
        reject(f"the answer would have {size} bytes", hint=f"It may have {ANSWER_BYTES_MAX // 1024**2} MB.")
    told: dict[str, Any] = {"model_name": model, "outputs": described}
    if version is not None:
        told["model_version"] = version
    if asked.id is not None:
        told["id"] = asked.id
    head = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *pieces]), len(head)) if pieces else (head, None)


class _Raw:
    """The bytes after the JSON, which tensors take one after the other."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, count: int, name: str) -> memoryview:
        found = self._view[self._at : self._at + count]
        if len(found) < count:
            reject(f'input "{name}" should have {count} bytes, and {len(found)} are left')
        self._at += count
        return found

    def check_end(self) -> None:
        if left := len(self._view) - self._at:
            reject(f"{left} bytes are left that belong to no input")


def _read_tensor(name: str, tensor: dict[str, Any], raw: _Raw) -> Array:
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        reject(f'input "{name}" has no datatype of the protocol', detail=f"They are {', '.join(DTYPES)}.")
    shape = _typed(tensor.get("shape"), list, f'the shape of input "{name}"')
    if len(shape) > DIMENSIONS_MAX or not all(type(size) is int and size >= 0 for size in shape):
        reject(f'the shape of input "{name}" is no list of sizes')
    count = math.prod(shape)
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        reject(f'input "{name}" is in shared memory, which is not supported')
    if (size := parameters.get("binary_data_size")) is None:
        data = _typed(tensor.get("data"), list, f'"data" of input "{name}"')
        return from_json(name, datatype, data, count).reshape(shape)
    if type(size) is not int or size < 0 or "data" in tensor:
        reject(f'binary_data_size of input "{name}" is no size, or it has "data" as well')
    return from_bytes(name, datatype, raw.take(size, name), count).reshape(shape)


def _read_wanted(told: Any, is_raw: bool) -> dict[str, bool]:
    found = {}
    for output in [] if told is None else _typed(told, list, '"outputs"'):
        name = _typed(_typed(output, dict, "an output").get("name"), str, "the name of an output")
        parameters = _parameters(output)
        if unknown := {"classification", "shared_memory_region"} & set(parameters):
            reject(f'output "{name}" is asked for with {unknown.pop()}, which is not supported')
        found[name] = parameters.get("binary_data", is_raw) is True
    return found


def _read_seconds(microseconds: Any) -> float:
    if type(microseconds) is not int or microseconds < 0:
        reject('the parameter "timeout" is no number of microseconds')
    return min(microseconds / 1e6, SECONDS_MAX) or SECONDS_MAX


def _parameters(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _typed(told.get("parameters") or {}, dict, '"parameters"')
    return found


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        reject(f"{what} is missing, or not {KINDS[kind]}")
    return value
