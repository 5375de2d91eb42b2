"""`atoll model bench`: how fast a model is here, and what it takes."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.model_run import cache, is_name

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = 4096
LANGUAGE = {
    "callers": "callers",
    "first_token_p50_seconds": "first token p50",
    "first_token_p99_seconds": "p99",
    "prompt_tokens_per_second": "prompt tokens/s",
    "tokens_per_second": "tokens/s each",
    "all_tokens_per_second": "tokens/s in all",
}
OTHERS = {
    "callers": "callers",
    "batch": "batch",
    "requests_per_second": "requests/s",
    "items_per_second": "{items}/s",
    "p50_seconds": "p50",
    "p99_seconds": "p99",
}


def bench(
    model: Annotated[str, typer.Argument(help="A model's name, a file or folder, hf:…, oci:… or pypi:….")],
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests in each way of asking.")] = 20,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Callers at once, besides one.")] = 4,
    tokens: Annotated[int, typer.Option(min=2, max=8192, help="Tokens of each generated text.")] = 64,
    seed: Annotated[
        int | None, typer.Option(help="Of the random requests; else made up, and printed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Measure a model in an engine of its own, beside the node: nobody else asks it meanwhile."""
    from atoll.cli.alone import load, waiting
    from atoll.runtimes.measure import Plan, measure

    plan = Plan(requests, concurrency, tokens, random.randrange(10**6) if seed is None else seed)  # noqa: S311
    library = _library(home) if is_name(model) else None
    with _files(model, home) as path, load(path, {"parallel": concurrency}, library) as alone:
        with waiting("measuring") as tick:
            rows = alone.call(measure(alone.runtime, alone.facts, plan, tick))
        found = {
            "model": model,
            "skills": sorted(alone.facts.skills),
            "seed": plan.seed,
            "load_seconds": alone.load_seconds,
            "memory_bytes": max(alone.facts.memory_bytes, _resident(alone.runtime)),
            "results": rows,
        }
    typer.echo(json.dumps(found, indent=1)) if as_json else _print(found)


@contextmanager
def _files(model: str, home: str | None) -> Iterator[Path]:
    if is_name(model):
        yield _files_of_name(model, home)
        return
    from atoll.cli.fetching import files_of

    with files_of(model, cache()) as files:
        yield files.path


def _files_of_name(model: str, home: str | None) -> Path:
    """Where the node's files of a model lie: those of the variant that it would load."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError
    from atoll.registry.manifest import from_json
    from atoll.registry.store import Store
    from atoll.start import start_models

    found = find_home(home)
    rows = [row for row in fetch(running_postgres(found), "models", "listing") if row["name"] == model]
    if rows:
        row = next((row for row in rows if row["is_here"]), rows[0])
        manifest, store = from_json(row["manifest"]), Store(found.models)
        here = [variant for variant in manifest.variants if not store.missing(variant)]
        chosen = next((variant for variant in here if variant.name == row["variant"]), None)
        if chosen is None and not here:
            raise DataError("model-missing", f'the files of model "{model}" are not on this node')
        return store.lay_out(chosen or here[0])
    for one in start_models():
        if one.name == model:
            return one.path
    raise DataError("model-unknown", f'there is no model "{model}"', hint="See: atoll model list")


def _library(home: str | None) -> Path | None:
    """The arithmetic that the node's own engines use."""
    from atoll.runtimes.llama import native

    return native.library_in(find_home(home).native)


def _resident(runtime: Any) -> int:
    """What an engine's process holds in memory."""
    pid = getattr(runtime, "pid", None)
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES if pid else 0


def _print(found: dict[str, Any]) -> None:
    from atoll.cli.rows import print_table

    typer.echo(
        f"{found['model']}: loaded in {found['load_seconds']:.2f} s,"
        f" {found['memory_bytes'] / 1024**2:.0f} MB of memory; seed {found['seed']}"
    )
    is_language = "generate" in found["skills"]
    columns = LANGUAGE if is_language else OTHERS
    items = "texts" if "embed" in found["skills"] else "rows"
    titles = [title.format(items=items) for title in columns.values()]
    print_table(titles, [[_cell(key, row[key]) for key in columns] for row in found["results"]], titles)


def _cell(key: str, value: float) -> str:
    if key.endswith("per_second"):
        return f"{value:,.1f}"
    return f"{value * 1000:,.1f} ms" if key.endswith("seconds") else str(value)
