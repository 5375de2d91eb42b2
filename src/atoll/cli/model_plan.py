"""`atoll model plan`: on which node a model fits, or on which of a region together, before it is placed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.model_run import is_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atoll.node.home import Home
    from atoll.node.postgres.server import Postgres
    from atoll.serving.fitting import Needs, Plan

TITLES = ("node", "region", "may take", "taken", "layers", "would take", "way")


@dataclass(frozen=True)
class _Asked:
    """The model that is planned for."""

    title: str
    needs: Needs
    context_tokens: int
    parallel: int


def plan(
    model: Annotated[str, typer.Argument(help="Name of a model, or a file.")],
    on: Annotated[
        str | None, typer.Option("--on", metavar="NODE,NODE", help="Only these nodes, instead of all.")
    ] = None,
    context: Annotated[int | None, typer.Option(min=64, max=1_048_576, help="Tokens of context.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, max=64, help="Callers at the same time.")] = None,
    variant: Annotated[str | None, typer.Option(help="This variant, instead of the best that fits.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Say where a model fits by its memory: on one node, split over several, or nowhere."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError
    from atoll.serving import fitting

    found = find_home(home)
    postgres = running_postgres(found)
    nodes = _chosen(fetch(postgres, "room", "everywhere"), on)
    rooms = [
        fitting.Room(row["node"], row["region"], row["bytes_max"], row["bytes_taken"])
        for row in nodes
        if row["bytes_max"] is not None
    ]
    if not rooms:
        raise DataError(
            "room-unknown",
            "could not plan: none of these nodes has said what its models may take",
            hint="A node says so some seconds after its start, and not at all with --models off.",
        )
    told = {"context_tokens": context, "parallel": parallel}
    options = {name: value for name, value in told.items() if value is not None}
    most = max(room.bytes_max for room in rooms)
    if is_name(model):
        asked = _of_name(found, postgres, model, variant, options, most)
    else:
        asked = _of_file(Path(model).expanduser(), options)
    made = fitting.plan(asked.needs, rooms)
    if as_json:
        typer.echo(json.dumps(_as_json(asked, made, nodes), indent=1))
    else:
        _print(asked, made, nodes)


def _chosen(nodes: list[dict[str, Any]], on: str | None) -> list[dict[str, Any]]:
    from atoll.domain.errors import DataError

    if on is None:
        return nodes
    names = [name.strip() for name in on.split(",") if name.strip()]
    for name in names:
        if not any(row["node"] == name for row in nodes):
            raise DataError("node-unknown", f'there is no node "{name}"', hint="See: atoll nodes")
    return [row for row in nodes if row["node"] in names]


def _of_name(
    home: Home, postgres: Postgres, model: str, variant: str | None, options: Mapping[str, Any], most: int
) -> _Asked:
    """As this node would load it: with the options that it is wanted with here, and its adapters."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError
    from atoll.node import layers
    from atoll.node.engines import room_of
    from atoll.registry.manifest import Kind, from_json
    from atoll.registry.store import Store
    from atoll.start import start_models

    rows = fetch(postgres, "models", "listing")
    row = next(
        (row for row in sorted(rows, key=lambda one: not one["is_here"]) if row["name"] == model), None
    )
    if row is None:
        for one in start_models():
            if one.name == model:
                return _of_file(one.path, options, model)
        raise DataError("model-unknown", f'there is no model "{model}"', hint="See: atoll model list")
    manifest = from_json(row["manifest"])
    if manifest.kind is not Kind.MODEL:
        raise typer.BadParameter(f"an {manifest.kind} takes no node's memory by itself")
    here = next((one for one in fetch(postgres, "models", "wanted") if one["model"] == model), None)
    context, parallel = room_of(manifest.context_tokens, {**(here["options"] if here else {}), **options})
    form = manifest.choose(most, context * parallel, variant or (here["variant"] if here else None))
    adapters = {one["name"]: one["manifest"] for one in reversed(rows) if one["name"].startswith(f"{model}:")}
    beside = sum(one["variants"][0]["memory_bytes"] for one in adapters.values())
    store = Store(home.models)
    file = store.lay_out(form) if form.format == "gguf" and not store.missing(form) else None
    needs = layers.needs(file, form.needs(context * parallel) + beside, form.token_bytes * context * parallel)
    return _Asked(f"{model} {form.name}", needs, context, parallel)


def _of_file(path: Path, options: Mapping[str, Any], name: str | None = None) -> _Asked:
    from atoll.domain.errors import ConfigError, DataError
    from atoll.node import layers
    from atoll.node.engines import room_of
    from atoll.registry.adding import estimate_memory, variant_name
    from atoll.registry.formats.read import read_model

    if not path.exists():
        hint = "Name a model or a file; one of a hub is fetched by atoll model add."
        raise ConfigError("model-missing", f"there is no {path}", hint=hint)
    found = read_model(path)
    if not found.skills:
        raise DataError("model-no-skill", f'cannot serve "{path.name}" by itself')
    context, parallel = room_of(found.context_tokens, options)
    memory_bytes, token_bytes = estimate_memory(found)
    held = token_bytes * context * parallel
    file = next(path.glob("*.gguf")) if path.is_dir() and found.format == "gguf" else path
    needs = layers.needs(file if found.format == "gguf" else None, memory_bytes + held, held)
    return _Asked(f"{name or path.name} {variant_name(found)}", needs, context, parallel)


def _as_json(asked: _Asked, made: Plan, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": asked.title,
        "bytes": asked.needs.whole,
        "layers": len(asked.needs.layers),
        "context_tokens": asked.context_tokens,
        "parallel": asked.parallel,
        "fits": ("nowhere", "one", "split")[min(len(made.parts), 2)],
        "makes_room": made.makes_room,
        "missing_bytes": made.missing_bytes,
        "parts": [
            {"node": part.node, "layers": [part.layers.start, part.layers.stop], "bytes": part.bytes}
            for part in made.parts
        ],
        "nodes": nodes,
    }


def _print(asked: _Asked, made: Plan, nodes: list[dict[str, Any]]) -> None:
    from atoll.cli.rows import print_table

    layers = f"; {len(asked.needs.layers)} layers" if asked.needs.layers else ""
    typer.echo(
        f"{asked.title} needs {_megabytes(asked.needs.whole)}, with {asked.context_tokens:,} tokens of"
        f" context for each of {asked.parallel} callers{layers}"
    )
    parts = {part.node: part for part in made.parts}
    rows = []
    for row in nodes:
        part = parts.get(row["node"])
        held = f"{part.layers.start}-{part.layers.stop - 1}" if part and part.layers else "none"
        rows.append(
            [
                row["node"],
                row["region"],
                _megabytes(row["bytes_max"]) if row["bytes_max"] is not None else "unknown",
                _megabytes(row["bytes_taken"]) if row["bytes_taken"] is not None else "",
                held if part is not None and asked.needs.layers else "",
                _megabytes(part.bytes) if part is not None else "",
                _way(row),
            ]
        )
    print_table(TITLES, rows, ("may take", "taken", "would take"))
    largest = max(nodes, key=lambda row: row["bytes_max"] or 0)["node"]
    typer.echo(_verdict(made, largest, has_layers=bool(asked.needs.layers)))
    unbuilt = [row["node"] for row in nodes if row["node"] in parts and row["split_engine"] is None]
    if len(made.parts) > 1 and unbuilt:
        typer.echo(f"before that, run atoll runtime split on {', '.join(unbuilt)}")


def _verdict(made: Plan, largest: str, *, has_layers: bool) -> str:
    names = [part.node for part in made.parts]
    after = ", once idle models make room" if made.makes_room else ""
    if not names:
        whole = "" if has_layers else ", and its layers are not known here"
        return f"fits nowhere: even {largest} lacks {_megabytes(made.missing_bytes)}{whole}"
    if len(names) == 1:
        return f"fits on {names[0]}{after}"
    return f"fits on no node alone; split over {', '.join(names[:-1])} and {names[-1]} it would fit{after}"


def _way(row: dict[str, Any]) -> str:
    if row["is_here"]:
        return "here"
    if not row["is_linked"]:
        return "no link"
    return f"{row['rtt_ms']:.1f} ms" if row["rtt_ms"] is not None else "linked"


def _megabytes(size: int) -> str:
    return f"{-(-size // 1024**2):,} MB"
