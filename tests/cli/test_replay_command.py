"""`agentrl replay`: a run's own episodes come back equal, a tampered record and an unsteady environment are found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from agentrl.config import load_config
from agentrl.env import register
from agentrl.envs.arithmetic import ArithmeticEnv
from agentrl.evaluation import evaluate
from agentrl.store import EpisodeRecord, RunStore
from agentrl.task import Episode, Verdict
from agentrl.trainer import train
from agentrl.trajectory import Branch, StopReason, Trajectory

SMALL = [
    *("steps=2", "eval.episodes=3", "warm_start.steps=8", "warm_start.episodes_per_step=8"),
    *("rollout.groups_per_step=2", "rollout.group_size=4"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = load_config(recipe="tiny", overrides=SMALL, out=str(tmp_path_factory.mktemp("runs")))
    train(config)
    return config.folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run's store, to be tampered with."""
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "store.sqlite", tmp_path / "run")
    return tmp_path / "run"


def tamper(run: Path, change: Callable[[Trajectory], None], phase: str = "train", step: int = 2) -> EpisodeRecord:
    """Change the first episode of several turns, or else of one, in place."""
    with RunStore(run / "store.sqlite") as store:
        (own,) = store.runs()
        episode = max(store.episodes(own.id, phase, step), key=lambda record: record.turns > 1)
        trajectory = episode.trajectory
        change(trajectory)
        store.add_episode(own.id, phase, step, episode.group, episode.member, trajectory)
    return episode


def test_every_episode_of_a_run_comes_back(agentrl, run: Path) -> None:
    """2 steps x 8 training episodes and 3 evaluations x 3."""
    shown = agentrl("replay", str(run))
    assert shown.code == 0, shown.out
    assert shown.out == "25 episodes played again: 25 equal, 0 different; 0 skipped\n"
    assert "replay (25)" in shown.err
    with RunStore(run / "store.sqlite") as store:
        assert any(record.turns > 1 for record in store.episodes(1))  # tools were called


def test_phase_step_and_an_even_choice(agentrl, run: Path) -> None:
    def chosen(*arguments: str) -> int:
        shown = agentrl("replay", str(run), "--json", "--workers", "3", *arguments)
        assert shown.code == 0
        episodes: int = json.loads(shown.out)["episodes"]
        return episodes

    assert chosen("--phase", "train") == 16
    assert chosen("--phase", "train", "--step", "2") == 8
    assert chosen("--phase", "eval/trained") == 3
    assert chosen("--limit", "10") == 10
    assert chosen("--limit", "100") == 25


def test_a_choice_is_spread_over_the_run(agentrl, run: Path) -> None:
    """Of 16 training episodes 4 are the first of each group of 4: a change of the second one is passed over."""

    def worth_more(trajectory: Trajectory) -> None:
        trajectory.turns[-1].reward += 1.0

    with RunStore(run / "store.sqlite") as store:
        first, second, *_ = store.episodes(1, "train", 2)
    for episode, code in ((second, 0), (first, 1)):
        with RunStore(run / "store.sqlite") as store:
            trajectory = episode.trajectory
            worth_more(trajectory)
            store.add_episode(1, "train", 2, episode.group, episode.member, trajectory)
        assert agentrl("replay", str(run), "--phase", "train", "--limit", "4").code == code


def _observation(trajectory: Trajectory) -> None:
    turn = trajectory.turns[0]
    turn.observation = [turn.observation[0].model_copy(update={"content": "\x1b[2Jmore"})]


def _reward(trajectory: Trajectory) -> None:
    trajectory.turns[-1].reward += 0.25


def _turns(trajectory: Trajectory) -> None:
    trajectory.turns.append(replace(trajectory.turns[-1]))


def _ending(trajectory: Trajectory) -> None:
    trajectory.stop_reason = (
        StopReason.INVALID_CALLS if trajectory.stop_reason is StopReason.MAX_TURNS else StopReason.MAX_TURNS
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [(_observation, "message 1: "), (_reward, "reward"), (_turns, "the episode ends here"), (_ending, "recorded")],
    ids=["observation", "reward", "turns", "ending"],
)
def test_a_tampered_record_is_found(agentrl, run: Path, change: Callable[[Trajectory], None], said: str) -> None:
    episode = tamper(run, change)
    shown = agentrl("replay", str(run))
    assert shown.code == 1
    line, total = shown.out.splitlines()
    place = f"train step 2, group {episode.group}, member {episode.member}, task {episode.task_id}: turn "
    assert line.startswith(place)
    assert said in line
    assert "\x1b" not in line
    assert total == "25 episodes played again: 24 equal, 1 different; 0 skipped"
    (found,) = json.loads(agentrl("replay", str(run), "--json").out)["differences"]
    assert (found["step"], found["group"], found["member"]) == (2, episode.group, episode.member)
    assert place + found["found"][len("turn ") :] == line


def test_aborted_episodes_are_skipped_and_counted(agentrl, run: Path) -> None:
    def aborted(trajectory: Trajectory) -> None:
        trajectory.stop_reason, trajectory.error = StopReason.TIMEOUT, "step: not done"

    tamper(run, aborted, step=1)
    tamper(run, aborted, step=2)
    shown = agentrl("replay", str(run))
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "23 episodes played again: 23 equal, 0 different; 2 skipped",
        "  skipped 2: timeout, a deadline passed; aborted",
    ]


def test_a_branched_episode_is_stepped_from_the_start(agentrl, run: Path) -> None:
    def branched(trajectory: Trajectory) -> None:
        trajectory.branch = Branch(parent=0, turns=1)

    tamper(run, branched)
    assert agentrl("replay", str(run)).code == 0


def test_a_damaged_record_is_a_difference(agentrl, run: Path) -> None:
    with sqlite3.connect(run / "store.sqlite") as database:
        chosen = "SELECT id FROM episodes WHERE step = 2 AND member = 1 AND phase = 'train'"
        database.execute(f"UPDATE records SET record = x'00' WHERE episode IN ({chosen})")
    shown = agentrl("replay", str(run), "--phase", "train")
    assert shown.code == 1
    assert shown.out.count("is damaged") == 2  # one in each group of the step


class UnsteadyEnv(ArithmeticEnv):
    """Arithmetic whose judge remembers how many episodes it has seen, over all of its instances."""

    seen = count()

    def judge(self, episode: Episode) -> Verdict:
        return Verdict(float(next(self.seen)))


class FragileEnv(ArithmeticEnv):
    """Arithmetic whose judge fails when it is told to."""

    fails = False

    def judge(self, episode: Episode) -> Verdict:
        if self.fails:
            raise RuntimeError("the judge is gone\nfor good")
        return super().judge(episode)  # type: ignore[return-value]


def test_an_environment_that_is_not_deterministic_is_found(agentrl, tmp_path: Path) -> None:
    register("tests/Unsteady-v0", UnsteadyEnv)
    evaluate("tests/Unsteady-v0", "oracle", overrides=["options.levels=[2]"], tasks=4, out=tmp_path, concurrency=1)
    shown = agentrl("replay", str(tmp_path), "--workers", "1")
    assert shown.code == 1
    assert shown.out.splitlines()[0].endswith("turn 3: reward 4, recorded 0")
    assert shown.out.splitlines()[-1] == "4 episodes played again: 0 equal, 4 different; 0 skipped"


def test_an_environment_that_raises_is_a_difference_and_the_others_go_on(
    agentrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("tests/Fragile-v0", FragileEnv)
    evaluate("tests/Fragile-v0", "oracle", overrides=["options.levels=[2]"], tasks=3, out=tmp_path)
    assert agentrl("replay", str(tmp_path)).code == 0
    monkeypatch.setattr(FragileEnv, "fails", True)
    shown = agentrl("replay", str(tmp_path))
    assert shown.code == 1
    assert shown.out.count("the environment raises RuntimeError: the judge is gone for good") == 3


def test_help(agentrl) -> None:
    shown = agentrl("replay", "--help")
    assert "agentrl replay runs/quickstart --phase train --limit 100" in map(str.strip, shown.out.splitlines())
    assert max(map(len, shown.out.splitlines())) <= 80


def test_mistakes(agentrl, run: Path, tmp_path: Path) -> None:
    agentrl("replay", str(tmp_path / "nowhere")).fails_in_one_line("nowhere", "holds no run")
    agentrl("replay", str(run), "--phase", "trian").fails_in_one_line("'trian'", "did you mean 'train'")
    agentrl("replay", str(run), "--step", "7").fails_in_one_line("--step 7", "there are steps 0 to 2")
    agentrl("replay", str(run), "--phase", "train", "--step", "0").fails_in_one_line("there are steps 1 to 2")
    assert agentrl("replay", str(run), "--limit", "0").code == 2


def test_episodes_of_another_environment_are_refused(agentrl, run: Path) -> None:
    def elsewhere(trajectory: Trajectory) -> None:
        trajectory.env_id = "tests/Other-v0"

    tamper(run, elsewhere)
    agentrl("replay", str(run)).fails_in_one_line("'tests/Other-v0'", "options for 'agentrl/Arithmetic-v0' only")
