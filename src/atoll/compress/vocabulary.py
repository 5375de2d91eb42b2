"""A tokenizer.json in the words of a GGUF file.

Two kinds are understood: pieces of bytes, cut by one of the rules that the runtime knows by name, and pieces
of text that fall back to bytes. Anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.compress.folder import Folder, read_json
from atoll.compress.shape import unsupported
from atoll.domain.errors import DataError
from atoll.registry.formats.tokenizer import adds_begin

if TYPE_CHECKING:
    import gguf
    from tokenizers import Tokenizer

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
RULES = {
    rf"{SHORT}|{WORDS}|\p{{N}}{{1,3}}|{REST}": "llama-bpe",
    rf"{SHORT}|{WORDS}|\p{{N}}|{REST}": "qwen2",
}


@dataclass(frozen=True)
class Vocabulary:
    pieces: tuple[str, ...]
    special: frozenset[int]
    merges: tuple[str, ...]
    rule: str | None
    """How text is cut before pieces are looked for; None where pieces fall back to bytes."""
    unknown: int | None
    begins_with_space: bool
    begin: int | None
    end: int | None
    adds_begin: bool
    template: str | None


def read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise DataError("model-unusable", f'cannot read "{path.name}"', detail=f"{error}.") from error


def read_vocabulary(folder: Folder) -> Vocabulary:
    told = read_json(folder.path / "tokenizer.json")
    model = told.get("model") or {}
    if model.get("type") != "BPE":
        raise unsupported(f'its tokenizer is of the kind "{model.get("type")}"', "Known is BPE.")
    falls_back = bool(model.get("byte_fallback"))
    by_id = {id_: piece for piece, id_ in model["vocab"].items()}
    added = told.get("added_tokens") or []
    by_id.update({one["id"]: one["content"] for one in added})
    if max(by_id, default=-1) >= folder.shape.pieces:
        raise DataError(
            "tokenizer-wrong",
            f"cannot use the tokenizer: it has {max(by_id) + 1:,} pieces, the model {folder.shape.pieces:,}",
            hint="The tokenizer of another model may lie in the folder.",
        )
    config = folder.beside("tokenizer_config.json")
    begin, end = _special(folder, config, by_id, "bos"), _special(folder, config, by_id, "eos")
    return Vocabulary(
        pieces=tuple(by_id.get(id_, f"[PAD{id_}]") for id_ in range(folder.shape.pieces)),
        special=frozenset(one["id"] for one in added if one.get("special")),
        merges=tuple(_merges(model.get("merges") or ())),
        rule=None if falls_back else _rule(told.get("pre_tokenizer") or {}),
        unknown=model["vocab"].get(model.get("unk_token")),
        begins_with_space="Prepend" in json.dumps(told.get("normalizer")),
        begin=begin,
        end=end,
        adds_begin=begin is not None and adds_begin(told, config, by_id[begin]),
        template=_template(folder, config),
    )


def write_vocabulary(found: Vocabulary, writer: gguf.GGUFWriter) -> None:
    import gguf

    writer.add_tokenizer_model("llama" if found.rule is None else "gpt2")
    writer.add_token_list(list(found.pieces))
    writer.add_token_types([_kind(found, id_, gguf.TokenType) for id_ in range(len(found.pieces))])
    if found.rule is None:
        # Pieces are numbered in the order in which they were merged: earlier is better.
        writer.add_token_scores([-float(id_) for id_ in range(len(found.pieces))])
        writer.add_add_space_prefix(found.begins_with_space)
        if found.unknown is not None:
            writer.add_unk_token_id(found.unknown)
    else:
        writer.add_tokenizer_pre(found.rule)
        writer.add_token_merges(list(found.merges))
        writer.add_add_space_prefix(False)
    if found.begin is not None:
        writer.add_bos_token_id(found.begin)
    if found.end is not None:
        writer.add_eos_token_id(found.end)
    writer.add_add_bos_token(found.adds_begin)
    if found.template is not None:
        writer.add_chat_template(found.template)


def _kind(found: Vocabulary, id_: int, kinds: Any) -> Any:
    piece = found.pieces[id_]
    if id_ == found.unknown and found.rule is None:
        return kinds.UNKNOWN
    if id_ in found.special or id_ in (found.begin, found.end):
        return kinds.CONTROL
    if piece == f"[PAD{id_}]":
        return kinds.UNUSED
    is_byte = found.rule is None and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return kinds.BYTE if is_byte else kinds.NORMAL


def _merges(told: Any) -> Iterator[str]:
    for one in told:
        yield one if isinstance(one, str) else " ".join(one)


def _rule(told: Mapping[str, Any]) -> str:
    """The runtime's name for the way text is cut."""
    steps = told.get("pretokenizers") or [told]
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    if patterns and patterns[0] in RULES:
        return RULES[patterns[0]]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    raise unsupported("its tokenizer cuts text by a rule that the runtime has no name for")


def _special(folder: Folder, config: Mapping[str, Any], by_id: Mapping[int, str], name: str) -> int | None:
    """The token that begins or ends a text."""
    told = config.get(f"{name}_token")
    text = told.get("content") if isinstance(told, dict) else told
    if isinstance(text, str):
        return next((id_ for id_, piece in by_id.items() if piece == text), None)
    for held in (folder.beside("generation_config.json"), folder.config):
        found = held.get(f"{name}_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int) and found in by_id:
            return found
    return None


def _template(folder: Folder, config: Mapping[str, Any]) -> str | None:
    path = folder.path / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    told = config.get("chat_template")
    return told if isinstance(told, str) else None
