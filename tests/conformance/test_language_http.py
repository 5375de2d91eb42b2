"""`/v1` of a running node, asked by the clients of OpenAI and Anthropic, and by clients that misbehave."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

from support.fix_home import RunningNode, an_open_folder, atoll, eventually, starting
from support.fix_models import TinyModel

pytestmark = pytest.mark.slow

SAY: list[Any] = [{"role": "user", "content": "hello"}]
TOKENS = 12


@pytest.fixture(scope="module")
def node(tiny_gguf: TinyModel) -> Iterator[RunningNode]:
    """A node with one language model."""
    with an_open_folder() as folder, starting(folder / "home") as start:
        running = start()
        added = atoll("model", "add", str(tiny_gguf.file), "--name", "tiny", "--home", str(running.home))
        assert added.returncode == 0, added.stderr
        eventually(lambda: "tiny" in running.get("/v1/models")[1], "the model is known")
        yield running
        assert running.end() == 0, running.output


@pytest.fixture
def client(node: RunningNode) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{node.http}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def claude(node: RunningNode) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=node.http, api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_in_one_answer_says_what_its_stream_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": SAY, "temperature": 0, "max_tokens": TOKENS}
    whole = client.chat.completions.create(**asked)
    assert whole.model == "tiny"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == TOKENS
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    events = list(stream)
    said = "".join(one.choices[0].delta.content or "" for one in events if one.choices)
    assert said == whole.choices[0].message.content
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == TOKENS


def test_log_probabilities_come_with_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=SAY, max_tokens=4, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [len(token.top_logprobs) for token in found.content] == [3] * 4
    assert all(token.logprob <= 0 for token in found.content)


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"grade": {"enum": ["good", "poor"]}},
        "required": ["grade"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=SAY,
        max_tokens=200,  # room for all the blanks that the grammar lets it say between
        response_format={"type": "json_schema", "json_schema": {"name": "grade", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content or "")["grade"] in ("good", "poor")


def test_completions_and_responses_and_the_list_of_models(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="tiny", prompt="hello", max_tokens=TOKENS, temperature=0)
    assert plain.choices[0].text
    answer = client.responses.create(model="tiny", input="hello", max_output_tokens=TOKENS, temperature=0)
    assert answer.output_text
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny").id == "tiny"


def test_anthropic_messages_in_one_answer_and_as_a_stream(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": SAY,
        "max_tokens": TOKENS,
        "extra_body": {"temperature": 0},
    }
    whole = claude.messages.create(**asked)
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == TOKENS
    with claude.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
    assert said == "".join(block.text for block in whole.content if block.type == "text")


def test_mistakes_are_errors_of_the_right_kind(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean"):
        client.chat.completions.create(model="tinny", messages=SAY)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages="hello")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="context") as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello " * 9000}])
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="tiny", input="hello")
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="tinny", messages=SAY, max_tokens=1)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"model": 7}', b"[" * 100_000, b'{"model": "tiny"}', b"\xff\xfe"]
)
def test_bodies_that_are_none_get_an_answer(node: RunningNode, body: bytes) -> None:
    place = urlsplit(node.http)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        assert answer.status == 400
        assert json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize(
    ("stream", "status"), [(None, 200), (False, 200), (1, 400), (0, 400), ("true", 400), ([[]], 400)]
)
def test_a_stream_is_wanted_or_not_and_nothing_between(node: RunningNode, stream: Any, status: int) -> None:
    body = json.dumps({"model": "tiny", "messages": SAY, "max_tokens": 2, "stream": stream})
    place = urlsplit(node.http)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    assert answer.status == status
    assert "usage" in told or "stream" in told["error"]["message"]


def under_way(node: RunningNode) -> float:
    lines = node.get("/metrics")[1].splitlines()
    return float(
        next(line for line in lines if line.startswith('atoll_model_requests{model="tiny"}')).split()[1]
    )


def test_two_hundred_clients_that_hang_up_leave_nothing_behind(
    node: RunningNode, client: openai.OpenAI
) -> None:
    place = urlsplit(node.http)
    body = json.dumps({"model": "tiny", "messages": SAY, "max_tokens": 2000, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for number in range(200):
        with socket.create_connection((place.hostname, place.port), timeout=60) as caller:
            caller.sendall(head + body)
            if number % 4 == 0:
                caller.recv(300)
    eventually(lambda: under_way(node) == 0, "nobody is answered who has gone")
    answer = client.chat.completions.create(model="tiny", messages=SAY, max_tokens=2)
    assert answer.choices[0].message.content


def test_pages_of_other_places_may_not_ask_without_a_key(node: RunningNode) -> None:
    place = urlsplit(node.http)
    for headers in ({"Origin": "https://elsewhere.example"}, {"Host": "rebound.example"}):
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models", headers=headers)
            assert connection.getresponse().status == 403
    made = atoll("key", "add", "till", "--home", str(node.home))
    key = made.stdout.strip()

    def status(**more: str) -> int:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Origin": "https://elsewhere.example", "Authorization": f"Bearer {key}", **more}
            connection.request("GET", "/v1/models", headers=headers)
            return connection.getresponse().status

    eventually(lambda: status() == 200, "the key is good")
    assert status(Authorization="Bearer wrong") == 403
    assert atoll("key", "rm", "till", "--home", str(node.home)).returncode == 0
    eventually(lambda: status() == 403, "the key is good no more")


def test_commands_ask_the_same_models(node: RunningNode) -> None:
    home = ("--home", str(node.home))
    said = atoll("chat", "hello", "--model", "tiny", "--tokens", "4", "--temperature", "0", *home)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    wrong = atoll("chat", "hello", "--model", "tinny", *home)
    assert "code: model-unknown" in wrong.stderr
    listed = json.loads(atoll("model", "list", "--json", *home).stdout)
    (tiny,) = [row for row in listed if row.get("name") == "tiny"]
    assert (tiny["state"], tiny["is_here"]) == ("ready", True)
