"""A smaller encoder learns to give the vectors of a larger one, and is served as it was taught."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.compress.cook import cook
from atoll.compress.recipe import read_recipe
from atoll.domain.errors import ConfigError, DataError
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.training.distill import Options, distill
from atoll.training.examples import of_rows
from atoll.training.loop import Schedule
from support.fix_tiny_llama import SEED, sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SIZE, INNER, LAYERS = 32, 128, 4
TEXTS = sentences(200, SEED)
OTHERS = sentences(40, SEED + 1)
LEARNING = Schedule(steps=60, batch=16, rate=1e-3, every=20, seed=SEED)


def quiet(word: str) -> None:
    pass


@pytest.fixture(scope="module")
def encoder(training: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights by chance, strong enough that texts differ."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    print(f"seed {SEED}")
    folder = tmp_path_factory.mktemp("encoder") / "model"
    words = sorted({word for text in TEXTS for word in text.split()})
    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=SIZE, intermediate_size=INNER,
        num_hidden_layers=LAYERS, num_attention_heads=4, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "1_Pooling").mkdir()
    pool(folder, "mean_tokens")
    return folder


def pool(folder: Path, way: str) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{way}": True}))


def taught(encoder: Path, target: Path, texts: list[str] = TEXTS, **more: Any) -> dict[str, Any]:
    print(f"seed {SEED}")
    options = Options(**{"schedule": LEARNING, **more})
    return distill(encoder, target, of_rows({"text": one} for one in texts), options, quiet)


def served(folder: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    async def ask() -> np.ndarray[Any, Any]:
        runtime = OnnxRuntime(folder)
        await runtime.start()
        try:
            return (await runtime.embed(texts)).vectors
        finally:
            await runtime.stop()

    return asyncio.run(ask())


@pytest.mark.parametrize("student", ["layers", "width", "scratch"])
def test_the_served_student_gives_vectors_like_its_teachers(
    encoder: Path, tmp_path: Path, student: str
) -> None:
    facts = taught(encoder, tmp_path / "out", student=student, share=0.25)
    print(facts)
    assert facts["loss_teacher"] == pytest.approx(0, abs=1e-6)
    assert facts["loss_after"] < facts["loss_before"]
    assert facts["weights"] < facts["weights_teacher"]
    # What it came to in training is what it comes to where it is served: on texts that it has not seen.
    alike = (served(encoder, OTHERS) * served(tmp_path / "out", OTHERS)).sum(axis=1)
    assert 1 - alike.mean() == pytest.approx(facts["loss_after"], abs=0.05)
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()


@pytest.mark.parametrize("way", ["mean_tokens", "cls_token"])
def test_what_it_imitates_are_the_vectors_that_are_served(encoder: Path, tmp_path: Path, way: str) -> None:
    import torch

    from atoll.training.batches import stacked
    from atoll.training.encoder import encode, load_encoder, vectors

    folder = tmp_path / "model"
    shutil.copytree(encoder, folder)
    pool(folder, way)
    loaded = load_encoder(folder)
    rows = encode(loaded.reading, of_rows({"text": one} for one in OTHERS), 512)
    loaded.net.eval()
    with torch.no_grad():
        found = vectors(loaded.net, stacked(rows), loaded.reading.pooling).numpy()
    np.testing.assert_allclose(found, served(folder, OTHERS), atol=1e-5)


def test_a_prompt_and_its_answer_are_two_texts_cut_where_it_stops_reading(
    encoder: Path, training: None
) -> None:
    from atoll.training.encoder import encode, load_encoder

    reading = load_encoder(encoder).reading
    pairs = of_rows({"prompt": "the saw", "answer": "is hot " * 100} for _ in range(8))
    lengths = [len(row.tokens) for row in encode(reading, pairs, 512)]
    assert max(lengths) == reading.tokens_max == 64
    assert len(lengths) == 16
    assert max(len(row.tokens) for row in encode(reading, pairs, 10)) == 10


@pytest.mark.parametrize("more", [{"teacher": 0.5}, {"temperature": 2.0}, {"student": "heads"}])
def test_what_an_encoder_cannot_learn_from_is_refused(
    encoder: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        taught(encoder, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_without_a_tokenizer_or_with_another_models_it_is_refused(encoder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    folder = tmp_path / "model"
    shutil.copytree(encoder, folder)
    other = Tokenizer(models.WordLevel({f"w{at}": at for at in range(500)}, "w0"))
    other.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError) as caught:
        taught(folder, tmp_path / "out")
    assert caught.value.code == "tokenizer-misfit"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError) as caught:
        taught(folder, tmp_path / "other")
    assert caught.value.code == "model-untrainable"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_recipe_judges_the_student_by_its_vectors(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n\n".join(TEXTS))
    (tmp_path / "judge.txt").write_text("\n".join(OTHERS))
    (tmp_path / "recipe.toml").write_text(f"""
source = "{encoder}"
output = "small"
judge = "judge.txt"
[[step]]
do = "distill"
rows = "rows.txt"
steps = 20
rate = 3e-3
""")
    outcome = cook(read_recipe(tmp_path / "recipe.toml"), quiet)
    assert outcome.table is not None
    after = outcome.table[1]
    assert 0 < float(after[4]) <= 1
    assert float(after[1]) < float(outcome.table[0][1])
    assert served(tmp_path / "small", OTHERS).shape == (40, SIZE)
