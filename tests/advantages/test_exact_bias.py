"""What each estimator's gradient is on average, exactly: no sampling, every batch of groups is listed.

An estimator either claims to be unbiased (the expectation is the true gradient to 1e-9, on every process and for every
group size here), or to be so up to a factor, or it is biased; then the biased expectation stands here as a number, so
that a change of the estimator shows. `docs/credit.md` prints these numbers, and the last test reads them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import Array, FunctionTransform, GroupStatistic, PeerRule, Transform, TurnTable
from agentrl.advantages.gigpo import GiGPO
from agentrl.advantages.igpo import IGPO
from agentrl.advantages.mt_grpo import MTGRPO
from agentrl.advantages.turn_returns import discounted_returns
from tests.advantages.credit_page import cell, printed
from tests.advantages.known_processes import (
    BANDIT,
    GO_ON,
    PROCESSES,
    SEARCH,
    STOP_OR_TRY,
    TWO_FAIR_TURNS,
    loop,
)
from tests.advantages.processes import Decorate, Episode, Process, cosine, moments, multisets, sequences

EXACT = 1e-9
PEERS = [rule.value for rule in PeerRule]


def against_peers(
    group: Sequence[TurnTable],
    *,
    of: str = "returns",
    peers: PeerRule = PeerRule.ALIVE,
    leave_one_out: bool = False,
    scale: bool = False,
) -> list[Array]:
    """Per-turn normalisation as it is often written: turn t against the others' turn t, oneself included.

    `of="rewards"` compares the turns' rewards and adds up what is left of them from each turn on; `"padded"` does so
    after every member got turns of reward 0 up to the longest.
    """
    statistic = GroupStatistic(leave_one_out, scale, singleton="raw" if leave_one_out else "zero")
    if of == "returns":
        return statistic.over_turns([discounted_returns(table.rewards, 1.0) for table in group], peers)
    longest = max(table.num_turns for table in group) if of == "padded" else 0
    rewards = [np.pad(table.rewards, (0, max(longest - table.num_turns, 0))) for table in group]
    residuals = [discounted_returns(residual, 1.0) for residual in statistic.over_turns(rewards, peers)]
    return [residual[: table.num_turns] for residual, table in zip(residuals, group, strict=True)]


def per_turn(**options: object) -> list[Transform]:
    return [FunctionTransform(against_peers, options)]


def build(*specs: object) -> list[Transform]:
    return advantages.build(list(specs))  # type: ignore[arg-type]


# ---- the processes themselves


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_episodes_are_all_there_and_their_scores_add_up_to_nothing(process: Process) -> None:
    assert sum(episode.probability for episode in process.episodes) == pytest.approx(1.0, abs=1e-12)
    value = sum(episode.probability * episode.table.total for episode in process.episodes)
    assert value == pytest.approx(process.value().real, abs=1e-12)
    total = sum(episode.probability * episode.scores.sum(axis=0) for episode in process.episodes)
    assert total == pytest.approx(np.zeros(len(process.parameters)), abs=1e-12)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_true_gradient_is_that_of_finite_differences(process: Process) -> None:
    for index, (name, action) in enumerate(process.parameters):
        values = []
        for step in (1e-5, -1e-5):
            logits = np.array(process.nodes[name].logits, dtype=np.complex128)
            logits[action] += step
            values.append(process.value(logits={name: logits}).real)
        assert process.true_gradient[index] == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-9)
    assert process.discounted_gradient(1.0) == pytest.approx(process.true_gradient, abs=1e-12)


@pytest.mark.parametrize(
    ("process", "gradient"),
    [(BANDIT, [0.190754, -0.181408, -0.009346]), (STOP_OR_TRY, [0.0, 0.126]), (GO_ON, [0.25])],
)
def test_true_gradients_are_the_printed_ones(process: Process, gradient: list[float]) -> None:
    assert process.true_gradient == pytest.approx(gradient, abs=1e-6)


def test_anchor_states_come_again() -> None:
    keys = [episode.table.state_keys for episode in SEARCH.episodes]
    assert ("search", "search", "read") in keys
    assert ("search", "read", "read") in keys
    for name, node in SEARCH.nodes.items():  # the policy sees the key and nothing else
        assert {other.logits for other in SEARCH.nodes.values() if other.key == node.key} == {node.logits}, name


def test_unordered_draws_count_what_ordered_ones_do() -> None:
    for transforms in (build("grpo"), per_turn(of="rewards", scale=True)):
        unordered = moments(SEARCH, transforms, 2)
        ordered = moments(SEARCH, transforms, 2, draws=sequences)
        assert unordered.weight == pytest.approx(1.0, abs=1e-12)
        assert unordered.mean == pytest.approx(ordered.mean, abs=1e-12)
        assert unordered.variance == pytest.approx(ordered.variance, abs=1e-12)


# ---- unbiased

UNBIASED: dict[str, list[object]] = {
    "rloo": ["rloo"],
    "token_returns": ["token_returns"],
    **{f"turn_loo, {peers}": [{"name": "turn_loo", "peers": peers}] for peers in PEERS},
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("specs", UNBIASED.values(), ids=UNBIASED)
def test_unbiased(specs: list[object], process: Process, size: int) -> None:
    assert moments(process, build(*specs), size).mean == pytest.approx(process.true_gradient, abs=EXACT)


@pytest.mark.parametrize("peers", PEERS)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_discount_makes_turn_loo_exact_for_each_turn_s_own_discounted_return(process: Process, peers: str) -> None:
    transforms = build({"name": "turn_loo", "gamma": 0.9, "peers": peers})
    assert moments(process, transforms, 3).mean == pytest.approx(process.discounted_gradient(0.9), abs=EXACT)


@pytest.mark.parametrize(
    ("peers", "variance"),
    [("none", 0.024108), ("episode", 0.015540), ("alive", 0.024108), ("pad_zero", 0.020630), ("pad_final", 0.015540)],
)
def test_t7b_the_peer_rules_differ_in_variance_only(peers: str, variance: float) -> None:
    result = moments(STOP_OR_TRY, build({"name": "turn_loo", "peers": peers}), 3)
    assert result.mean == pytest.approx([0.0, 0.126], abs=EXACT)
    assert result.variance[1] == pytest.approx(variance, abs=1e-6)


# ---- up to a factor


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_group_mean_with_oneself_shrinks_the_gradient_by_one_in_g(process: Process, size: int) -> None:
    expected = (size - 1) / size * process.true_gradient
    assert moments(process, build("dr_grpo"), size).mean == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("size", [2, 4])
def test_b1b_the_std_keeps_a_bandit_s_direction(size: int) -> None:
    assert cosine(moments(BANDIT, build("grpo"), size).mean, BANDIT.true_gradient) > 0.999


# ---- biased


def test_t7b_a_mean_that_includes_oneself_over_alive_peers() -> None:
    assert moments(STOP_OR_TRY, per_turn(), 3).mean == pytest.approx([0.0, 0.060480], abs=EXACT)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("scale", [False, True])
def test_turns_normalised_one_by_one_do_not_see_that_there_is_a_second_turn(size: int, scale: bool) -> None:
    """The policy decides how many turns there are; what the second is worth on average has been subtracted from it."""
    biased = moments(GO_ON, per_turn(of="rewards", scale=scale), size).mean
    assert biased == pytest.approx([0.0], abs=EXACT)
    assert GO_ON.true_gradient == pytest.approx([0.25], abs=EXACT)


def test_leaving_oneself_out_or_padding_the_peers_does_not_repair_it() -> None:
    """How many baselines are subtracted still depends on one's own stop. Only who is alone keeps the second's worth."""
    for size in (2, 3, 4):
        alone = 0.5 ** (size - 1)
        assert moments(GO_ON, per_turn(of="rewards", leave_one_out=True), size).mean == pytest.approx(
            [0.25 * alone], abs=EXACT
        )
    padded_peers = per_turn(of="rewards", leave_one_out=True, peers=PeerRule.PAD_ZERO)
    assert moments(GO_ON, padded_peers, 3).mean == pytest.approx([0.125], abs=EXACT)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_padding_everybody_oneself_included_repairs_it(process: Process) -> None:
    """Then every member subtracts the same number of baselines, which is what returns do from the start."""
    padded = per_turn(of="padded", leave_one_out=True, peers=PeerRule.PAD_ZERO)
    assert moments(process, padded, 3).mean == pytest.approx(process.true_gradient, abs=EXACT)


def test_one_std_for_a_batch_matters_less_the_larger_the_batch() -> None:
    transforms = build({"name": "turn_loo", "batch_std": True})
    results = [moments(STOP_OR_TRY, transforms, 3, batch=batch).mean for batch in (1, 2, 3)]
    cosines = [cosine(result, STOP_OR_TRY.true_gradient) for result in results]
    assert cosines == pytest.approx([0.8810, 0.9573, 0.9843], abs=1e-4)


# ---- T2 and T3: what the two normalisations by turn and by state do to chance


def blame_of_the_first(transforms: Sequence[Transform], size: int) -> float:
    """T2 (b): mean of A_turn2 (a1 - 1/2) over all groups, how much turn 2 is credited with the luck of turn 1."""
    total = 0.0
    chances = [episode.probability for episode in TWO_FAIR_TURNS.episodes]
    for weight, group in multisets(TWO_FAIR_TURNS.episodes, chances, size):
        credit = advantages.attribute(transforms, [[episode.table for episode in group]])[0].token_advantages()
        total += weight * float(np.mean([a[1] * e.scores[0, 0] for a, e in zip(credit, group, strict=True)]))
    return total


def test_t2b_a_turn_is_not_credited_with_the_luck_of_another() -> None:
    for size in (2, 3, 8):
        assert blame_of_the_first([MTGRPO()], size) == pytest.approx(0.0, abs=EXACT)
    assert blame_of_the_first(build("grpo"), 8) == pytest.approx(0.3022, abs=1e-4)


def test_t2b_sampled() -> None:
    random = np.random.default_rng(2)
    drawn = random.integers(len(TWO_FAIR_TURNS.episodes), size=(1500, 8))
    groups = [[TWO_FAIR_TURNS.episodes[index] for index in group] for group in drawn]
    means = {}
    for name, transforms in {"mt_grpo": [MTGRPO()], "grpo": build("grpo")}.items():
        credits = advantages.attribute(transforms, [[episode.table for episode in group] for group in groups])
        means[name] = np.mean(
            [
                tokens[1] * episode.scores[0, 0]
                for credit, group in zip(credits, groups, strict=True)
                for tokens, episode in zip(credit.token_advantages(), group, strict=True)
            ]
        )
    assert means["mt_grpo"] == pytest.approx(0.0, abs=0.015)
    assert means["grpo"] == pytest.approx(0.30, abs=0.015)


def test_t3_where_everybody_succeeds_only_anchor_states_tell_a_detour_from_the_way() -> None:
    """That is a preference for short ways, which the undiscounted reward has not: its gradient is 0."""
    process = loop(4)
    assert process.true_gradient == pytest.approx(np.zeros(4), abs=EXACT)
    for transforms in (build("grpo"), build("rloo"), [GiGPO(gamma=1.0)]):
        assert moments(process, transforms, 2).mean == pytest.approx(np.zeros(4), abs=EXACT)
    detours = moments(process, [GiGPO(gamma=0.95)], 2).mean
    assert (detours[:3] < -1e-3).all()
    assert detours[3] == pytest.approx(0.0, abs=EXACT)  # the last detour leads to the goal as well


def test_t3_anchor_means_that_include_oneself_weaken_states_that_few_reach() -> None:
    """Without the episode part: what is seen of the true gradient in each state, undiscounted."""
    episodes = moments(SEARCH, build("dr_grpo"), 3).mean
    anchored = moments(SEARCH, [GiGPO(gamma=1.0)], 3).mean - episodes
    seen = anchored / SEARCH.true_gradient
    assert dict(zip(SEARCH.nodes, seen, strict=True)) == pytest.approx(SEEN_BY_ANCHORS, abs=1e-6)


SEEN_BY_ANCHORS = {
    "search 1": 0.757494,
    "search 2": 0.697090,
    "search 3": 0.464103,
    "read 2": 0.258595,
    "read 3": 0.481268,
    "read 2 again": 0.353248,
}


# ---- the table of docs/credit.md

GROUP = 3


@dataclass(frozen=True)
class Estimator:
    """One line of the table, and its expectation at groups of three where it is not the true gradient."""

    transforms: Callable[[], list[Transform]]
    expected: Mapping[str, Sequence[float]] | None = None
    """Process -> expected gradient; None: the true one."""
    table: Callable[[Process], Decorate] = lambda process: lambda episode: episode.table

    def mean(self, process: Process) -> Array:
        return moments(process, self.transforms(), GROUP, table=self.table(process)).mean


@cache
def mean_of(label: str, name: str) -> Array:
    """The expected gradient of an estimator of the page on a process."""
    return ON_THE_PAGE[label].mean(PROCESSES[name])


def from_specs(*specs: object) -> Callable[[], list[Transform]]:
    return lambda: build(*specs)


def with_probabilities(process: Process) -> Decorate:
    """The answer's probability where a turn begins: here the exact value of the state, the best that it could be."""

    def decorate(episode: Episode) -> TurnTable:
        begins = np.cumsum([0, *episode.table.lengths[:-1]])
        values = np.array([process.value(episode.nodes[index]).real for index in begins])
        return replace(episode.table, columns={IGPO().need: values})

    return decorate


SHOWN = ("go_on", "stop_or_try", "search")

ON_THE_PAGE: dict[str, Estimator] = {
    "`rloo`": Estimator(from_specs("rloo")),
    "`turn_loo`": Estimator(from_specs("turn_loo")),
    "`token_returns`": Estimator(from_specs("token_returns")),
    "`dr_grpo`": Estimator(from_specs("dr_grpo"), {name: 2 / 3 * PROCESSES[name].true_gradient for name in SHOWN}),
    "`turn_loo`, gamma 0.9": Estimator(
        from_specs({"name": "turn_loo", "gamma": 0.9}),
        {name: PROCESSES[name].discounted_gradient(0.9) for name in SHOWN},
    ),
    "`gigpo`": Estimator(
        lambda: [GiGPO()],
        {
            "go_on": [0.325],
            "stop_or_try": [-0.0024, 0.14448],
            "search": [0.0766745578, 0.0061021396, -0.0026671102, 0.0018318961, -0.0161996608, -0.0375973968],
        },
    ),
    "`gigpo`, gamma 1": Estimator(
        lambda: [GiGPO(gamma=1.0)],
        {
            "go_on": [0.3333333333],
            "stop_or_try": [0.0, 0.14448],
            "search": [0.0814150581, 0.0064792640, -0.0026063785, 0.0037306533, -0.0161996608, -0.0370106634],
        },
    ),
    "`gigpo`, gamma 1, std": Estimator(
        lambda: [GiGPO(gamma=1.0, std=True)],
        {
            "go_on": [0.2068374267],
            "stop_or_try": [-0.1902721811, 0.2910670500],
            "search": [0.2223118989, 0.0088625245, -0.0152921299, -0.0187261705, -0.0546257041, -0.1089138570],
        },
    ),
    "`grpo`": Estimator(
        from_specs("grpo"),
        {
            "go_on": [0.1034187133],
            "stop_or_try": [-0.0951360906, 0.1959241667],
            "search": [0.1017576580, 0.0039998565, -0.0084276554, -0.0281841426, -0.0377809049, -0.0711651072],
        },
    ),
    "`turn_loo`, batch_std": Estimator(
        from_specs({"name": "turn_loo", "batch_std": True}),
        {
            "go_on": [0.1281992180],
            "stop_or_try": [-0.1143288220, 0.2129058316],
            "search": [0.1334256758, 0.0111440731, -0.0087803929, -0.0264316724, -0.0471297655, -0.0864752028],
        },
    ),
    "`token_returns`, `whiten`": Estimator(
        from_specs("token_returns", "whiten"),
        {
            "go_on": [0.1559927446],
            "stop_or_try": [-0.1203980245, 0.1819651793],
            "search": [0.1708804366, 0.0154459342, -0.0066998238, -0.0120958992, -0.0344543873, -0.0709760922],
        },
    ),
    "`dr_grpo`, `whiten`": Estimator(
        from_specs("dr_grpo", "whiten"),
        {
            "go_on": [0.1163737794],
            "stop_or_try": [-0.1203980245, 0.1819651793],
            "search": [0.1289409640, 0.0067103525, -0.0075444331, -0.0283683064, -0.0333998431, -0.0657282619],
        },
    ),
    "`mt_grpo`": Estimator(
        lambda: [MTGRPO()],
        {
            "go_on": [0.1238684106],
            "stop_or_try": [-0.0950600622, 0.1958676873],
            "search": [0.1429462241, 0.0240736816, -0.0076414126, -0.0441676040, -0.0399149019, -0.0753151645],
        },
    ),
    "`mt_grpo`, gamma 1": Estimator(
        lambda: [MTGRPO(gamma=1.0)],
        {
            "go_on": [0.1238684106],
            "stop_or_try": [-0.0950600622, 0.1958676873],
            "search": [0.1575333537, 0.0240736816, -0.0076414126, -0.0441676040, -0.0399149019, -0.0753151645],
        },
    ),
    "`igpo`": Estimator(
        lambda: [IGPO()],
        {
            "go_on": [-0.0556181875],
            "stop_or_try": [-0.2305344164, 0.2514294737],
            "search": [-0.0112584208, -0.0202858496, -0.0084845902, -0.1068733477, -0.0496658743, -0.1058263737],
        },
        with_probabilities,
    ),
    "`igpo`, pool gains": Estimator(
        lambda: [IGPO(pool="gains")],
        {
            "go_on": [0.0],
            "stop_or_try": [-0.0951360906, 0.1959241667],
            "search": [0.0938283077, 0.0074018808, -0.0076480245, -0.0917123351, -0.0399352145, -0.0753442837],
        },
        with_probabilities,
    ),
    "returns, z-score over alive peers": Estimator(
        lambda: per_turn(scale=True),
        {
            "go_on": [0.1034187133],
            "stop_or_try": [-0.0951360906, 0.0951428833],
            "search": [0.1017576580, 0.0102482282, -0.0025278166, 0.0002325988, -0.0116581502, -0.0255401753],
        },
    ),
    "returns, minus the mean over alive peers": Estimator(
        per_turn,
        {
            "go_on": [0.1666666667],
            "stop_or_try": [0.0, 0.06048],
            "search": [0.0381113600, 0.0025497248, -0.0007372061, 0.0021638400, -0.0045135068, -0.0116061604],
        },
    ),
    "rewards, z-score over alive peers, added up": Estimator(
        lambda: per_turn(of="rewards", scale=True),
        {
            "go_on": [0.0],
            "stop_or_try": [-0.2771265292, 0.0951428833],
            "search": [-0.2315684359, -0.0273078236, -0.0025278166, -0.0988032306, -0.0116581502, -0.0255401753],
        },
    ),
    "rewards, minus the mean over alive peers, added up": Estimator(
        lambda: per_turn(of="rewards"),
        {
            "go_on": [0.0],
            "stop_or_try": [-0.048, 0.06048],
            "search": [-0.0196, -0.0071884388, -0.0007372061, -0.0215068024, -0.0045135068, -0.0116061604],
        },
    ),
}


def cells(label: str) -> list[str]:
    """What the page says of an estimator: expected gradients, and on `search` their distance from the truth."""
    truth, mean = SEARCH.true_gradient, mean_of(label, "search")
    distance = np.linalg.norm(mean - truth) / np.linalg.norm(truth)
    short = [cell(mean_of(label, name)) for name in ("go_on", "stop_or_try")]
    return [*short, f"{distance:.2f}", f"{cosine(mean, truth):.3f}"]


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("label", ON_THE_PAGE)
def test_the_expectation_is_the_documented_one(label: str, name: str) -> None:
    documented = ON_THE_PAGE[label].expected
    expected = PROCESSES[name].true_gradient if documented is None else np.array(documented[name])
    assert mean_of(label, name) == pytest.approx(expected, abs=EXACT)


def test_what_is_listed_as_biased_is() -> None:
    for label, estimator in ON_THE_PAGE.items():
        for name, expected in (estimator.expected or {}).items():
            assert np.abs(PROCESSES[name].true_gradient - expected).max() > 1e-3, (label, name)


def test_the_page_prints_these_numbers() -> None:
    assert printed(ON_THE_PAGE, skip=2) == {label: cells(label) for label in ON_THE_PAGE}
