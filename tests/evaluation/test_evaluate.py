"""Evaluations of real players over real environments: what is kept, what is played again, what is refused."""

from __future__ import annotations

import asyncio
import math
import shutil
from pathlib import Path

import pytest

from agentrl.env import Episode, Verdict, register
from agentrl.envs.arithmetic import ArithmeticEnv
from agentrl.errors import ConfigError, EnvError
from agentrl.evaluation import Evaluation, Prices, evaluate, summarise
from agentrl.evaluation.folder import EvaluationFolder, default_folder, open_evaluation
from agentrl.messages import assistant
from agentrl.observe import Observer
from agentrl.seeding import derive_seed
from agentrl.store import RunStore
from agentrl.trajectory import StopReason, Trajectory, Turn
from tests.engines import stub_server
from tests.evaluation.counting import judged, suite_file

ARITHMETIC = "agentrl/Arithmetic-v0"


class Notes(Observer):
    """What a person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.advanced = 0
        self.shown: list[dict[str, float]] = []
        self.phases: list[tuple[str, int | None]] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append((name, total))

    def advance(self, count: int = 1, **values: float) -> None:
        self.shown.append(values)
        if self.phases[-1][0].startswith("evaluate"):
            self.advanced += count

    def note(self, text: str) -> None:
        self.lines.append(text)


def rows(done: Evaluation) -> dict[tuple[str, str, int], Trajectory]:
    """The episodes of an evaluation by phase, group and member."""
    store, run = open_evaluation(done.folder)
    with store:
        return {(row.phase, row.group, row.member): row.trajectory for row in store.episodes(run.id)}


def test_the_oracle_is_right_and_everything_is_in_the_folder(tmp_path: Path) -> None:
    done = evaluate(ARITHMETIC, "oracle", overrides=["options.levels=[1, 2, 3, 4]"], tasks=8, samples=2, out=tmp_path)
    assert (done.planned, done.missing, done.played, done.cost, done.stopped) == (16, 0, 16, None, None)
    assert done.report.total.accuracy.value == 1.0
    assert done.report.finished
    assert {path.name for path in tmp_path.iterdir()} >= {"suite.yaml", "store.sqlite", "report.json", "report.html"}
    store, run = open_evaluation(tmp_path)
    with store:
        assert (run.kind, run.status, run.name) == ("eval", "finished", tmp_path.name)
        assert run.config == (tmp_path / "suite.yaml").read_text()
        assert run.meta["finished"] and run.meta["tasks"] == {"arithmetic": 8}
        assert run.meta["model_kind"] == "oracle"
        task = store.task(run.id, ARITHMETIC, "test:3")
        assert task is not None and task.level == 4 and task.opening and task.gold["answer"]


async def test_a_notebook_evaluates_as_well(tmp_path: Path) -> None:
    """Where an event loop runs already."""
    assert evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path).report.total.correct == 2


def test_every_sample_has_the_seed_that_its_names_give(tmp_path: Path) -> None:
    """So two models meet the same tasks under the same seeds, and a sample is the same whatever was played before."""
    small = {"tasks": 3, "samples": 2, "overrides": ["options.levels=[2]"]}
    oracle, random = (evaluate(ARITHMETIC, who, out=tmp_path / who, **small) for who in ("oracle", "random"))
    first, second = rows(oracle), rows(random)
    assert first.keys() == second.keys()
    assert len({episode.seed for episode in first.values()}) == 6
    for key, episode in first.items():
        assert (episode.task_id, episode.seed) == (second[key].task_id, second[key].seed)
        asked = derive_seed(0, "eval", "arithmetic", episode.task_id, key[2])
        assert episode.seed == derive_seed(asked, "member", 0)


def test_a_policy_is_evaluated_twice_alike(tmp_path: Path) -> None:
    small = {"tasks": 3, "seed": 3, "overrides": ["limits.max_turns=2", "sampling.max_turn_tokens=12"]}
    first, second = (evaluate(ARITHMETIC, "tiny", out=tmp_path / name, **small) for name in "ab")
    tokens = [
        {key: [turn.sampled_ids for turn in episode.turns] for key, episode in rows(done).items()}
        for done in (first, second)
    ]
    assert tokens[0] == tokens[1]
    assert first.report.total.tokens == second.report.total.tokens > 0
    assert first.report.model.weights_hash


def test_the_same_call_again_only_reads(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=4, samples=2)
    first, watch = evaluate(str(suite), "oracle", out=tmp_path / "kept"), Notes()
    again = evaluate(str(suite), "oracle", out=tmp_path / "kept", observer=watch)
    assert (first.played, again.played) == (8, 0)
    assert again.report == first.report
    assert "finished before" in watch.lines[0]
    assert set(judged(tmp_path / "log").values()) == {1}
    (tmp_path / "kept" / "report.json").write_text("{")  # a torn report is made anew from the episodes
    assert evaluate(str(suite), "oracle", out=tmp_path / "kept").report.total == first.report.total
    fresh = evaluate(str(suite), "oracle", out=tmp_path / "kept", fresh=True)
    assert (fresh.played, fresh.missing) == (8, 0)
    assert set(judged(tmp_path / "log").values()) == {2}


def test_the_default_folder_says_what_decides_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = evaluate(ARITHMETIC, "oracle", tasks=2)
    assert first.folder.parent == Path("runs/eval") and first.folder.name.startswith("arithmetic-oracle-")
    assert evaluate(ARITHMETIC, "oracle", tasks=2).played == 0
    others = [{"seed": 1}, {"temperature": 0.5}, {"tasks": 3}, {"overrides": ["limits.max_turns=3"]}]
    folders = {evaluate(ARITHMETIC, "oracle", **{"tasks": 2, **other}).folder for other in others}
    assert len(folders | {first.folder}) == 5
    # what only stops an evaluation early is no other evaluation
    assert evaluate(ARITHMETIC, "oracle", tasks=2, overrides=["limits.seconds=100"]).played == 0


def test_more_samples_are_played_beside_those_that_are_there_and_fewer_leave_none_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite, watch = str(suite_file(tmp_path, tasks=3, entries=2)), Notes()
    first = evaluate(suite, "oracle", samples=2)
    before = rows(first)
    more = evaluate(suite, "oracle", samples=5)
    assert (more.folder, more.planned, more.played, more.missing) == (first.folder, 30, 18, 0)
    assert set(judged(tmp_path / "log").values()) == {1} and len(judged(tmp_path / "log")) == 30
    assert {key: rows(more)[key].seed for key in before} == {key: episode.seed for key, episode in before.items()}
    assert more.report.total.samples == 5 and more.report.finished
    fewer = evaluate(suite, "oracle", samples=1, observer=watch)
    assert (fewer.planned, fewer.played, fewer.report) == (30, 0, more.report)
    assert "was begun with 5 samples of each task of one, more than the 1 asked for: all 5 count" in watch.lines[0]
    other = evaluate(suite, "oracle", samples=1, out="other")
    assert (other.planned, other.played) == (6, 6)


def test_several_samples_at_temperature_zero_are_told_of_before_they_are_played(tmp_path: Path) -> None:
    asked = {"tasks": 1, "overrides": ["limits.max_turns=1", "sampling.max_turn_tokens=4"]}
    for model, temperature, samples, told in (
        ("tiny", 0.0, 2, True),
        ("tiny", 0.0, 1, False),
        ("tiny", 1.0, 2, False),
        ("random", 0.0, 2, False),
    ):
        watch, out = Notes(), tmp_path / f"{model}-{temperature}-{samples}"
        evaluate(ARITHMETIC, model, temperature=temperature, samples=samples, out=out, observer=watch, **asked)
        assert told == ("temperature 0 draws nothing: the 2 samples of a task will be the same" in watch.lines[0])


def test_a_finished_evaluation_is_priced_anew(tmp_path: Path) -> None:
    asked = {"tasks": 1, "out": tmp_path, "overrides": ["limits.max_turns=1", "sampling.max_turn_tokens=4"]}
    first = evaluate(ARITHMETIC, "tiny", prices=Prices(output=1.0), **asked)
    again = evaluate(ARITHMETIC, "tiny", prices=Prices(output=3.0), **asked)
    assert again.played == 0 and again.cost == pytest.approx(3 * (first.cost or 0.0)) != 0
    assert again.report.total.cost == again.cost and again.report.prices == {"input": 0.0, "output": 3.0}
    without = evaluate(ARITHMETIC, "tiny", **asked)
    assert without.cost is None and without.report == again.report


def test_other_weights_under_the_same_name_are_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentrl.models.tiny import build_tiny

    monkeypatch.chdir(tmp_path)
    small = {"tasks": 1, "overrides": ["limits.max_turns=1", "sampling.max_turn_tokens=4"]}
    for part in build_tiny():
        part.save_pretrained("model")
    first = evaluate(ARITHMETIC, "model", **small)
    assert evaluate(ARITHMETIC, "./model/", **small).report.model.weights_hash == first.report.model.weights_hash
    assert evaluate(ARITHMETIC, "model", **small).played == 0
    build_tiny(seed=1)[0].save_pretrained("model")
    with pytest.raises(ConfigError, match=r"weights is .* choose another folder, or --fresh"):
        evaluate(ARITHMETIC, "model", out=first.folder, **small)
    second = evaluate(ARITHMETIC, "model", **small)
    assert second.folder != first.folder and second.played == 1


def test_a_folder_of_another_evaluation_is_refused_by_what_differs(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    evaluate(ARITHMETIC, "oracle", tasks=2, out=kept)
    for other, said in [
        ({"model": "random"}, 'model is "oracle" there and "random" here'),
        ({"seed": 5}, "seed is 0 there and 5 here"),
        ({"temperature": 0.0}, "sampling.temperature is 1.0 there and 0.0 here"),
        ({"suite": "function-calling"}, 'name is "arithmetic" there and "function-calling" here'),
    ]:
        asked = {"suite": ARITHMETIC, "model": "oracle", "tasks": 2, "out": kept, **other}
        with pytest.raises(ConfigError) as refused:
            evaluate(asked.pop("suite"), asked.pop("model"), **asked)
        assert said in str(refused.value) and "--fresh" in str(refused.value)
        assert "\n" not in str(refused.value)
    replaced = evaluate(ARITHMETIC, "random", tasks=3, out=kept, fresh=True)
    assert {episode.task_id for episode in rows(replaced).values()} == {"test:0", "test:1", "test:2"}


def test_only_what_is_missing_is_played(tmp_path: Path) -> None:
    suite, watch = suite_file(tmp_path, tasks=5, samples=3, entries=2), Notes()
    done = evaluate(str(suite), "oracle", out=tmp_path / "kept")
    before = rows(done)
    store, run = open_evaluation(done.folder)
    with store:
        ids = {(row.phase, row.group, row.member): row.id for row in store.episodes(run.id)}
        store.discard_after(run.id, -1, ["eval/two"])
        store.update_run(run.id, meta={"finished": False})
    again = evaluate(str(suite), "oracle", out=tmp_path / "kept", observer=watch)
    assert (again.played, again.missing) == (15, 0)
    assert watch.advanced == 30 and ("evaluate counting", 30) in watch.phases
    assert {key: episode.seed for key, episode in rows(again).items()} == {key: e.seed for key, e in before.items()}
    store, run = open_evaluation(done.folder)
    with store:
        kept = {(row.phase, row.group, row.member): row.id for row in store.episodes(run.id, "eval/one")}
    assert kept == {key: number for key, number in ids.items() if key[0] == "eval/one"}


def test_what_failed_is_tried_again_and_a_timeout_is_a_result(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=4, failing="'test:1'", hanging="'test:2'")
    (tmp_path / "log.broken").touch()
    watch = Notes()
    limits = ["limits.episode_seconds=2"]
    first = evaluate(str(suite), "oracle", out=tmp_path / "kept", overrides=limits, observer=watch)
    assert (first.missing, first.stopped) == (1, None)
    assert not first.report.finished
    reasons = {episode.task_id: episode.stop_reason for episode in rows(first).values()}
    assert reasons["test:1"] is StopReason.ENV_ERROR and reasons["test:2"] is StopReason.TIMEOUT
    store, run = open_evaluation(tmp_path / "kept")
    with store:
        assert (run.status, run.meta["finished"]) == ("failed", False)
    assert first.report.total.aborted == 1 and first.report.total.correct == 2 and first.report.total.judged == 3
    assert "3 of 4 episodes" in watch.lines[-1] and "the same command goes on" in watch.lines[-1]
    (tmp_path / "log.broken").unlink()
    again = evaluate(str(suite), "oracle", out=tmp_path / "kept", overrides=limits)
    assert (again.played, again.missing) == (1, 0)
    assert again.report.finished and again.report.total.judged == 4
    store, run = open_evaluation(tmp_path / "kept")
    with store:
        assert (run.status, run.meta["finished"]) == ("finished", True)
    assert sorted(judged(tmp_path / "log").values()) == [1, 1, 1, 2]


def test_the_cost_limit_stops_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    suite, log = suite_file(tmp_path, tasks=6), tmp_path / "log"
    small = ["limits.max_turns=1", "sampling.max_turn_tokens=8"]
    asked = {"out": tmp_path / "kept", "prices": Prices(input=1.0, output=10.0)}
    with pytest.raises(ConfigError, match="--price-input"):
        evaluate(str(suite), "tiny", overrides=["limits.cost=1"])
    first = evaluate(str(suite), "tiny", overrides=[*small, "limits.cost=1e-9"], **asked)
    assert (first.stopped, first.played, first.missing) == ("cost", 1, 5)
    store, run = open_evaluation(tmp_path / "kept")
    with store:
        assert (run.status, run.meta["finished"]) == ("interrupted", False)
    assert not first.report.finished
    assert any("5 of 6 episodes are missing" in note for note in first.report.notes)
    each = first.cost
    assert each is not None and each > 0
    watch = Notes()
    second = evaluate(str(suite), "tiny", overrides=[*small, f"limits.cost={3.5 * each}"], observer=watch, **asked)
    assert second.stopped == "cost" and second.played >= 1 and second.missing > 0
    assert second.cost is not None and second.cost <= 4.5 * each
    assert "a higher limits.cost goes on" in watch.lines[-1]
    third = evaluate(str(suite), "tiny", overrides=small, **asked)
    assert (third.stopped, third.missing) == (None, 0)
    assert first.played + second.played + third.played == 6
    assert set(judged(log).values()) == {1}
    counted = sum(episode.prompt_tokens * 1.0 + episode.completion_tokens * 10.0 for episode in rows(third).values())
    assert third.cost == pytest.approx(counted / 1e6)


def test_what_a_failed_episode_has_cost_is_not_forgotten(tmp_path: Path) -> None:
    suite = suite_file(tmp_path, tasks=2, failing="'test:1'")
    small = {"overrides": ["limits.max_turns=1", "sampling.max_turn_tokens=8"], "prices": Prices(output=1.0)}
    costs = []
    for attempt in range(3):
        (tmp_path / "log.broken").touch() if attempt < 2 else (tmp_path / "log.broken").unlink()
        done = evaluate(str(suite), "tiny", out=tmp_path / "kept", **small)
        costs.append(round((done.cost or 0.0) * 1e6))
        assert done.report.total.cost == pytest.approx(done.cost)
    tokens = {episode.task_id: episode.completion_tokens for episode in rows(done).values()}
    failed = costs[0] - tokens["test:0"]
    assert failed > 0 and done.missing == 0
    assert costs == [tokens["test:0"] + failed, tokens["test:0"] + 2 * failed, sum(tokens.values()) + 2 * failed]
    assert evaluate(str(suite), "tiny", out=tmp_path / "kept", **small).cost == done.cost  # also where it only reads


def test_the_time_limit_stops_and_counts_all_sittings(tmp_path: Path) -> None:
    suite, kept = suite_file(tmp_path, tasks=40, pause=0.25), tmp_path / "kept"
    asked = {"out": kept, "concurrency": 2}
    first = evaluate(str(suite), "oracle", overrides=["limits.seconds=1.5"], **asked)
    assert first.stopped == "seconds" and 0 < first.missing < 40
    assert len(rows(first)) == 40 - first.missing  # what was cut off in mid-play is no episode
    again = evaluate(str(suite), "oracle", overrides=["limits.seconds=1.5"], **asked)
    assert (again.stopped, again.played, again.missing) == ("seconds", 0, first.missing)
    last = evaluate(str(suite), "oracle", out=kept)
    assert (last.stopped, last.missing) == (None, 0)
    store, run = open_evaluation(kept)
    with store:
        assert run.meta["seconds"] > 1.5


async def test_an_endpoint_that_breaks_down_is_asked_again_and_paid_as_it_counts(tmp_path: Path) -> None:
    async with stub_server.stub_server() as stub:
        small = {
            "tasks": 3,
            "overrides": ["limits.max_turns=1"],
            "concurrency": 1,
            "prices": Prices(input=1.0, output=2.0),
        }
        serving = {"endpoint": stub.url, "mode": "chat", "engine_options": {"retries": 0}}

        def play() -> Evaluation:
            return evaluate(ARITHMETIC, stub_server.MODEL, out=tmp_path / "kept", **small, **serving)

        stub.faults.extend([stub_server.good] * 2 + [stub_server.status(500, "out of memory")] * 100)
        first = await asyncio.to_thread(play)
        assert (first.played, first.missing, first.report.total.aborted) == (3, 2, 2)
        assert {episode.stop_reason for episode in rows(first).values() if episode.aborted} == {StopReason.ENGINE_ERROR}
        stub.faults.clear()
        again = await asyncio.to_thread(play)
        assert (again.played, again.missing, again.report.total.aborted) == (2, 0, 0)
        assert again.cost == pytest.approx(3 * (11 * 1.0 + 3 * 2.0) / 1e6)  # by the stub's count of each answer
        assert again.report.total.cost == pytest.approx(again.cost)


async def test_what_nobody_counts_is_not_priced(tmp_path: Path) -> None:
    uncounted = stub_server.changed(lambda answer: answer.pop("usage") and None)
    asked = {"tasks": 1, "mode": "chat", "overrides": ["limits.max_turns=1"]}
    async with stub_server.stub_server() as stub:
        stub.faults.extend([uncounted] * 10)
        asked |= {"endpoint": stub.url, "prices": Prices(input=1.0, output=1.0)}
        with pytest.raises(ConfigError, match=r"--price-input: the endpoint does not say .* \(usage\)"):
            await asyncio.to_thread(evaluate, ARITHMETIC, stub_server.MODEL, out=tmp_path / "priced", **asked)
        asked["prices"] = None
        done = await asyncio.to_thread(evaluate, ARITHMETIC, stub_server.MODEL, out=tmp_path / "free", **asked)
        assert (done.cost, done.missing) == (None, 0)


def test_a_player_that_turns_out_to_be_another_is_refused(tmp_path: Path) -> None:
    """What only shows when the player has started: the weights that a server has, how it can be asked."""
    suite, kept = suite_file(tmp_path, tasks=3), tmp_path / "kept"
    prices = Prices(input=1.0)
    small = ["limits.max_turns=1", "sampling.max_turn_tokens=8"]
    first = evaluate(str(suite), "tiny", out=kept, prices=prices, overrides=[*small, "limits.cost=1e-9"])
    assert first.missing == 2
    store, run = open_evaluation(kept)
    with store:
        assert run.meta["player"]["weights_hash"] == run.meta["weights_hash"] != ""
        store.update_run(run.id, meta={"player": {**run.meta["player"], "weights_hash": "others"}})
    with pytest.raises(ConfigError, match='was begun otherwise: weights_hash is "others" there'):
        evaluate(str(suite), "tiny", out=kept, overrides=small)
    assert len(rows(first)) == 1


def test_a_folder_is_worked_on_by_one_process(tmp_path: Path) -> None:
    with (
        EvaluationFolder(tmp_path / "kept"),
        pytest.raises(ConfigError, match="another process evaluates into this folder"),
    ):
        evaluate(ARITHMETIC, "oracle", tasks=1, out=tmp_path / "kept")
    assert evaluate(ARITHMETIC, "oracle", tasks=1, out=tmp_path / "kept").played == 1


def test_a_folder_with_a_training_run_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        store.begin_run("somebody", "{}", "train")
    with pytest.raises(ConfigError, match="holds a run that is no evaluation"):
        evaluate(ARITHMETIC, "oracle", tasks=1, out=tmp_path)


def test_evaluations_share_a_database(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    first, second = (
        evaluate(ARITHMETIC, who, tasks=2, out=tmp_path / who, store=place) for who in ("oracle", "random")
    )
    assert first.report.model.name == "oracle" and second.report.model.name == "random"
    assert not (tmp_path / "oracle" / "store.sqlite").exists()
    assert evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path / "oracle").played == 0  # the folder knows where
    with pytest.raises(ConfigError, match=r"the episodes of .* are in"):
        evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path / "oracle", store=f"sqlite:///{tmp_path / 'other.sqlite'}")
    with pytest.raises(ConfigError, match="leave the password out"):
        evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path / "x", store="postgresql://me:secret@host/runs")


def test_a_run_of_a_shared_database_is_worked_on_out_of_one_folder(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared.sqlite")
    asked = {"tasks": 1, "store": shared}
    with RunStore(shared) as other:
        assert other.claim("same")
        with pytest.raises(ConfigError, match="another process evaluates into its run 'same' now"):
            evaluate(ARITHMETIC, "oracle", out=tmp_path / "two" / "same", **asked)
        assert evaluate(ARITHMETIC, "oracle", out=tmp_path / "two" / "else", **asked).played == 1
    assert evaluate(ARITHMETIC, "oracle", out=tmp_path / "two" / "same", **asked).played == 1
    with RunStore(shared) as other:
        assert other.claim("same")
        with pytest.raises(ConfigError, match="another process evaluates into its run 'same' now"):
            evaluate(ARITHMETIC, "oracle", out=tmp_path / "two" / "same", tasks=1)  # the folder says where it is


def test_a_shared_database_is_found_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = {"tasks": 2, "store": "shared.sqlite"}
    first = evaluate(ARITHMETIC, "oracle", out="one/same", **asked)
    again = evaluate(ARITHMETIC, "oracle", out="two/same", **asked)  # the same evaluation, under another folder
    assert (again.played, again.report.total) == (0, first.report.total)
    monkeypatch.chdir(tmp_path / "elsewhere")
    store, run = open_evaluation(tmp_path / "two" / "same")
    with store:
        assert len(list(store.episodes(run.id))) == 2
    (tmp_path / "shared.sqlite").unlink()
    with pytest.raises(ConfigError, match=r"shared\.sqlite', which is not there"):
        open_evaluation(tmp_path / "two" / "same")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"samples": 2, "overrides": ["entries.arithmetic.samples=4"]}, "samples is given twice"),
        ({"seed": 2, "overrides": ["seed=4"]}, "'seed=4': seed is given twice, here and as 2"),
        ({"concurency": 2}, "evaluate has no such argument; did you mean 'concurrency'"),
        ({"max_turns": 2}, "the suite says it"),
        ({"overrides": ["split=tset"]}, "'tset'"),
        ({"overrides": ["options.level=[1]"]}, "did you mean 'levels'"),
        ({"entries": ["sums"]}, "--entry 'sums'"),
        ({"temperature": -1.0}, "sampling.temperature=-1.0"),
        ({"temperature": float("inf")}, "sampling.temperature=inf: input should be a finite number"),
        ({"prices": None, "overrides": ["limits.cost=1"]}, "--price-input"),
        ({"endpoint": "not a url"}, "not a url"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(tmp_path: Path, asked: dict, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        evaluate(ARITHMETIC, "oracle", out=tmp_path / "kept", **asked)
    assert said in str(refused.value)
    assert not (tmp_path / "kept").exists()


def test_what_an_environment_raises_before_it_plays_is_one_line_with_its_place(tmp_path: Path) -> None:
    code = "def tasks(split):\n    return {}[split]\n"
    (tmp_path / "clumsy.py").write_text(code)
    namespace: dict = {}
    exec(compile(code, str(tmp_path / "clumsy.py"), "exec"), namespace)

    class Clumsy(ArithmeticEnv):
        def tasks(self, split: str):  # type: ignore[override]
            return namespace["tasks"](split)

    register("tests/Clumsy-v0", Clumsy)
    with pytest.raises(
        EnvError, match=r"entry 'clumsy': its environment raised KeyError: 'test' \(clumsy\.py, line 2\)"
    ):
        evaluate("tests/Clumsy-v0", "oracle", out=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_folder_of_an_address_has_its_host() -> None:
    assert default_folder("core", "http://key@127.0.0.1:8000/v1", {}).name.startswith("core-127.0.0.1-8000-")
    assert default_folder("core", "org/name", {}).name.startswith("core-name-")


def test_a_moved_folder_is_the_same_evaluation(tmp_path: Path) -> None:
    evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = evaluate(ARITHMETIC, "oracle", tasks=2, out=tmp_path / "there")
    assert (again.played, again.report.run) == (0, "here")


def test_aborted_episodes_stay_out_of_the_shares() -> None:
    def episode(correct: float, reason: StopReason = StopReason.TERMINATED) -> Trajectory:
        turn = Turn([1], None, [2], [-0.5], assistant("x"), reward=correct)
        return Trajectory("t", turns=[turn], metrics={"correct": correct, "depth": 3.0}, stop_reason=reason)

    episodes = [episode(1.0), episode(0.0), episode(0.0, StopReason.ENV_ERROR)]
    result = summarise(episodes, model="m", env="e", split="test", temperature=1.0, seed=0, seconds=1.0)
    assert result.accuracy.value == 0.5
    assert (result.episodes, result.aborted, result.tokens) == (2, 1, 3)
    assert "depth" not in result.shares
    assert result.means["depth"].value == 3.0
    assert result.to_metrics()["accuracy_high"] == result.accuracy.high


def test_an_environment_without_verdicts_has_no_accuracy() -> None:
    turn = Turn([1], None, [2], [-0.5], assistant("x"), reward=0.25)
    episodes = [Trajectory("t", turns=[turn], metrics={"regret": 3.0}, stop_reason=StopReason.TERMINATED)]
    about = {"model": "m", "env": "e", "split": "test", "temperature": 1.0, "seed": 0, "seconds": 1.0}
    for played in (episodes, []):
        result = summarise(played, **about)  # type: ignore[arg-type]
        assert math.isnan(result.accuracy.value) and (result.accuracy.low, result.accuracy.high) == (0.0, 1.0)
        assert math.isnan(result.to_metrics()["accuracy"])


def test_no_accuracy_is_shown_meanwhile_where_no_verdict_says_correct(tmp_path: Path) -> None:
    class Scored(ArithmeticEnv):
        def judge(self, episode: Episode) -> Verdict:
            return Verdict(super().judge(episode).reward / 2)

    register("tests/Scored-v0", Scored)
    for env, known in ((ARITHMETIC, {"accuracy": 1.0}), ("tests/Scored-v0", {})):
        watch = Notes()
        assert evaluate(env, "oracle", tasks=2, out=tmp_path / env, observer=watch).missing == 0
        assert watch.shown[-1] == known
