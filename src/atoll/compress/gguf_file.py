"""A decoder as a GGUF file: names, the order of rows, and each weight in its form.

What was packed before goes in as it is; the rest is packed by the runtime's own functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atoll.compress import forms
from atoll.compress.folder import Folder, fresh
from atoll.compress.vocabulary import read_vocabulary, write_vocabulary

if TYPE_CHECKING:
    import gguf

    from atoll.compress.decoder import Decoder
    from atoll.compress.shape import Shape

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OUTPUT = ("model.embed_tokens", "lm_head")


@dataclass(frozen=True)
class Recasting:
    """What becomes of each weight: its form, by the name of its part, and rows that are packed already."""

    forms: Mapping[str, str]
    packed: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def write_gguf(decoder: Decoder, folder: Folder, recasting: Recasting, target: Path) -> None:
    with fresh(target) as partial, _begun(decoder, folder, recasting, partial) as writer:
        writer.write_tensors_to_file()


def bytes_beside(decoder: Decoder, folder: Folder, parts: Iterable[str]) -> int:
    """What a file takes for all but these parts' weights."""
    plain = Recasting(dict.fromkeys(parts, "f32"))
    with TemporaryDirectory(prefix="atoll-") as place:
        file = Path(place) / "model.gguf"
        with _begun(decoder, folder, plain, file) as writer:
            writer.write_ti_data_to_file()
        told = file.stat().st_size
    weights = decoder.state_dict().items()
    beside = sum(
        padded(weight.nbytes) for name, weight in weights if name.rpartition(".")[0] not in plain.forms
    )
    biases = sum(padded(weight.nbytes) for name, weight in weights if name.endswith(".bias"))
    slowed = padded(decoder.shape.head // 2 * 4) if decoder.shape.turning.factor != 1.0 else 0
    return padded(told) + beside + biases + slowed


def padded(size: int) -> int:
    """As a weight begins where it may."""
    import gguf

    return -(-size // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT


@contextmanager
def _begun(decoder: Decoder, folder: Folder, recasting: Recasting, path: Path) -> Iterator[gguf.GGUFWriter]:
    """A file that says what it will hold."""
    import gguf

    vocabulary, shape = read_vocabulary(folder), folder.shape
    writer = gguf.GGUFWriter(path, shape.family)
    try:
        writer.add_name(str(folder.config.get("_name_or_path") or folder.path.resolve().name))
        _write_shape(writer, shape)
        writer.add_file_type(_file_type(recasting))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        write_vocabulary(vocabulary, writer)
        if shape.turning.factor != 1.0:
            slowed = np.array(shape.turning.slowed(shape.head), np.float32)
            writer.add_tensor("rope_freqs.weight", slowed)
        for name, weight in decoder.state_dict().items():
            data, form = _recast(name, weight.numpy(), shape, recasting)
            writer.add_tensor(gguf_name(name), data, raw_dtype=forms.kind_of(form))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        yield writer
    finally:
        writer.close()


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    if name in WHOLE:
        return WHOLE[name]
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, ending = rest.rpartition(".")
    return f"blk.{number}.{NAMES[part]}.{ending}"


def _recast(name: str, weight: NDArray[np.float32], shape: Shape, how: Recasting) -> tuple[NDArray[Any], str]:
    part, _, ending = name.rpartition(".")
    move = _moved(part, shape)
    if weight.ndim == 1 or ending == "bias":
        extra = 1.0 if shape.is_gemma and "norm" in part else 0.0
        return move(weight + np.float32(extra)), "f32"
    if part in how.packed:
        return move(how.packed[part]), how.forms[part]
    form = forms.fitting(how.forms[part], weight.shape[1])
    return forms.pack(move(weight), form), form


def _moved(part: str, shape: Shape) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Llama in llama.cpp turns neighbours, in a model folder the halves of a head: rows change places."""
    heads = {"q_proj": shape.heads, "k_proj": shape.shared_heads}.get(part.rpartition(".")[2])
    if shape.family != "llama" or heads is None:
        return lambda rows: rows

    def move(rows: NDArray[Any]) -> NDArray[Any]:
        halves = rows.reshape(heads, 2, shape.head // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))

    return move


def _write_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.pieces)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.shared_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.turning.base)
    writer.add_layer_norm_rms_eps(shape.epsilon)


def _file_type(how: Recasting) -> int:
    """The name for the file is that of the form that most weights have."""
    import gguf

    linear = [form for part, form in how.forms.items() if part not in OUTPUT]
    form = Counter(linear).most_common(1)[0][0].upper()
    kinds = gguf.LlamaFileType
    for name in (f"MOSTLY_{form}", f"MOSTLY_{form}_M", f"ALL_{form}"):
        if name in kinds.__members__:
            return int(kinds[name])
    return int(kinds.GUESSED)
