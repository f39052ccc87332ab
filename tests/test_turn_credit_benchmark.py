"""The benchmark of turn-level credit: its environment, a cell from warm start to row, what runs again and what not."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentrl.conformance import check_environment
from agentrl.messages import ToolCall, assistant
from agentrl.oracle import oracle_trajectory
from benchmarks import turn_credit
from benchmarks.turn_credit import Cell, Drawers, Settings


def opened(drawer: str) -> Any:
    return assistant(tool_calls=(ToolCall(id="c", name="search", arguments=json.dumps({"query": drawer})),))


def test_the_environment_keeps_the_contract() -> None:
    report = check_environment(lambda: Drawers(reward="outcome"), tasks=2)
    # a walk's opening is its first sign alone, and there are no more signs in one split than in the other
    assert [finding.rule for finding in report.failures] == ["No question of one split is in another"]


@pytest.mark.parametrize(("reward", "rewards"), [("turns", [0.2] * 5 + [1.0]), ("outcome", [0.0] * 5 + [1.0])])
async def test_the_oracle_walks_without_a_mistake(reward: str, rewards: list[float]) -> None:
    walk = await oracle_trajectory(Drawers(reward=reward), None, "test:3", seed=0)
    assert walk.metrics == {"correct": 1.0, "right": 1.0}
    assert [turn.reward for turn in walk.turns] == pytest.approx(rewards)


@pytest.mark.parametrize("wrong", range(5))
async def test_one_wrong_drawer_loses_the_outcome_and_its_own_reward(wrong: int) -> None:
    env = Drawers()
    await env.areset(seed=0, options={"task": "test:0"})
    lost = []
    for place, drawer in enumerate(env.episode.task.data["drawers"]):
        step = await env.astep(opened(drawer if place != wrong else "x"))
        assert step.reward == pytest.approx(0.2 if place != wrong else 0.0)
        lost.append(step.info["state_key"].endswith("False"))
    assert lost == [place >= wrong for place in range(5)]
    end = await env.astep(assistant("done"))
    assert end.reward == 0.0 and end.info["metrics"] == {"correct": 0.0, "right": 0.8}


async def test_demonstrations_err_only_at_doubtful_signs_and_stop_early_now_and_then() -> None:
    env = Drawers(demonstrate=True, leave=0.1)
    doubtful: list[bool] = []
    lengths: list[int] = []
    for seed in range(150):
        walk = await oracle_trajectory(env, None, f"train:{seed}", seed=seed)
        records = [record for turn in walk.turns for record in turn.tool_calls]
        lengths.append(len(records))
        for sign, record in zip(env.episode.task.data["signs"], records, strict=False):
            if sign in env.believed:
                doubtful.append(record.result.startswith("yes"))
            else:
                assert record.result.startswith("yes")
    assert 0.4 < sum(doubtful) / len(doubtful) < 0.6
    assert 0.4 < sum(length == 5 for length in lengths) / len(lengths) < 0.75  # 0.9 ** 5 = 0.59


def test_half_of_the_signs_are_doubtful_and_drawers_are_balanced() -> None:
    env = Drawers(seed=7)
    assert len(env.believed) == 6
    assert sorted(env.drawer_of.values()) == sorted("1234" * 3)
    assert all(right == env.drawer_of[sign] != wrong for sign, (right, wrong) in env.believed.items())


@pytest.mark.slow
def test_cells_run_once_and_the_report_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    results, figure = tmp_path / "results.jsonl", tmp_path / "figure.svg"
    given = ["--quick", "--reward", "turns", "--results", str(results), "--figure", str(figure), "--rules"]
    turn_credit.main([*given, "grpo"])
    first = results.read_text()
    assert len(json.loads(first)["success"]) == 1
    # a torn line is no result, and what is finished is not run again
    with results.open("a") as stream:
        stream.write('{"rule": "turn_loo", "rew\n')
    turn_credit.main([*given, "grpo", "turn_loo"])
    rows = turn_credit.read_results(results)
    assert [row["rule"] for row in rows] == ["grpo", "turn_loo"]
    assert results.read_text().startswith(first)
    assert rows[0]["start"] == rows[1]["start"]
    assert "| turn_loo | 1 |" in capsys.readouterr().out
    drawn = figure.read_text()
    assert drawn.lstrip().startswith("<?xml") and "turn_loo" in drawn


def test_intervals_are_students() -> None:
    assert turn_credit.student_quantile(9) == pytest.approx(2.2622, abs=1e-3)
    assert turn_credit.student_quantile(19) == pytest.approx(2.0930, abs=1e-3)
    mean, half = turn_credit.mean_and_half([float(value) for value in range(10)])
    assert mean == 4.5 and half == pytest.approx(2.2622 * 3.02765 / 10**0.5, rel=1e-3)


def test_differences_are_paired_by_seed() -> None:
    def row(final: float) -> dict[str, Any]:
        return {"final": final, "success": [final, final]}

    results = {"grpo": {0: row(0.2), 1: row(0.8)}, "rloo": {0: row(0.3), 1: row(0.9)}}
    grpo, rloo = turn_credit.table_rows(results)
    assert grpo[3] == grpo[5] == ""
    assert rloo[3] == rloo[5] == "+10.0 ± 0.0"


def test_rows_of_other_settings_are_left_out() -> None:
    cells = [Cell("grpo", "turns", 0, Settings()), Cell("grpo", "turns", 0, Settings(lr=1.0))]
    rows = [{**json.loads(cell.key), "final": 0.0} for cell in cells]
    assert list(turn_credit.gather(rows, cells[:1], "turns")["grpo"]) == [0]
    assert turn_credit.gather(rows[1:], cells[:1], "turns") == {}
