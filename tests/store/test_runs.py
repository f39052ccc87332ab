"""Runs, phases, tasks, advantages and judgements, on every database."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentrl.errors import StoreError
from agentrl.messages import assistant, system, user
from agentrl.store import EpisodeQuery, RunStore, TaskRecord
from tests.store.episodes import INF, NAN, plain


def test_a_run_says_what_it_is_and_how_it_stands(store: RunStore) -> None:
    run = store.begin_run("a", "steps: 1", "eval", {"suite": "core", "seed": 1})
    began = store.run(run)
    assert (began.kind, began.status, began.meta) == ("eval", "running", {"suite": "core", "seed": 1})
    assert began.created == pytest.approx(began.updated)
    store.update_run(run, status="finished", meta={"seed": 2, "odd": ["\x00", None, 0.1 + 0.2]})
    ended = store.run("a")
    assert (ended.id, ended.status) == (run, "finished")
    assert ended.meta == {"suite": "core", "seed": 2, "odd": ["\x00", None, 0.1 + 0.2]}
    store.update_run(run)
    assert store.run(run).status == "finished"
    assert store.run(run).updated > began.updated
    assert store.begin_run("a", "steps: 2", meta={"more": True}) == run
    again = store.run("a")
    assert (again.status, again.kind, again.config, again.created) == ("running", "train", "steps: 2", began.created)
    assert again.meta == {**ended.meta, "more": True}


def test_a_run_that_is_not_there_is_one_line_with_the_nearest_name(store: RunStore) -> None:
    with pytest.raises(StoreError, match="has no run 'first'; it holds no run yet"):
        store.run("first")
    store.begin_run("first", "")
    with pytest.raises(StoreError, match=r"has no run 'frist'.*first") as caught:
        store.run("frist")
    assert "\n" not in str(caught.value)
    for act in (lambda: store.run(99), lambda: store.update_run(99, status="failed")):
        with pytest.raises(StoreError, match="99"):
            act()


def test_a_name_is_claimed_by_one_store_at_a_time(place: str) -> None:
    with RunStore(place) as first, RunStore(place) as second:
        assert first.claim("a") and second.claim("b")
        assert not second.claim("a") and not first.claim("b")
        second.begin_run("a", "")  # it binds those alone who ask
        first.close()
        assert second.claim("a")
    with RunStore(place) as third:
        assert third.claim("a") and third.claim("b")


def test_a_run_that_is_removed_takes_all_of_it_along(store: RunStore) -> None:
    first, second = (store.begin_run(name, "") for name in ("first", "second"))
    for run in (first, second):
        store.log(run, "train", 1, {"loss": 1.0})
        store.add_tasks(run, "env", [TaskRecord("t")])
        store.add_episode(run, "train", 1, "g", 0, plain())
        store.add_judgement(run, "train", 1, "g", 0, "judge", 0, True, "yes")
    store.remove_run(first)
    store.remove_run(first)
    assert [run.name for run in store.runs()] == ["second"]
    assert store.phases(first) == [] and store.metrics(first, "train") == [] and store.judgements(first) == []
    assert store.task(first, "env", "t") is None and list(store.episodes(first)) == []
    assert len(list(store.episodes(second))) == 1 and len(store.judgements(second)) == 1
    assert store.begin_run("first", "") != second


def test_meta_must_be_json(store: RunStore) -> None:
    with pytest.raises(StoreError, match="the meta of a run must be JSON"):
        store.begin_run("a", "", meta={"x": object()})
    assert store.runs() == []


def test_logging_and_playing_are_signs_of_life(store: RunStore) -> None:
    run = store.begin_run("a", "")
    before = store.run(run).updated
    store.log(run, "train", 1, {"x": 1.0})
    logged = store.run(run).updated
    assert logged > before
    store.add_episode(run, "train", 1, "g", 0, plain())
    assert store.run(run).updated > logged
    assert [found.updated for found in store.runs()] == [store.run(run).updated]


def test_phases_count_steps_and_episodes(store: RunStore) -> None:
    run, other = store.begin_run("a", ""), store.begin_run("b", "")
    assert store.phases(run) == []
    store.log(run, "warm_start", 3, {"loss": 1.0})
    store.log(run, "train", 1, {"loss": 1.0})
    for member in range(3):
        store.add_episode(run, "train", 2, "g", member, plain())
    store.add_episode(other, "elsewhere", 2, "g", 0, plain())
    found = [(phase.phase, phase.steps, phase.last_step, phase.episodes) for phase in store.phases(run)]
    assert found == [("train", 2, 2, 3), ("warm_start", 1, 3, 0)]
    store.discard_after(run, 0, ["train"])
    assert [phase.phase for phase in store.phases(run)] == ["warm_start"]


def test_tasks_come_back_and_are_replaced(store: RunStore) -> None:
    run, other = store.begin_run("a", ""), store.begin_run("b", "")
    opening = [system("s\x00"), user("\u202e {{ x }}"), assistant("a")]
    task = TaskRecord("train:1", "train", 3, opening, {"gold": ["42", None, -0.0, "\x00"], "nan": INF})
    store.add_tasks(run, "env", [task, TaskRecord("train:2")])
    store.add_tasks(run, "env", [task])
    store.add_tasks(run, "env", [])
    assert store.task(run, "env", "train:1") == task
    assert store.task(run, "env", "train:2") == TaskRecord("train:2", opening=[])
    store.add_tasks(run, "env", [TaskRecord("train:1", "test", None, [], "new")])
    changed = store.task(run, "env", "train:1")
    assert changed is not None and (changed.split, changed.level, changed.gold) == ("test", None, "new")
    for owner, env_id, task_id in ((run, "env", "train:3"), (run, "other", "train:1"), (other, "env", "train:1")):
        assert store.task(owner, env_id, task_id) is None


def test_writers_of_the_same_tasks_wait_for_each_other(place: str) -> None:
    tasks = [TaskRecord(f"train:{index:03d}") for index in range(80)]
    with RunStore(place) as one, RunStore(place) as other, ThreadPoolExecutor(2) as threads:
        run = one.begin_run("a", "")

        def write(store: RunStore, order: list[TaskRecord]) -> None:
            for _ in range(15):
                store.add_tasks(run, "env", order)

        for done in [threads.submit(write, one, tasks), threads.submit(write, other, tasks[::-1])]:
            done.result(60)
        assert all(one.task(run, "env", task.id) is not None for task in tasks)


def test_a_task_that_is_not_json_is_one_line(store: RunStore) -> None:
    run = store.begin_run("a", "")
    with pytest.raises(StoreError, match="task 'train:1' cannot be written"):
        store.add_tasks(run, "env", [TaskRecord("train:1", gold=object())])


def test_advantages_come_back_by_turn_and_token(store: RunStore) -> None:
    run = store.begin_run("a", "")
    for member in range(3):
        store.add_episode(run, "train", 1, "g", member, plain(2))
    store.set_advantages(run, "train", 1, "g", 1, [[0.5, NAN], [-INF, 1e-3]])
    store.set_advantages_of(run, "train", 1, [("g", 2, [[1.0, 2.0], [3.0, 4.0]])])
    none, first, second = (found.advantages for found in store.episodes(run))
    assert none is None and first is not None
    assert (first[0][0], first[1][0], second) == (0.5, -INF, [[1.0, 2.0], [3.0, 4.0]])
    assert math.isnan(first[0][1]) and first[1][1] == pytest.approx(1e-3, rel=1e-6)
    assert [found.trajectory for found in store.episodes(run)] == [plain(2)] * 3
    store.add_episode(run, "train", 1, "g", 2, plain(2))
    assert [found.advantages is None for found in store.episodes(run)] == [True, False, True]


@pytest.mark.parametrize("advantages", [[], [[1.0, 2.0]], [[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.0]]])
def test_advantages_of_another_shape_are_refused_whole(store: RunStore, advantages: list[list[float]]) -> None:
    run = store.begin_run("a", "")
    for member in (0, 1):
        store.add_episode(run, "train", 1, "g", member, plain(2))
    with pytest.raises(StoreError, match="for an episode that sampled \\[2, 2\\]"):
        store.set_advantages_of(run, "train", 1, [("g", 0, [[1.0, 2.0], [3.0, 4.0]]), ("g", 1, advantages)])
    assert [found.advantages for found in store.episodes(run)] == [None, None]


def test_advantages_and_judgements_of_no_episode_are_refused(store: RunStore) -> None:
    run = store.begin_run("a", "")
    with pytest.raises(StoreError, match="has no episode of run 1, phase 'train', step 1, group 'g', member 0"):
        store.set_advantages(run, "train", 1, "g", 0, [])
    with pytest.raises(StoreError, match="has no episode of run 1"):
        store.add_judgement(run, "train", 1, "g", 0, "judge", 0, True, "")


def test_judgements_come_back_exactly_and_are_replaced(store: RunStore) -> None:
    run, other = store.begin_run("a", ""), store.begin_run("b", "")
    for owner, phase in ((run, "eval/a"), (run, "eval/b"), (other, "eval/a")):
        store.add_episode(owner, phase, 0, "g", 0, plain(task_id="test:1"))
    hostile = "NUL \x00, a surrogate \udc00, \x1b[2J, \u202e" + "long " * 10_000
    store.add_judgement(run, "eval/a", 0, "g", 0, "cot", 1, None, hostile)
    store.add_judgement(run, "eval/a", 0, "g", 0, "cot", 0, False, "no")
    store.add_judgement(run, "eval/a", 0, "g", 0, "cot", 0, True, "yes")
    store.add_judgement(run, "eval/b", 0, "g", 0, "cot", 0, False, "b")
    store.add_judgement(other, "eval/a", 0, "g", 0, "cot", 0, False, "other")
    found = [(said.phase, said.task_id, said.number, said.verdict, said.text) for said in store.judgements(run)]
    assert found == [
        ("eval/a", "test:1", 0, True, "yes"),
        ("eval/a", "test:1", 1, None, hostile),
        ("eval/b", "test:1", 0, False, "b"),
    ]
    (only,) = store.judgements(run, "eval/b")
    assert store.episode(only.episode).phase == "eval/b"
    store.add_episode(run, "eval/a", 0, "g", 0, plain(task_id="test:1"))
    assert [said.phase for said in store.judgements(run)] == ["eval/b"]
    store.discard_after(run, -1, ["eval/b"])
    assert store.judgements(run) == []


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
def test_a_key_that_a_database_cannot_hold_is_one_line(store: RunStore, text: str) -> None:
    run = store.begin_run("a", "")
    for act in (
        lambda: store.begin_run(text, ""),
        lambda: store.add_episode(run, text, 0, "g", 0, plain()),
        lambda: store.add_episode(run, "train", 0, text, 0, plain()),
        lambda: store.log(run, text, 0, {"x": 1.0}),
        lambda: store.add_tasks(run, "env", [TaskRecord(text)]),
    ):
        with pytest.raises(StoreError, match="cannot hold NUL characters or lone surrogates"):
            act()
    store.log(run, "train", 0, {text: 1.0})
    assert store.metrics(run, "train") == [(0, {"a\ufffdb": 1.0})]
    assert store.count(EpisodeQuery(run)) == 0


def test_numbers_beyond_32_bits_are_kept(store: RunStore) -> None:
    run = store.begin_run("a", "")
    store.add_episode(run, "train", 2**40, "g", 2**40, plain())
    store.log(run, "train", 2**40, {"x": 1.0})
    (read,) = store.episodes(run, step=2**40)
    assert (read.step, read.member) == (2**40, 2**40)
    assert store.metrics(run, "train") == [(2**40, {"x": 1.0})]


def test_an_episode_of_no_run_is_refused(store: RunStore) -> None:
    with pytest.raises(StoreError, match="cannot be written") as caught:
        store.add_episode(7, "train", 0, "g", 0, plain())
    assert "\n" not in str(caught.value)
