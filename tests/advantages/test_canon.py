"""CANON: the specification's numbers (29a), the two-style bandit (29b), exact expectations, schedules, pitfalls."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import CANON, DrGRPO, Transform, TurnTable, check_order
from agentrl.advantages.canon import measured
from agentrl.errors import ConfigError, TrainingError
from tests.advantages.bandits import arm_table, train
from tests.advantages.hand_made import call, credit_of, episode, table, turn

REWARDS = [1, 1, 0, 0, 1, 0]
ENTROPIES = [0.9, 0.8, 0.7, 0.2, 0.4, 0.1]


def group_of(rewards: list[float], entropies: list[float]) -> list[TurnTable]:
    """Two tokens each, whose entropies have these means."""
    return [
        table([reward], lengths=[2], columns={"entropy": np.array([0.5, 1.5]) * entropy})
        for reward, entropy in zip(rewards, entropies, strict=True)
    ]


def of(transform: Transform, group: list[TurnTable]) -> list[float]:
    values: list[float] = credit_of(transform, group).trajectory.tolist()
    return values


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mu": 1.0}, [0.666667, 0.666667, -0.333333, -0.666667, 0.333333, -0.666667]),
        ({"mu": 0.0}, [0.333333, 0.333333, -0.666667, -0.333333, 0.666667, -0.333333]),
        ({"mu": 0.5}, [0.5, 0.5, -0.5, -0.5, 0.5, -0.5]),
        ({"mu": 1.0, "alpha": 0.9}, [0.7, 0.7, -0.3, -0.666667, 0.233333, -0.666667]),
        # length form, by its formula: C+ gets alpha R - mu-, C- gets R - alpha mu+
        ({"alpha": 0.9, "favours": "low"}, [0.566667, 0.566667, -0.333333, -0.6, 0.4, -0.6]),
    ],
)
def test_29a(options: dict[str, float], expected: list[float]) -> None:
    assert of(CANON(**options), group_of(REWARDS, ENTROPIES)) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


def test_length_form_leans_to_the_short_half() -> None:
    lengths = [9, 8, 7, 2, 4, 1]
    group = [table([reward], lengths=[n]) for reward, n in zip(REWARDS, lengths, strict=True)]
    expected = [0.566667, 0.566667, -0.333333, -0.6, 0.4, -0.6]
    assert of(CANON(metric="length", alpha=0.9), group) == pytest.approx(expected, abs=1e-6)
    assert CANON(metric="length").needs == frozenset() and CANON().needs == {"entropy"}


@pytest.mark.parametrize("metric", ["length", "random", "turns"])
def test_equal_halves_and_half_mu_are_dr_grpo_also_with_ties(metric: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        group = [table([float(r)], lengths=[int(n)]) for r, n in zip(rng.random(8), rng.integers(1, 3, 8), strict=True)]
        expected = of(DrGRPO(), group)
        assert of(CANON(metric=metric, mu=0.5), group) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_ties_are_split_by_rank_and_odd_groups_give_the_high_half_one_more() -> None:
    tied = [table([reward]) for reward in (1.0, 0.0, 1.0, 1.0)]
    assert of(CANON(metric="length"), tied) == [0.0, -1.0, 0.5, 0.5]
    odd = [table([reward]) for reward in (1.0, 0.0, 1.0, 1.0, 0.0)]  # low: the first two
    assert of(CANON(metric="length"), odd) == pytest.approx([1 / 3, -2 / 3, 0.5, 0.5, -0.5])


def test_equal_groups_get_zero_unless_the_direction_is_kept() -> None:
    group = group_of([0.5] * 4, [0.1, 0.2, 0.3, 0.4])
    assert of(CANON(), group) == [0.0] * 4
    assert of(CANON(alpha=0.6), group) == [0.0] * 4
    assert of(CANON(alpha=0.6, keep_directional=True), group) == pytest.approx([-0.2, -0.2, 0.2, 0.2])
    longer = [table([0.5], lengths=[n]) for n in (1, 2, 3, 4)]
    kept = CANON(metric="length", alpha=0.6, keep_directional=True)
    assert of(kept, longer) == pytest.approx([0.2, 0.2, -0.2, -0.2])
    assert of(CANON(), group_of([0.1] * 7, [1.0] * 7)) == [0.0] * 7  # exactly, whatever the floats of a mean are
    assert of(CANON(alpha=0.6, keep_directional=True), group_of([1.0], [1.0])) == [0.0]


def test_metrics_of_a_member() -> None:
    busy = episode(turn(call(), call(error="failed"), tokens=3), turn(call()), turn(tokens=0))
    idle = episode(turn(tokens=0))
    assert measured([busy, idle], "tool_calls").tolist() == [3, 0]
    assert measured([busy, idle], "turns").tolist() == [3, 1]
    assert measured([busy, idle], "length").tolist() == [4, 0]
    assert measured([busy, idle], "random").tolist() == [0, 1]
    assert measured([idle], "entropy").tolist() == [0.0]  # no token, no row, no column
    with pytest.raises(TrainingError, match="record"):
        measured([table([1.0])], "tool_calls")


def mus(transform: CANON, batches: list[list[float]]) -> list[float]:
    found = []
    for rewards in batches:
        credit_of(transform, [table([reward]) for reward in rewards])
        found.append(transform.metrics["canon_mu"])
    return found


def test_schedules() -> None:
    batches = [[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [5.0, -1.0, 4.0, 0.0]]
    assert mus(CANON(metric="length", schedule="accuracy"), batches) == [0.25, 1.0, 1.0]
    assert mus(CANON(metric="length", schedule="accuracy_mirrored"), batches) == [0.75, 0.0, 0.0]
    within = 1 - np.array(mus(CANON(metric="length", schedule="cosine"), [[0.0, 1.0]] * 152))
    assert within[[0, 15, 30, 50, 70, 110, 149, 150, 151]] == pytest.approx(
        [0, 0.3, 0.6, 0.3, 0.6, 0.6, 0.6 * (1 + np.cos(np.pi * 39 / 40)) / 2, 0, 0]
    )
    mirrored = 1 - np.array(mus(CANON(metric="length", schedule="cosine_mirrored"), [[0.0, 1.0]] * 152))
    assert mirrored == pytest.approx(0.6 - within)
    assert mus(CANON(metric="length", schedule="cosine", schedule_steps=5), [[0.0, 1.0]] * 2) == [1.0, 0.4]


def test_the_schedule_goes_on_where_a_checkpoint_left_it() -> None:
    whole = CANON(metric="length", schedule="cosine")
    everything = mus(whole, [[0.0, 1.0]] * 40)
    first, second = (CANON(metric="length", schedule="cosine") for _ in range(2))
    before = mus(first, [[0.0, 1.0]] * 17)
    second.load_state_dict(first.state_dict())
    assert before + mus(second, [[0.0, 1.0]] * 23) == everything
    assert len(set(everything)) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"mu": -0.1}, "mu is -0.1"),
        ({"mu": 0.5, "schedule": "cosine"}, "schedule=cosine sets it"),
        ({"schedule_steps": 10}, "has no end"),
        ({"schedule": "cosine", "schedule_steps": 0}, "at least 1"),
        ({"favours": "low"}, "alpha below 1"),
        ({"keep_directional": True}, "alpha below 1"),
        ({"metric": "entropie"}, "entropy"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        advantages.build([{"name": "canon", **options}])


def test_small_groups_and_a_later_z_score_are_refused() -> None:
    check_order(advantages.build(["canon"]), group_size=4)
    with pytest.raises(ConfigError, match="at least 4"):
        check_order(advantages.build(["canon"]), group_size=3)
    with pytest.raises(ConfigError, match="undoes"):
        check_order(advantages.build(["canon", "grpo"]), group_size=8)


STYLES = [[arm_table(bool(c), entropy=np.array([0.1 + 0.8 * style])) for c in (0, 1)] for style in (0, 1)]


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_without_a_better_style_no_direction_is_presumed_exactly(mu: float) -> None:
    """E[mean A grad log p] over all groups of four, both styles being right with probability 1/2: 29b's equal rates."""
    gradient = directed = 0.0
    for group in product(range(4), repeat=4):
        styles, tables = [index // 2 for index in group], [STYLES[index // 2][index % 2] for index in group]
        scores = np.array(styles) - 0.5
        gradient += float(credit_of(CANON(mu=mu), tables).trajectory @ scores) / 4**5
        directed += float(credit_of(CANON(mu=mu, alpha=0.8), tables).trajectory @ scores) / 4**5
    assert gradient == pytest.approx(0, abs=1e-12)
    assert directed == pytest.approx(0, abs=1e-12) if mu == 0 else directed > 0.005  # alpha < 1 leans to C+


def final_share(transform: Transform, rates: tuple[float, float]) -> float:
    """Mean final probability of style 1 over 8 runs (29b)."""
    rng = np.random.default_rng(1)
    policy = train(
        [transform],
        np.zeros((8, 2)),
        lambda run, style: STYLES[style][int(rng.random() < rates[style])],
        group=16,
        steps=200,
        step_size=0.2,
    )
    return float(policy[:, 1].mean())


@pytest.mark.parametrize("rates", [(0.4, 0.7), (0.7, 0.4)])
def test_comparing_halves_finds_the_better_style_sooner_29b(rates: tuple[float, float]) -> None:
    better = int(rates[1] > rates[0])
    between, dr_grpo, within = (final_share(t, rates) for t in (CANON(mu=1.0), DrGRPO(), CANON(mu=0.0)))
    expected = (0.956, 0.943, 0.892) if better else (0.042, 0.054, 0.109)
    assert (between, dr_grpo, within) == pytest.approx(expected, abs=0.015)
    sign = 1 if better else -1
    assert sign * (between - dr_grpo) > 0.005
    assert sign * (dr_grpo - within) > 0.025
