"""Shaping and ARPO's score: T8's numbers, where each term falls, what gate and cap do, masks, the bandit of T8 (b)."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.advantages import RLOO, ARPOReward, Shaping, TurnTable, build, check_order
from agentrl.advantages.shaping import potential_terms
from agentrl.errors import ConfigError, TrainingError
from agentrl.trajectory import StopReason, Turn
from tests.advantages.hand_made import call, credit_of, episode, table, turn

FREE = {"cost_error": 0.0, "cost_parse_error": 0.0, "cap": None}


def shaped(group: list[TurnTable], **options: object) -> list[list[float]]:
    """Rewards after shaping that does nothing but what `options` say."""
    transform = Shaping(**{**FREE, **options})  # type: ignore[arg-type]
    return [own.rewards.tolist() for own in credit_of([transform, RLOO()], group).tables]


def one(*turns: Turn, **options: object) -> list[float]:
    return shaped([episode(*turns)], **options)[0]


# ---- the potential term


def test_t8a_potential() -> None:
    assert potential_terms(np.array([0.2, 0.5]), 0.9) == pytest.approx([0.25, -0.5])
    rng = np.random.default_rng(0)
    for length in range(1, 6):
        values = rng.uniform(size=length)
        discounted = potential_terms(values, 0.9) @ 0.9 ** np.arange(length)
        assert discounted == pytest.approx(-values[0])


def test_the_potential_is_a_column() -> None:
    transform = Shaping(potential="phi", gamma=0.9, cap=0.01)
    assert transform.needs == {"phi"}
    own = episode(turn(call()), turn(reward=1.0))
    given = TurnTable(own.rewards, own.lengths, record=own.record, columns={"phi": np.array([[0.2, 0.5]])})
    assert credit_of([transform, RLOO()], [given]).tables[0].rewards == pytest.approx([0.25, 0.5])
    wrong = TurnTable(own.rewards, own.lengths, record=own.record, columns={"phi": np.zeros((1, 3))})
    with pytest.raises(TrainingError, match="3 numbers for 2 turns"):
        credit_of([transform, RLOO()], [wrong])


# ---- the terms


def test_each_term_falls_on_its_turn() -> None:
    turns = [
        turn(call(), call(error="failed")),
        turn(call(arguments="[]", error="parse"), parse_error=True),
        turn(call()),
        turn(reward=1.0),
    ]
    assert one(*turns, bonus_success=0.2) == pytest.approx([0.1, 0, 0.2, 1])
    assert one(*turns, cost_error=0.05) == pytest.approx([-0.05, 0, 0, 1])
    assert one(*turns, cost_parse_error=0.1) == pytest.approx([0, -0.1, 0, 1])
    assert one(*turns, cost_repeat=0.1) == pytest.approx([-0.1, 0, -0.1, 1])
    assert one(*turns, cost_call=0.01) == pytest.approx([-0.01, -0.01, -0.01, 1])


def test_without_calls_there_is_no_bonus() -> None:
    assert one(turn(reward=1.0), bonus_success=0.2) == [1.0]


def test_void_turns() -> None:
    for last in (turn(text=" "), turn(truncated=True)):
        assert one(turn(call()), last, cost_void=0.1) == pytest.approx([0, -0.1])
    assert one(turn(call(), text="", truncated=True), turn(), cost_void=0.1) == [0, 0]


@pytest.mark.parametrize(("gate", "bonus"), [("none", 0.2), ("reward", 0.0), ("correct", 0.0)])
def test_the_gate_closes_bonuses_and_never_costs(gate: str, bonus: float) -> None:
    wrong = episode(turn(call()), turn(), metrics={"correct": 0.0})
    right = episode(turn(call()), turn(reward=1.0), metrics={"correct": 1.0})
    got = shaped([wrong, right], gate=gate, bonus_success=0.2, cost_call=0.05)
    assert got[0] == pytest.approx([bonus - 0.05, 0])
    assert got[1] == pytest.approx([0.15, 1])


def test_the_cap_scales_all_terms_of_a_trajectory_by_one_factor() -> None:
    transform = Shaping(bonus_success=0.4, cost_call=0.1, cap=0.3)
    group = [episode(turn(call()), turn(call(arguments="[]")), turn(reward=1.0)), episode(turn(call()), turn())]
    tables = credit_of([transform, RLOO()], group).tables
    assert tables[0].rewards == pytest.approx([0.15, 0.15, 1.0])
    assert tables[1].rewards == pytest.approx([-0.1, 0.0])
    assert transform.metrics == pytest.approx({"shaping": 0.1, "capped": 0.5, "env_failures": 0, "void_turns": 0})
    costly = one(*[turn(call(error="failed"))] * 10, cost_error=0.1, cap=0.3)
    assert sum(costly) == pytest.approx(-0.3)


# ---- whose fault it was


def test_the_environment_s_failures_cost_nothing_and_are_not_trained_on() -> None:
    group = [
        episode(turn(call(error="timeout"), tokens=2), turn(call(error="failed"), tokens=1)),
        episode(turn(reward=1.0)),
    ]
    transform = Shaping()
    credit = credit_of([transform, RLOO()], group)
    assert credit.tables[0].rewards == pytest.approx([0.0, -0.05])
    assert {member: mask.tolist() for member, mask in credit.masked.items()} == {0: [True, True, False]}
    assert transform.metrics["env_failures"] == 1.0
    policy = credit_of([Shaping(environment_errors=[]), RLOO()], group)
    assert policy.tables[0].rewards == pytest.approx([-0.05, -0.05])
    assert not policy.masked


def test_an_episode_with_a_void_turn_can_leave_the_loss_but_not_the_statistics() -> None:
    group = [episode(turn(call(), tokens=2), turn(text="", tokens=1)), episode(turn(reward=1.0))]
    credit = credit_of([Shaping(drop_void=True), RLOO()], group)
    assert {member: mask.tolist() for member, mask in credit.masked.items()} == {0: [True] * 3}
    assert not credit.dropped
    assert credit.trajectory.tolist() == [-1.0, 1.0]
    assert not credit_of([Shaping(), RLOO()], group).masked


# ---- degenerate


def test_degenerate_tables() -> None:
    nothing = episode()
    everything_cut = episode(turn(truncated=True, tokens=3), stop_reason=StopReason.MAX_TOKENS)
    stopped = episode(turn(tokens=0, text=""))
    credit = credit_of(
        [Shaping(drop_void=True, cost_void=0.1, bonus_success=0.1), RLOO()], [nothing, everything_cut, stopped]
    )
    assert [own.rewards.tolist() for own in credit.tables] == [[], [-0.1], [-0.1]]
    assert [len(tokens) for tokens in credit.token_advantages()] == [0, 3, 0]
    with pytest.raises(TrainingError, match="record"):
        credit_of([Shaping(), RLOO()], [table([1.0])])


def test_stands_before_the_estimators() -> None:
    check_order([Shaping(), RLOO()], group_size=2)
    with pytest.raises(ConfigError, match=r"Shaping .* must stand before RLOO"):
        check_order([RLOO(), Shaping()], group_size=2)


@pytest.mark.parametrize(
    "options", [{"cost_error": -0.1}, {"cap": 0.0}, {"gamma": 2.0}, {"gate": "open"}, {"environment_errors": "timeout"}]
)
def test_wrong_values(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build([{"name": "shaping", **options}])


# ---- T8 (b)


def mean_calls(shaping: Shaping, steps: int = 3000) -> float:
    """RLOO over k = 0 .. 5 useless calls before an answer that is right with probability 0.6 whatever k is."""
    rng, logits = np.random.default_rng(0), np.zeros(6)
    played = {
        (k, right): episode(*[turn(call(arguments=f"{n}")) for n in range(k)], turn(reward=float(right)))
        for k in range(6)
        for right in (False, True)
    }
    for _ in range(steps):
        policy = np.exp(logits - logits.max())
        policy /= policy.sum()
        calls, right = rng.choice(6, size=8, p=policy), rng.random(8) < 0.6
        group = [played[int(k), bool(r)] for k, r in zip(calls, right, strict=True)]
        advantages = credit_of([shaping, RLOO()], group).trajectory
        logits += 0.3 * ((np.eye(6)[calls] - policy) * advantages[:, None]).mean(axis=0)
    return float(policy @ np.arange(6))


@pytest.mark.slow
def test_t8b_ungated_bonuses_are_farmed() -> None:
    assert mean_calls(Shaping(bonus_success=0.2, gate="none", cap=None)) > 4.5
    assert mean_calls(Shaping(bonus_success=0.2, cost_call=0.05, gate="reward", cap=0.3)) < 2.2


# ---- ARPO's score


@pytest.mark.parametrize(
    ("own", "score"),
    [
        (episode(turn(call("search")), turn(call("python")), turn(), metrics={"f1": 0.5}), 0.6),
        (episode(turn(call("search")), turn(), metrics={"f1": 0.5}), 0.5),
        (episode(turn(call("search")), turn(call("python", error="failed")), turn(), metrics={"f1": 0.5}), 0.5),
        (episode(turn(call("search")), turn(call("python")), turn(), metrics={"f1": 0.0}), 0.0),
        (episode(turn(call(error="parse"), parse_error=True), turn(), metrics={"f1": 1.0}), -1.0),
        (episode(turn(truncated=True), metrics={"f1": 1.0}), -1.0),
        (episode(turn(call()), metrics={"f1": 0.0}, stop_reason=StopReason.MAX_TURNS), -1.0),
        (episode(metrics={"f1": 0.0}, stop_reason=StopReason.MAX_TOKENS), -1.0),
    ],
)
def test_t8a_arpo_score(own: TurnTable, score: float) -> None:
    (scored,) = credit_of([ARPOReward(), RLOO()], [own]).tables
    assert own.record is not None
    assert ARPOReward().score(own.record) == pytest.approx(score)
    assert scored.rewards.tolist() == pytest.approx([0.0] * (len(scored.rewards) - 1) + [score][: len(scored.rewards)])


def test_arpo_reward_replaces_what_the_environment_gave_and_counts() -> None:
    transform = ARPOReward(tools=["search"])
    group = [
        episode(turn(call(), reward=0.3), turn(reward=1.0), metrics={"f1": 1.0}),
        episode(turn(truncated=True), metrics={"f1": 0.0}),
    ]
    assert credit_of([transform, RLOO()], group).rewards == pytest.approx([1.1, -1.0])
    assert transform.metrics == {"bad_format": 0.5, "all_tools": 0.5}
    with pytest.raises(TrainingError, match="'f1', which the environment does not report"):
        credit_of([transform, RLOO()], [episode(turn())])
    with pytest.raises(ConfigError, match="different names"):
        ARPOReward(tools=["search", "search"])
