"""A model in a folder of safetensors files, loaded for training: checked first, in 32 bits, on the CPU.

16 bits are several times slower here. Four bits (NF4) are for what is only read while an adapter learns.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError
from atoll.registry.formats.tokenizer import adds_begin
from atoll.training.steps import require

# The name that a GGUF file has for what config.json calls it.
KINDS = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
ENCODERS = ("bert",)


@dataclass(frozen=True)
class Loaded:
    """A network and what cuts text for it."""

    net: Any
    tokenizer: Any
    kind: str
    folder: Path


def read_config(folder: Path, known: Collection[str] = KINDS) -> dict[str, Any]:
    """DataError where the folder has no model that can be trained."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "model-untrainable",
            f"{folder} has no model",
            detail=f"{error}.",
            hint="Give a folder with config.json, safetensors files and a tokenizer.",
        ) from error
    if config.get("model_type") not in known:
        raise DataError(
            "model-untrainable",
            f'models of type "{config.get("model_type")}" cannot be trained here',
            hint=f"These can: {', '.join(known)}.",
        )
    if not any(folder.glob("*.safetensors")):
        raise DataError(
            "model-untrainable", f"{folder} has no safetensors files", hint="GGUF files cannot be trained."
        )
    return config


def is_encoder(folder: Path) -> bool:
    return read_config(folder, (*KINDS, *ENCODERS))["model_type"] in ENCODERS


def load(folder: Path, is_quantized: bool = False) -> Loaded:
    config = read_config(folder)
    require()
    import torch
    from transformers import AutoModelForCausalLM

    words: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if is_quantized:
        words["quantization_config"] = _four_bits()
    try:
        tokenizer = _tokenizer(folder, config)
        net = AutoModelForCausalLM.from_pretrained(folder, **words)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError("model-untrainable", f"could not load {folder}", detail=f"{error}.") from error
    check_whole(net, len(tokenizer), folder)
    if is_quantized:
        _keep_gradients(net)
    net.config.use_cache = False
    return Loaded(net, tokenizer, KINDS[config["model_type"]], folder)


def _tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    """By tokenizer.json as it is: a class that is guessed from the model's kind may cut otherwise."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    for role in ("bos_token", "eos_token"):
        if getattr(found, role) is None and isinstance(number := config.get(f"{role}_id"), int):
            setattr(found, role, found.convert_ids_to_tokens(number))
    _begin_as_served(found, folder)
    return found


def _begin_as_served(tokenizer: Any, folder: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    told, config = (
        json.loads((folder / name).read_text("utf-8")) if (folder / name).exists() else {}
        for name in ("tokenizer.json", "tokenizer_config.json")
    )
    begin, number = tokenizer.bos_token, tokenizer.bos_token_id
    wanted = begin is not None and adds_begin(told, config, begin)
    if wanted != (begin is not None and tokenizer("")["input_ids"][:1] == [number]):
        way = {"single": f"{begin} $A", "special_tokens": [(begin, number)]} if wanted else {"single": "$A"}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**way)


def check_whole(net: Any, pieces: int, folder: Path) -> None:
    import torch

    room = net.get_input_embeddings().weight.shape[0]
    if pieces > room:
        raise DataError(
            "tokenizer-misfit",
            f"the tokenizer of {folder} is not this model's",
            detail=f"It has {pieces:,} pieces, and the model {room:,}.",
        )
    for name, weight in net.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise DataError(
                "weights-broken", f'weights "{name}" of {folder} are not all numbers', hint="Fetch it again."
            )


def _four_bits() -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise DataError(
            "compress-missing",
            "four bits need bitsandbytes",
            hint="Install it: pip install 'atoll[compress]'",
        ) from error
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def _keep_gradients(net: Any) -> None:
    """With AVX512-BF16 the first judging would repack the weights, and no gradient would pass them after."""
    for module in net.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
