"""Drawing from logits: the distribution, the ends of the range, and the log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.engines.sampling import BLOCK, LIKELIEST, entropies, sample
from tests.engines.small import nucleus


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


@pytest.mark.parametrize("vocabulary", [5, BLOCK + 3, LIKELIEST + 900])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.6, 0.5), (2.0, 0.99), (1.0, 1e-9)])
def test_a_nucleus_is_drawn_from_and_renormalised(vocabulary: int, temperature: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    row = torch.randn(vocabulary, generator=generator)
    uniforms = torch.rand(120, generator=generator, dtype=torch.float64)
    ids, logprobs = sample(row.expand(120, -1), [temperature] * 120, uniforms.tolist(), [top_p] * 120)
    expected = nucleus(torch.softmax(row.double() / temperature, -1), top_p)
    assert all(expected[token] > 0 for token in ids)
    torch.testing.assert_close(torch.tensor(logprobs, dtype=torch.float64), expected[ids].log(), atol=1e-5, rtol=0)
    cumulative = expected.cumsum(-1)
    upper = cumulative[ids]
    assert ((upper - expected[ids] - 1e-5 <= uniforms) & (uniforms <= upper + 1e-5)).all()


def test_rows_with_and_without_a_nucleus() -> None:
    """The last id has a sixth of the mass: it is drawn by the row that keeps everything, and by greed never."""
    logits = torch.tensor([[3.0, 2.0, 1.0]]).log().repeat(3, 1)
    ids, logprobs = sample(logits, [1.0, 1.0, 0.0], [0.99, 0.99, 0.99], [1.0, 0.8, 0.1])
    assert ids == [2, 1, 0]
    assert [round(math.exp(logprob), 5) for logprob in logprobs] == [round(1 / 6, 5), 0.4, 0.5]
    # Of equals the first are kept: half of the mass is two of four.
    equal, _ = sample(torch.zeros(1, 4).expand(40, -1), [1.0] * 40, [n / 40 for n in range(40)], [0.5] * 40)
    assert set(equal) == {0, 1}


def test_entropy_is_that_of_the_whole_distribution() -> None:
    logits = torch.randn(4, 700, generator=torch.Generator().manual_seed(1)) * 3
    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
    assert entropies(logits) == pytest.approx(expected.tolist(), abs=1e-5)
    certain = torch.tensor([[0.0, float("-inf")]])
    assert entropies(certain) == [0.0]
    assert entropies(torch.zeros(1, 8)) == pytest.approx([math.log(8)])
