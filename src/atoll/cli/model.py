"""`atoll model`: which models there are, where each is wanted, and how it is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import model_bench, model_offers, model_run
from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.domain.models import Skill

if TYPE_CHECKING:
    from atoll.cli.fetching import Files
    from atoll.node.home import Home
    from atoll.node.postgres.server import Postgres
    from atoll.registry.manifest import Manifest

group = typer.Typer(help="Models: add, run, measure, list, place and remove them.", no_args_is_help=True)

OnOption = Annotated[
    str, typer.Option("--on", metavar="PLACE", help="Where: here, all, region=NAME, or a node.")
]

KeyFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file with the key of an upstream; it is copied.")
]
KeyEnvOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The variable of the node's environment with the key.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Ask an upstream over the open network without TLS.")
]
UPSTREAM = "upstream:"


@group.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A file or folder, hf:OWNER/REPO, oci:HOST/PATH, or upstream:URL."
        ),
    ],
    file: Annotated[
        str | None, typer.Option("--file", metavar="GLOB", help="Which of a hub's or registry's files.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; else made from the file's name.")] = None,
    on: OnOption = "here",
    keep: Annotated[bool, typer.Option("--keep", help="Load it at once, and keep it loaded.")] = False,
    context: Annotated[
        int | None, typer.Option(min=64, max=1_048_576, help="Tokens of context, for a language model.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=64, help="Callers that it answers at the same time.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="This variant, such as q4_k_m or int8.")] = None,
    licence: Annotated[str | None, typer.Option(help="Its licence, where the files do not say.")] = None,
    adapter_of: Annotated[
        str | None, typer.Option(metavar="MODEL", help="It is an adapter (LoRA) of this model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What an upstream calls the model.")
    ] = None,
    key_file: KeyFileOption = None,
    key_env: KeyEnvOption = None,
    skill: Annotated[
        list[Skill] | None, typer.Option(help="What an upstream's model is for; generate, unless said.")
    ] = None,
    insecure: InsecureOption = False,
    region: Annotated[
        str | None, typer.Option(help="The region that an upstream's server is in, for routes.")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option(min=0, max=999_999, help="What an upstream takes for a million tokens in.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, max=999_999, help="What it takes for a million tokens out.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Take a model in, and want it somewhere. The same files again are the same version."""
    from atoll.cli.fetching import files_of
    from atoll.cli.rows import fetch
    from atoll.registry.store import Store

    is_upstream = source.startswith(UPSTREAM)
    has_terms = region is not None or price_in is not None or price_out is not None
    if not is_upstream and (model or key_file or key_env or skill or insecure or has_terms):
        raise typer.BadParameter(
            f"only a source that begins with {UPSTREAM} has a model, a key, a skill, a region or a price"
        )
    if (price_in is None) is not (price_out is None):
        raise typer.BadParameter("a price has --price-in and --price-out")
    if adapter_of is not None and (on, keep, context, parallel, variant) != ("here", False, None, None, None):
        raise typer.BadParameter("an adapter is where its model is, and loaded with it")
    if is_upstream and (model is None or file or variant or context or parallel or adapter_of):
        raise typer.BadParameter(
            "an upstream needs --model, and has no file, variant, context, parallel or adapter"
        )
    found = find_home(home)
    postgres = running_postgres(found)
    fetch(postgres, "models", "place", (on,))  # before much is copied
    chosen = variant
    if is_upstream and model is not None:
        from atoll.cli.upstream import take_upstream

        manifest = take_upstream(
            found,
            source,
            model,
            name=name,
            skills=skill or [Skill.GENERATE],
            key_file=key_file,
            key_env=key_env,
            is_insecure=insecure,
            region=region,
            price=None if price_in is None or price_out is None else (price_in, price_out),
        )
    else:
        with files_of(source, Store(found.models), file, variant) as files:
            if adapter_of is not None:
                _add_adapter(found, postgres, files, adapter_of, name, licence)
                return
            manifest = _take_in(found, files, name or files.name, licence or files.licence)
        if files.origin is not None:
            chosen = None  # of what was fetched, it was chosen there
        elif chosen is not None:
            manifest.choose(0, wanted=chosen)
    signed = _signed(found, manifest)
    fetch(postgres, "models", "add", signed)
    wish = _wish(manifest.name, manifest.version, on, chosen, keep, context, parallel)
    place = fetch(postgres, "models", "want", wish)[0]["place"]
    size = sum(one.bytes for one in manifest.variants) / 1024**2
    typer.echo(f"{manifest.name} {manifest.version}: {size:.1f} MB, {', '.join(manifest.skills)}; on {place}")


def _add_adapter(
    home: Home, postgres: Postgres, files: Files, base: str, name: str | None, licence: str | None
) -> None:
    from atoll.cli.adapter import take_adapter
    from atoll.cli.rows import fetch

    manifest, is_compared = take_adapter(home, postgres, files.path, base, name, licence or files.licence)
    fetch(postgres, "models", "add", _signed(home, manifest))
    kilobytes = sum(one.bytes for one in manifest.variants) // 1024
    more = "" if is_compared else "; whether it fits shows where the model is"
    typer.echo(f"{manifest.name} {manifest.version}: {kilobytes} kB, an adapter of {base}{more}")


def _signed(home: Home, manifest: Manifest) -> dict[str, Any]:
    """The row of a manifest, signed by this node."""
    from psycopg.types.json import Jsonb

    from atoll.identity import certificate
    from atoll.registry import signing
    from atoll.registry.manifest import to_json

    told = to_json(manifest)
    made = signing.sign(told, certificate.load_identity(home.keys))
    row = {"manifest": Jsonb(told), "version": manifest.version}
    return {**row, "signature": made.signature, "certificate": made.certificate}


def _take_in(home: Home, files: Files, name: str | None, licence: str | None) -> Manifest:
    """The files into the home's store."""
    from atoll.cli.fetching import bar
    from atoll.registry import adding
    from atoll.registry.store import Store

    with bar("reading") as begin:
        return adding.add(
            files.path,
            Store(home.models),
            name=name,
            licence=licence,
            source=files.origin,
            progress=begin(adding.size_of(files.path)),
        )


def _wish(
    model: str,
    version: str | None,
    place: str,
    variant: str | None = None,
    keep: bool = False,
    context: int | None = None,
    parallel: int | None = None,
    shared: bool = False,
) -> dict[str, Any]:
    from psycopg.types.json import Jsonb

    options = {"context_tokens": context, "parallel": parallel, "shared": shared or None}
    return {
        "model": model,
        "version": version,
        "place": place,
        "variant": variant,
        "keep": keep,
        "options": Jsonb({key: value for key, value in options.items() if value is not None}),
    }


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
    shared: Annotated[
        bool, typer.Option("--shared", help="Let other nodes ask an upstream through those nodes.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Say where a model is wanted, in which version; nodes fetch its files from each other."""
    from atoll.cli.rows import fetch

    postgres = running_postgres(find_home(home))
    found = _of(fetch(postgres, "models", "listing"), model)
    if shared and found[0]["manifest"]["kind"] != "upstream":
        raise typer.BadParameter("a model of files is offered to other nodes anyway")
    chosen = None if off else version or found[0]["version"]
    wish = _wish(model, chosen, on, variant, keep, context, parallel, shared)
    where = fetch(postgres, "models", "want", wish)[0]["place"]
    typer.echo(f"{model} is not wanted on {where}" if off else f"{model} {chosen} is wanted on {where}")


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
        (row["state"] or "-") if row["is_here"] else "-",
        _megabytes(row["memory_bytes"]) if row["is_here"] else "",
        (row["problem"] or "") if row["is_here"] else "",
    ]


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
    from atoll.cli.rows import fetch
    from atoll.cli.upstream import give_key
    from atoll.registry.manifest import from_json

    found = find_home(home)
    postgres = running_postgres(found)
    rows = _of(fetch(postgres, "models", "listing"), model)
    wanted = next((row for row in rows if row["is_here"]), rows[0])
    give_key(found, from_json(wanted["manifest"]), key_file, key_env, insecure)
    fetch(postgres, "keys", "wake")
    typer.echo(f"{model} has its key on this node")


@group.command()
def rm(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[str | None, typer.Option(help="Only this version.")] = None,
    home: HomeOption = None,
) -> None:
    """Take a model away, on all nodes. Who is being answered by it is answered to the end."""
    from atoll.cli.rows import fetch
    from atoll.node import upstream_keys
    from atoll.registry.store import Store

    found = find_home(home)
    postgres = running_postgres(found)
    removed = fetch(postgres, "models", "remove", (model, version))[0]["removed"]
    if version is None:
        upstream_keys.forget(found, model)
    kept = next(iter(fetch(postgres, "models", "files")[0].values())) or []
    freed = Store(found.models).sweep(kept)
    typer.echo(f"removed {removed} of {model}; {freed / 1024**2:.1f} MB are free again here")


group.command()(model_run.run)
group.command()(model_bench.bench)


def _of(rows: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    from atoll.domain.errors import DataError

    found = [row for row in rows if row["name"] == model]
    if not found:
        raise DataError("model-unknown", f'there is no model "{model}"', hint="See: atoll model list")
    return found
