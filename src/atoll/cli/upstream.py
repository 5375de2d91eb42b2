"""`atoll model add upstream:…`: a model of somebody else's server, tried before it becomes a row."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.domain.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.domain.models import Skill
    from atoll.node.home import Home
    from atoll.registry.manifest import Manifest

KeyFileOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file with the key of an upstream; it is copied.")
]
KeyEnvOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The variable of the node's environment with the key.")
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Ask an upstream over the open network without TLS.")
]


def take_upstream(
    home: Home,
    source: str,
    model: str,
    *,
    name: str | None,
    skills: Sequence[Skill],
    key_file: Path | None,
    key_env: str | None,
    is_insecure: bool,
    region: str | None = None,
    price: tuple[float, float] | None = None,
) -> Manifest:
    """Try it, and keep its key in the home."""
    from atoll.node import upstream_keys
    from atoll.registry import upstreams
    from atoll.runtimes.probe import try_upstream

    base = upstreams.read_address(source)
    if not is_insecure:
        upstreams.check_private(base)
    secret, key = upstream_keys.given(base, key_file, key_env)
    manifest = upstreams.upstream_manifest(
        base, model, name=name, skills=skills, needs_key=key is not None, region=region, price=price
    )
    asyncio.run(try_upstream(base, key, model))
    if secret is not None:
        upstream_keys.keep(home, manifest.name, secret)
    return manifest


def give_key(
    home: Home, manifest: Manifest, key_file: Path | None, key_env: str | None, is_insecure: bool
) -> None:
    """Another node's own key for a model that is there already."""
    from atoll.node import upstream_keys
    from atoll.registry.upstreams import check_private
    from atoll.runtimes.probe import try_upstream

    if manifest.upstream is None:
        raise DataError("upstream-key", f'model "{manifest.name}" needs no key: its files are in the atoll')
    if not is_insecure:
        check_private(manifest.upstream.base)
    secret, key = upstream_keys.given(manifest.upstream.base, key_file, key_env)
    if secret is None:
        raise DataError("upstream-key", "no key was given", hint="Name --key-file or --key-env.")
    asyncio.run(try_upstream(manifest.upstream.base, key, manifest.upstream.model))
    upstream_keys.keep(home, manifest.name, secret)
