"""`atoll model run`: asks a model once, or talks with it; a file needs no node for that."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import chat
from atoll.cli.home import HomeOption, find_home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.cli.alone import Alone
    from atoll.registry.store import Store


def run(
    model: Annotated[str, typer.Argument(help="A model's name, a file or folder, hf:…, oci:… or pypi:….")],
    words: Annotated[
        list[str] | None, typer.Argument(help="What to say, or texts to embed; without them, a conversation.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="For a tensor model; - is standard input.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=5.0, help="0 is always the same.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="GLOB", help="Which of a hub's or registry's files.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="This variant, such as q4_k_m or int8.")] = None,
    home: HomeOption = None,
) -> None:
    """Ask a model once, or talk with it: one of this node by name, or a file, without a node."""
    if is_name(model):
        _ask_node(model, words, data, system, tokens, temperature, home)
        return
    from atoll.cli.alone import load
    from atoll.cli.fetching import files_of
    from atoll.domain.models import Skill

    with files_of(model, cache(), file, variant) as files, load(files.path, {"parallel": 1}) as alone:
        skills = alone.facts.skills
        if Skill.GENERATE in skills:
            body = {} if temperature is None else {"temperature": temperature}
            chat.converse(lambda asked: alone.events(chat.CHAT, asked), words, body, system, tokens)
        elif Skill.EMBED in skills and data is None:
            _embed(alone, words or [line.rstrip("\n") for line in sys.stdin])
        else:
            _infer(alone, files.path.name, _data(data, words))


def is_name(model: str) -> bool:
    """Whether it is the name of a model, and not a place where one is."""
    from atoll.registry.manifest import NAME
    from atoll.registry.sources.address import KINDS

    base = model.partition(":")[0]
    return base not in KINDS and bool(NAME.fullmatch(base)) and not Path(model).exists()


def cache() -> Store:
    """Where files are kept that no node has."""
    from atoll.registry.store import Store

    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Store(Path(folder).expanduser() / "atoll" / "models")


def _ask_node(
    model: str,
    words: list[str] | None,
    data: str | None,
    system: str | None,
    tokens: int,
    temperature: float | None,
    home: str | None,
) -> None:
    """What `atoll chat`, `atoll embed` and `atoll infer` do, by what the model is made for."""
    from atoll.cli.asking import asked

    with asked(find_home(home), f"/v1/models/{model}", None) as answer:
        skills = json.loads(answer.read())["skills"]
    if "generate" in skills:
        chat.chat(words, model, system, tokens, temperature, home)
    elif "embed" in skills and data is None:
        chat.embed(words, model, home)
    else:
        chat.infer(model, _data(data, words), home)


def _data(data: str | None, words: Sequence[str] | None) -> str:
    return data or " ".join(words or ()) or "-"


def _embed(alone: Alone, texts: Sequence[str]) -> None:
    for vector in alone.call(alone.runtime.embed(texts)).vectors:
        typer.echo(json.dumps(vector.tolist()))


def _infer(alone: Alone, name: str, data: str) -> None:
    from dataclasses import asdict

    import numpy as np

    from atoll.domain.errors import DataError
    from atoll.runtimes.onnx.inputs import KINDS

    inputs: list[dict[str, Any]] = [asdict(facts) for facts in alone.facts.inputs]
    arrays = {}
    for tensor in chat.tensors_of(name, inputs, chat.read_data(data)):
        try:
            kind = np.dtype(KINDS[tensor["datatype"]])
            arrays[tensor["name"]] = np.asarray(tensor["data"], kind).reshape(tensor["shape"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                "request-malformed", f'the data does not fit input "{tensor["name"]}"', detail=f"{error}."
            ) from error
    outputs = alone.call(alone.runtime.infer(arrays))
    typer.echo(json.dumps({key: value.tolist() for key, value in outputs.items()}))
