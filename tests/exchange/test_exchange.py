"""Runs in and out of a store: the readers of each form read what was written, and nothing is lost on the way back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from inspect_ai.analysis import samples_df
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

from agentrl.errors import ConfigError
from agentrl.exchange import export_run, form_of, import_run
from agentrl.store import EpisodeRecord, RunStore
from agentrl.trajectory import StopReason
from tests.exchange.runs import ENV, HOSTILE, fill, trajectory
from tests.store.episodes import plain


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore(tmp_path / "store.sqlite") as opened:
        fill(opened)
        yield opened


def content(store: RunStore, run: int) -> object:
    """All that the store gives back of a run, but for ids and times of writing."""

    def key(record: EpisodeRecord) -> object:
        where = (record.phase, record.step, record.group, record.member)
        return where, record.trajectory.to_json(), record.advantages

    judgements = [(j.phase, j.group, j.member, j.judge, j.number, j.verdict, j.text) for j in store.judgements(run)]
    metrics = {phase.phase: repr(store.metrics(run, phase.phase)) for phase in store.phases(run)}
    tasks = [store.task(run, ENV, f"test:{index}") for index in range(3)]
    record = store.run(run)
    facts = record.config, record.kind, record.status, {**record.meta, "imported": True}
    return facts, [key(episode) for episode in store.episodes(run)], metrics, judgements, tasks


def test_json_lines_bring_everything_back_bit_for_bit(store: RunStore, tmp_path: Path) -> None:
    file, told = tmp_path / "out" / "trial.jsonl", []
    assert export_run(store, store.run("trial"), file, advance=lambda: told.append(1)) == 7 == len(told)
    with RunStore(tmp_path / "other.sqlite") as other:
        run, count = import_run(other, file)
        assert (run.name, count) == ("trial", 7)
        assert content(other, run.id) == content(store, store.run("trial").id)
        again = tmp_path / "again.jsonl"
        export_run(other, run, again)
    kinds = [json.loads(line).get("kind") for line in again.read_bytes().splitlines()]
    assert sorted(kinds) == sorted(json.loads(line)["kind"] for line in file.read_bytes().splitlines())
    assert [path.name for path in file.parent.iterdir()] == ["trial.jsonl"]


def test_lone_surrogates_of_a_judge_do_not_keep_a_run_from_coming_back(store: RunStore, tmp_path: Path) -> None:
    run = store.run("trial").id
    store.add_judgement(run, "train", 1, "g", 0, "judge", 0, True, "é \udc00 \x00 \u2028")
    store.update_run(run, meta={"note": "\ud800"})
    export_run(store, store.run("trial"), tmp_path / "f.jsonl")
    with RunStore(tmp_path / "other.sqlite") as other:
        again, _ = import_run(other, tmp_path / "f.jsonl")
        assert [said.text for said in other.judgements(again.id, "train")] == ["é \ufffd \x00 \u2028"]
        assert other.run(again.id).meta["note"] == "\ufffd"


def test_one_phase_alone(store: RunStore, tmp_path: Path) -> None:
    assert export_run(store, store.run("trial"), tmp_path / "train.jsonl", phase="train") == 1
    text = (tmp_path / "train.jsonl").read_bytes()
    assert b"eval/base" not in text
    with pytest.raises(ConfigError, match=r"phase='trian'.*did you mean 'train'"):
        export_run(store, store.run("trial"), tmp_path / "x.jsonl", phase="trian")


def test_a_bare_trajectory_a_line_is_enough(tmp_path: Path) -> None:
    file = tmp_path / "made elsewhere.jsonl"
    made = trajectory("t", True)
    file.write_text(f'{{"trajectory": {made.to_json()}}}\n\n')
    with RunStore(tmp_path / "s.sqlite") as store:
        run, count = import_run(store, file, "mine")
        (record,) = store.episodes(run.id)
        assert (count, run.kind, record.trajectory.to_json()) == (1, "import", made.to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: not an object"),
        (
            '{"kind": "run", "name": "a"}\n{"kind": "epsiode"}',
            "line 2: kind 'epsiode' is none of run, metrics, task, episode",
        ),
        ('{"kind": "episode", "phase": "p"}', "line 1: episode: no 'trajectory'"),
        ('{"trajectory": {"task_id": 1}}', "line 1: episode: trajectory.task_id: input should be a valid string"),
        ('{"trajectory": []}', "line 1: episode: trajectory: input should be"),
        ('{"trajectory": {"task_id": "t"}, "step": 1180591620717411303424}', "line 1: episode: step: input should be"),
        ('{"trajectory": {"task_id": "t"}, "advantages": [[1]]}', r"line 1: episode: advantages of \[1\] tokens"),
        ('{"kind": "run", "format": 9}', "line 1: run: format 9 is newer"),
        ('{"kind": "run", "run_kind": "dance"}', "line 1: run: run_kind: input should be 'train', 'eval' or 'import'"),
        ('{"kind": "run", "status": "odd"}', "line 1: run: status: input should be 'running'"),
        ('{"kind": "run", "name": "a"}\n{"kind": "run", "name": "b"}', "line 2: run: a file holds one run"),
        (
            '{"kind": "metrics", "phase": "p", "step": 1, "metrics": {"a": "b"}}',
            r"line 1: metrics: metrics\.a: input should be a valid number",
        ),
        ('{"kind": "metrics", "phase": "p", "step": 1, "metrics": []}', "line 1: metrics: metrics: input should be"),
    ],
)
def test_what_is_not_in_this_form_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(text)
    with RunStore(tmp_path / "s.sqlite") as store, pytest.raises(ConfigError, match=message) as caught:
        import_run(store, file)
    assert "\n" not in str(caught.value)
    with RunStore(tmp_path / "s.sqlite") as store:
        assert store.runs() == []


def test_a_file_that_ends_early_leaves_the_store_as_it_was(store: RunStore, tmp_path: Path) -> None:
    export_run(store, store.run("trial"), tmp_path / "f.jsonl")
    whole = (tmp_path / "f.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[: len(whole) // 2])
    with RunStore(tmp_path / "other.sqlite") as other:
        with pytest.raises(ConfigError, match=r"line \d+: not JSON"):
            import_run(other, tmp_path / "cut.jsonl")
        assert other.runs() == []
        assert import_run(other, tmp_path / "f.jsonl")[1] == 7


def test_no_episode_takes_the_place_of_another(tmp_path: Path) -> None:
    made = [trajectory("t", right).to_json() for right in (True, False, True)]
    (tmp_path / "bare.jsonl").write_text("".join(f'{{"trajectory": {text}}}\n' for text in made))
    placed = "".join(f'{{"trajectory": {text}, "group": "g", "member": 0}}\n' for text in made)
    (tmp_path / "placed.jsonl").write_text(placed)
    with RunStore(tmp_path / "s.sqlite") as store:
        run, count = import_run(store, tmp_path / "bare.jsonl")
        found = list(store.episodes(run.id))
        assert count == 3
        assert [record.member for record in found] == [0, 1, 2]
        assert [record.trajectory.to_json() for record in found] == made
        with pytest.raises(ConfigError, match=r"line 2: episode: there was an episode of phase 'import'.*member 0"):
            import_run(store, tmp_path / "placed.jsonl")


def test_a_run_is_not_imported_over_another(store: RunStore, tmp_path: Path) -> None:
    export_run(store, store.run("trial"), tmp_path / "f.jsonl")
    with pytest.raises(ConfigError, match="has a run 'trial' already"):
        import_run(store, tmp_path / "f.jsonl")
    assert import_run(store, tmp_path / "f.jsonl", "second")[1] == 7


def test_a_parquet_table_holds_every_number(store: RunStore, tmp_path: Path) -> None:
    assert export_run(store, store.run("trial"), tmp_path / "t.parquet") == 7
    table = pq.read_table(tmp_path / "t.parquet")
    rows = table.to_pylist()
    assert [row["phase"] for row in rows] == ["eval/base"] * 6 + ["train"]
    made = trajectory("train:5", True, text=HOSTILE)
    last = rows[-1]
    assert last["sampled_ids"] == [turn.sampled_ids for turn in made.turns]
    assert last["logprobs"] == [turn.logprobs for turn in made.turns]
    assert last["turn_rewards"] == [0.25, 0.75]
    assert last["advantages"] == [[0.5, -0.25], [1.0, 0.0, 2.0]]
    assert (last["seed"], last["correct"], last["reward"]) == (str(2**70), True, 1.0)
    assert rows[5]["correct"] is None
    assert [row["tool_errors"] for row in rows] == [1] * 7
    assert table.schema.metadata[b"run"] == b"trial"


def read_log(folder: Path, task: str) -> EvalLog:
    """The log of this task as Inspect AI's own list of the folder finds it; its beginning alone says the same."""
    (listed,) = (found for found in list_eval_logs(str(folder)) if found.task == task)
    log, head = read_eval_log(listed), read_eval_log(listed, header_only=True)
    assert (head.eval.task_id, head.results, head.stats) == (log.eval.task_id, log.results, log.stats)
    return log


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of Inspect AI, told by pandas
def test_inspect_reads_its_logs(store: RunStore, tmp_path: Path) -> None:
    assert export_run(store, store.run("trial"), tmp_path / "logs", "inspect") == 7
    assert len(list((tmp_path / "logs").iterdir())) == 2
    assert {listed.task for listed in list_eval_logs(str(tmp_path / "logs"))} == {"trial-eval-base", "trial-train"}
    log = read_log(tmp_path / "logs", "trial-eval-base")
    assert (log.status, log.eval.task, log.eval.model) == ("success", "trial/eval/base", "agentrl/tiny")
    assert log.results is not None
    assert (log.results.total_samples, log.results.completed_samples) == (6, 5)
    accuracy = log.results.scores[0].metrics["accuracy"].value
    assert accuracy == pytest.approx(3 / 5)
    assert log.samples is not None
    assert [(sample.id, sample.epoch) for sample in log.samples][:3] == [("test:0", 1), ("test:0", 2), ("test:1", 1)]
    sample = log.samples[0]
    assert sample.target == "84"
    assert sample.scores is not None
    assert (sample.scores["correct"].value, sample.scores["correct"].answer) == ("C", "84")
    assert [message.role for message in sample.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    said, failed = sample.messages[1], sample.messages[2]
    assert said.tool_calls[0].parse_error is not None  # type: ignore[union-attr]
    assert said.tool_calls[1].arguments == {"expression": "42 * 2"}  # type: ignore[union-attr]
    assert failed.error.type == "parsing"  # type: ignore[union-attr]
    broken = log.samples[5]
    assert broken.error is not None
    assert broken.error.message == "it broke"
    assert not broken.scores
    usage = log.stats.model_usage["agentrl/tiny"]
    assert usage.output_tokens == 6 * 5
    frame = samples_df(str(tmp_path / "logs"))
    assert sorted(frame["score_reward"].dropna()) == [1.0] * 6
    train = read_log(tmp_path / "logs", "trial-train")
    assert train.samples is not None
    assert train.samples[0].id == "train:5 1 g"


def test_an_episode_without_a_verdict_shows_its_reward_in_inspect(tmp_path: Path) -> None:
    with RunStore(tmp_path / "s.sqlite") as store:
        run = store.begin_run("rewards", "")
        for member, reward in enumerate((0.25, 0.75)):
            made = trajectory("t", True, member)
            made.metrics, made.turns[0].reward, made.turns[1].reward = {}, reward, 0.0
            store.add_episode(run, "train", 1, "g", member, made)
        export_run(store, store.run("rewards"), tmp_path / "logs", "inspect")
    log = read_log(tmp_path / "logs", "rewards-train")
    assert log.results is not None and log.samples is not None
    assert [(score.name, score.metrics["mean"].value) for score in log.results.scores] == [("reward", 0.5)]
    assert [sample.scores["reward"].value for sample in log.samples if sample.scores] == [0.25, 0.75]


def test_inspect_reads_whatever_an_episode_may_hold(tmp_path: Path) -> None:
    """Every ending; rewards and durations that are no numbers; two groups of the same task."""
    with RunStore(tmp_path / "s.sqlite") as store:
        run = store.begin_run("odd", "")
        for member, reason in enumerate(StopReason):
            store.add_episode(run, "eval/a", 0, "g", member, plain(2, 1.0, stop_reason=reason, seconds=2.0))
        for number, reward in enumerate((math.nan, math.inf, 0.5)):
            lasted = plain(2, reward, stop_reason=StopReason.MAX_TURNS, seconds=math.nan)
            store.add_episode(run, "eval/b", 0, f"g{number}", 0, lasted)
        store.add_episode(run, "eval b", 0, "g", 0, plain(0, stop_reason=StopReason.TIMEOUT, seconds=math.nan))
        assert export_run(store, store.run("odd"), tmp_path / "logs", "inspect") == len(StopReason) + 4
    logs = [read_eval_log(listed) for listed in list_eval_logs(str(tmp_path / "logs"))]
    every, rewards, timeout = sorted(logs, key=lambda log: -len(log.samples or []))
    assert every.samples is not None and rewards.samples is not None and timeout.samples is not None
    limits = {sample.metadata["stop_reason"]: sample.limit.type for sample in every.samples if sample.limit}
    assert limits == {
        "max_turns": "turn",
        "max_tokens": "token",
        "token_budget": "token",
        "call_budget": "custom",
        "timeout": "time",
    }
    assert {sample.metadata["stop_reason"] for sample in every.samples if sample.error} == {
        str(reason) for reason in StopReason if reason.aborted
    }
    assert [(sample.id, sample.epoch) for sample in rewards.samples] == [("t", 1), ("t 0 g1", 1), ("t 0 g2", 1)]
    values = [sample.scores["reward"].value for sample in rewards.samples if sample.scores]
    assert values == ["nan", "inf", 0.5]
    assert rewards.results is not None
    assert rewards.results.scores[0].metrics["mean"].value == 0.5
    assert (rewards.results.scores[0].unscored_samples, rewards.results.completed_samples) == (2, 3)
    assert timeout.samples[0].limit is None  # nobody knows how long it took


def test_the_form_follows_from_the_name() -> None:
    assert form_of(Path("a.parquet")) == "parquet"
    assert form_of(Path("logs"), "inspect") == "inspect"
    with pytest.raises(ConfigError, match="does not tell the form"):
        form_of(Path("a.csv"))
    with pytest.raises(ConfigError, match=r"form='paquet'.*did you mean 'parquet'"):
        form_of(Path("a.csv"), "paquet")


def test_what_fails_leaves_no_file(store: RunStore, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    for form in ("jsonl", "parquet"):
        with pytest.raises(ConfigError, match="is a folder; name a file"):
            export_run(store, store.run("trial"), tmp_path, form)
    for name, form in (("a.jsonl", None), ("a.parquet", None), ("logs", "inspect")):
        with pytest.raises(KeyboardInterrupt):
            export_run(store, store.run("trial"), tmp_path / "out" / name, form, advance=stop)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert math.isnan(store.metrics(1, "train")[0][1]["bad"])
