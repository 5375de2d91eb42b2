"""`atoll chat`, `atoll embed` and `atoll infer`: models of this node, asked from a terminal."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.explaining import explain
from atoll.cli.home import HomeOption, find_home
from atoll.domain.errors import AtollError, DataError
from atoll.runtimes.refusals import TOO_LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from atoll.node.home import Home

    Ask = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]
    Messages = list[dict[str, str]]

CHAT = "/v1/chat/completions"
HISTORY_MAX = 63  # what is asked now, and what was said before
ModelArgument = Annotated[str | None, typer.Option("--model", "-m", help="Which model, or model:adapter.")]


def chat(
    words: Annotated[
        list[str] | None, typer.Argument(help="What to say; without it, a conversation.")
    ] = None,
    model: ModelArgument = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=5.0, help="0 is always the same.")] = None,
    home: HomeOption = None,
) -> None:
    """Talk with a language model of this node. Ctrl-C stops an answer, Ctrl-D ends."""
    found = find_home(home)
    body: dict[str, Any] = {"model": model} if model else {}
    body |= {"temperature": temperature} if temperature is not None else {}
    if _is_conversation(words):
        _look_for(found, model)
    converse(lambda asked: _ask_node(found, asked), words, body, system, tokens)


def converse(
    ask: Ask, words: list[str] | None, body: dict[str, Any], system: str | None, tokens: int
) -> None:
    """One answer to words or to standard input; on a terminal without words, a conversation."""
    body = {**body, "stream": True, "max_tokens": tokens}
    begin = [{"role": "system", "content": system}] if system else []
    if not _is_conversation(words):
        said = " ".join(words) if words else sys.stdin.read()
        _answer(ask({**body, "messages": [*begin, {"role": "user", "content": said}]}))
        return
    history: Messages = []
    while True:
        try:
            said = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not said:
            continue
        try:
            history = _go_on(ask, body, begin, [*history, {"role": "user", "content": said}][-HISTORY_MAX:])
        except AtollError as error:
            explain(error)


def _is_conversation(words: list[str] | None) -> bool:
    return not words and sys.stdin.isatty()


def _go_on(ask: Ask, body: dict[str, Any], begin: Messages, said: Messages) -> Messages:
    """All with the next answer; without what was said first, where that is more than the model reads."""
    kept = said
    while True:
        try:
            told = _answer(ask({**body, "messages": [*begin, *kept]}))
        except DataError as error:
            if error.code != TOO_LONG or len(kept) == 1:
                raise
            kept = kept[2:]
            continue
        if len(kept) < len(said):
            typer.echo("(what was said first is forgotten: it is more than the model reads)", err=True)
        return [*kept, {"role": "assistant", "content": told}]


def _look_for(home: Home, model: str | None) -> None:
    """Before anybody types a question: is the node there, and does it have that model?"""
    from urllib.parse import quote

    from atoll.cli.asking import asked

    with asked(home, f"/v1/models/{quote(model, safe='')}" if model else "/v1/models", None):
        pass


def _ask_node(home: Home, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from atoll.cli.asking import asked, events

    with asked(home, CHAT, body) as answer:
        yield from events(answer)


def _answer(events: Iterator[dict[str, Any]]) -> str:
    """Print an answer as it comes, and return it."""
    parts: list[str] = []
    try:
        for event in events:
            for choice in event.get("choices", []):
                part = choice.get("delta", {}).get("content") or ""
                parts.append(part)
                sys.stdout.write(part)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        typer.echo(" (stopped)", err=True)
    finally:
        if parts:
            typer.echo()
    return "".join(parts)


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without them, the lines of standard input.")
    ] = None,
    model: ModelArgument = None,
    home: HomeOption = None,
) -> None:
    """Print the vector of each text, as a line of JSON."""
    from atoll.cli.asking import asked

    given = texts or [line.rstrip("\n") for line in sys.stdin]
    body: dict[str, Any] = {"input": given} | ({"model": model} if model else {})
    with asked(find_home(home), "/v1/embeddings", body) as answer:
        for row in json.loads(answer.read())["data"]:
            typer.echo(json.dumps(row["embedding"]))


def infer(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    data: Annotated[
        str, typer.Argument(help="JSON: an array, or an object of arrays by input; - for standard input.")
    ],
    home: HomeOption = None,
) -> None:
    """Ask a tensor model, and print its outputs as JSON."""
    from atoll.cli.asking import asked

    given = read_data(data)
    found = find_home(home)
    with asked(found, f"/v2/models/{model}", None) as answer:
        inputs = json.loads(answer.read())["inputs"]
    tensors = tensors_of(model, inputs, given)
    with asked(found, f"/v2/models/{model}/infer", {"inputs": tensors}) as answer:
        outputs = json.loads(answer.read())["outputs"]
    typer.echo(json.dumps({one["name"]: _nested(one["data"], one["shape"]) for one in outputs}))


def read_data(data: str) -> Any:
    from atoll.domain.errors import DataError

    try:
        return json.loads(sys.stdin.read() if data == "-" else data)
    except ValueError as error:
        raise DataError("request-malformed", "the data is not JSON", detail=f"{error}.") from error


def tensors_of(model: str, inputs: list[dict[str, Any]], given: Any) -> list[dict[str, Any]]:
    """What was given, as the tensors that the model wants."""
    from atoll.domain.errors import DataError

    if not isinstance(given, dict):
        given = {inputs[0]["name"]: given}
    known = {one["name"]: one for one in inputs}
    if unknown := sorted(given.keys() - known.keys()):
        raise DataError(
            "request-malformed",
            f'model "{model}" has no input "{unknown[0]}"',
            hint=f"It has: {', '.join(sorted(known))}.",
        )
    return [_tensor(known[name], values) for name, values in given.items()]


def _tensor(wanted: dict[str, Any], values: Any) -> dict[str, Any]:
    """Values as a tensor; one example stands for a batch of one."""
    shape = _shape(values)
    if len(shape) == len(wanted["shape"]) - 1:
        values, shape = [values], [1, *shape]
    return {"name": wanted["name"], "datatype": wanted["datatype"], "shape": shape, "data": values}


def _shape(values: Any) -> list[int]:
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0] if values else None
    return shape


def _nested(values: list[Any], shape: list[int]) -> Any:
    """A flat list as lists in lists."""
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size or 1)]
    return values
