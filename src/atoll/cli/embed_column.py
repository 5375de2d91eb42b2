"""`atoll embed-column`: what a column means becomes vectors, and searches find rows by them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.node.home import Home


def embed_column(
    table: Annotated[str, typer.Argument(help="The table; it needs a primary key.")],
    column: Annotated[str, typer.Argument(help="Its column of text, or of images.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model; the only one of the node that embeds.")
    ] = None,
    kind: Annotated[str, typer.Option(help="What the column holds: text or image.")] = "text",
    into: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Where the vectors go; TABLE_COLUMN_vector.")
    ] = None,
    place: Annotated[
        str, typer.Option(metavar="PLACE", help="Which nodes do it: all, here, region=NAME, or a node.")
    ] = "all",
    home: HomeOption = None,
) -> None:
    """Keep what a column means as vectors, made by a model as rows are written."""
    from atoll.cli.rows import fetch

    node = find_home(home)
    postgres = running_postgres(node)
    named, dimensions = _image_model(node, model) if kind == "image" else _text_model(node, model)
    declared = {
        "table": table,
        "column": column,
        "model": named,
        "dimensions": dimensions,
        "kind": kind,
        "place": place,
        "into": into,
    }
    made = fetch(postgres, "search", "embed", declared)[0]["output"]
    typer.echo(f"{table}.{column}: {named} makes vectors with {dimensions} dimensions, into {made}")


def _text_model(node: Home, model: str | None) -> tuple[str, int]:
    """The model answers, and how many dimensions it gives."""
    from atoll.cli.asking import asked

    body: dict[str, Any] = {"input": "how many dimensions?"} | ({"model": model} if model else {})
    with asked(node, "/v1/embeddings", body) as answer:
        told = json.loads(answer.read())
    return told["model"], len(told["data"][0]["embedding"])


def _image_model(node: Home, model: str | None) -> tuple[str, int]:
    from atoll.cli.asking import asked
    from atoll.domain.errors import DataError

    if model is None:
        raise DataError("embedding-model", "name the model of the images", hint="Add --model NAME.")
    with asked(node, f"/v2/models/{model}", None) as answer:
        outputs = json.loads(answer.read())["outputs"]
    if len(outputs) != 1 or len(outputs[0]["shape"]) != 2 or outputs[0]["shape"][1] < 1:
        raise DataError(
            "embedding-model",
            f'model "{model}" gives no vector for an image',
            detail="It has to have one output with a row of numbers for each image.",
        )
    return model, int(outputs[0]["shape"][1])
