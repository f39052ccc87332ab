"""Exact expectations of estimators that read more than rewards: critics (B5, B6), potential-based shaping (T8, T6).

A critic's values, or a potential, are numbers of the states. What is exact here: with lambda 1 any critic will do,
below 1 only the right one; and a potential that is taken back at the end changes no gradient of an unbiased estimator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import Array, PeerRule, Transform, TurnTable, Whiten
from agentrl.advantages.mt_grpo import MTGRPO
from agentrl.advantages.shaping import Shaping
from agentrl.messages import Message
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn
from tests.advantages.credit_page import cell, printed
from tests.advantages.known_processes import GO_ON, PROCESSES, SEARCH, STOP_OR_TRY, TWO_TOKENS
from tests.advantages.processes import Decorate, Episode, Process, cosine, moments

EXACT = 1e-9
Values = Callable[[Process, str], float]
"""A number of each node."""


def right(process: Process, node: str) -> float:
    return process.value(node).real


def nothing(process: Process, node: str) -> float:
    return 0.0


def wrong(process: Process, node: str) -> float:
    return 0.3 + 0.1 * list(process.nodes).index(node)


CRITICS: dict[str, Values] = {"right": right, "nothing": nothing, "wrong": wrong}


def judged(process: Process, values: Values) -> Decorate:
    """Tables with a critic's value of the state before each token."""
    return lambda episode: replace(
        episode.table, columns={"values": np.array([values(process, node) for node in episode.nodes])}
    )


def mean_with(process: Process, values: Values, *specs: object, size: int = 1) -> Array:
    return moments(process, advantages.build(list(specs)), size, table=judged(process, values)).mean  # type: ignore[arg-type]


GAE = {"name": "gae", "lam": 1.0}
BILEVEL = {"name": "bilevel_gae", "gamma_turn": 1.0}


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("spec", [GAE, BILEVEL], ids=["gae", "bilevel_gae"])
def test_with_lambda_1_any_critic_is_a_baseline(spec: object, process: Process, critic: Values) -> None:
    assert mean_with(process, critic, spec) == pytest.approx(process.true_gradient, abs=EXACT)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("spec", [GAE, BILEVEL], ids=["gae", "bilevel_gae"])
def test_below_lambda_1_only_the_right_critic_is(spec: dict[str, object], process: Process) -> None:
    for lam in (0.0, 0.5, 0.95):
        assert mean_with(process, right, {**spec, "lam": lam}) == pytest.approx(process.true_gradient, abs=EXACT)


def test_below_lambda_1_another_critic_bends_the_gradient() -> None:
    short = {"name": "gae", "lam": 0.95}
    assert mean_with(STOP_OR_TRY, nothing, short) == pytest.approx([-0.0036, 0.126], abs=EXACT)
    assert mean_with(STOP_OR_TRY, wrong, short) == pytest.approx([0.0012, 0.126], abs=EXACT)
    assert mean_with(STOP_OR_TRY, nothing, {**short, "lam": 0.0}) == pytest.approx([-0.072, 0.126], abs=EXACT)


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("process", [GO_ON, SEARCH, STOP_OR_TRY], ids=["go_on", "search", "stop_or_try"])
def test_turn_gae_is_unbiased_for_turns_of_one_token(process: Process, critic: Values) -> None:
    assert mean_with(process, critic, "turn_gae") == pytest.approx(process.true_gradient, abs=EXACT)


def test_turn_gae_takes_the_turn_s_last_token_for_a_baseline_of_its_first() -> None:
    """That value knows what the first token was: the better the critic, the less of that token's gradient is left."""
    assert TWO_TOKENS.true_gradient == pytest.approx([0.065, 0.025, 0.012, 0.1155], abs=EXACT)
    assert mean_with(TWO_TOKENS, right, "turn_gae") == pytest.approx([0.0, 0.025, 0.012, 0.1155], abs=EXACT)
    assert mean_with(TWO_TOKENS, wrong, "turn_gae") == pytest.approx([0.04, 0.025, 0.012, 0.1155], abs=EXACT)
    assert mean_with(TWO_TOKENS, nothing, "turn_gae") == pytest.approx(TWO_TOKENS.true_gradient, abs=EXACT)


@pytest.mark.parametrize("spec", [{"name": "turn_gae", "gamma": 0.9}, {"name": "bilevel_gae", "gamma_turn": 0.9}])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_discount_is_of_each_turn_s_own_return(process: Process, spec: object) -> None:
    assert mean_with(process, nothing, spec) == pytest.approx(process.discounted_gradient(0.9), abs=EXACT)


def test_whitening_few_tokens_bends_what_was_unbiased() -> None:
    mean = mean_with(STOP_OR_TRY, right, GAE, "whiten", size=3)
    assert mean == pytest.approx([-0.1203980245, 0.1819651793], abs=EXACT)
    many = moments(STOP_OR_TRY, [*advantages.build([GAE]), Whiten()], 12, table=judged(STOP_OR_TRY, right)).mean
    assert cosine(mean, STOP_OR_TRY.true_gradient) < 0.84
    assert cosine(many, STOP_OR_TRY.true_gradient) > 0.98


ON_THE_PAGE: dict[str, tuple[Values, object]] = {
    "`gae`, lam 1, any critic": (wrong, GAE),
    "`gae`, lam 0.95, the right critic": (right, {"name": "gae", "lam": 0.95}),
    "`gae`, lam 0.95, a critic that says 0": (nothing, {"name": "gae", "lam": 0.95}),
    "`bilevel_gae`, gamma_turn 1, any critic": (wrong, BILEVEL),
    "`turn_gae`, the right critic": (right, "turn_gae"),
    "`turn_gae`, a critic that says 0": (nothing, "turn_gae"),
}


def test_the_page_prints_these_numbers() -> None:
    expected = {
        label: [cell(mean_with(process, critic, spec), digits=4) for process in (STOP_OR_TRY, TWO_TOKENS)]
        for label, (critic, spec) in ON_THE_PAGE.items()
    }
    assert printed(ON_THE_PAGE) == expected


# ---- shaping


def record_of(episode: Episode) -> Trajectory:
    """A record of the episode in which every turn but the last called a tool."""
    call = ToolCallRecord(name="look", arguments="{}", result="")
    turns = [
        Turn(
            new_ids=[0],
            prefix_turn=None,
            sampled_ids=[0] * int(length),
            logprobs=[0.0] * int(length),
            message=Message(role="assistant", content="x"),
            tool_calls=[call] if turn < episode.table.num_turns - 1 else [],
        )
        for turn, length in enumerate(episode.table.lengths)
    ]
    return Trajectory(task_id="t", turns=turns)


def recorded(process: Process, potential: Values = nothing) -> Decorate:
    """Tables with a record and a potential of the state where each turn begins."""

    def decorate(episode: Episode) -> TurnTable:
        begins = np.cumsum([0, *episode.table.lengths[:-1]])
        potentials = np.array([potential(process, episode.nodes[index]) for index in begins])
        return replace(episode.table, columns={"potential": potentials}, record=record_of(episode))

    return decorate


def shaped(process: Process, estimator: object, potential: Values, size: int = 2, gamma: float = 1.0) -> Array:
    transforms: list[Transform] = [Shaping(potential="potential", gamma=gamma)]
    if isinstance(estimator, Transform):
        transforms.append(estimator)
    else:
        transforms += advantages.build([estimator])  # type: ignore[list-item]
    return moments(process, transforms, size, table=recorded(process, potential)).mean


@pytest.mark.parametrize("potential", [right, wrong], ids=["right", "wrong"])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize(
    "estimator",
    ["rloo", "token_returns", *({"name": "turn_loo", "peers": rule.value} for rule in PeerRule)],
    ids=["rloo", "token_returns", *(f"turn_loo-{rule.value}" for rule in PeerRule)],
)
def test_any_potential_leaves_an_unbiased_gradient_as_it_was(
    estimator: object, process: Process, potential: Values
) -> None:
    """From each turn on it adds up to minus the potential of that turn's state, which is no more than a baseline."""
    assert shaped(process, estimator, potential) == pytest.approx(process.true_gradient, abs=EXACT)


def test_a_discounted_potential_belongs_to_equally_discounted_returns() -> None:
    estimator = {"name": "turn_loo", "gamma": 0.9}
    truth = SEARCH.discounted_gradient(0.9)
    assert shaped(SEARCH, estimator, wrong, gamma=0.9) == pytest.approx(truth, abs=EXACT)
    assert np.abs(shaped(SEARCH, estimator, wrong, gamma=1.0) - truth).max() > 1e-3


def test_the_state_s_value_as_a_potential_is_a_better_baseline_than_peers_in_other_states() -> None:
    plain, with_value = {}, {}
    for peers in ("none", "pad_final"):
        estimator = advantages.build([{"name": "turn_loo", "peers": peers}])
        plain[peers] = moments(SEARCH, estimator, 3).variance.sum()
        transforms = [Shaping(potential="potential"), *estimator]
        with_value[peers] = moments(SEARCH, transforms, 3, table=recorded(SEARCH, right)).variance.sum()
    assert plain == pytest.approx({"none": 0.027011, "pad_final": 0.017872}, abs=1e-6)
    assert with_value == pytest.approx({"none": 0.010391, "pad_final": 0.015987}, abs=1e-6)


def test_a_group_s_total_does_not_see_a_potential_at_all_but_turn_scores_do() -> None:
    assert shaped(SEARCH, "grpo", wrong) == pytest.approx(moments(SEARCH, advantages.build(["grpo"]), 2).mean, abs=1e-6)
    assert np.abs(shaped(SEARCH, MTGRPO(), wrong) - moments(SEARCH, [MTGRPO()], 2).mean).max() > 1e-2


def test_what_is_not_a_potential_is_a_reward_of_its_own() -> None:
    """A charge of 0.1 for the call of going on: the gradient is the true one of a second turn that is worth 0.9."""
    transforms = [Shaping(cost_call=0.1), *advantages.build(["turn_loo"])]
    assert moments(GO_ON, transforms, 3, table=recorded(GO_ON)).mean == pytest.approx([0.9 * 0.25], abs=EXACT)


def test_gains_that_nobody_takes_back_are_no_potential() -> None:
    """T6 without its z-scores: the gains end with the last state's value, which thus becomes a reward."""

    def with_gains(episode: Episode) -> TurnTable:
        values = np.array([right(SEARCH, node) for node in episode.nodes])
        return replace(episode.table, rewards=episode.table.rewards + np.append(np.diff(values), 0.0))

    mean = moments(SEARCH, advantages.build(["turn_loo"]), 3, table=with_gains).mean
    last = {episode.path: right(SEARCH, episode.nodes[-1]) for episode in SEARCH.episodes}
    reward_at_the_end = moments(
        SEARCH,
        advantages.build(["rloo"]),
        3,
        table=lambda episode: replace(
            episode.table, rewards=np.append(np.zeros(episode.table.num_turns - 1), last[episode.path])
        ),
    ).mean
    assert np.abs(reward_at_the_end).max() > 1e-3
    assert mean == pytest.approx(SEARCH.true_gradient + reward_at_the_end, abs=EXACT)
