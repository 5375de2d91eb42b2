"""An adapter is taken in where it fits its model, and refused with the reason before an engine sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.registry import adapters
from atoll.registry.adapters import Base
from atoll.registry.manifest import Kind, from_json, to_json
from atoll.registry.store import Store
from support.fix_models import LAYERS, WIDTH, TinyModel, write_adapter


@pytest.fixture
def base(tiny_gguf: TinyModel) -> Base:
    return Base("tiny", "llama", frozenset({Skill.GENERATE}), tiny_gguf.file)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_an_adapter_is_named_after_its_model_and_travels(
    tiny_gguf: TinyModel, base: Base, store: Store
) -> None:
    made = adapters.add_adapter(tiny_gguf.adapters["reef"], base, store)
    assert (made.name, made.kind, made.architecture) == ("tiny:reef", Kind.ADAPTER, "llama")
    assert store.missing(made.variants[0]) == []
    again = from_json(json.loads(json.dumps(to_json(made))))
    assert (again, again.version) == (made, made.version)
    full = adapters.add_adapter(tiny_gguf.adapters["tide"], base, store, name="tiny:deep")
    assert full.name == "tiny:deep"
    for name in ("reef", "tiny:reef:x", "tiny:"):
        with pytest.raises(DataError):
            from_json({**to_json(made), "name": name})
    with pytest.raises(DataError):
        from_json({**to_json(made), "kind": "model"})


def one_tensor(name: str, *shapes: tuple[int, int]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        for half, shape in zip("ab", shapes, strict=False):
            writer.add_tensor(f"{name}.lora_{half}", np.ones(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return write


DOWN = "blk.0.ffn_down.weight"
BAD = {
    "another size": (lambda file: write_adapter(file, 1, width=2 * WIDTH), "adapter-misfit", "has (128, 64)"),
    "more layers": (
        lambda file: write_adapter(file, 1, layers=LAYERS + 1),
        "adapter-misfit",
        "does not have",
    ),
    "another kind": (
        lambda file: write_adapter(file, 1, architecture="qwen3"),
        "adapter-misfit",
        "for qwen3",
    ),
    "double": (lambda file: write_adapter(file, 1, kind=np.float64), "model-unusable", "F64"),
    "one half": (one_tensor(DOWN, (4, 128)), "model-unusable", "do not belong together"),
    "two ranks": (one_tensor(DOWN, (4, 128), (64, 3)), "model-unusable", "do not belong together"),
    "nothing": (one_tensor(DOWN), "model-unusable", "no tensors"),
    "tokens": (one_tensor("token_embd.weight", (9, 4), (64, 4)), "adapter-misfit", "token_embd"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused_with_the_reason(
    what: str, base: Base, store: Store, tmp_path: Path
) -> None:
    write, code, detail = BAD[what]
    write(tmp_path / "bad.gguf")
    with pytest.raises(DataError) as refused:
        adapters.add_adapter(tmp_path / "bad.gguf", base, store)
    assert refused.value.code == code
    assert detail in (refused.value.detail or "")
    assert not list(tmp_path.glob("models/files/*/*")), "nothing was taken in"


def test_a_whole_model_is_no_adapter_and_a_model_of_vectors_has_none(
    tiny_gguf: TinyModel, base: Base, store: Store
) -> None:
    with pytest.raises(DataError, match="cannot use the model file"):
        adapters.add_adapter(tiny_gguf.file, base, store)
    encoder = replace(base, skills=frozenset({Skill.EMBED}))
    with pytest.raises(DataError, match="does not fit") as refused:
        adapters.add_adapter(tiny_gguf.adapters["reef"], encoder, store)
    assert "generate" in (refused.value.detail or "")


def test_without_the_models_file_its_architecture_has_to_do(
    tiny_gguf: TinyModel, base: Base, store: Store, tmp_path: Path
) -> None:
    away = replace(base, file=None)
    write_adapter(tmp_path / "wide.gguf", 1, width=2 * WIDTH)
    assert adapters.add_adapter(tmp_path / "wide.gguf", away, store).name == "tiny:wide"
    with pytest.raises(DataError, match="does not fit"):
        adapters.add_adapter(tiny_gguf.adapters["reef"], replace(away, architecture="qwen3"), store)
