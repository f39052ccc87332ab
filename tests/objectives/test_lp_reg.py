"""Lp-Reg: 40's numbers, whom it protects, and that rare promising tokens survive while noise does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.learner.quantities import FILTERED
from agentrl.learner.quantities import build as build_quantity
from agentrl.objectives import LpReg, TokenBatch, reduce
from tests.objectives.test_clip import tokens

Run = Callable[..., Any]

PROXY = "min_p_proxy(kappa=0.02)"
OLD = torch.tensor([0.6, 0.3, 0.08, 0.0195, 0.0005], dtype=torch.float64)


def proxy_of(probabilities: torch.Tensor) -> torch.Tensor:
    """Log-probability of every token of a vocabulary under the proxy."""
    size = len(probabilities)
    logits = (probabilities.log() + 3.0).expand(size, size)  # any constant
    return build_quantity(PROXY)(logits, torch.arange(size), {})


def batch_of(
    ids: list[int], logprobs: list[float], advantages: list[float], candidates: list[float] | None = None
) -> TokenBatch:
    index = torch.tensor(ids)
    batch = tokens([1.0] * len(ids), advantages)
    return replace(
        batch,
        logprobs=torch.tensor(logprobs, dtype=torch.float64).requires_grad_(),
        behaviour=OLD.log()[index],
        columns={
            PROXY: proxy_of(OLD)[index],
            "lp_reg_candidate": torch.tensor(candidates or [1.0] * len(ids), dtype=torch.float64),
        },
    )


def test_40a_proxy() -> None:
    proxy = proxy_of(OLD)
    assert proxy[:4].exp().tolist() == pytest.approx([0.600300, 0.300150, 0.080040, 0.019510], abs=6e-7)
    assert proxy[4] == FILTERED
    assert LpReg().needs == {PROXY}


def test_the_threshold_is_relative_to_the_largest_probability() -> None:
    flat = torch.full((200,), 1 / 200, dtype=torch.float64)
    assert proxy_of(flat).tolist() == pytest.approx(flat.log().tolist())  # all below kappa, none far below the largest


def test_40a_a_spark_that_fades(run: Run) -> None:
    batch = batch_of([3], [math.log(0.015)], [-1.0])
    outcome = run(LpReg(), batch)
    assert float(outcome.loss) == pytest.approx(0.807017, abs=6e-7)
    assert float(outcome.grad) == pytest.approx(0.468580, abs=6e-7)
    assert outcome.mean("proxy_kl") == pytest.approx(0.037786, abs=6e-7)
    assert outcome.mean("protected") == 1
    assert float(run(LpReg(beta=0.0), batch).grad) == pytest.approx(0.769231, abs=6e-7)


def test_40a_noise_is_left_to_the_base_loss(run: Run) -> None:
    outcome = run(LpReg(), batch_of([4], [math.log(0.0005)], [-1.0]))
    assert float(outcome.loss) == pytest.approx(1.0)
    assert float(outcome.grad) == pytest.approx(1.0)
    assert outcome.mean("protected") == 0


def test_who_is_protected(run: Run) -> None:
    """Only candidates that are less likely now than in the proxy."""
    now = [math.log(0.015), math.log(0.03), math.log(0.015), math.log(0.0001)]
    outcome = run(LpReg(), batch_of([3, 3, 3, 4], now, [-1.0] * 4, [1, 1, 0, 1]))
    plain = run(LpReg(beta=0.0), batch_of([3, 3, 3, 4], now, [-1.0] * 4, [0] * 4))
    assert (outcome.tokens.loss != plain.tokens.loss).tolist() == [True, False, False, False]


def test_an_active_token_is_not_clipped_while_others_are(run: Run) -> None:
    """A > 0 cannot be active in training; as a probe of the formula its ratio 20 is above the bound 10."""
    now = [math.log(0.39), math.log(0.39)]
    batch = batch_of([3, 3], now, [1.0, 1.0], [1, 0])
    batch.columns[PROXY][:] = 0.0  # type: ignore[index]
    outcome = run(LpReg(beta=0.0), batch)
    assert outcome.tokens.loss.tolist() == pytest.approx([-20.0, -10.0])
    assert outcome.mean("clip_fraction") == 0.5


def test_the_bounds_are_0_and_10(run: Run) -> None:
    now = [math.log(0.0195 * 9.9), math.log(0.0195 * 10.1), math.log(0.0195 * 0.01)]
    grad = run(LpReg(), batch_of([3] * 3, now, [1.0, 1.0, -1.0], [0] * 3)).grad
    assert (grad != 0).tolist() == [True, False, True]


def test_k3_is_capped_and_counted(run: Run) -> None:
    outcome = run(LpReg(), batch_of([3], [math.log(0.0195) - 5.0], [-1.0]))
    assert float(outcome.tokens.loss.detach()) == pytest.approx(10.0 + math.exp(-5.0), abs=1e-6)
    assert outcome.mean("kl_capped") == 1


# -- candidates --------------------------------------------------------------------------------------------------------


def candidates(fraction: float, logprobs: list[float], advantages: list[float], mask: list[int]) -> list[int]:
    batch = tokens([1.0] * len(mask), advantages, mask=mask)
    batch = replace(batch, logprobs=torch.tensor(logprobs, dtype=torch.float64))
    return [index for index, flag in enumerate(LpReg(fraction=fraction).prepare(batch)["lp_reg_candidate"]) if flag]


def test_candidates_are_the_rarest_negative_tokens() -> None:
    logprobs, advantages = [-1.0, -5.0, -4.0, -3.0, -9.0, -8.0], [-1.0, -1.0, -1.0, -1.0, 1.0, -1.0]
    assert candidates(0.5, logprobs, advantages, [1, 1, 1, 1, 1, 0]) == [1, 2]
    assert candidates(1.0, logprobs, advantages, [1] * 6) == [0, 1, 2, 3, 5]


def test_a_percent_needs_two_hundred_negative_tokens() -> None:
    for size, expected in ((199, 0), (200, 2), (300, 3)):
        found = candidates(0.01, [-float(k) for k in range(size)], [-1.0] * size, [1] * size)
        assert found == list(range(size - expected, size))


def test_no_negative_token_no_candidate() -> None:
    assert candidates(1.0, [-1.0] * 3, [1.0, 0.0, 1.0], [1] * 3) == []
    assert candidates(1.0, [-1.0] * 3, [-1.0] * 3, [0] * 3) == []


def test_masked_values_have_no_say_in_the_candidates() -> None:
    for absurd in (float("nan"), -float("inf"), 1e9):
        assert candidates(0.5, [-1.0, absurd, -3.0, -4.0, -5.0], [-1.0] * 5, [1, 0, 1, 1, 1]) == [3, 4]


# -- (b) ---------------------------------------------------------------------------------------------------------------

GOOD, SPARKS, NOISE = [0, 1], [2, 3], slice(4, 204)


def spark_mass(beta: float) -> float:
    """Ten batches of 256 samples, 8 optimiser steps each (lr 1), all negative tokens candidates."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.45, 0.15, 0.05, 0.05] + [0.0015] * 200, dtype=torch.float64)
    credit = torch.tensor([0.05, 0.05, -0.3, -0.3] + [-0.02] * 200, dtype=torch.float64)
    logits = probabilities.log()
    objective = LpReg(beta=beta, fraction=1.0)
    for _ in range(10):
        old = logits.softmax(0)
        ids = old.multinomial(256, replacement=True, generator=generator)
        proxy = proxy_of(old)
        for part in ids.chunk(8):
            logits = logits.detach().requires_grad_()
            one = torch.ones(len(part), dtype=torch.int64)
            batch = TokenBatch(
                logprobs=logits.log_softmax(0)[part],
                behaviour=old.log()[part],
                advantages=credit[part],
                mask=one.bool(),
                sequence_ids=one.cumsum(0),
                turn_ids=one,
                weights=torch.full((len(part),), 1 / len(part), dtype=torch.float64),
                columns={PROXY: proxy[part]},
            )
            with torch.no_grad():
                batch = replace(batch, columns={**batch.columns, **objective.prepare(batch)})
            (grad,) = torch.autograd.grad(reduce(objective(batch).loss, batch), logits)
            logits = logits - grad
    return float(logits.detach().softmax(0)[SPARKS].sum())


def test_40b_sparks_survive() -> None:
    protected, plain = spark_mass(1.0), spark_mass(0.0)
    assert protected > 2 * plain


def test_40b_a_sampled_noise_token_is_treated_as_without_the_term(run: Run) -> None:
    for lp in (math.log(0.0005), math.log(0.0001), math.log(0.002)):
        with_term = run(LpReg(), batch_of([4, 3], [lp, math.log(0.01)], [-1.0, -1.0]))
        without = run(LpReg(beta=0.0), batch_of([4, 3], [lp, math.log(0.01)], [-1.0, -1.0]))
        assert with_term.tokens.loss[0] == without.tokens.loss[0]
        assert with_term.grad[0] == without.grad[0]
        assert with_term.grad[1] != without.grad[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"beta": -1.0}, "beta is -1.0"), ({"kappa": 0.0}, "kappa is 0.0"), ({"fraction": 1.5}, "fraction is 1.5")],
)
def test_wrong_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LpReg(**options)
