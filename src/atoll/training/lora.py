"""Adapters (LoRA) with peft: on all linear layers, written as safetensors and GGUF, or merged.

The words' vectors can be learned beside them, whole. No GGUF adapter holds whole weights: those are merged.

In the GGUF file the halves are as llama.cpp keeps the weights that they change: for llama's kind, the rows of
Q and K in another order. Nothing is rounded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError
from atoll.training.folder import KINDS, Loaded, load, read_config

ADAPTER = "adapter.gguf"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model.model.layers."
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
PERMUTED = ("llama",)
WORDS = ("embed_tokens", "lm_head")  # the input's and the output's, which may be the same


def attach(model: Loaded, rank: int, alpha: float, seed: int, *, embeddings: bool = False) -> Any:
    """The network with an adapter that changes nothing yet; only the adapter wants gradients."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    is_tied = bool(model.net.config.tie_word_embeddings)
    wish = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_targets(),
        modules_to_save=list(WORDS[:1] if is_tied else WORDS) if embeddings else None,
        ensure_weight_tying=embeddings and is_tied,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model.net, wish)


def _targets() -> list[str]:
    return [name.partition(".")[2] for name in NAMES]


def save(net: Any, folder: Path) -> None:
    """As safetensors."""
    for wish in net.peft_config.values():
        wish.base_model_name_or_path = ""  # a folder of this machine says nothing elsewhere
    net.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a form that nobody filled in


def write_gguf(adapter: Path, base: Path, file: Path) -> None:
    """The adapter of a folder as a file for the runtime, for the base that it was trained on."""
    import gguf
    from safetensors.numpy import load_file

    config, wish = read_config(base), json.loads((adapter / CONFIG).read_text())
    if (
        wish.get("use_rslora")
        or wish.get("use_dora")
        or wish.get("alpha_pattern")
        or wish.get("rank_pattern")
    ):
        raise DataError(
            "adapter-unusual", "cannot write this kind of adapter as GGUF", hint="Plain LoRA can be."
        )
    kind = KINDS[config["model_type"]]
    writer = gguf.GGUFWriter(file, kind)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(wish["lora_alpha"]))
    for name, weight in sorted(load_file(adapter / WEIGHTS).items()):
        told, half = gguf_name(name)
        if half == "lora_b" and kind in PERMUTED:
            weight = turned(told, weight, config)
        writer.add_tensor(f"{told}.weight.{half}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> tuple[str, str]:
    """base_model.model.model.layers.0.mlp.up_proj.lora_A.weight is blk.0.ffn_up and lora_a."""
    layer, _, rest = name.removeprefix(PREFIX).partition(".")
    module, _, half = rest.removesuffix(".weight").rpartition(".")
    if not name.startswith(PREFIX) or module not in NAMES or half not in ("lora_A", "lora_B"):
        raise DataError("adapter-unusual", f'cannot write the adapter\'s tensor "{name}" as GGUF')
    return f"blk.{layer}.{NAMES[module]}", half.lower()


def turned(told: str, weight: Any, config: dict[str, Any]) -> Any:
    """Rows of Q and K: the two halves of a head's rotation side by side, and not one after the other."""
    heads = config["num_attention_heads"]
    if told.endswith("attn_k"):
        heads = config.get("num_key_value_heads") or heads
    elif not told.endswith("attn_q"):
        return weight
    rows, *others = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *others).swapaxes(1, 2).reshape(rows, *others)


def merge(adapter: Path, base: Path, target: Path) -> None:
    """A folder with the base's weights, changed for good."""
    from peft import PeftModel

    model = load(base)
    net = PeftModel.from_pretrained(model.net, adapter, local_files_only=True).merge_and_unload()
    net.config.use_cache = True
    net.save_pretrained(target)
    model.tokenizer.save_pretrained(target)
