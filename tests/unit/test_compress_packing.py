"""What a file holds is what the runtime will compute with: forms against the runtime's own functions."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from atoll.compress import forms
from atoll.domain.errors import DataError

SEED = 20_262


def numbers(*shape: int) -> forms.Floats:
    return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("form", forms.FORMS)
def test_a_form_comes_back_as_near_as_it_promises(form: str) -> None:
    weight = numbers(8, 512)
    packed = forms.pack(weight, form)
    restored = forms.unpack(packed, form)
    assert packed.nbytes == 8 * forms.bytes_of(form, 512)
    bound = {"f32": 0, "f16": 2e-3, "q8_0": 0.02, "q6_k": 0.08, "q5_k": 0.2, "q5_0": 0.2}.get(form, 0.75)
    assert np.abs(restored - weight).max() <= bound
    kind = forms.kind_of(form)
    held = packed if form in ("f32", "f16") else packed.view(np.uint8)
    assert np.array_equal(gguf.quants.dequantize(held, kind), restored), "a second reading differs"


@pytest.mark.parametrize("group", [32, 64, 128])
def test_whole_numbers_come_back_to_the_last_bit(group: int) -> None:
    random = np.random.default_rng(SEED)
    levels = random.integers(-8, 8, (16, 256)).astype(np.int8)
    scales = random.standard_normal((16, 256 // group)).astype(np.float16).astype(np.float32)
    restored = forms.unpack(forms.pack_levels(levels, scales), "q4_0")
    assert np.array_equal(restored, levels * np.repeat(scales, group, axis=1))


def test_what_is_important_is_kept_better() -> None:
    weight, importance = numbers(32, 256), np.full(256, 1e-3, np.float32)
    importance[:16] = 10.0

    def lost(packed: forms.Bytes) -> float:
        return float(np.square(forms.unpack(packed, "q4_k") - weight)[:, :16].sum())

    assert lost(forms.pack(weight, "q4_k", importance)) < lost(forms.pack(weight, "q4_k")) * 0.9
    apart = np.diag(importance).diagonal()  # not side by side in memory
    assert np.array_equal(forms.pack(weight, "q4_k", apart), forms.pack(weight, "q4_k", importance))


def test_a_width_that_a_form_cannot_hold_gets_one_that_can() -> None:
    assert forms.fitting("q4_k", 256) == "q4_k"
    assert forms.fitting("q4_k", 96) == "q5_0"
    assert forms.fitting("q6_k", 96) == "q8_0"
    assert forms.fitting("q4_0", 40) == "f16"


def test_groups_that_do_not_fill_blocks_are_refused() -> None:
    with pytest.raises(DataError, match="cannot pack"):
        forms.pack_levels(np.zeros((2, 64), np.int8), np.ones((2, 4), np.float32))
