"""Drawing from logits: the distribution, the ends of the range, and the log-probabilities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.engines.sampling import BLOCK, sample


@pytest.mark.parametrize("vocabulary", [3, BLOCK - 1, BLOCK, 3 * BLOCK + 17])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_invert_the_cumulative_distribution(vocabulary: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(200, vocabulary, generator=generator) * 2
    uniforms = torch.rand(200, generator=generator, dtype=torch.float64)
    ids, logprobs = sample(logits, [temperature] * 200, uniforms.tolist())
    expected = torch.log_softmax(logits.double() / temperature, dim=-1)
    cumulative = expected.exp().cumsum(-1)
    chosen = torch.tensor(ids)[:, None]
    upper = cumulative.gather(-1, chosen)[:, 0]
    lower = upper - expected.exp().gather(-1, chosen)[:, 0]
    assert ((lower - 1e-6 <= uniforms) & (uniforms <= upper + 1e-6)).all()
    torch.testing.assert_close(
        torch.tensor(logprobs, dtype=torch.float64), expected.gather(-1, chosen)[:, 0], atol=1e-6, rtol=0
    )


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 3.0, -80.0, float("-inf")]), min_size=2, max_size=700).filter(
        lambda row: max(row) > -1
    ),
    st.sampled_from([0.0, 0.25, 0.999999999999, 1 - 2**-53]),
)
def test_a_token_of_probability_zero_is_never_drawn(row: list[float], uniform: float) -> None:
    (token,), (logprob,) = sample(torch.tensor([row]), [1.0], [uniform])
    assert row[token] > -81
    assert logprob <= 1e-6


def test_rows_of_different_temperatures() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    ids, logprobs = sample(logits, [0.0, 1.0, 0.1], [0.99, 0.99, 0.5])
    assert ids == [1, 2, 1]
    assert logprobs[0] == pytest.approx(torch.log_softmax(logits[0], -1)[1].item())
    assert logprobs[2] == pytest.approx(torch.log_softmax(logits[0] / 0.1, -1)[1].item())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_distribution_are_refused(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(torch.tensor([[0.0, bad]]), [1.0], [0.5])
