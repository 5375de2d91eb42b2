"""Rounding by what comes in: it loses less than rounding by itself, and no case makes it fall over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

import gguf  # noqa: E402

from atoll.compress import forms, gptq, kquants  # noqa: E402
from atoll.domain.errors import DataError  # noqa: E402

SEED = 20_263


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)


def inputs(count: int, width: int) -> torch.Tensor:
    """Some matter more than others, and they hang together, as in a real layer."""
    mixed = torch.eye(width) + torch.randn(width, width) * 0.05
    return torch.randn(count, width) * torch.rand(width) * 3 @ mixed


def lost(rounded: gptq.Rounded, weight: torch.Tensor, x: torch.Tensor) -> float:
    return float(((rounded.restored() - weight) @ x.T).square().mean())


@pytest.mark.parametrize("group", [32, 128])
def test_it_loses_less_than_half_of_what_rounding_to_the_nearest_does(group: int) -> None:
    weight, x = torch.randn(64, 256), inputs(1000, 256)
    solved = gptq.solve(weight, x.T @ x, group)
    fresh = inputs(1000, 256)
    assert lost(solved, weight, x) < lost(gptq.nearest(weight, group), weight, x) / 2
    assert solved.levels.min() >= -8
    assert solved.levels.max() <= 7
    assert torch.isfinite(fresh).all()


def test_what_is_solved_is_what_the_file_holds_to_the_last_bit() -> None:
    weight, x = torch.randn(16, 128), inputs(400, 128)
    solved = gptq.solve(weight, x.T @ x, 64)
    held = forms.unpack(forms.pack_levels(solved.levels.numpy(), solved.scales.numpy()), "q4_0")
    assert torch.equal(torch.from_numpy(held), solved.restored())


@pytest.mark.parametrize("form", kquants.SPANS)
def test_levels_of_k_quants_come_back_to_the_last_bit(form: str) -> None:
    weight, span = torch.randn(8, 512).numpy(), kquants.SPANS[form]
    packed = forms.pack(weight, form)
    levels = np.random.default_rng(SEED).integers(span.lowest, span.highest + 1, (8, 512)).astype(np.int8)
    levels[0, :2] = span.lowest, span.highest
    grid = kquants.grid_of(packed, form)
    written = kquants.write(packed, levels, form)
    restored = forms.unpack(written, form)
    assert np.array_equal(restored, levels * grid.scales.numpy() - grid.offsets.numpy())
    assert np.array_equal(gguf.quants.dequantize(written, forms.kind_of(form)), restored)
    nearest = np.round((weight + grid.offsets.numpy()) / grid.scales.numpy())
    again = kquants.write(packed, nearest.clip(span.lowest, span.highest).astype(np.int8), form)
    assert np.abs(forms.unpack(again, form) - weight).max() < 0.75, "the grid is that of these weights"


@pytest.mark.parametrize("form", kquants.SPANS)
def test_k_quants_lose_less_when_their_levels_are_solved(form: str) -> None:
    weight, x = torch.randn(64, 256), inputs(1000, 256)
    hessian = x.T @ x / len(x)

    def lost_by(packed: Any) -> float:
        restored = torch.from_numpy(forms.unpack(packed, form))
        return float(((restored - weight) @ x.T).square().mean())

    solved = kquants.solve(weight, hessian, form)
    rounded = forms.pack(weight.numpy(), form, hessian.diagonal().numpy())
    assert solved.shape == rounded.shape
    assert lost_by(solved) < lost_by(rounded) / 2


def test_inputs_that_never_come_and_weights_that_are_nothing_are_left_at_nothing() -> None:
    weight, x = torch.randn(8, 128), inputs(400, 128)
    x[:, 5] = 0
    weight[:, 32:64] = 0
    solved = gptq.solve(weight, x.T @ x, 32).restored()
    assert torch.isfinite(solved).all()
    assert (solved[:, 5] == 0).all()
    assert (solved[:, 32:64].abs() < 1e-2).all()


def test_fewer_inputs_than_columns_are_enough_to_go_on() -> None:
    weight, x = torch.randn(8, 256), inputs(20, 256)
    solved = gptq.solve(weight, x.T @ x, 32)
    assert lost(solved, weight, x) < lost(gptq.nearest(weight, 32), weight, x)


def test_inputs_that_say_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="cannot calibrate"):
        gptq.solve(torch.randn(8, 64), torch.full((64, 64), torch.nan), 32)


def by_solving_anew(weight: torch.Tensor, hessian: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The same by the book: after each column, the free ones are solved for from the weights as they were."""
    width = weight.shape[1]
    h, w = hessian.double(), weight.double()
    h = h + torch.eye(width, dtype=torch.float64) * (gptq.DAMPING * h.diagonal().mean())
    wide = scales.double().repeat_interleave(width // scales.shape[1], dim=1)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist()
    levels, now = torch.zeros_like(w), w.clone()
    for count, column in enumerate(order, 1):
        scale = wide[:, column]
        levels[:, column] = (now[:, column] / scale).round().clamp(gptq.LOWEST, gptq.HIGHEST)
        fixed, free = order[:count], order[count:]
        errors = (levels * wide - w)[:, fixed]
        if free:
            made_good = torch.linalg.solve(h[free][:, free], h[free][:, fixed] @ errors.T).T
            now[:, free] = w[:, free] - made_good
    return levels


@pytest.mark.parametrize("group", [32, 64])
def test_it_chooses_what_solving_for_the_free_columns_anew_each_time_chooses(group: int) -> None:
    weight, x = torch.randn(24, 192), inputs(600, 192)
    hessian = x.T @ x
    solved = gptq.solve(weight, hessian, group)
    levels = by_solving_anew(weight, hessian, solved.scales)
    # A sum in 32 bits may fall on the other side of a half, and what follows in that row differs with it.
    same = (levels == solved.levels).all(dim=1)
    assert same.float().mean() >= 0.9
    exact = lost(gptq.Rounded(levels.to(torch.int8), solved.scales), weight, x)
    assert lost(solved, weight, x) == pytest.approx(exact, rel=1e-3)
