"""`prompt_confidence` and `effective_rank`: numbers of the specification (30a, 58), and real scoring."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from agentrl.config import OptimiserConfig
from agentrl.errors import ConfigError
from agentrl.learner import Learner, Policy
from agentrl.learner.effective_rank import effective_rank, rank_dynamics, ranks_along
from agentrl.learner.quantities import build, prompt_confidence
from agentrl.objectives.clip import ClippedRatio
from agentrl.trajectory import Trajectory
from tests.learner.tiny_models import make_batch, make_model, make_trajectory

ROWS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (2, 0, 0), (0, 2, 0), (1, 1, 1), (0, 0, 2)]
STATES = torch.tensor(ROWS, dtype=torch.float32)
PROMPT = torch.tensor([0.1, 0.3, 0.6, 0.05, 0.9, 0.8, 0.2, 0.4, 0.7, 0.5]).log()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_58a() -> None:
    assert float(effective_rank(STATES)) == pytest.approx(2.834903, abs=1e-6)
    assert ranks_along(STATES, 2, 512).tolist() == pytest.approx([2.0, 2.812976, 2.767469, 2.848259], abs=1e-6)
    assert rank_dynamics(STATES, stride=2).tolist() == pytest.approx([2.834903, 0.498467, -0.245766], abs=1e-6)


@pytest.mark.parametrize(("rows", "rank"), [(3, 2), (5, 4), (10, 9)])
def test_orthonormal_rows_58b(rows: int, rank: int) -> None:
    assert float(effective_rank(torch.eye(rows, 16))) == pytest.approx(rank, abs=1e-4)


def test_identical_rows_and_too_few_58b() -> None:
    assert float(effective_rank(normal(1, 8).expand(40, 8) * 30)) == pytest.approx(1.0, abs=1e-3)
    assert rank_dynamics(normal(1, 8)).tolist() == [0, 0, 0]
    assert rank_dynamics(torch.zeros(0, 8)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (2, 5), (30, 30)])
def test_bounds_invariances_and_the_singular_values_58b(shape: tuple[int, int]) -> None:
    hidden = normal(*shape)
    found = float(effective_rank(hidden))
    assert 1 - 1e-4 <= found <= min(shape[0] - 1, shape[1]) + 1e-4
    rotation = torch.linalg.qr(normal(shape[1], shape[1], seed=1).double())[0]
    assert float(effective_rank(hidden.double() @ rotation)) == pytest.approx(found, rel=1e-5)
    assert float(effective_rank(hidden * 700 + 3)) == pytest.approx(found, rel=1e-4)
    singular = torch.linalg.svdvals((hidden - hidden.mean(0)).double())
    share = singular / singular.sum()
    assert found == pytest.approx(float(torch.special.entr(share).sum().exp()), abs=1e-4)


def test_velocity_tells_growing_from_frozen_rank_58b() -> None:
    growing = rank_dynamics(normal(200, 64), stride=20)
    assert float(growing[1]) > 0.1 * float(growing[0])
    frozen = normal(21, 64).repeat(10, 1)[:200]
    stands = rank_dynamics(frozen, stride=21)
    assert abs(float(stands[1])) < 0.02 * float(stands[0])


def test_fewer_than_three_strides_have_no_dynamics() -> None:
    assert rank_dynamics(normal(120, 16), stride=40)[1:].tolist() == [0, 0]
    assert (rank_dynamics(normal(121, 16), stride=40)[1:] != 0).all()


def test_the_window_bounds_the_ranks_along_but_not_the_whole() -> None:
    hidden = normal(50, 64)
    narrow, wide = rank_dynamics(hidden, stride=10, window=8), rank_dynamics(hidden, stride=10)
    assert narrow[0] == wide[0]
    assert ranks_along(hidden, 10, 8).max() <= 7 < ranks_along(hidden, 10, 512).max()
    assert ranks_along(hidden, 10, 8)[-1] == effective_rank(hidden[33:41])


def test_prompt_confidence_30a() -> None:
    assert float(prompt_confidence(PROMPT)) == pytest.approx(0.070711, abs=1e-6)
    assert float(prompt_confidence(PROMPT[:4], fraction=0.2)) == pytest.approx(0.05)
    assert float(prompt_confidence(PROMPT, fraction=1.0)) == pytest.approx(float(PROMPT.mean().exp()))
    assert float(prompt_confidence(torch.zeros(0))) == 1.0


def test_options_are_checked() -> None:
    assert build("effective_rank(stride=3, window=5)").source == "states"
    assert build("prompt_confidence(fraction=0.5)").source == "prompt"
    for text in ("effective_rank(strides=3)", "effective_rank(stride=2.5)", "prompt_confidence(share=1)"):
        with pytest.raises(ConfigError):
            build(text)


NEEDS = frozenset({"effective_rank(stride=2, window=4)", "prompt_confidence(fraction=0.5)"})


def learner(micro_batch_tokens: int = 4096) -> Learner:
    settings = OptimiserConfig(micro_batch_tokens=micro_batch_tokens)
    return Learner(
        Policy(make_model(), precision="fp32"), objective=ClippedRatio(), optimiser=settings, temperature=0.7
    )


@torch.no_grad()
def plainly(trajectory: Trajectory) -> tuple[np.ndarray, float]:
    """Both quantities from the model's own forward pass, turn by turn."""
    model = make_model()
    pieces = []
    for index, turn in enumerate(trajectory.turns):
        ids = torch.tensor(trajectory.full_ids(index))
        states = model.get_decoder()(ids[None]).last_hidden_state[0]
        pieces.append(states[len(ids) - len(turn.sampled_ids) :])
        if index == 0:
            prompt = trajectory.context_ids(0)
            log_p = (model(torch.tensor(prompt)[None]).logits[0] / 0.7).log_softmax(-1)
            own = np.array([float(log_p[k - 1, prompt[k]]) for k in range(1, len(prompt))])
    lowest = np.sort(own)[: max(1, -(-len(own) // 2))]
    return rank_dynamics(torch.cat(pieces), stride=2, window=4).numpy(), float(np.exp(lowest.mean()))


@pytest.mark.parametrize("micro_batch_tokens", [4096, 1])
def test_scoring_finds_what_the_model_itself_gives(micro_batch_tokens: int) -> None:
    """Several turns, forks among them, packed or alone: policy tokens only, in order, and the first prompt."""
    trajectories, _ = make_batch(size=6)
    found = learner(micro_batch_tokens).score(trajectories, NEEDS)
    for trajectory, columns in zip(trajectories, found, strict=True):
        ranks, certainty = plainly(trajectory)
        assert columns["effective_rank(stride=2, window=4)"] == pytest.approx(ranks, abs=2e-4)
        assert columns["prompt_confidence(fraction=0.5)"] == pytest.approx(certainty, rel=1e-4)
    assert any(columns["effective_rank(stride=2, window=4)"][1] != 0 for columns in found)


def test_a_trajectory_without_policy_tokens_has_neither() -> None:
    silent = make_trajectory(random.Random(0), turns=1)
    silent.turns[0].sampled_ids, silent.turns[0].logprobs = [], []
    other = make_trajectory(random.Random(1), turns=1)
    empty, full = learner().score([silent, other], NEEDS)
    assert empty == {} and full.keys() == NEEDS
