"""What a node says that it speaks over HTTP is what it speaks, and nothing that is sent there does it harm.

Bodies are made from the description that the node gives. ATOLL_EXAMPLES asks for more of them (make fuzz).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from atoll.node import credentials
from atoll.node.config import load_settings
from atoll.node.home import open_home
from atoll.node.models import Models
from atoll.node.process import http_routes
from atoll.runtimes import tensor_data
from atoll.runtimes.llama import bodies
from atoll.web import openapi, retrieving, schemas, tensor_wire
from atoll.web.app import make_app
from support.described import NOT_JSON, Description, Usual, spoilt, written
from support.fix_home import RunningNode, an_open_folder, eventually, starting

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "100")) // 4
MODEL = "pebble"
TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
NAMES = ["digits", MODEL, "digits", "digits", "nobody", "\x00", "é" * 40, "x:y", ".."]
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}
TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


class Door:
    """The HTTP of a node, asked on one connection for as long as that stays open."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        place = urlsplit(node.http)
        self.address = (place.hostname or "", place.port or 0)
        self._connection = http.client.HTTPConnection(*self.address, timeout=90)
        self.password = credentials.password(open_home(node.home))
        self.login = "Basic " + base64.b64encode(f"app:{self.password}".encode()).decode()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        for is_last in (False, True):
            try:
                self._connection.request(method, path, body, {"Authorization": self.login, **told})
                answer = self._connection.getresponse()
                return Reply(answer.status, answer.headers.get_content_type(), answer.read())
            except (http.client.HTTPException, OSError):
                self.close()  # which may have been closed meanwhile
                if is_last:
                    raise
        raise AssertionError

    def close(self) -> None:
        self._connection.close()

    def raw(self, sent: bytes) -> bytes:
        """All that comes for bytes as they are."""
        found = b""
        # Who is refused early may still be sending, and then the connection breaks.
        with socket.create_connection(self.address, timeout=90) as caller, contextlib.suppress(OSError):
            caller.sendall(sent)
            caller.shutdown(socket.SHUT_WR)
            while part := caller.recv(65536):
                found += part
        return found

    def metric(self, begins: str) -> float:
        lines = self.node.get("/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(begins))

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.node.pid}/fd"))

    def megabytes(self) -> float:
        lines = Path(f"/proc/{self.node.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A node with the models that come along, which has to be well and to have nothing left at the end."""
    with an_open_folder() as folder, starting(folder / "home") as start:
        node = start()
        for statement in (
            "create table thing (id bigint primary key default atoll.id(), note text, size int)",
            "insert into thing (note, size) values ('a red rope', 3), ('a blue rope', 4)",
            "select atoll.searchable('thing', text => '{note}')",
        ):
            assert node.sql(statement).returncode == 0
        door = Door(node)
        before = door.open_files()
        warm_up(door)
        began = door.megabytes()
        yield door
        eventually(lambda: door.metric("atoll_model_requests{") == 0, "nobody waits for a model")
        assert chats(door)
        door.close()
        eventually(lambda: door.open_files() <= before + 16, "connections are closed")
        print(f"memory {began:.0f} MB before and {door.megabytes():.0f} MB after")
        assert door.megabytes() < began + 100
        assert node.end() == 0, node.output
        log = (node.home / "logs" / "node.log").read_text()
        assert "Traceback" not in log, log[log.index("Traceback") :][:4000]


def warm_up(door: Door) -> None:
    """What a first request loads must not count as lost."""
    assert chats(door)
    assert door.ask("POST", "/query", written({"sql": "select count(*) from thing"})).status in (200, 501)
    assert door.ask("POST", "/v2/models/digits/infer", written({"inputs": [digits(door)]})).status == 200


def digits(door: Door) -> dict[str, Any]:
    (taken,) = door.ask("GET", "/v2/models/digits").told["inputs"]
    return {"name": taken["name"], "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}


def chats(door: Door) -> bool:
    return door.ask("POST", "/v1/chat/completions", written(CHAT)).status == 200


def description(door: Door) -> Description:
    return Description(door.ask("GET", "/openapi.json").told)


OPERATIONS = {f"{one.method} {one.path}": one for one in openapi.OPERATIONS}
ENDLESS = ("GET /feed/{name}",)


# The description


def test_the_description_has_the_routes_that_there_are(door: Door, tmp_path: Path) -> None:
    told = description(door)
    assert len(json.dumps(told.told)) < 64 * 1024
    chosen = load_settings({"http": "127.0.0.1:0"}, {}, tmp_path / "none.toml", "here")
    home: Any = open_home(door.node.home)
    unused: Any = SimpleNamespace(ask=None, connect=None)
    models = Models(home, chosen, unused)
    node: Any = SimpleNamespace(home=home, settings=chosen, postgres=unused, questions=unused, models=models)
    routes: Any = make_app(dict, CollectorRegistry(), http_routes(node)).routes
    there = {f"{method} {route.path}" for route in routes for method in route.methods - {"HEAD"}}
    assert {f"{method} {path}" for method, path, _ in told.operations()} == there


def test_fields_are_those_that_are_read() -> None:
    takes = {one.path: one.takes for one in openapi.OPERATIONS if one.takes}
    for path, read in bodies.FIELDS.items():
        named = schemas.SCHEMAS[takes[path] or ""]["properties"]
        of_node = {"model", "stream", "queue"} | ({"retrieve"} if path == retrieving.CHAT else set())
        assert set(named) == of_node | set(read), path
    assert set(schemas.DATATYPES) == set(tensor_data.DTYPES)
    shape = schemas.SCHEMAS["Inference"]["properties"]["inputs"]["items"]["properties"]["shape"]
    assert shape["maxItems"] == tensor_wire.DIMENSIONS_MAX


# Whatever is sent


HOST = b"Host: 127.0.0.1\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST
NO_REQUESTS = {
    "no request at all": b"hello\r\n\r\n",
    "a line without end": b"GET /" + b"x" * 200_000,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20_000)),
    "a header that is too long": b"GET /v1/models HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    "a length that is none": POST + b"Content-Length: many\r\n\r\n",
    "a length below nothing": POST + b"Content-Length: -1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunks of a kind that nobody knows": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "bytes that are no text": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100b5010000b103035c") + bytes(180),
}


@pytest.mark.parametrize("what", NO_REQUESTS)
def test_what_is_no_request_is_refused(door: Door, what: str) -> None:
    status = door.raw(NO_REQUESTS[what]).split(b" ", 2)[1:2]
    assert status in ([], [b"400"], [b"501"]), status
    assert door.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    "sent", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
)
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v2/models/digits/infer", b"/api/search"])
def test_a_body_that_stops_in_the_middle_takes_nobody_down(door: Door, path: bytes, sent: bytes) -> None:
    login = b"Authorization: " + door.login.encode() + b"\r\n"
    door.raw(b"POST " + path + b" HTTP/1.1\r\n" + HOST + login + sent)
    assert door.ask("GET", "/healthz").status == 200


def test_an_offer_of_another_protocol_is_passed_over(door: Door) -> None:
    """Java's client makes one with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n"
    login = b"Authorization: " + door.login.encode() + b"\r\n"
    posted = b"POST /api/search HTTP/1.1\r\n" + HOST + offer + login + b"Content-Length: 2\r\n\r\n{}"
    got = b"GET /healthz HTTP/1.1\r\n" + HOST + offer + b"\r\n"
    last = b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n"
    answers = door.raw(got + posted + last)
    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 400, 200]


def test_requests_in_one_piece_are_answered_in_their_order(door: Door) -> None:
    one = b"GET %s HTTP/1.1\r\n" + HOST + b"\r\n"
    paths = [b"/healthz", b"/v1/models", b"/v2", b"/nowhere"] * 5
    answers = door.raw(b"".join(one % path for path in paths) + b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n")
    statuses = [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 200, 404] * 5 + [200]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/messages", 405),
        ("BREW", "/v2/models/digits/infer", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v1/models/", 404),
        ("OPTIONS", "/api/search", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_in_the_words_of_the_protocol(
    door: Door, method: str, path: str, status: int
) -> None:
    reply = door.ask(method, path)
    assert reply.status == status
    shape = "MessageError" if path == "/v1/messages" else "LanguageError" if "v1" in path else "TensorError"
    shape = shape if path.startswith(("/v1", "/v2")) else "Error"
    assert not list(description(door).problems(reply.told, {"$ref": f"#/components/schemas/{shape}"}))


@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("/v1/chat/completions", b'"retrieve": {"table": "thing", "query": "rope", "filter": %s}'),
        ("/v1/chat/completions", b'"retrieve": {"table": "thing", "query": "rope"}, "tools": [%s]'),
        ("/api/search", b'"table": "thing", "query": "rope", "filter": %s'),
    ],
)
def test_what_is_nested_too_deep_is_refused(door: Door, path: str, around: bytes) -> None:
    deep = b'{"x":' * 1000 + b"1" + b"}" * 1000
    told = b'{"messages": [{"role": "user", "content": "hi"}], ' if "chat" in path else b"{"
    reply = door.ask("POST", path, told + around % deep + b"}", X_Api_Key=door.password)
    assert reply.status == 400, reply
    assert message_of(reply.told)


@pytest.mark.parametrize("path", bodies.FIELDS)
def test_a_request_that_asks_nothing_is_the_callers_to_mend(door: Door, path: str) -> None:
    for body in ({}, {"model": MODEL, "max_tokens": 1}):
        reply = door.ask("POST", path, written(body))
        assert reply.status == 400, reply
        assert "is missing" in message_of(reply.told)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic \xe9"},
        {"Authorization": "Basic " + "A" * 5},
        {"Host": "[::1"},
        {"Origin": "http://["},
        {"Origin": "null"},
        {"Last-Event-ID": "\xff"},
        {"Content-Encoding": "gzip"},
        {"Inference-Header-Content-Length": "\xb2"},
        {"Cookie": "x" * 30_000},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/models/digits/infer", "/api/search", "/query"])
def test_headers_that_make_no_sense_are_refused_or_ignored(
    door: Door, path: str, headers: dict[str, str]
) -> None:
    reply = door.ask("POST", path, b"{}", **headers)
    assert reply.status in (400, 401, 403), reply
    assert message_of(reply.told)


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 404), ("?create=maybe", 400), ("?create=true&tables=nothing", 400), ("?x=1", 400)],
)
@pytest.mark.parametrize("name", ["news", "%00", "%f0%9f%90%9a", "x" * 300])
def test_a_feed_that_cannot_be_is_refused(door: Door, name: str, query: str, status: int) -> None:
    reply = door.ask("GET", f"/feed/{name}{query}")
    assert reply.status in (status, 400)
    assert message_of(reply.told)


def usual_of(door: Door, always: tuple[str, ...]) -> Usual:
    values: dict[str, list[Any]] = {
        "model": [MODEL],
        **{name: [1, 2, 3] for name in TOKENS},
        "n": [1, 2],
        "tools": [[]],
        "response_format": [{"type": "text"}, {"type": "json_object"}],
        "text": ["hi", "é"],
        "type": ["text"],
        "role": ["user", "system", "assistant"],
        "prompt": ["hi", ["hi", "ho"], [1, 2, 3]],
        "table": ["thing", "public.thing"],
        "tables": [["thing"], ["thing", "public.thing"]],
        "query": ["rope", "blue or red"],
        "vector": [None],
        "filter": [{}, {"size": 3}],
        "sql": ["select 1 as one", "select count(*) as n from thing", "select note from thing"],
        "on": [[]],
        "seconds": [1, 5],
        "wait_seconds": [0, 0.1],
        "inputs": [[digits(door)]],
        "outputs": [[]],
    }
    return Usual(values, frozenset({*TOKENS, *always}))


def bodies_for(told: Description, takes: str, usual: Usual) -> st.SearchStrategy[bytes]:
    valid = told.values({"$ref": f"#/components/schemas/{takes}"}, usual)
    near = st.builds(spoilt, valid, st.integers(0, 2**32), st.just(usual.always))
    return st.one_of(valid.map(written), near.map(written), near.map(written), st.sampled_from(NOT_JSON))


@pytest.mark.parametrize(
    ("name", "always"),
    [
        *((name, ()) for name in OPERATIONS if name not in ENDLESS),
        ("POST /v1/chat/completions", ("retrieve", "table", "query")),
    ],
)
def test_every_answer_is_one_that_is_described(door: Door, name: str, always: tuple[str, ...]) -> None:
    one = OPERATIONS[name]
    told = description(door)
    responses = told.told["paths"][one.path][one.method.lower()]["responses"]
    sent = bodies_for(told, one.takes, usual_of(door, always)) if one.takes else st.none()
    seen: dict[int, int] = {}

    @settings(
        max_examples=EXAMPLES if one.takes or "{" in one.path else 2,
        derandomize="ATOLL_EXAMPLES" not in os.environ,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # to make one that fails smaller, the node would be asked thousands of times
        suppress_health_check=list(HealthCheck),
    )
    @given(sent, st.sampled_from(NAMES), st.sampled_from(TYPES))
    def ask(body: bytes | None, part: str, kind: str) -> None:
        path = one.path.replace("{model}", quote(part, safe="")).replace("{version}", "1")
        reply = door.ask(one.method, path, body, Content_Type=kind, X_Api_Key=door.password)
        seen[reply.status] = seen.get(reply.status, 0) + 1
        what = f"{reply.status} {reply.body[:500]!r} for {(body or b'')[:500]!r}"
        assert str(reply.status) in responses, what
        content = responses[str(reply.status)]["content"]
        assert reply.kind in content, what
        if reply.kind == "application/json":
            found = list(told.problems(reply.told, content[reply.kind]["schema"]))
            assert not found, f"{found}: {what}"
        if reply.status >= 400 and reply.status not in one.same:
            assert message_of(reply.told), what
        assert reply.status < 500 or reply.status in one.same or is_late(body, reply), what

    ask()
    print(name, dict(sorted(seen.items())))


def is_late(body: bytes | None, reply: Reply) -> bool:
    """Whether it asked for an answer sooner than there could be one."""
    return b'"timeout"' in (body or b"") and reply.told.get("code") == "runtime-slow"


def message_of(told: Any) -> Any:
    error = told["error"]
    return error if isinstance(error, str) else error["message"]
