"""Checkpoints: whole or not at all, verified, and a resumed run has the bits of one that was not interrupted."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.config import LoraConfig, OptimiserConfig
from agentrl.errors import CheckpointError
from agentrl.learner import Learner, Policy, latest_checkpoint, load_checkpoint, save_checkpoint
from agentrl.objectives.clip import ClippedRatio
from agentrl.objectives.kl import KL
from tests.learner.tiny_models import make_batch, make_model

LORA = LoraConfig(rank=4)


def make_learner(lora: LoraConfig | None = None, **model: Any) -> Learner:
    return Learner(
        Policy(make_model(**model), lora=lora, precision="bf16"),
        objective=ClippedRatio(),
        regularisers=[KL(beta=0.1)],
        optimiser=OptimiserConfig(lr=1e-3, warmup_steps=2, weight_decay=0.1, micro_batch_tokens=60),
    )


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds/")}


@pytest.mark.parametrize("lora", [None, LORA])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path, lora: LoraConfig | None) -> None:
    straight = make_learner(lora)
    expected = [numbers(straight.update(*make_batch(seed))) for seed in range(3)]
    first = make_learner(lora)
    first.update(*make_batch(0))
    path = save_checkpoint(tmp_path, first, 1, {"step": 1, "cursor": [3, 4]})
    second = make_learner(lora)
    assert load_checkpoint(path, second) == {"step": 1, "cursor": [3, 4]}
    assert [numbers(second.update(*make_batch(seed))) for seed in (1, 2)] == expected[1:]
    left, right = straight.policy.trainable(), second.policy.trainable()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert second.steps == 3


def test_random_states_continue(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    own = make_learner()
    random.gauss(0, 1)  # leaves a second number waiting in the state
    path = save_checkpoint(tmp_path, own, 1, {})
    expected = [draw(), draw()], random.gauss(0, 1)
    draw()
    load_checkpoint(path, own)
    assert ([draw(), draw()], random.gauss(0, 1)) == expected


def test_the_newest_complete_one_is_found_and_torn_ones_are_passed_over(tmp_path: Path) -> None:
    own = make_learner(LORA)
    assert latest_checkpoint(tmp_path / "nowhere") is None
    paths = [save_checkpoint(tmp_path, own, step, {"step": step}, keep=9) for step in (1, 2, 10)]
    (tmp_path / "step-00000099").mkdir()
    (tmp_path / ".draft-killed").mkdir()
    assert latest_checkpoint(tmp_path) == paths[2]
    (paths[2] / "optimiser.pt").unlink()
    assert latest_checkpoint(tmp_path) == paths[1]
    weights = paths[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert latest_checkpoint(tmp_path) == paths[0]


def test_old_ones_go_drafts_go_and_the_same_step_can_be_written_again(tmp_path: Path) -> None:
    own = make_learner(LORA)
    (tmp_path / ".draft-killed").mkdir()
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, own, step, {"step": step}, keep=2)
    last = save_checkpoint(tmp_path, own, 3, {"step": 3, "again": True}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert load_checkpoint(last, own) == {"step": 3, "again": True}


def test_a_failed_write_leaves_the_old_checkpoint_and_no_draft(tmp_path: Path) -> None:
    own = make_learner(LORA)
    path = save_checkpoint(tmp_path, own, 1, {"step": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, own, 2, {"not json": object()})
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert load_checkpoint(path, own) == {"step": 1}


def corrupt(path: Path) -> None:
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def other_format(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))


DAMAGE = [
    (shutil.rmtree, "does not exist"),
    (lambda path: (path / "state.json").unlink(), r"incomplete: state\.json is missing"),
    (lambda path: (path / "manifest.json").write_text("{"), r"incomplete: manifest\.json cannot be read"),
    (corrupt, r"corrupt: model\.safetensors"),
    (other_format, "has format 99, this version reads 2"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damage_is_named_in_one_line_and_changes_nothing(tmp_path: Path, damage: Any, message: str) -> None:
    path = save_checkpoint(tmp_path, make_learner(LORA), 1, {})
    damage(path)
    own = make_learner(LORA)
    before = {name: weight.detach().clone() for name, weight in own.policy.trainable().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, own)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], weight) for name, weight in own.policy.trainable().items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make_learner(), 1, {})
    with pytest.raises(CheckpointError, match="another model"):
        load_checkpoint(path, make_learner(hidden_size=40))
    with pytest.raises(CheckpointError, match="another model"):
        load_checkpoint(path, make_learner(LORA))
