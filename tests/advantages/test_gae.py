"""GAE over tokens, turns and both: the specification's numbers (B5, B6), its pitfalls and what a critic is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl.advantages import Credit, TurnTable, attribute, build
from agentrl.advantages.gae import GeneralisedAdvantage
from agentrl.errors import ConfigError, TrainingError
from agentrl.trajectory import StopReason, Trajectory

B5_VALUES = [0.5, 0.6, 0.7, 0.8]
"""mask [1,1,0,0,1,1]: the observation's two 9s have no place in a table of policy tokens."""


def table(rewards: list[float], lengths: list[int], values: list[float], **fields: Any) -> TurnTable:
    columns = {"values": np.array(values, dtype=np.float64)}
    return TurnTable(np.array(rewards, dtype=np.float64), np.array(lengths), columns=columns, **fields)


def credit_of(spec: Any, one: TurnTable) -> Credit:
    return attribute(build(spec if isinstance(spec, list) else [spec]), [[one]])[0]


def advantages_of(spec: Any, one: TurnTable) -> list[float]:
    return credit_of(spec, one).token_advantages()[0].tolist()


def returns_of(spec: Any, one: TurnTable) -> list[float]:
    returns = credit_of(spec, one).returns
    assert returns is not None
    return returns[0].tolist()


# r = [0, .2, 0, 0, 0, 1]: turn 1 earns .2 at its last token, turn 2 earns 1 at its own.
B5 = table([0.2, 1.0], [2, 2], B5_VALUES)
LATE = table([0.0, 1.0], [2, 2], B5_VALUES)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gamma": 1.0, "lam": 0.95}, [0.646725, 0.575500, 0.290000, 0.200000]),
        ({"gamma": 0.99, "lam": 0.9}, [0.569570, 0.533748, 0.270200, 0.200000]),
    ],
)
def test_token_gae_b5a(options: dict[str, float], expected: list[float]) -> None:
    assert advantages_of({"name": "gae", **options}, B5) == pytest.approx(expected, abs=1e-6)


def test_returns_b5a() -> None:
    expected = [1.146725, 1.1755, 0.99, 1.0]
    assert returns_of("gae", B5) == pytest.approx(expected, abs=1e-6)
    assert returns_of(["gae", "whiten"], B5) == pytest.approx(expected, abs=1e-6)  # whitening leaves them alone


def test_without_values_gae_is_the_sum_of_later_rewards_b5b() -> None:
    one = table([0.2, -1.0, 3.0], [2, 1, 2], [0.0] * 5)
    one = replace(one, token_rewards=np.array([0.5, 0.0, 0.25, 0.0, 0.0]))
    assert advantages_of({"name": "gae", "lam": 1.0}, one) == pytest.approx([2.95, 2.45, 2.25, 3.0, 3.0], abs=1e-12)


@pytest.mark.parametrize("name", ["gae", "turn_gae", "bilevel_gae"])
def test_rewards_of_tokens_count(name: str) -> None:
    penalised = replace(B5, token_rewards=np.array([0.0, -0.1, 0.0, 0.0]))
    spec = {"name": name, "lam": 0.9}
    assert advantages_of(spec, penalised)[1] == pytest.approx(advantages_of(spec, B5)[1] - 0.1)


def test_turn_gae_b6a() -> None:
    spec = {"name": "turn_gae", "gamma": 0.95, "lam": 0.95}
    assert advantages_of(spec, B5) == pytest.approx([0.5405, 0.5405, 0.2, 0.2], abs=1e-6)
    assert returns_of(spec, B5) == pytest.approx([np.nan, 1.1405, np.nan, 1.0], abs=1e-6, nan_ok=True)
    whitened = advantages_of([spec, {"name": "whiten", "unit": "turn"}], B5)
    assert whitened == pytest.approx([0.707107, 0.707107, -0.707107, -0.707107], abs=1e-6)


def test_bilevel_gae_b6a() -> None:
    spec = {"name": "bilevel_gae", "gamma_turn": 0.95, "gamma_token": 1.0, "lam": 0.95}
    assert advantages_of(spec, B5) == pytest.approx([0.613475, 0.5405, 0.29, 0.2], abs=1e-6)
    assert returns_of(spec, B5) == pytest.approx([1.113475, 1.1405, 0.99, 1.0], abs=1e-6)
    whitened = advantages_of([spec, "whiten"], B5)
    assert whitened == pytest.approx([1.025618, 0.655981, -0.612863, -1.068735], abs=1e-6)


def test_a_turn_without_reward_is_a_turn_b6b() -> None:
    """RAGEN's code finds the ends of turns by reward != 0 and gets [0.456725, 0.3755, ...] here."""
    spec = {"name": "bilevel_gae", "gamma_turn": 0.95, "lam": 0.95}
    assert advantages_of(spec, LATE) == pytest.approx([0.423475, 0.3405, 0.29, 0.2], abs=1e-6)


def test_a_penalty_that_cancels_a_bonus_leaves_the_turn_in_place() -> None:
    cancelled = replace(LATE, rewards=np.array([0.3, 1.0]), token_rewards=np.array([0.0, -0.3, 0.0, 0.0]))
    spec = {"name": "bilevel_gae", "gamma_turn": 0.95, "lam": 0.95}
    assert advantages_of(spec, cancelled) == pytest.approx([0.423475, 0.3405, 0.29, 0.2], abs=1e-6)


@pytest.mark.parametrize("name", ["gae", "turn_gae", "bilevel_gae"])
def test_an_empty_turn_makes_no_end_and_its_reward_moves_to_a_neighbour(name: str) -> None:
    spec = {"name": name, "lam": 0.9}
    expected = advantages_of(spec, B5)
    for empty in (
        table([0.1, 0.1, 1.0], [2, 0, 2], B5_VALUES),  # to the policy token before it
        table([0.15, 0.05, 1.0], [0, 2, 2], B5_VALUES),  # none before it: to the next turn, at its first token
        table([0.2, 0.4, 0.6], [2, 2, 0], B5_VALUES),
    ):
        credit = credit_of(spec, empty)
        assert [len(turn) for turn in credit.turns] == [3]
        if name == "gae" and empty.lengths[0] == 0:
            continue  # token credit sees that the reward stands at the first token
        assert credit.token_advantages()[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["gae", "turn_gae", "bilevel_gae"])
def test_a_trajectory_without_policy_tokens_is_nothing(name: str) -> None:
    credit = credit_of(name, table([1.0], [0], []))
    assert credit.token_advantages()[0].shape == (0,)
    assert credit.returns is not None and credit.returns[0].shape == (0,)


def test_one_turn_is_token_gae() -> None:
    one = table([0.7], [3], [0.5, 0.6, 0.7])
    spec = {"name": "bilevel_gae", "gamma_turn": 0.5, "gamma_token": 0.9, "lam": 0.8}
    token = {"name": "gae", "gamma": 0.9, "lam": 0.8}
    assert advantages_of(spec, one) == pytest.approx(advantages_of(token, one), abs=1e-12)
    assert returns_of(spec, one) == pytest.approx(returns_of(token, one), abs=1e-12)


def test_no_value_crosses_the_end_of_a_turn() -> None:
    """With gamma_turn 0 turns know nothing of each other; token GAE does."""
    moved = replace(B5, columns={"values": np.array([0.5, 0.6, 5.0, 0.8])})
    spec = {"name": "bilevel_gae", "gamma_turn": 0.0, "lam": 0.9}
    assert advantages_of(spec, moved)[:2] == advantages_of(spec, B5)[:2]
    assert advantages_of("gae", moved)[1] != pytest.approx(advantages_of("gae", B5)[1])


def test_turns_of_different_number_need_no_padding() -> None:
    short = table([1.0], [2], [0.5, 0.5])
    alone = advantages_of("turn_gae", short)
    together = attribute(build(["turn_gae"]), [[B5, short]])[0].token_advantages()[1]
    assert together.tolist() == alone


def ended(reason: StopReason) -> TurnTable:
    record = Trajectory("task", stop_reason=reason)
    one = replace(B5, record=record)
    return replace(one, columns={**one.columns, "values_after": np.array(0.4)})


def test_bootstrap_goes_on_where_a_limit_cut_the_episode_and_nowhere_else() -> None:
    spec = {"name": "gae", "gamma": 0.9, "lam": 0.5, "bootstrap": True}
    plain = advantages_of({**spec, "bootstrap": False}, ended(StopReason.MAX_TURNS))
    for reason in (StopReason.MAX_TURNS, StopReason.MAX_TOKENS):
        cut = advantages_of(spec, ended(reason))
        assert cut[-1] == pytest.approx(plain[-1] + 0.9 * 0.4)
        assert cut[0] == pytest.approx(plain[0] + 0.45**3 * 0.9 * 0.4)
    for reason in (StopReason.TERMINATED, StopReason.INVALID_CALLS):
        assert advantages_of(spec, ended(reason)) == plain
    assert GeneralisedAdvantage(bootstrap=True).needs == {"values", "values_after"}
    assert GeneralisedAdvantage().needs == {"values"}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(TrainingError, match="no column 'values'"):
        credit_of("gae", TurnTable(np.ones(1), np.array([1])))
    with pytest.raises(TrainingError, match="needs the episode's record"):
        credit_of({"name": "gae", "bootstrap": True}, B5)


@pytest.mark.parametrize(
    ("name", "option"), [("gae", "lam"), ("gae", "gamma"), ("turn_gae", "gamma"), ("bilevel_gae", "gamma_turn")]
)
def test_discounts_lie_between_0_and_1(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} is 1.5; it must lie between 0 and 1"):
        build([{"name": name, option: 1.5}])


# -- B5 (b): a two-turn chain. Turn 1 picks a, luck is observed, turn 2 picks b; R = (a + b) / 2 + 2 luck. -------------


def play(rng: np.random.Generator) -> tuple[int, int, int]:
    a, luck, b = rng.integers(0, 2, 3)
    return int(a), int(luck), int(b)


def chain(episode: tuple[int, int, int], critic: dict[tuple[int, ...], float]) -> TurnTable:
    a, luck, b = episode
    return table([0.0, 0.5 * a + 0.5 * b + 2.0 * luck], [1, 1], [critic.get((), 0.0), critic.get((a, luck), 0.0)])


def train_critic(rng: np.random.Generator) -> dict[tuple[int, ...], float]:
    """Means of the returns that the estimator itself names, state by state, three times over."""
    critic: dict[tuple[int, ...], float] = {}
    for _ in range(3):
        seen: dict[tuple[int, ...], list[float]] = {}
        episodes = [play(rng) for _ in range(800)]
        (credit,) = attribute(build(["gae"]), [[chain(episode, critic) for episode in episodes]])
        assert credit.returns is not None
        for episode, (first, second) in zip(episodes, credit.returns, strict=True):
            seen.setdefault((), []).append(first)
            seen.setdefault(episode[:2], []).append(second)
        critic = {state: float(np.mean(values)) for state, values in seen.items()}
    return critic


def relative_variance(estimator: str, critic: dict[tuple[int, ...], float], batches: int = 1000) -> float:
    """trace(Cov) / |mean|^2 of the gradient for the logits of a = 1 and b = 1, from batches of four episodes."""
    rng = np.random.default_rng(7)
    played = [[play(rng) for _ in range(4)] for _ in range(batches)]
    credits = attribute(build([estimator]), [[chain(episode, critic) for episode in group] for group in played])
    found = np.array(
        [
            (np.array(credit.token_advantages()) * [[a - 0.5, b - 0.5] for a, _, b in group]).mean(axis=0)
            for credit, group in zip(credits, played, strict=True)
        ]
    )
    return float(found.var(axis=0).sum() / (found.mean(axis=0) ** 2).sum())


def test_a_trained_critic_lowers_the_gradients_variance_b5b() -> None:
    critic = train_critic(np.random.default_rng(0))
    assert critic[(1, 1)] - critic[(0, 0)] == pytest.approx(2.5, abs=0.2)
    with_critic, without = relative_variance("gae", critic), relative_variance("grpo", critic)
    assert with_critic < 0.7 * without
