"""Turn returns with leave-one-out: T7's numbers, exact enumeration of gradient and variance, degenerate tables."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from agentrl.advantages import Credit, GroupStatistic, PeerRule, TurnLeaveOneOut, TurnTable, attribute
from agentrl.errors import ConfigError


def tables(*rewards: list[float]) -> list[TurnTable]:
    return [TurnTable(np.array(r, dtype=np.float64), np.ones(len(r), dtype=np.int64)) for r in rewards]


def turns_of(transform: TurnLeaveOneOut, group: list[TurnTable]) -> tuple[np.ndarray, ...]:
    return attribute([transform], [group])[0].turns


T7A = tables([0, 1], [0.2, 0, 0], [1])


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("none", ([0.9, 1], [0.2, 0, 0], [1])),
        ("pad_final", ([0.3, 0.5], [-0.75, -1, -1], [0.45])),
        ("pad_zero", ([0.3, 1], [-0.75, -0.5, 0], [0.45])),
        ("alive", ([0.3, 1], [-0.75, -1, 0], [0.45])),
    ],
)
def test_t7a(peers: str, expected: tuple[list[float], ...]) -> None:
    credit = turns_of(TurnLeaveOneOut(gamma=0.9, peers=peers), T7A)
    for got, wanted in zip(credit, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-12)


def test_defaults_are_the_contract_s() -> None:
    transform = TurnLeaveOneOut()
    assert (transform.gamma, transform.peers, transform.batch_std) == (1.0, PeerRule.PAD_FINAL, False)


GO_ON, SUCCEED, STOP_REWARD = 0.6, 0.3, 0.3
EPISODES = [  # probability, rewards, score of the logit at turn 1, score of the logit at turn 2
    (1 - GO_ON, [STOP_REWARD], [-GO_ON]),
    (GO_ON * (1 - SUCCEED), [0.0, 0.0], [1 - GO_ON, -SUCCEED]),
    (GO_ON * SUCCEED, [0.0, 1.0], [1 - GO_ON, 1 - SUCCEED]),
]


def moments(estimate: TurnLeaveOneOut | GroupStatistic, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and variance of the gradient estimate (one component a turn) over all groups of T7 (b)."""
    mean, square = np.zeros(2), np.zeros(2)
    for group in product(EPISODES, repeat=size):
        probability = np.prod([episode[0] for episode in group])
        if isinstance(estimate, GroupStatistic):
            returns = [np.cumsum(episode[1][::-1])[::-1] for episode in group]
            credit = estimate.over_turns(returns, PeerRule.ALIVE)
        else:
            credit = list(turns_of(estimate, tables(*(episode[1] for episode in group))))
        gradient = np.zeros(2)
        for advantage, (_, _, scores) in zip(credit, group, strict=True):
            gradient[: len(scores)] += advantage * scores / size
        mean += probability * gradient
        square += probability * gradient**2
    return mean, square - mean**2


@pytest.mark.parametrize(
    ("peers", "variance"),
    [
        ("none", 0.024108),
        ("episode", 0.015540),
        ("alive", 0.024108),
        ("pad_zero", 0.020630),
        ("pad_final", 0.015540),
    ],
)
def test_t7b_every_peer_rule_is_unbiased(peers: str, variance: float) -> None:
    mean, variances = moments(TurnLeaveOneOut(peers=peers))
    assert mean == pytest.approx([0.0, 0.126], abs=1e-9)
    assert variances[1] == pytest.approx(variance, abs=1e-6)


def test_t7b_a_mean_that_includes_oneself_is_biased() -> None:
    """The wrong implementation that the specification names: the test above must be able to fail."""
    mean, _ = moments(GroupStatistic(leave_one_out=False, scale=False))
    assert mean == pytest.approx([0.0, 0.060480], abs=1e-6)


@pytest.mark.parametrize("peers", [rule.value for rule in PeerRule])
def test_equal_groups_get_exactly_zero(peers: str) -> None:
    if peers == "none":  # compares with nobody: equal rewards are no reason for zero
        assert turns_of(TurnLeaveOneOut(peers=peers), tables([1.0], [1.0]))[0].tolist() == [1.0]
        return
    reward = float(np.float32(0.1))
    for turn in turns_of(TurnLeaveOneOut(peers=peers), tables(*[[0.0, 0.0, reward]] * 8)):
        assert turn.tolist() == [0.0] * 3


def test_group_of_one() -> None:
    lone = tables([0.5, 1.0])
    assert turns_of(TurnLeaveOneOut(), lone)[0].tolist() == [0.0, 0.0]
    assert turns_of(TurnLeaveOneOut(singleton="raw"), lone)[0].tolist() == [1.5, 1.0]
    assert turns_of(TurnLeaveOneOut(peers="none"), lone)[0].tolist() == [1.5, 1.0]


def test_zero_length_turns_stay_in_the_table_and_get_no_token() -> None:
    stopped = TurnTable(rewards=np.array([0.5, 1.0]), lengths=np.array([2, 0]))
    empty = TurnTable(rewards=np.zeros(0), lengths=np.zeros(0, dtype=np.int64))
    credit = attribute([TurnLeaveOneOut()], [[stopped, *tables([0.0]), empty]])[0]
    assert credit.turns[0].tolist() == [1.5, 1.0]
    assert [tokens.tolist() for tokens in credit.token_advantages()] == [[1.5, 1.5], [-0.75], []]


def test_batch_std_is_one_number_for_the_whole_batch() -> None:
    batch = [tables([0, 1], [0.5]), tables([3], [0], [0, 0])]
    plain = attribute([TurnLeaveOneOut()], batch)
    scaled = attribute([TurnLeaveOneOut(batch_std=True)], batch)
    pooled = np.concatenate([turn for credit in plain for turn in credit.turns])
    for before, after in zip(plain, scaled, strict=True):
        for one, other in zip(before.turns, after.turns, strict=True):
            assert other == pytest.approx(one / (pooled.std(ddof=1) + 1e-6))


def test_batch_std_of_an_equal_batch_divides_by_nothing() -> None:
    credit = attribute([TurnLeaveOneOut(batch_std=True)], [tables([1.0], [1.0])])[0]
    assert [turn.tolist() for turn in credit.turns] == [[0.0], [0.0]]
    assert attribute([TurnLeaveOneOut(batch_std=True)], []) == []


def test_adds_to_the_turn_layer_and_leaves_its_argument_alone() -> None:
    before = Credit.zeros(tables([1.0], [0.0]))
    after = TurnLeaveOneOut()(TurnLeaveOneOut()([before]))[0]
    assert [turn.tolist() for turn in after.turns] == [[2.0], [-2.0]]
    assert [turn.tolist() for turn in before.turns] == [[0.0], [0.0]]
    assert after.trajectory.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"peers": "pad_last"}, "peers is 'pad_last'; did you mean 'pad_final'"),
        ({"singleton": "one"}, "singleton is 'one'"),
    ],
)
def test_wrong_values(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TurnLeaveOneOut(**options)  # type: ignore[arg-type]
