"""Pruning and distillation on a trained model: what goes, what must not, and what is learned again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.domain.errors import ConfigError, DataError
from atoll.training import distill, prune, sparsify
from atoll.training.examples import of_rows
from atoll.training.folder import load
from atoll.training.loop import Schedule
from support.fix_tiny_llama import HEADS, INNER, LAYERS, SEED, sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
HEALING = Schedule(steps=15, batch=16, rate=1e-3, every=15, seed=SEED)
LEARNING = Schedule(steps=60, batch=16, rate=2e-3, every=20, seed=SEED)
ROWS = [{"text": one} for one in sentences(300, SEED + 1)]


def quiet(word: str) -> None:
    pass


def pruned(source: Path, target: Path, method: str, **more: Any) -> dict[str, Any]:
    print(f"seed {SEED}")
    return prune.prune(source, target, of_rows(ROWS), prune.Options(method, **more), quiet)


@pytest.mark.parametrize("is_patterned", [False, True])
@pytest.mark.parametrize("method", sparsify.METHODS)
def test_half_of_each_matrix_is_zero_and_nothing_else_has_changed(
    tiny_llama: Path, tmp_path: Path, method: str, is_patterned: bool
) -> None:
    facts = pruned(tiny_llama, tmp_path / "out", method, is_patterned=is_patterned, heal=HEALING)
    before, after = (dict(load(folder).net.named_parameters()) for folder in (tiny_llama, tmp_path / "out"))
    pruned(tiny_llama, tmp_path / "raw", method, is_patterned=is_patterned)
    raw = dict(load(tmp_path / "raw").net.named_parameters())
    for name, weight in after.items():
        if "_proj" in name:
            assert int((weight == 0).sum()) == weight.numel() // 2, name
            assert bool(((weight == 0) == (raw[name] == 0)).all()), f"healing moved the zeros of {name}"
            if is_patterned:
                assert bool(((weight.reshape(-1, 4) == 0).sum(1) == 2).all()), name
        else:
            assert bool((raw[name] == before[name]).all()), name
    assert facts["loss_after"] < facts["loss_pruned"]
    assert facts["weights"] == facts["weights_before"]


def test_what_is_spared_by_sparsegpt_makes_up_for_what_went(tiny_llama: Path, tmp_path: Path) -> None:
    losses = {
        method: pruned(tiny_llama, tmp_path / method, method, share=0.7)["loss_pruned"]
        for method in sparsify.METHODS
    }
    assert min(losses, key=lambda method: losses[method]) == "sparsegpt", losses


def test_sparsegpt_leaves_the_least_error_on_what_was_seen(training: None) -> None:
    import torch

    torch.manual_seed(SEED)
    print(f"seed {SEED}")
    inputs = (torch.randn(1000, 24) @ torch.randn(24, 160) + torch.randn(1000, 160)) * torch.randn(160).exp()
    weight = torch.randn(96, 160)

    def error(method: str, is_patterned: bool) -> float:
        made = sparsify.sparse(weight, inputs.T @ inputs, method, 0.5, is_patterned)
        return float(((inputs @ (made - weight).T) ** 2).sum())

    for is_patterned in (False, True):
        errors = {method: error(method, is_patterned) for method in sparsify.METHODS}
        assert errors["sparsegpt"] < errors["wanda"] / 2 < errors["magnitude"] / 4, errors


def test_structure_that_goes_is_gone_from_the_file(tiny_llama: Path, tmp_path: Path) -> None:
    expected = {
        "layers": {"num_hidden_layers": LAYERS // 2},
        "width": {"intermediate_size": INNER // 2},
        "heads": {"num_attention_heads": HEADS // 2, "num_key_value_heads": 1, "head_dim": 16},
    }
    size = (tiny_llama / "model.safetensors").stat().st_size
    for method, sizes in expected.items():
        facts = pruned(tiny_llama, tmp_path / method, method, heal=HEALING)
        net = load(tmp_path / method).net
        assert {name: getattr(net.config, name) for name in sizes} == sizes
        assert (tmp_path / method / "model.safetensors").stat().st_size < 0.9 * size
        assert facts["weights"] < facts["weights_before"]
        assert facts["loss_after"] <= facts["loss_pruned"] < facts["loss_before"] + 1


def test_what_cannot_be_pruned_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pruned(tiny_llama, tmp_path / "out", "layers", share=0.05)
    assert caught.value.code == "prune-nothing"
    with pytest.raises(ConfigError):
        pruned(tiny_llama, tmp_path / "out", "width", is_patterned=True)
    assert not (tmp_path / "out").exists()


def test_a_student_learns_more_from_a_teacher_than_alone(tiny_llama: Path, tmp_path: Path) -> None:
    """At the same steps, on the same rows, from the same beginning."""
    print(f"seed {SEED}")
    few = of_rows(ROWS[:30])
    losses = {}
    for name, teacher in (("alone", 0.0), ("taught", 0.5)):
        wish = distill.Options("layers", teacher=teacher, schedule=LEARNING)
        losses[name] = distill.distill(tiny_llama, tmp_path / name, few, wish, quiet)["loss_after"]
    assert losses["taught"] < losses["alone"], losses


@pytest.mark.parametrize("student", ["layers", "width"])
def test_a_student_made_of_its_teacher_comes_near_it(tiny_llama: Path, tmp_path: Path, student: str) -> None:
    wish = distill.Options(student, schedule=LEARNING)
    facts = distill.distill(tiny_llama, tmp_path / "out", of_rows(ROWS), wish, quiet)
    assert facts["weights"] < facts["weights_teacher"]
    assert facts["loss_after"] < facts["loss_before"]
    assert facts["loss_after"] < facts["loss_teacher"] + 0.2
    assert load(tmp_path / "out").net.config.num_hidden_layers == (
        LAYERS if student == "width" else LAYERS // 2
    )


def test_layers_are_taken_evenly_with_both_ends() -> None:
    assert distill.spaced(6, 3) == [0, 2, 5]
    assert distill.spaced(12, 6)[0::5] == [0, 11]
    assert distill.spaced(4, 1) == [0]
    assert distill.spaced(5, 5) == [0, 1, 2, 3, 4]
