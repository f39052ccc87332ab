"""A function as an objective: built by name with options, checked, and trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.objectives import TokenBatch, build_objective, objective, reduce
from tests.learner.test_update import learner
from tests.learner.tiny_models import make_batch


@pytest.fixture
def names() -> Iterator[None]:
    before = dict(registry.objectives._registered)
    yield
    registry.objectives._registered.clear()
    registry.objectives._registered.update(before)


def reinforce(batch: TokenBatch, *, scale: float = 1.0) -> Tensor:
    return -scale * batch.advantages * batch.logprobs


def test_a_function_is_an_objective_by_name(names: None, e1: Callable[..., TokenBatch]) -> None:
    objective("reinforce")(reinforce)
    batch = e1([1.0, -1.0])
    built = build_objective({"name": "reinforce", "scale": 2.0})
    expected = -2.0 * batch.advantages * batch.logprobs
    assert reduce(built(batch).loss, batch).item() == pytest.approx(reduce(expected, batch).item())
    with pytest.raises(ConfigError, match=r"no option 'scal'.*'scale'"):
        build_objective({"name": "reinforce", "scal": 2.0})


def test_a_masked_token_counts_for_nothing_whatever_the_function_makes_of_it(
    names: None, e1: Callable[..., TokenBatch]
) -> None:
    objective("reinforce")(reinforce)
    built = build_objective("reinforce")
    plain, absurd = e1([1.0, -1.0]), e1([1.0, -1.0], absurd=1e30)
    assert reduce(built(plain).loss, plain).item() == reduce(built(absurd).loss, absurd).item()


def test_what_is_no_loss_a_token_is_refused(names: None, e1: Callable[..., TokenBatch]) -> None:
    objective("sum")(lambda batch: batch.logprobs.sum())
    with pytest.raises(ConfigError, match=r"objective 'sum' returned \(\) for 10 tokens"):
        build_objective("sum")(e1([1.0, -1.0]))


def test_what_it_needs_is_computed_and_it_trains(names: None) -> None:
    @objective("to_reference", needs=["reference"], current=["entropy"])
    def to_reference(batch: TokenBatch) -> Tensor:
        assert torch.equal(batch.column("reference"), batch.logprobs.detach())  # nothing has moved yet
        return (batch.logprobs - batch.column("reference")).square() - 0.1 * batch.now("entropy")

    metrics = learner(build_objective("to_reference")).update(*make_batch())
    assert metrics["entropy"] > 0
    assert metrics["grad_norm"] > 0
