"""DSDR's global term: worked numbers, what is compared with what, and groups without signal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import Credit, TurnTable, attribute, credited_batch
from agentrl.advantages.dsdr import DiversityBonus, call_signatures, diversity
from agentrl.errors import ConfigError, TrainingError
from agentrl.messages import Message
from agentrl.trajectory import ToolCallRecord, Trajectory, Turn

EMBEDDINGS = [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0), (0.6, -0.8)]
FORMULAS = ["ab", "acd", "be", "af"]
REWARDS = [1.0, 1.0, 1.0, 0.0]


def table(
    reward: float,
    embedding: tuple[float, ...] | None,
    calls: list[tuple[str, str]],
    tokens: int = 3,
    correct: bool | None = None,
) -> TurnTable:
    """A trajectory of one turn that made these calls."""
    records = [ToolCallRecord(name, arguments, "") for name, arguments in calls]
    answer = Message(role="assistant", content="")
    turn = Turn([5], None, [7] * tokens, [-0.5] * tokens, answer, reward=reward, tool_calls=records)
    return TurnTable(
        rewards=np.array([reward]),
        lengths=np.array([tokens]),
        correct=reward == 1.0 if correct is None else correct,
        columns={} if embedding is None else {"embedding": np.array(embedding)},
        record=Trajectory("task", turns=[turn]),
    )


def worked() -> list[TurnTable]:
    parts = zip(REWARDS, EMBEDDINGS, FORMULAS, strict=True)
    return [table(reward, vector, [(name, "{}") for name in names]) for reward, vector, names in parts]


def run(tables: list[TurnTable], *specs: Any) -> Credit:
    return attribute(advantages.build(specs), [tables])[0]


def weights(credit: Credit) -> list[float]:
    return [float(table.columns["diversity_weight"][0]) for table in credit.tables]


def test_the_worked_example() -> None:
    near, formulas = diversity(tuple(worked()))
    assert near.tolist() == pytest.approx([0.266667, 0.266667, 0.533333, 0.533333], abs=1e-6)
    assert formulas.tolist() == pytest.approx([0, 0.666667, 0.5, 0.5], abs=1e-6)
    credit = run(worked(), {"name": "dsdr", "scale": 0.1, "ceiling": 0.4, "tau": 5.0}, "grpo")
    assert credit.rewards.tolist() == pytest.approx([1.013333, 1.04, 1.04, 0], abs=1e-6)
    assert credit.trajectory.tolist() == pytest.approx([0.465378, 0.517087, 0.517087, -1.499551], abs=1e-5)
    assert weights(credit) == pytest.approx([0.116451, 0.441775, 0.441775, 0], abs=1e-6)


def test_tau_multiplies() -> None:
    for tau, expected in ((0.0, [1 / 3] * 3), (1e4, [0, 0.5, 0.5])):
        credit = run(worked(), {"name": "dsdr", "ceiling": 0.4, "tau": tau}, "grpo")
        assert weights(credit) == pytest.approx([*expected, 0], abs=1e-9)


def test_the_metrics_and_the_arguments_are_left_alone() -> None:
    tables = worked()
    transform = DiversityBonus(scale=0.1, ceiling=0.4)
    transform([Credit.zeros(tables)])
    assert transform.metrics["diversity"] == pytest.approx(0.408333, abs=1e-6)
    assert transform.metrics["diversity_clipped"] == pytest.approx(0.75)
    assert [table.total for table in tables] == REWARDS
    assert "embedding" in tables[0].columns


def test_the_column_reaches_the_learner_and_the_embedding_does_not() -> None:
    """A vector as long as the trajectory would look like a number a token."""
    tables = [table(1.0, (1.0, 0.0), [], tokens=2), table(0.0, (0.0, 1.0), [], tokens=5)]
    columns = credited_batch([run(tables, "dsdr", "grpo")]).columns
    assert [sorted(entry) for entry in columns] == [sorted(columns[0])] * 2
    assert "embedding" not in columns[0]
    assert [np.asarray(entry["diversity_weight"]).tolist() for entry in columns] == [[1.0] * 2, [0.0] * 5]


def test_all_wrong_all_correct_one_correct_and_a_group_of_one() -> None:
    wrong = [replace(item, rewards=np.zeros(1), correct=False) for item in worked()]
    credit = run(wrong, "dsdr", "grpo")
    assert credit.trajectory.tolist() == [0.0] * 4
    assert weights(credit) == [0.0] * 4
    one = [*worked()[:1], *wrong[1:]]
    assert weights(run(one, "dsdr", "grpo")) == [1.0, 0.0, 0.0, 0.0]
    near, formulas = diversity((table(1.0, (1.0, 0.0), [("a", "{}")]),))
    assert (near.tolist(), formulas.tolist()) == ([0.0], [1.0])
    near, formulas = diversity((table(1.0, (1.0, 0.0), []),))
    assert (near.tolist(), formulas.tolist()) == ([0.0], [0.0])


def test_an_all_correct_group_is_blown_up_unless_it_is_only_centred() -> None:
    tables = [replace(item, rewards=np.ones(1), correct=True) for item in worked()]
    bonus = {"name": "dsdr", "scale": 0.1, "ceiling": 0.4}
    full = run(tables[:3], bonus, "grpo").trajectory
    small = run(tables[:3], bonus, "dsdr_grpo").trajectory
    assert np.abs(full).max() > 1.0
    assert np.abs(small).max() < 0.03
    assert np.sign(small).tolist() == np.sign(full).tolist()
    mixed = run(worked(), bonus, "dsdr_grpo").trajectory
    assert mixed.tolist() == pytest.approx(run(worked(), bonus, "grpo").trajectory.tolist())


def test_a_member_without_tokens_is_compared_with_nobody_in_embeddings() -> None:
    tables = [*worked()[:2], table(0.0, None, [], tokens=0)]
    near, _ = diversity(tuple(tables))
    assert near.tolist() == pytest.approx([0.1, 0.1, 0.0])
    credit = run(tables, "dsdr", "grpo")
    assert credit.tables[2].columns["diversity_weight"].shape == (0,)


def test_formatting_is_no_diversity() -> None:
    left = table(1.0, None, [("sql", '{"query": "SELECT  1", "limit": 3}'), ("sql", '{"query":"select 1","limit":3}')])
    assert len(call_signatures(left)) == 1
    right = table(1.0, None, [("sql", '{"limit": 3, "query": "select\\n1"}')])
    assert call_signatures(left) == call_signatures(right)
    other = table(1.0, None, [("sql", '{"query": "select 2", "limit": 3}'), ("sql", "not  JSON")])
    assert not call_signatures(left) & call_signatures(other)
    assert 'sql("not json")' in call_signatures(other)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="worth a correct answer"):
        DiversityBonus(scale=2.0, ceiling=0.5)
    with pytest.raises(ConfigError, match="ceiling"):
        DiversityBonus(ceiling=0.0)
    with pytest.raises(ConfigError, match="must stand before"):
        advantages.check_order(advantages.build(["grpo", "dsdr"]), 8)
    blind = replace(worked()[0], correct=None)
    with pytest.raises(TrainingError, match="verdict"):
        run([blind], "dsdr", "grpo")
    with pytest.raises(TrainingError, match="embedding"):
        run([replace(item, columns={}) for item in worked()], "dsdr", "grpo")
