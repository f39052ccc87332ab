"""The T1 contract: how layers add up, which orders are refused, how a list is built from a configuration."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from agentrl import advantages
from agentrl.advantages import Credit, Stage, Transform, TurnTable
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.messages import assistant
from agentrl.trajectory import Branch, Trajectory, Turn

TABLE = TurnTable(rewards=np.array([0.0, 1.0]), lengths=np.array([2, 1]))


class Whiten(Transform):
    stage = Stage.NORMALISE

    def __call__(self, groups: list[Credit]) -> list[Credit]:
        return groups


class Penalty(Whiten):
    stage = Stage.REWARD


def test_t1a_turn_credit_reaches_its_tokens() -> None:
    credit = replace(Credit.zeros([TABLE]), turns=(np.array([0.3, -0.7]),))
    assert credit.token_advantages()[0].tolist() == [0.3, 0.3, -0.7]


def test_the_three_layers_add_up() -> None:
    credit = Credit((TABLE,), np.array([1.0]), (np.array([10.0, 20.0]),), (np.array([0.1, 0.2, 0.3]),))
    assert credit.token_advantages()[0] == pytest.approx([11.1, 11.2, 21.3])


def test_order_is_checked() -> None:
    grpo = advantages.GRPO()
    advantages.check_order([Penalty(), grpo, Whiten()], group_size=2)
    with pytest.raises(ConfigError, match=r"GRPO .* must stand before Whiten"):
        advantages.check_order([Whiten(), grpo], group_size=2)
    with pytest.raises(ConfigError, match=r"Penalty .* must stand before GRPO"):
        advantages.check_order([grpo, Penalty()], group_size=2)
    with pytest.raises(ConfigError, match="no estimator"):
        advantages.check_order([Whiten()], group_size=2)
    with pytest.raises(ConfigError, match="no estimator"):
        advantages.check_order([], group_size=2)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "turn_loo"])
def test_estimators_need_peers_unless_raw_is_asked_for(name: str) -> None:
    with pytest.raises(ConfigError, match="groups of at least 2"):
        advantages.check_order(advantages.build([name]), group_size=1)
    advantages.check_order(advantages.build([{"name": name, "singleton": "raw"}]), group_size=1)


def test_build_makes_the_configured_transforms() -> None:
    grpo, turn_loo = advantages.build(["grpo", {"name": "turn_loo", "gamma": 0.9, "peers": "alive"}])
    assert isinstance(grpo, advantages.GRPO)
    assert isinstance(turn_loo, advantages.TurnLeaveOneOut)
    assert (turn_loo.gamma, turn_loo.peers) == (0.9, advantages.PeerRule.ALIVE)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "grpo", "dof": 0}, r"advantage 'grpo' has no option 'dof'; did you mean 'ddof'\?"),
        ({"name": "grpo", "ddof": 3}, "option 'ddof' is 3"),
        ({"name": "grpo", "eps": "small"}, "option 'eps' is 'small'"),
        ({"name": "rloo", "singleton": "none"}, "'zero' or 'raw'"),
        ({"name": "turn_loo", "peers": "alife"}, "peers is 'alife'; did you mean 'alive'"),
        ({"gamma": 1.0}, "needs the key 'name'"),
        (3, "names no component"),
    ],
)
def test_wrong_specs_are_one_line(spec: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        advantages.build([spec])  # type: ignore[list-item]
    assert "\n" not in str(caught.value)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'grpo'"):
        advantages.build(["grppo"])


def test_importing_credit_imports_no_heavy_library() -> None:
    code = "import sys, agentrl.advantages; print({'torch', 'transformers', 'sqlalchemy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def branch_of(parent: int, member: int, turns: int, copied: int) -> Trajectory:
    made = Trajectory("task", member=member, branch=Branch(parent, copied))
    made.turns = [Turn([1], None, [2], [-1.0], assistant("")) for _ in range(turns)]
    return made


def test_branches_share_the_nodes_of_what_they_copied_also_from_an_aborted_parent() -> None:
    whole = branch_of(0, 0, 3, 0)
    whole.branch = None
    tables = advantages.tables_of([whole, branch_of(0, 1, 3, 2), branch_of(1, 2, 3, 2)])
    assert [table.nodes for table in tables] == [("0.0", "0.1", "0.2"), ("0.0", "0.1", "1.2"), ("0.0", "0.1", "2.2")]
    orphans = advantages.tables_of([branch_of(7, 1, 2, 1), branch_of(7, 2, 2, 1)])  # 7 was aborted
    assert [table.nodes for table in orphans] == [("7.0", "1.1"), ("7.0", "2.1")]
