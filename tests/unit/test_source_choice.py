"""Which source is meant by what people write, and which of its files are taken."""

from __future__ import annotations

import pytest

from atoll.cli.model_run import is_name
from atoll.domain.errors import AtollError, DataError
from atoll.registry.sources.address import HubAddress, ImageAddress, PackageAddress, parse
from atoll.registry.sources.choose import Offer, choose, quantization_of


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:reef/tiny", HubAddress("reef/tiny")),
        ("hf:reef/tiny@v1.0", HubAddress("reef/tiny", "v1.0")),
        ("hf:reef/tiny@refs/pr/3", HubAddress("reef/tiny", "refs/pr/3")),
        ("hf:reef/tiny@main/onnx/model.onnx", HubAddress("reef/tiny", "main", "onnx/model.onnx")),
        ("oci:ghcr.io/reef/tiny", ImageAddress("ghcr.io", "reef/tiny", "latest")),
        ("oci:localhost:5000/tiny:v1", ImageAddress("localhost:5000", "tiny", "v1")),
        ("oci:hub.io/a/b@sha256:" + "0" * 64, ImageAddress("hub.io", "a/b", "sha256:" + "0" * 64)),
        ("pypi:tiny-model", PackageAddress("tiny-model")),
        ("pypi:Tiny.Model==1.2rc1", PackageAddress("Tiny.Model", "1.2rc1")),
        ("./hf/tiny.gguf", None),
        ("/models/x.onnx", None),
    ],
)
def test_an_address_is_understood(text: str, address: object) -> None:
    assert parse(text) == address
    assert not is_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("hf:", "hf:tiny", "hf:../x", "oci:reef/tiny", "oci:ghcr.io/Upper", "oci:ghcr.io"),
        *("pypi:", "pypi:-r", "pypi:x>=1", "pypi:x ==1"),
    ],
)
def test_an_address_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(AtollError, match="cannot understand") as raised:
        parse(text)
    assert raised.value.code == "source-malformed"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("tiny-Q4_K_M.gguf", "q4_k_m"),
        ("qwen2.5-0.5b-instruct-q4_0.gguf", "q4_0"),
        ("x.IQ4_XS.gguf", "iq4_xs"),
        ("x-fp16.gguf", "f16"),
        ("x-BF16.gguf", "bf16"),
        ("q/x-Q8_0.gguf", "q8_0"),
        ("seq2seq.gguf", None),
    ],
)
def test_a_quantization_is_read_from_a_name(path: str, kind: str | None) -> None:
    assert quantization_of(path) == kind


def chosen(
    *paths: str, glob: str | None = None, variant: str | None = None, kind: str | None = None
) -> list[str]:
    offers = [Offer(path, f"https://x/{path}", 1) for path in paths]
    found = choose(offers, "hf:a/b", glob=glob, variant=variant, architecture=kind)
    return [f"{one.url.removeprefix('https://x/')}={one.path}" for one in found]


def test_one_quantization_is_taken_and_never_its_parts_or_projectors() -> None:
    files = ("x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q2_K.gguf", "mmproj-x-F16.gguf", "x-F16-00001-of-00002.gguf")
    assert chosen(*files) == ["x-Q4_K_M.gguf=x-Q4_K_M.gguf"]
    assert chosen(*files, variant="Q2_K") == ["x-Q2_K.gguf=x-Q2_K.gguf"]
    assert len(chosen(*files, glob="*Q*.gguf")) == 3
    with pytest.raises(DataError, match='no variant "q5_0"') as raised:
        chosen(*files, variant="q5_0")
    assert "x-Q2_K.gguf" in str(raised.value.detail)
    with pytest.raises(DataError, match="several models"):
        chosen("one-Q4_0.gguf", "two-Q4_0.gguf")
    with pytest.raises(DataError) as parts:
        chosen("x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf")
    assert "join" in str(parts.value.hint)


def test_a_graph_comes_with_its_weights_and_what_explains_it() -> None:
    files = (
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_int8.onnx",
        "tokenizer.json",
        "config.json",
    )
    assert chosen(*files, "README.md", "modeling.py") == [
        "onnx/model.onnx=model.onnx",
        "onnx/model.onnx_data=model.onnx_data",
        "config.json=config.json",
        "tokenizer.json=tokenizer.json",
    ]
    assert chosen(*files, variant="int8")[0] == "onnx/model_int8.onnx=model_int8.onnx"


def test_an_encoder_comes_as_its_folder_and_other_tensors_are_left_alone() -> None:
    folder = (
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "pytorch_model.bin",
    )
    found = chosen(*folder, kind="bert")
    assert found[0] == "model.safetensors=model.safetensors"
    assert "1_Pooling/config.json=1_Pooling/config.json" in found
    assert not any("pytorch" in one for one in found)
    with pytest.raises(DataError, match="no model that an engine here runs"):
        chosen(*folder, kind="qwen2")


def test_code_and_pickles_and_paths_outside_are_never_taken() -> None:
    for path in ("model.py", "pytorch_model.bin", "x.pt", "x.pkl", "../x.gguf", "/x.gguf", "a/../../x.gguf"):
        with pytest.raises(DataError, match="no model"):
            chosen(path)
