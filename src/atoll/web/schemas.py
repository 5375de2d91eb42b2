"""What bodies and answers over HTTP look like, as JSON schemas for the description of the interfaces.

A schema says what is understood; fields that it does not name are left out or refused where the body is read.
"""

from __future__ import annotations

from typing import Any

from atoll.domain.models import Skill
from atoll.retrieval import wish
from atoll.router.jobs.queue import FINAL
from atoll.router.place import Need
from atoll.runtimes.llama import fields

Schema = dict[str, Any]
FLAG: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
TEXT_OR_NONE: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY_OBJECT: Schema = {"type": "object"}
SIZES = (8, 16, 32, 64)
DATATYPES = ["BOOL", "BYTES", *(f"{kind}{size}" for kind in ("INT", "UINT") for size in SIZES)]
DATATYPES += [f"FP{size}" for size in SIZES[1:]]


def number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def several(of: Schema, most: int | None = None, least: int = 0) -> Schema:
    bounds = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": of, **bounds, **({"minItems": least} if least else {})}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def thing(needed: str = "", /, **properties: Schema) -> Schema:
    """An object; `needed` are the names of what it always has."""
    return {
        "type": "object",
        "properties": properties,
        **({"required": needed.split()} if needed else {}),
    }


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


# What language models are asked

_SAMPLING: dict[str, Schema] = {
    "model": TEXT,
    "stream": FLAG,
    "temperature": number(0, 10),
    "top_p": number(0, 1),
    "top_k": whole(0, 100_000),
    "min_p": number(0, 1),
    "frequency_penalty": number(-10, 10),
    "presence_penalty": number(-10, 10),
    "repeat_penalty": number(0.1, 10),
    "seed": whole(-(1 << 63), (1 << 64) - 1),
}
_TOKENS = whole(1, 1 << 53)
_STOPS = either(TEXT, several(TEXT, fields.STOPS_MAX))
_VALUES = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_COUNTING: dict[str, Schema] = {
    "n": whole(1, 64),
    "stop": _STOPS,
    "logit_bias": {"type": "object", "additionalProperties": number(-100, 100)},
    "stream_options": _VALUES,
}
_TALKING: dict[str, Schema] = {
    "tools": several(ANY_OBJECT, fields.TOOLS_MAX),
    "tool_choice": either(TEXT, ANY_OBJECT),
    "parallel_tool_calls": FLAG,
    "chat_template_kwargs": _VALUES,
}
_PART = thing("type", type=one_of(*sorted(fields.PARTS)), text=TEXT)
_CONTENT = either(TEXT, several(_PART))
_MESSAGES = several(thing("role content", role=TEXT, content=_CONTENT), fields.MESSAGES_MAX, 1)

# What they answer

_USAGE = thing("prompt_tokens total_tokens", prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
_MESSAGE = thing("role content", role=TEXT, content=TEXT_OR_NONE, tool_calls=several(ANY_OBJECT))
_TENSOR = {
    "name": TEXT,
    "datatype": one_of(*DATATYPES),
    "shape": several(COUNT, 32),
    "parameters": ANY_OBJECT,
    "data": several({}),
}
_TENSOR_FACTS = thing("name datatype shape", name=TEXT, datatype=TEXT, shape=several({"type": "integer"}))

SCHEMAS: dict[str, Schema] = {
    "ChatRequest": thing(
        "messages",
        **_SAMPLING,
        **_TALKING,
        **_COUNTING,
        messages=_MESSAGES,
        max_tokens=_TOKENS,
        max_completion_tokens=_TOKENS,
        logprobs=FLAG,
        top_logprobs=whole(0, fields.TOP_LOGPROBS_MAX),
        response_format=ANY_OBJECT,
        reasoning_effort=TEXT,
        retrieve=ref("Retrieve"),
        queue=ref("Queue"),
    ),
    "CompletionRequest": thing(
        "prompt",
        **_SAMPLING,
        **_COUNTING,
        prompt=either(TEXT, several(TEXT, fields.PROMPTS_MAX, 1), several(whole(0, (1 << 31) - 1), None, 1)),
        max_tokens=_TOKENS,
        logprobs=whole(0, fields.TOP_LOGPROBS_MAX),
        queue=ref("Queue"),
    ),
    "ResponseRequest": thing(
        "input",
        **_SAMPLING,
        **_TALKING,
        input=either(TEXT, _MESSAGES),
        instructions=TEXT,
        max_output_tokens=_TOKENS,
        reasoning=_VALUES,
        text=ANY_OBJECT,
        queue=ref("Queue"),
    ),
    "MessageRequest": thing(
        "messages max_tokens",
        **_SAMPLING,
        **_TALKING,
        messages=_MESSAGES,
        system=_CONTENT,
        max_tokens=_TOKENS,
        stop_sequences=several(TEXT, fields.STOPS_MAX),
        thinking=_VALUES,
        queue=ref("Queue"),
    ),
    "EmbeddingRequest": thing(
        "input",
        model=TEXT,
        input=either(TEXT, several(TEXT, 2048, 1)),
        encoding_format=one_of("float", "base64"),
        queue=ref("Queue"),
    ),
    "Chat": thing(
        "object model choices usage",
        object={"const": "chat.completion"},
        model=TEXT,
        choices=several(
            thing(
                "index message finish_reason", index=COUNT, message=_MESSAGE, finish_reason=TEXT, logprobs={}
            )
        ),
        usage=_USAGE,
        citations=several(
            thing(
                "index table key scope snippet score",
                index=COUNT,
                table=TEXT,
                key=ANY_OBJECT,
                scope=TEXT,
                snippet=TEXT,
                score={"type": "number"},
            )
        ),
        retrieval=thing(
            "query found left_out notes", query=TEXT, found=COUNT, left_out=COUNT, notes=several(TEXT)
        ),
    ),
    "Completion": thing(
        "object model choices usage",
        object={"const": "text_completion"},
        model=TEXT,
        choices=several(
            thing("index text finish_reason", index=COUNT, text=TEXT, finish_reason=TEXT, logprobs={})
        ),
        usage=_USAGE,
    ),
    "Response": thing(
        "object model status output",
        object={"const": "response"},
        model=TEXT,
        status=TEXT,
        output=several(ANY_OBJECT),
        usage=ANY_OBJECT,
    ),
    "Message": thing(
        "type role model content stop_reason usage",
        type={"const": "message"},
        role={"const": "assistant"},
        model=TEXT,
        content=several(ANY_OBJECT),
        stop_reason=TEXT,
        usage=ANY_OBJECT,
    ),
    "Embeddings": thing(
        "object model data usage",
        object={"const": "list"},
        model=TEXT,
        data=several(
            thing("index embedding", index=COUNT, embedding=either(TEXT, several({"type": "number"})))
        ),
        usage=_USAGE,
    ),
    "Model": thing(
        "id object state skills",
        id=TEXT,
        object={"const": "model"},
        version=TEXT,
        state=one_of("empty", "loading", "ready", "leaving"),
        skills=several(TEXT),
        context_tokens={"type": ["integer", "null"]},
        adapters=several(TEXT),
    ),
    "Models": thing("object data", object={"const": "list"}, data=several(ref("Model"))),
    # Tensors
    "Inference": thing(
        "inputs",
        id=TEXT,
        parameters=thing(timeout=COUNT, binary_data_output=FLAG),
        inputs=several(thing("name datatype shape", **_TENSOR)),
        outputs=several(thing("name", name=TEXT, parameters=thing(binary_data=FLAG))),
    ),
    "Inferred": thing(
        "model_name outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=several(thing("name datatype shape", **_TENSOR)),
    ),
    "TensorServer": thing("name version extensions", name=TEXT, version=TEXT, extensions=several(TEXT)),
    "TensorModel": thing(
        "name versions platform inputs outputs",
        name=TEXT,
        versions=several(TEXT),
        platform=TEXT,
        inputs=several(_TENSOR_FACTS),
        outputs=several(_TENSOR_FACTS),
    ),
    "TensorReady": thing("name ready", name=TEXT, ready=FLAG),
    "Live": thing(live=FLAG, ready=FLAG),
    # Rows
    "Search": thing(
        "table",
        table=TEXT,
        query=TEXT_OR_NONE,
        vector={"type": ["array", "null"], "items": {"type": "number"}},
        k=whole(1, 1000),
        filter=ANY_OBJECT,
        keyword_weight=number(0, 1000),
        vector_weight=number(0, 1000),
    ),
    "Found": thing(
        "results",
        results=several(ANY_OBJECT),
        embedded_by=thing("model version", model=TEXT, version=TEXT),
        note=TEXT,
    ),
    "Retrieve": thing(
        table=TEXT,
        tables=several(TEXT, wish.TABLES_MAX, 1),
        k=whole(1, wish.ROWS_MAX),
        filter=ANY_OBJECT,
        query=TEXT,
    ),
    # Routes
    "Wish": thing(
        "route",
        route=TEXT,
        skill=one_of(*Skill),
        tokens_in=COUNT,
        tokens_out=COUNT,
        needs=several(one_of(*Need)),
        scopes=several(TEXT),
        label=TEXT,
        key=TEXT,
        place=TEXT,
        max_cost={"type": "number", "minimum": 0},
        provider=ANY_OBJECT,
    ),
    "Decision": thing(
        "route request places out",
        id=TEXT,
        end=TEXT_OR_NONE,
        answered_by={"type": ["object", "null"]},
        route=TEXT,
        request=ANY_OBJECT,
        places=several(ANY_OBJECT),
        out=several(ANY_OBJECT),
    ),
    "Queue": either(
        FLAG,
        thing(
            "",
            scope=TEXT,
            deadline_seconds=number(1, 30 * 86_400),
            tries=whole(1, 100),
            wait_seconds=number(0, 60),
        ),
    ),
    "Job": thing(
        "id object url model state scope tries result",
        id=TEXT,
        object={"const": "job"},
        url=TEXT,
        model=TEXT,
        state=one_of("waiting", "working", *FINAL),
        scope=TEXT,
        asked_by=TEXT,
        done_by=TEXT_OR_NONE,
        tries=COUNT,
        problem=TEXT_OR_NONE,
        made_at=TEXT,
        deadline=TEXT,
        ended_at=TEXT_OR_NONE,
        result={},
    ),
    "Question": thing(
        "sql",
        sql=TEXT,
        on=either(TEXT, several(TEXT)),
        seconds=number(0.1, 300),
        exact=FLAG,
        local_joins=FLAG,
        arrow=FLAG,
    ),
    "Answer": thing(
        "columns rows report",
        columns=several(thing("name type", name=TEXT, type=TEXT)),
        rows=several(several({})),
        report=thing("complete nodes", complete=FLAG, nodes=several(ANY_OBJECT)),
    ),
    "Ready": thing("ready reasons", ready=FLAG, reasons=ANY_OBJECT),
    "Description": thing("openapi info paths", openapi=TEXT, info=ANY_OBJECT, paths=ANY_OBJECT),
    # Errors, one shape for each protocol
    "Error": thing(
        "error",
        error=thing("code message", code=TEXT, message=TEXT, detail=TEXT_OR_NONE, hint=TEXT_OR_NONE),
    ),
    "LanguageError": thing(
        "error",
        error=thing("message type code", message=TEXT, type=TEXT, param=TEXT_OR_NONE, code=TEXT),
    ),
    "MessageError": thing(
        "type error", type={"const": "error"}, error=thing("type message", type=TEXT, message=TEXT)
    ),
    "TensorError": thing("error code", error=TEXT, code=TEXT),
}
