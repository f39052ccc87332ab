"""Sparse training: what is frozen keeps its bits, what is free moves as AdamW moves it, and a resumed run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agentrl.assembly import check
from agentrl.config import LoraConfig, MaskConfig, OptimiserConfig, load_config
from agentrl.errors import CheckpointError, ConfigError, TrainingError
from agentrl.learner import Learner, Policy, load_checkpoint, save_checkpoint
from agentrl.learner.masked import build_masks
from agentrl.learner.optimiser import build_optimiser, clip_gradient, guarded_step
from agentrl.objectives.clip import ClippedRatio
from agentrl.probe import masks, spectrum
from tests.learner.tiny_models import make_batch, make_model

SAFE = MaskConfig(rank=2)
SETTINGS = OptimiserConfig(lr=1e-2, weight_decay=0.1, micro_batch_tokens=60, mask=SAFE)


def make_learner(mask: MaskConfig | None = SAFE, lora: LoraConfig | None = None) -> Learner:
    settings = SETTINGS.model_copy(update={"mask": mask})
    return Learner(Policy(make_model(), lora=lora, precision="fp32"), objective=ClippedRatio(), optimiser=settings)


def copies(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in learner.policy.trainable().items()}


def masks_of(config: MaskConfig = SAFE) -> dict[str, Tensor]:
    return build_masks(dict(make_model().named_parameters()), config)


def assert_frozen(before: dict[str, Tensor], after: dict[str, Tensor], frozen: dict[str, Tensor]) -> None:
    for name, mask in frozen.items():
        bits = [weights[name].view(torch.int32)[~mask] for weights in (before, after)]
        assert torch.equal(*bits), name


def test_frozen_entries_keep_their_bits_over_fifty_steps_with_weight_decay() -> None:
    learner = make_learner()
    before = copies(learner)
    for step in range(50):
        learner.update(*make_batch(step, size=4))
    after, frozen = copies(learner), masks_of()
    assert learner.steps == 50
    assert len(frozen) == 14, "seven matrices in each of two layers"
    assert_frozen(before, after, frozen)
    for name, mask in frozen.items():
        assert (before[name] != after[name])[mask].float().mean() > 0.99, name
    assert all((before[name] != after[name]).any() for name in before if name not in frozen), "the rest trains densely"


def test_without_masking_the_update_weight_decay_alone_moves_frozen_entries() -> None:
    """The pitfall that the mask on the gradient alone does not see."""
    weight, mask = nn.Parameter(torch.ones(3, 3)), torch.eye(3, dtype=torch.bool)
    plain = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.ones(3, 3) * mask
    plain.step()
    assert (weight != 1).all()


def test_free_entries_move_as_adamw_moves_them() -> None:
    """Against AdamW itself, given the gradients of a run that is masked in every step."""
    generator = torch.Generator().manual_seed(0)
    start, mask = torch.randn(6, 5, generator=generator), torch.rand(6, 5, generator=generator) < 0.7
    ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    config = OptimiserConfig(lr=1e-2, weight_decay=0.1, grad_clip=1e9)
    own = build_optimiser({"w": ours}, config, {"w": mask})
    other = torch.optim.AdamW([plain], lr=1e-2, betas=config.betas, eps=config.eps, weight_decay=0.1)
    for _ in range(20):
        gradient = torch.randn(6, 5, generator=generator)
        ours.grad, plain.grad = gradient.clone(), gradient.clone()
        guarded_step(own, config.grad_clip, 1e-2)
        other.step()
    assert torch.equal(ours[~mask], start[~mask])
    assert (ours[mask] - plain[mask]).abs().max() < 1e-6


def test_the_gradient_is_clipped_by_the_norm_of_what_is_applied() -> None:
    weight, mask = nn.Parameter(torch.ones(1, 2)), torch.tensor([[True, False]])
    own = build_optimiser({"w": weight}, OptimiserConfig(), {"w": mask})
    weight.grad = torch.tensor([[3.0, 400.0]])
    assert clip_gradient(own, 1.0) == 3.0
    weight.grad = torch.tensor([[3.0, float("nan")]])
    with pytest.raises(TrainingError, match="norm is nan"):
        clip_gradient(own, 1.0)


def test_the_warm_start_is_masked_too() -> None:
    learner = make_learner()
    before = copies(learner)
    learner.supervised_step(make_batch(0)[0], learner.supervised_optimiser(1e-2))
    assert_frozen(before, copies(learner), masks_of())


# ------------------------------------------------------------------------------------------------------------ the masks


def test_the_safe_mask_is_low_or_off_the_principal_directions() -> None:
    model = make_model()
    for name, mask in masks_of(MaskConfig(alpha=0.4, rank=3)).items():
        weight = model.get_parameter(name).detach()
        principal = masks.principal_mask(masks.approximation(*spectrum.full(weight), 3), 0.4)
        low = masks.low_mask(weight, 0.4)
        assert torch.equal(mask, low | ~principal)
        assert torch.equal(masks_of(MaskConfig(name="principal", alpha=0.4, rank=3))[name], principal)
        assert int(principal.sum()) == int(low.sum()) == round(0.4 * weight.numel())


def test_the_random_mask_has_the_density_of_the_safe_one_and_its_own_seed() -> None:
    safe = masks_of()
    first, again, other = (masks_of(MaskConfig(name="random", rank=2, seed=seed)) for seed in (0, 0, 1))
    for name, mask in safe.items():
        assert int(first[name].sum()) == int(other[name].sum()) == int(mask.sum())
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], mask)


def test_the_specified_safe_density() -> None:
    square = torch.tensor([[4, 3, 0.1, 0.2], [3, 2, 0.3, 0.1], [0.2, 0.1, 0.5, 0.05], [0.1, 0.2, 0.05, 0.4]])
    generator = torch.Generator().manual_seed(0)
    assert float(masks.training_mask(square, "safe", 0.25, 1, generator).float().mean()) == 0.75
    assert masks.training_mask(torch.zeros(3, 3), "safe", 0.5, None, generator).all()


@pytest.mark.parametrize(("count", "alpha", "expected"), [(5, 0.5, 2), (7, 0.5, 4), (3, 0.1, 1), (10, 0.25, 2)])
def test_shares_of_a_count_are_rounded_half_to_even_and_at_least_one(count: int, alpha: float, expected: int) -> None:
    assert masks.share_of(count, alpha) == expected


# ----------------------------------------------------------------------------------------------------------- resuming


def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    straight = make_learner()
    for seed in range(3):
        straight.update(*make_batch(seed))
    first = make_learner()
    first.update(*make_batch(0))
    path = save_checkpoint(tmp_path, first, 1, {})
    second = make_learner()
    load_checkpoint(path, second)
    for seed in (1, 2):
        second.update(*make_batch(seed))
    left, right = copies(straight), copies(second)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_brings_its_masks(tmp_path: Path) -> None:
    """A decomposition on another machine may round otherwise; what was frozen stays frozen all the same."""
    first, second = make_learner(), make_learner(MaskConfig(name="random", rank=2, seed=7))
    before = copies(first)
    first.update(*make_batch(0))
    load_checkpoint(save_checkpoint(tmp_path, first, 1, {}), second)
    for step in range(3):
        second.update(*make_batch(step))
    assert_frozen(before, copies(second), masks_of())


@pytest.mark.parametrize(("wrote", "reads"), [(SAFE, None), (None, SAFE)])
def test_a_checkpoint_with_masks_and_one_without_are_told_apart(
    tmp_path: Path, wrote: MaskConfig | None, reads: MaskConfig | None
) -> None:
    path = save_checkpoint(tmp_path, make_learner(wrote), 1, {})
    with pytest.raises(CheckpointError, match="of another optimiser"):
        load_checkpoint(path, make_learner(reads))


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_a_mask_with_lora_is_refused_with_the_reason() -> None:
    overrides = ["optimiser.mask={name: safe}", "model.lora={}"]
    config = load_config(recipe="tiny", overrides=overrides)
    with pytest.raises(ConfigError, match=r"under model.lora none of them does: set model.lora=null"):
        check(config)
    with pytest.raises(ConfigError, match=r"model.lora freezes those"):
        make_learner(lora=LoraConfig())
    assert any("safe entries" in line for line in check(load_config(recipe="tiny", overrides=overrides[:1])))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.mask={name: save}", r"optimiser.mask.name='save': input should be 'safe', 'principal' or 'random'"),
        ("optimiser.mask={alpha: 1}", r"optimiser.mask.alpha=1: input should be less than 1"),
        ("optimiser.mask={rnak: 3}", r"optimiser.mask.rnak: unknown key; .*rank"),
        ("model.lora={init: piss}", r"model.lora.init='piss': input should be 'default' or 'pissa'"),
    ],
)
def test_a_wrong_mask_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])
