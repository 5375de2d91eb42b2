"""`atoll model`: which models there are, where each is wanted, and how it is here."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli import model_add, model_bench, model_offers, model_plan, model_run
from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.model_add import OnOption, SplitOption, check_split, wish
from atoll.cli.upstream import InsecureOption, KeyEnvOption, KeyFileOption

group = typer.Typer(help="Models: add, run, measure, list, place and remove them.", no_args_is_help=True)
group.command()(model_add.add)


@group.command()
def place(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    on: OnOption = "here",
    version: Annotated[str | None, typer.Option(help="This version, instead of the latest.")] = None,
    variant: Annotated[str | None, typer.Option(help="This variant, instead of the best that fits.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Load it at once, and keep it loaded.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Not there, whatever is said of wider places.")] = False,
    context: Annotated[int | None, typer.Option(min=64, max=1_048_576, help="Tokens of context.")] = None,
    parallel: Annotated[int | None, typer.Option(min=1, max=64, help="Callers at the same time.")] = None,
    split: SplitOption = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Let other nodes ask an upstream through those nodes.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Say where a model is wanted, in which version; nodes fetch its files from each other."""
    from atoll.cli.rows import change, fetch
    from atoll.registry.manifest import from_json

    postgres = running_postgres(find_home(home))
    found = _of(fetch(postgres, "models", "listing"), model)
    if shared:
        _check_shared(found[0]["manifest"])
    if split:
        check_split(from_json(found[0]["manifest"]))
    chosen = None if off else version or found[0]["version"]
    wanted = wish(model, chosen, on, variant, keep, context, parallel, shared, split)
    where = change(postgres, "models", "want", wanted)[0]["place"]
    typer.echo(f"{model} is not wanted on {where}" if off else f"{model} {chosen} is wanted on {where}")


def _check_shared(manifest: dict[str, Any]) -> None:
    from atoll.domain.errors import DataError
    from atoll.registry.manifest import from_json

    upstream = from_json(manifest).upstream
    if upstream is None:
        raise typer.BadParameter("a model of files is offered to other nodes anyway")
    if upstream.region is None or upstream.price is None:
        raise DataError(
            "upstream-terms",
            f'cannot share model "{manifest["name"]}": nobody has said where its server is, or what it costs',
            hint="Add it again with --region, --price-in and --price-out.",
        )


@group.command("list")
def list_models(
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="What all nodes offer, and the way to each.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List models, where each is wanted, and how it is on this node."""
    from atoll.cli.rows import fetch, print_table

    postgres = running_postgres(find_home(home))
    if everywhere:
        offers = fetch(postgres, "offers", "everywhere")
        if as_json:
            typer.echo(json.dumps(offers, indent=1, default=str))
        else:
            model_offers.print_offers(offers)
        return
    found = fetch(postgres, "models", "listing")
    states = {row["model"]: row for row in fetch(postgres, "models", "states")}
    known = {row["name"] for row in found}
    built_in = [row for name, row in states.items() if name not in known]
    if as_json:
        typer.echo(json.dumps([*found, *built_in], indent=1, default=str))
        return
    titles = ("model", "version", "skills", "MB", "on", "here", "memory", "problem")
    rows = [_cells(row) for row in found]
    rows += [_built_in(row) for row in built_in]
    print_table(titles, rows, ("MB", "memory"))


def _cells(row: dict[str, Any]) -> list[str]:
    manifest = row["manifest"]
    sizes = [sum(file["bytes"] for file in variant["files"]) for variant in manifest["variants"]]
    base, _, adapter = row["name"].partition(":")
    places = ", ".join("all" if place == "global" else place for place in row["places"])
    return [
        row["name"],
        row["version"],
        "adapter" if adapter else ", ".join(manifest["skills"]),
        f"{min(sizes) / 1024**2:.1f}" if sizes else "upstream",
        f"with {base}" if adapter else places or "nowhere",
        _state(row) if row["is_here"] else "-",
        _megabytes(row["memory_bytes"]) if row["is_here"] else "",
        (row["problem"] or "") if row["is_here"] else "",
    ]


def _state(row: dict[str, Any]) -> str:
    state = row["state"] or "-"
    return f"{state}: {row['split']}" if row["split"] else state


def _built_in(row: dict[str, Any]) -> list[str]:
    from atoll.start import start_models

    came = {model.name: model for model in start_models()}.get(row["model"])
    skills = ", ".join(came.skills) if came is not None else ""
    size = f"{came.bytes / 1024**2:.1f}" if came is not None else ""
    memory = _megabytes(row["memory_bytes"])
    return [
        row["model"],
        row["version"],
        skills,
        size,
        "built in",
        row["state"],
        memory,
        row["problem"] or "",
    ]


def _megabytes(size: int | None) -> str:
    return f"{size / 1024**2:.0f} MB" if size else ""


@group.command()
def show(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    home: HomeOption = None,
) -> None:
    """Show everything that is known of a model, as JSON."""
    from atoll.cli.rows import fetch

    found = _of(fetch(running_postgres(find_home(home)), "models", "listing"), model)
    typer.echo(json.dumps(found, indent=1, default=str))


@group.command()
def key(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    key_file: KeyFileOption = None,
    key_env: KeyEnvOption = None,
    insecure: InsecureOption = False,
    home: HomeOption = None,
) -> None:
    """Give this node its key for an upstream's model. It stays in the home."""
    from atoll.cli.rows import change, fetch
    from atoll.cli.upstream import give_key
    from atoll.registry.manifest import from_json

    found = find_home(home)
    postgres = running_postgres(found)
    rows = _of(fetch(postgres, "models", "listing"), model)
    wanted = next((row for row in rows if row["is_here"]), rows[0])
    give_key(found, from_json(wanted["manifest"]), key_file, key_env, insecure)
    change(postgres, "keys", "wake")
    typer.echo(f"{model} has its key on this node")


@group.command()
def rm(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str | None, typer.Option(help="Only this version.")] = None,
    home: HomeOption = None,
) -> None:
    """Take a model away, on all nodes. Who is being answered by it is answered to the end."""
    from atoll.cli.rows import change, fetch
    from atoll.node import upstream_keys
    from atoll.registry.store import Store

    found = find_home(home)
    postgres = running_postgres(found)
    _of(fetch(postgres, "models", "listing"), model)
    removed = change(postgres, "models", "remove", (model, version))[0]["removed"]
    if version is None:
        upstream_keys.forget(found, model)
    kept = next(iter(fetch(postgres, "models", "files")[0].values())) or []
    freed = Store(found.models).sweep(kept)
    typer.echo(f"removed {removed} of {model}; {freed / 1024**2:.1f} MB are free again here")


group.command()(model_run.run)
group.command()(model_bench.bench)
group.command()(model_plan.plan)


def _of(rows: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    from atoll.domain.errors import DataError
    from atoll.start import start_models

    found = [row for row in rows if row["name"] == model]
    if found:
        return found
    if any(one.name == model for one in start_models()):
        raise DataError(
            "model-built-in",
            f'model "{model}" is built in: every node has it, and no row says anything of it',
            hint=f"One of your own takes its place: atoll model add FILE --name {model}",
        )
    raise DataError("model-unknown", f'there is no model "{model}"', hint="See: atoll model list")
