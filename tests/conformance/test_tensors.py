"""The Open Inference Protocol over HTTP: a real server and engine, asked by Triton's client and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from atoll.domain.errors import PolicyDenied
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.runtimes.onnx.wants import Wants
from atoll.runtimes.room import Room
from atoll.serving.berth import Wanted
from atoll.serving.service import Serving
from atoll.web import tensors
from atoll.web.app import WebServer, make_app
from atoll.web.tensors import tensor_routes
from support import graphs

DEADLINE_SECONDS = 60.0
ECHO = {1: "float32", 7: "int64", 8: "object", 9: "bool", 10: "float16", 2: "uint8"}


class Served:
    """The server in a thread with a loop of its own, as a client of another process would meet it."""

    def __init__(self, folder: Path) -> None:
        self.models = Serving(memory_max_bytes=10**9)
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_SECONDS)

    async def start(self) -> None:
        slow = graphs.save_slow(self._folder / "slow.onnx")
        bad = self._folder / "bad.onnx"
        bad.write_bytes(b"not a model")
        wanted = [
            await _wanted("tiny", graphs.save_tiny(self._folder / "tiny.onnx")),
            await _wanted("slow", slow, at_once_max=1, waiting_max=1),
            await _wanted("busy", slow, waiting_max=64),
            await _wanted("echo", graphs.save_echo(self._folder / "echo.onnx", list(ECHO))),
        ]
        wanted.append(replace(wanted[0], model="bad", open=lambda: OnnxRuntime(bad)))

        def check(request: Request) -> None:
            if request.headers.get("authorization") == "Bearer wrong":
                raise PolicyDenied("login-wrong", "the key is wrong")

        await self.models.desire(wanted)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        app = make_app(dict, CollectorRegistry(), tensor_routes(self.models, check))
        self._running = [
            self._loop.create_task(work) for work in (self.models.run(), WebServer(app, listener).run())
        ]

    def asking(self, name: str) -> int:
        """How many requests a model has."""
        return next(word.asking for word in self.models.models() if word.model == name)

    async def _end(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def stop(self) -> None:
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _wanted(name: str, file: Path, **wants: Any) -> Wanted:
    """A model as its manifest would describe it."""
    chosen = Wants(**{"threads": 1, **wants})
    once = OnnxRuntime(file, chosen)
    said = await once.start()
    await once.stop()
    return Wanted(name, "1", "onnx", {}, said, True, lambda: OnnxRuntime(file, chosen))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    served.run(served.start())
    yield served
    served.stop()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


async def send(
    served: Served, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*served.address)
    told = {"Host": "atoll", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with contextlib.suppress(ConnectionError):  # who is refused early may still be sending
            await writer.drain()
        found = await reader.read()
    writer.close()
    head_bytes, _, content = found.partition(b"\r\n\r\n")
    first, *lines = head_bytes.decode().split("\r\n")
    fields = (line.partition(": ") for line in lines)
    return Reply(int(first.split()[1]), {name.lower(): value for name, _, value in fields}, content)


def ask(model: str = "tiny", **changes: Any) -> bytes:
    inputs = {
        "tiny": {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        "slow": {"name": "rounds", "datatype": "INT64", "shape": [], "data": [2**40]},
    }
    return json.dumps({"inputs": [{**inputs[model], **changes}]}).encode()


async def infer(served: Served, body: bytes, model: str = "tiny", **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await send(served, "POST", f"/v2/models/{model}/infer", body, fields)


# Triton's client


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    """The one that waits: the one for asyncio leaves connections open."""
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient("{}:{}".format(*served.address))
    yield client
    client.close()


def test_tritons_client_finds_the_server_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("nobody")
    told = client.get_model_metadata("tiny", "1")
    assert (told["name"], told["versions"], told["platform"]) == ("tiny", ["1"], "onnxruntime_onnx")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert [each["name"] for each in told["outputs"]] == ["scores", "best"]


@pytest.mark.parametrize("sends_raw", [True, False])
@pytest.mark.parametrize("gets_raw", [True, False])
def test_tritons_client_gets_answers_as_json_and_raw(client: Any, sends_raw: bool, gets_raw: bool) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    x = np.random.default_rng(3).normal(size=(7, 4)).astype(np.float32)
    given = InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=sends_raw)
    wanted = [InferRequestedOutput(name, binary_data=gets_raw) for name in ("best", "scores")]
    found = client.infer("tiny", [given], outputs=wanted, request_id="seven")
    assert found.get_response()["id"] == "seven"
    np.testing.assert_allclose(found.as_numpy("scores"), graphs.scores(x), rtol=1e-5)
    assert found.as_numpy("best").tolist() == graphs.scores(x).argmax(axis=1).tolist()


def test_tritons_client_gets_every_kind_of_element_back(client: Any) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import np_to_triton_dtype

    arrays = {f"in{kind}": np.array([[0, 1], [1, 0]]).astype(name) for kind, name in ECHO.items()}
    arrays["in8"] = np.array([["wave", "café"], ["", "波"]], object)
    given = []
    for name, array in arrays.items():
        given.append(InferInput(name, [2, 2], np_to_triton_dtype(array.dtype)))
        given[-1].set_data_from_numpy(array)
    found = client.infer("echo", given)
    for name, array in arrays.items():
        values = found.as_numpy(name.replace("in", "out")).tolist()
        assert [[v.decode() if isinstance(v, bytes) else v for v in row] for row in values] == array.tolist()


def test_tritons_client_is_told_what_is_wrong(client: Any) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    given = InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"\[1, 3\], and the model wants \[-1, 4\]") as caught:
        client.infer("tiny", [given])
    assert caught.value.status() == "400"


# Raw requests


async def test_json_in_and_out(served: Served) -> None:
    reply = await infer(served, ask())
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    wanted = graphs.scores(np.array([[1, 2, 3, 4]], np.float32))
    assert reply.told == {
        "model_name": "tiny",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": wanted.ravel().tolist()},
            {"name": "best", "datatype": "INT64", "shape": [1], "data": [int(wanted.argmax())]},
        ],
    }
    versioned = await send(served, "POST", "/v2/models/tiny/versions/1/infer", ask())
    assert versioned.told["model_version"] == "1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [2, 2]}, "[2, 2]"),
        ({"shape": [1, 5]}, "its shape says 5"),
        ({"datatype": "FP64"}, 'input "x" is FP64, and the model wants FP32'),
        ({"datatype": "TEXT"}, "no datatype of the protocol"),
        ({"name": "z"}, 'no input "z"'),
        ({"data": ["a", "b", "c", "d"]}, "elements that are not"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    served: Served, changes: dict[str, Any], words: str
) -> None:
    reply = await infer(served, ask(**changes))
    assert reply.status == 400
    assert words in reply.told["error"]
    assert reply.told["code"] == "request-refused"


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\x00\xff", b"[" * 10**6, b'{"inputs": {}}'])
async def test_garbage_is_refused(served: Served, body: bytes) -> None:
    reply = await infer(served, body)
    assert (reply.status, reply.told["code"]) == (400, "request-refused")


async def test_headers_that_lie_are_refused(served: Served) -> None:
    for value in ("-1", "many", "9" * 30, "10000"):
        reply = await infer(served, ask(), Inference_Header_Content_Length=value)
        assert reply.status == 400, value
    assert (await infer(served, ask(), Content_Encoding="gzip")).status == 400


async def test_who_may_not_ask_is_told_so_and_probes_are_open(served: Served) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    for method, path in (("GET", "/v2"), ("GET", "/v2/models/tiny"), ("POST", "/v2/models/tiny/infer")):
        reply = await send(served, method, path, headers=wrong)
        assert (reply.status, reply.told["error"]) == (401, "the key is wrong.")
    assert (await send(served, "GET", "/v2/health/live", headers=wrong)).told == {"live": True}


async def test_what_is_not_there_is_not_found(served: Served) -> None:
    for path in ("/v2/models/nobody", "/v2/models/tiny/versions/9", "/v2/models/nobody/ready"):
        reply = await send(served, "GET", path)
        assert (reply.status, reply.told["code"]) == (404, "model-unknown")
    for model in ("nobody", "tiny/versions/9"):
        assert (await infer(served, ask(), model)).status == 404
    assert (await send(served, "GET", "/v2/models/tiny/infer")).status == 405


async def test_a_model_that_cannot_be_loaded_is_not_ready_and_says_why(served: Served) -> None:
    reply = await infer(served, ask(), "bad")
    assert (reply.status, reply.told["code"]) == (400, "model-unusable")
    assert (await send(served, "GET", "/v2/models/bad/ready")).status == 503
    assert (await send(served, "GET", "/v2/health/ready")).status == 200
    assert (await send(served, "GET", "/v2/models/tiny/ready")).status == 200


async def test_a_body_that_is_too_large_is_refused_and_not_held(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "BODY_BYTES_MAX", 100_000)
    reply = await infer(served, bytes(199_000))
    assert (reply.status, reply.told["code"]) == (413, "request-too-large")
    monkeypatch.setattr(Room, "_bytes_max", property(lambda room: 50_000), raising=False)
    reply = await infer(served, bytes(60_000))
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert (await infer(served, ask())).status == 200


async def test_a_body_that_does_not_come_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "BODY_SECONDS_MAX", 0.1)
    reply = await infer(served, b"{", Content_Length="1000")
    assert reply.status == 503


async def test_a_full_queue_is_told_with_when_to_come_back(served: Served) -> None:
    leaving = [await begin(served, ask("slow"), "slow") for _ in range(2)]
    await until(lambda: served.asking("slow") == 2)
    reply = await infer(served, ask("slow"), "slow")
    assert (reply.status, reply.told["code"], reply.headers["retry-after"]) == (429, "runtime-crowded", "1")
    for writer in leaving:
        writer.close()
    await until(lambda: served.asking("slow") == 0)


async def test_a_deadline_of_the_caller_holds(served: Served) -> None:
    told = json.loads(ask("slow"))
    reply = await infer(served, json.dumps({**told, "parameters": {"timeout": 50_000}}).encode(), "slow")
    assert (reply.status, reply.told["code"]) == (503, "runtime-slow")
    await until(lambda: served.asking("slow") == 0)


async def test_fifty_clients_that_hang_up_leave_nothing_behind(served: Served) -> None:
    for _ in range(2):
        leaving = [await begin(served, ask("slow"), "busy") for _ in range(50)]
        await until(lambda: served.asking("busy") == 50)
        for number, writer in enumerate(leaving):
            if number % 2:
                writer.transport.abort()
            else:
                writer.close()
        await until(lambda: served.asking("busy") == 0)
    reply = await infer(served, ask("slow", data=[2]), "busy")
    assert reply.told["outputs"][0]["data"] == [256.0]


async def begin(served: Served, body: bytes, model: str) -> asyncio.StreamWriter:
    """Send a request and do not wait for its answer."""
    _, writer = await asyncio.open_connection(*served.address)
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: atoll\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
