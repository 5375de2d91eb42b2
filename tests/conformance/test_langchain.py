"""`/v1` of a running node, asked through LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from conformance.test_onnx_encoder import SIZE, save_encoder
from support.fix_home import RunningNode, an_open_folder, atoll, eventually, starting

langchain_openai = pytest.importorskip("langchain_openai")
langchain_anthropic = pytest.importorskip("langchain_anthropic")
pytestmark = pytest.mark.slow
QUESTION = "What is an atoll?"
USUAL: dict[str, Any] = {"api_key": "none", "temperature": 0, "max_tokens": 400, "max_retries": 0}


class Fault(StrEnum):
    CALM = "calm"
    WORN = "worn"


class Finding(BaseModel):
    """What was found of a machine."""

    fault: Fault
    is_urgent: bool


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    """A node with the models that come along, and a small encoder of texts."""
    with an_open_folder() as folder, starting(folder / "home") as start:
        running = start()
        (folder / "encoder").mkdir()
        save_encoder(folder / "encoder")
        added = atoll(
            "model", "add", str(folder / "encoder"), "--name", "encoder", "--home", str(running.home)
        )
        assert added.returncode == 0, added.stderr
        eventually(lambda: "encoder" in running.get("/v1/models")[1], "the encoder is known")
        yield running
        assert running.end() == 0, running.output


@pytest.fixture
def chat(node: RunningNode) -> Any:
    return langchain_openai.ChatOpenAI(base_url=f"{node.http}/v1", model="pebble", **USUAL)


@pytest.fixture
def claude(node: RunningNode) -> Any:
    return langchain_anthropic.ChatAnthropic(base_url=node.http, model="pebble", **USUAL)


def test_a_chat_says_in_one_answer_what_its_stream_says(chat: Any, claude: Any) -> None:
    whole = chat.invoke(QUESTION)
    assert "authority" in whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    parts = list(chat.stream(QUESTION, stream_usage=True))
    assert "".join(part.content for part in parts) == whole.content
    assert any(part.usage_metadata for part in parts)
    assert claude.invoke(QUESTION).content == whole.content
    assert "".join(part.content for part in claude.stream(QUESTION)) == whole.content
    assert [one.content for one in chat.batch([QUESTION] * 2)] == [whole.content] * 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_has_the_structure(chat: Any, method: str) -> None:
    found = chat.with_structured_output(Finding, method=method).invoke(QUESTION)
    assert isinstance(found, Finding)


def test_a_tool_is_called_where_it_has_to_be_and_its_answer_is_heard(chat: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def report(finding: Finding) -> str:
        """Reports a finding."""
        return "reported"

    @tool
    def ignore(is_sure: bool) -> str:
        """Reports nothing."""
        return "ignored"

    both = [report, ignore]
    bound = chat.bind_tools(both, tool_choice="any")
    answer = bound.invoke(QUESTION)
    (call,) = answer.tool_calls
    assert {"report": report, "ignore": ignore}[call["name"]].invoke(call["args"])
    assert not answer.content
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    (named,) = chat.bind_tools(both, tool_choice="ignore").invoke(QUESTION).tool_calls
    assert (named["name"], type(named["args"]["is_sure"])) == ("ignore", bool)
    whole = None
    for part in bound.stream(QUESTION):
        whole = part if whole is None else whole + part
    assert [one["args"] for one in whole.tool_calls] == [call["args"]]
    told = [HumanMessage(QUESTION), answer, ToolMessage("reported", tool_call_id=call["id"])]
    assert chat.bind_tools(both).invoke(told).content


def test_what_cannot_be_insisted_on_is_refused_and_not_left_out(chat: Any, claude: Any) -> None:
    with pytest.raises(Exception, match="cannot be insisted on on this path"):
        claude.with_structured_output(Finding).invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match='no tool "nobody"'):
        chat.bind(
            tools=[{"type": "function", "function": {"name": "somebody"}}],
            tool_choice={"type": "function", "function": {"name": "nobody"}},
        ).invoke(QUESTION)


def test_texts_are_embedded_and_numbers_of_tokens_are_refused(node: RunningNode) -> None:
    made = langchain_openai.OpenAIEmbeddings(
        base_url=f"{node.http}/v1",
        api_key="none",
        model="encoder",
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    vectors = made.embed_documents(["the sea is calm", "reefs"])
    assert [len(vector) for vector in vectors] == [SIZE] * 2
    assert made.embed_query("the sea is calm") == pytest.approx(vectors[0], abs=1e-5)
    with openai.OpenAI(base_url=f"{node.http}/v1", api_key="none", max_retries=0) as client:
        for tokens in ([5, 6], [[5, 6], [7]]):
            with pytest.raises(openai.BadRequestError, match="each model numbers its own"):
                client.embeddings.create(model="encoder", input=tokens)  # type: ignore[arg-type]
