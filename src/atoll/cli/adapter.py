"""`atoll model add --adapter-of`: an adapter, compared with its model where that is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.node.home import Home
    from atoll.node.postgres.server import Postgres
    from atoll.registry.adapters import Base
    from atoll.registry.manifest import Manifest
    from atoll.registry.store import Store


def take_adapter(
    home: Home, postgres: Postgres, path: Path, base: str, name: str | None, licence: str | None
) -> tuple[Manifest, bool]:
    """Its file into the home's store; says whether it was compared with the model's."""
    from atoll.registry.adapters import add_adapter
    from atoll.registry.store import Store

    store = Store(home.models)
    found = base_of(postgres, store, base)
    return add_adapter(path, found, store, name=name, licence=licence), found.file is not None


def base_of(postgres: Postgres, store: Store, model: str) -> Base:
    """The model in its latest version, or as it came with the package."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError
    from atoll.registry.adapters import Base
    from atoll.registry.formats.read import read_model
    from atoll.registry.manifest import Kind, from_json
    from atoll.start import start_models

    rows = [row for row in fetch(postgres, "models", "listing") if row["name"] == model]
    if rows:
        manifest = from_json(rows[0]["manifest"])
        if manifest.kind is Kind.MODEL:
            here = [one for one in manifest.variants if one.format == "gguf" and not store.missing(one)]
            file = store.lay_out(here[0]) if here else None
            return Base(model, manifest.architecture, frozenset(manifest.skills), file)
    for one in start_models():
        if one.name == model:
            found = read_model(one.path)
            return Base(model, found.architecture, found.skills, one.path)
    raise DataError("model-unknown", f'there is no model "{model}" of files', hint="See: atoll model list")
