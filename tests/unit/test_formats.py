"""What model files say of themselves; and that damaged ones are refused with words, never with a crash."""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from atoll.domain.errors import DataError
from atoll.domain.models import TensorFacts
from atoll.registry.formats import gguf as gguf_format
from atoll.registry.formats.found import Found
from atoll.registry.formats.read import read_model
from support.graphs import save_echo, save_tiny

SEED = 20_261
FLIPS = 400
CUTS = 120


def save_gguf(path: Path, **options: Any) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, options.get("arch", "llama"))
    writer.add_name("small")
    writer.add_license("mit")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "wave", "café"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_chat_template("{{ messages }}")
    for key, value in options.get("attention", {}).items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f"{options.get('arch', 'llama')}.attention.{key}", value)
    if "pooling" in options:
        writer.add_pooling_type(options["pooling"])
    if "type" in options:
        writer.add_type(options["type"])
    rng = np.random.default_rng(SEED)
    packed = gguf.quantize(rng.normal(size=(8, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.0.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def save_safetensors(path: Path, shapes: dict[str, tuple[str, list[int]]], **changes: Any) -> Path:
    bits = {"F32": 4, "F16": 2, "I64": 8}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape) in shapes.items():
        size = int(np.prod(shape)) * bits[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    for name, change in changes.items():
        header[name] = {**header.get(name, {}), **change}
    told = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(at))
    return path


def save_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    save_safetensors(folder / "model.safetensors", {"ids": ("I64", [1, 4]), "w": ("F16", [8, 16])})
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("---\ntags: [a]\nlicense: apache-2.0\n---\n# It\nlicense: no\n")
    return folder


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_model(path)
    assert caught.value.code == "model-unusable"
    assert caught.value.detail
    assert caught.value.detail.endswith(".")
    return caught.value


def test_a_gguf_file_tells_of_its_model(tmp_path: Path) -> None:
    found = read_model(save_gguf(tmp_path / "m.gguf"))
    assert (found.format, found.architecture, found.quantization) == ("gguf", "llama", "Q4_0")
    assert found.parameters == 8 * 64 + 64
    assert (found.context_tokens, found.dimensions) == (2048, 64)
    assert (found.tokenizer, found.has_chat_template, found.licence) == ("gpt2", True, "mit")
    assert found.skills == {"generate"}
    assert found.bytes == (tmp_path / "m.gguf").stat().st_size
    assert found.details["tokens"] == 3


@pytest.mark.parametrize(
    ("attention", "cached"),
    [
        ({}, 2 * 64),
        ({"head_count": 4}, 2 * 64),
        ({"head_count": 4, "head_count_kv": 1}, 2 * 16),
        ({"head_count": 4, "head_count_kv": [2]}, 2 * 32),
        ({"head_count": 4, "head_count_kv": 1, "key_length": 192, "value_length": 128}, 192 + 128),
        ({"head_count": [4], "head_count_kv": 1}, 2 * 64),
    ],
)
def test_what_a_token_of_context_takes_is_read_from_the_heads(
    tmp_path: Path, attention: dict[str, Any], cached: int
) -> None:
    found = read_model(save_gguf(tmp_path / "m.gguf", attention=attention))
    assert found.details["cached"] == cached


def test_a_gguf_encoder_embeds_and_an_adapter_does_nothing_by_itself(tmp_path: Path) -> None:
    import gguf

    encoder = save_gguf(tmp_path / "e.gguf", arch="bert", pooling=gguf.PoolingType.MEAN)
    assert read_model(encoder).skills == {"embed"}
    assert read_model(save_gguf(tmp_path / "a.gguf", type="adapter")).skills == frozenset()


def test_the_kinds_of_gguf_are_those_of_its_own_package() -> None:
    import gguf

    known = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {number: known[number] for number in gguf_format.KINDS} == gguf_format.KINDS
    names = {kind.value: kind.name.partition("_")[2] for kind in gguf.LlamaFileType}
    assert {number: names[number] for number in gguf_format.MIXES} == gguf_format.MIXES


def test_an_onnx_file_tells_of_its_graph(tiny_onnx: Path) -> None:
    found = read_model(tiny_onnx)
    assert (found.format, found.parameters, found.quantization) == ("onnx", 15, "fp32")
    assert found.inputs == (TensorFacts("x", "FP32", (-1, 4)),)
    assert found.outputs == (TensorFacts("scores", "FP32", (-1, 3)), TensorFacts("best", "INT64", (-1,)))
    assert found.details["operators"] == {"ai.onnx": 17}
    assert found.details["producer"] == "by hand"
    assert found.details["free"] == {"x": ["rows"], "scores": ["rows"], "best": ["rows"]}
    assert found.skills == {"infer"}


def test_onnx_datatypes_have_the_names_of_the_open_inference_protocol(tmp_path: Path) -> None:
    kinds = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    found = read_model(save_echo(tmp_path / "m.onnx", kinds))
    names = "FP32 UINT8 INT8 UINT16 INT16 INT32 INT64 BYTES BOOL FP16 FP64 UINT32 UINT64"
    assert [tensor.datatype for tensor in found.inputs] == names.split()


def test_weights_beside_an_onnx_file_count_and_have_to_be_there(tmp_path: Path) -> None:
    model = onnx.load(save_tiny(tmp_path / "whole.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    found = read_model(tmp_path / "m.onnx")
    assert found.parameters == 15
    assert found.bytes == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.data"))
    (tmp_path / "m.data").unlink()
    assert "m.data" in str(refused(tmp_path / "m.onnx").detail)


def test_weights_outside_of_the_folder_of_an_onnx_file_are_refused(tmp_path: Path) -> None:
    model = onnx.load(save_tiny(tmp_path / "whole.onnx"))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "outside" in str(refused(tmp_path / "m.onnx").detail)


def test_a_safetensors_folder_tells_of_its_model(tmp_path: Path) -> None:
    found = read_model(save_folder(tmp_path / "m"))
    assert (found.format, found.architecture, found.quantization) == ("safetensors", "bert", "fp16")
    assert (found.parameters, found.context_tokens, found.dimensions) == (4 + 128, 128, 16)
    assert (found.tokenizer, found.licence, found.skills) == ("tokenizer.json", "apache-2.0", {"embed"})
    assert found == read_model(tmp_path / "m" / "model.safetensors")


def test_a_model_in_several_files_needs_all_of_them(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "m")
    save_safetensors(folder / "second.safetensors", {"v": ("F32", [3])})
    index = {"weight_map": {"w": "model.safetensors", "v": "second.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model(folder).parameters == 4 + 128 + 3
    (folder / "second.safetensors").unlink()
    refused(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"w": {"shape": [8, 2**40]}}, "claims"),
        ({"w": {"shape": [-1, -128]}}, "cannot be"),
        ({"w": {"data_offsets": [0, 256]}}, "overlap"),
        ({"w": {"data_offsets": [256, 0]}}, "cannot be"),
        ({"w": {"data_offsets": "everywhere"}}, "does not say"),
        ({"more": {"dtype": "F32", "shape": [2**30], "data_offsets": [288, 288 + 2**32]}}, "it has"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    shapes = {"ids": ("I64", [1, 4]), "w": ("F16", [8, 16])}
    path = save_safetensors(tmp_path / "m.safetensors", shapes, **change)
    assert word in str(refused(path).detail)


@pytest.mark.parametrize(
    "claim",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 8, 2**40),
        b"GGUF" + struct.pack("<I", 77),
    ],
)
def test_a_gguf_file_that_claims_too_much_is_refused_at_once(tmp_path: Path, claim: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(claim + bytes(64))
    refused(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x08", b"hello, this is no model", bytes(4096)])
@pytest.mark.parametrize("name", ["m.gguf", "m.onnx", "m.safetensors", "m"])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_a_folder_with_no_model_or_with_two_is_refused(tmp_path: Path) -> None:
    assert "0 model files" in str(refused(tmp_path).detail)
    save_gguf(tmp_path / "a.gguf")
    assert read_model(tmp_path).format == "gguf"
    save_gguf(tmp_path / "b.gguf")
    assert "2 model files" in str(refused(tmp_path).detail)
    refused(tmp_path / "none.onnx")


def test_a_header_of_nothings_comes_to_an_end(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x01" * 600_000)
    assert "entries" in str(refused(path).detail)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "m.gguf": save_gguf,
    "m.onnx": save_tiny,
    "m.safetensors": lambda path: save_safetensors(path, {"w": ("F32", [4, 4]), "b": ("F16", [4])}),
}


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files_are_read_or_refused_but_nothing_else(tmp_path: Path, name: str) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = MAKERS[name](tmp_path / name).read_bytes()
    path = tmp_path / f"damaged-{name}"
    refusals = 0
    for number in range(FLIPS + CUTS):
        content = bytearray(whole)
        if number < FLIPS:
            for _ in range(rng.choice((1, 1, 1, 4))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        began = time.process_time()
        try:
            found = read_model(path)
        except DataError:
            refusals += 1
        else:
            assert isinstance(found, Found)
            assert number < FLIPS or name == "m.gguf", "a file that was cut off was taken"
        assert time.process_time() - began < 30
    assert refusals >= CUTS * 0.9
