"""A model folder, read with care: its shape, its weights in 32 bits, its tokenizer; and written whole or not
at all.

Weights that are not there, that nobody asked for, or that hold no numbers are refused before any work is
done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.compress.shape import Shape, read_shape, unsupported
from atoll.domain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from atoll.compress.decoder import Decoder

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Folder:
    path: Path
    config: dict[str, Any]
    shape: Shape

    def beside(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name) if (self.path / name).is_file() else {}


def read_folder(path: Path) -> Folder:
    """Its headers and config.json are looked at; weights wait for `load`."""
    from atoll.registry.formats.read import read_model

    if not (path / "config.json").is_file():
        raise DataError(
            "model-unusable",
            f'cannot compress "{path.name}": it is no model folder',
            hint="Name a folder with config.json, tokenizer.json and safetensors files.",
        )
    read_model(path)
    if not (path / "tokenizer.json").is_file():
        raise unsupported(
            "it has no tokenizer.json", "Save its tokenizer in the fast format beside the weights."
        )
    config = read_json(path / "config.json")
    return Folder(path, config, read_shape(config))


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("model-unusable", f'cannot read "{path.name}"', detail=f"{error}.") from error
    if not isinstance(found, dict):
        raise DataError("model-unusable", f'cannot read "{path.name}": it is no JSON object')
    return found


def load(folder: Folder) -> Decoder:
    """All weights, in 32 bits: half of them is several times slower on a processor."""
    import torch

    from atoll.compress.decoder import Decoder

    with torch.device("meta"):
        decoder = Decoder(folder.shape)
    wanted = {name: weight.shape for name, weight in decoder.state_dict().items()}
    found = {}
    for name, weight in _weights(folder.path):
        if (name == "lm_head.weight" and folder.shape.is_tied) or name.endswith("rotary_emb.inv_freq"):
            continue
        if name not in wanted:
            raise unsupported(f'it has a weight that its architecture lacks, "{name}"')
        if weight.shape != wanted[name]:
            raise DataError(
                "model-unusable",
                f'cannot use weight "{name}": its shape is {tuple(weight.shape)}',
                detail=f"By config.json it is {tuple(wanted[name])}.",
            )
        if not torch.isfinite(weight).all():
            raise DataError(
                "model-unusable",
                f'cannot use weight "{name}": it holds values that are no numbers',
                hint="The training that made it went wrong; go back to an earlier checkpoint.",
            )
        found[name] = weight.float()
    if missing := sorted(wanted.keys() - found.keys()):
        raise DataError(
            "model-unusable",
            f'cannot use the model: weight "{missing[0]}" and {len(missing) - 1} more are missing',
        )
    decoder.load_state_dict(found, assign=True)
    return decoder.requires_grad_(False).eval()


def _weights(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    files = sorted(path.glob("*.safetensors"))
    if (path / INDEX).is_file():
        files = [path / name for name in sorted(set(read_json(path / INDEX)["weight_map"].values()))]
    for file in files:
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118
                yield name, held.get_tensor(name)


@contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """A place beside the target that becomes the target in the end; if all is not well, nothing is left."""
    partial = target.with_name(f".{target.name}.part")
    remove(partial)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if target.is_dir() and partial.is_dir():
            shutil.rmtree(target)
        partial.replace(target)
    except OSError as error:
        raise ConfigError(
            "target-unwritable",
            f'could not write "{target.name}"',
            detail=f"{error.strerror or error}.",
            hint="Make room, or write elsewhere; the same command goes on from here.",
        ) from error
    finally:
        remove(partial)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
