"""What the run store takes: episodes written a second (each committed when `add_episode` returns), and milliseconds of
each question of a viewer, in a store of few and a store of many episodes.

python benchmarks/store.py --episodes 2000 --processes 2 --sizes 1000 100000 --store postgresql://user@host/empty
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from agentrl.messages import assistant, tool_result
from agentrl.store import EpisodeQuery, RunStore
from agentrl.store.query import SORTS
from agentrl.trajectory import StopReason, ToolCallRecord, Trajectory, Turn

LIMIT = 50
REPEATS = 15


def make_episode(turns: int, tokens: int, seed: int) -> Trajectory:
    """An episode of random ids and float32 log-probabilities, which compress as badly as real ones."""
    draw = random.Random(seed)

    def ids() -> list[int]:
        return [draw.randrange(49_152) for _ in range(tokens)]

    def turn(index: int) -> Turn:
        text = " ".join(str(draw.randrange(1000)) for _ in range(tokens // 2))
        logprobs = np.array([-draw.expovariate(2) for _ in range(tokens)], dtype="f4").tolist()
        call = ToolCallRecord("tool", "{}", text, draw.choice([None, None, None, "failed"]), draw.random())
        message, observation = assistant(text), [tool_result(text, "c")]
        return Turn(
            ids(), index - 1 if index else None, ids(), logprobs, message, observation, draw.random(), tool_calls=[call]
        )

    made = Trajectory(f"train:{seed % 1000}", "env", turns=[turn(index) for index in range(turns)])
    made.metrics, made.info, made.seconds = {"correct": float(draw.random() < 0.5)}, {"level": seed % 5}, draw.random()
    made.stop_reason = draw.choice([StopReason.TERMINATED, StopReason.TERMINATED, StopReason.MAX_TURNS])
    return made


def write(place: str, worker: int, episodes: list[Trajectory], count: int) -> None:
    """Write `count` episodes under keys of the worker's own."""
    with RunStore(place) as store:
        run = store.begin_run("benchmark", "")
        for index in range(count):
            phase = "train" if index % 4 else "eval/step"
            store.add_episode(run, phase, index // 64, f"{worker}.{index % 64:04d}", 0, episodes[index % len(episodes)])


def milliseconds(action: Callable[[], object]) -> float:
    """The median of some runs, the first left out."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken[1:]) * 1e3, 2)


def questions(store: RunStore, run: int, count: int) -> dict[str, float]:
    """Milliseconds of each question."""
    every = EpisodeQuery(run, limit=LIMIT)
    newest = store.page(replace(every, descending=True))[0]
    filters = {
        "phase": "eval/step",
        "step": newest.step,
        "task_id": "train:7",
        "group": newest.group,
        "level": 3,
        "correct": True,
        "stop_reason": "max_turns",
        "min_reward": 3.5,
        "min_turns": 9,
        "errors": False,
        "text": "in:99",
    }
    end = EpisodeQuery(run, limit=LIMIT, after=every.cursor(replace(newest, id=newest.id - LIMIT)))
    taken = {"first page": milliseconds(lambda: store.page(every)), "last page": milliseconds(lambda: store.page(end))}
    taken["last page by offset"] = milliseconds(lambda: store.page(replace(every, offset=count - LIMIT)))
    for sort in SORTS[1:]:
        sorted_by = replace(every, sort=sort)  # type: ignore[arg-type]
        taken[f"by {sort}"] = milliseconds(lambda query=sorted_by: store.page(query))
        middle = store.page(replace(sorted_by, offset=count // 2, limit=1))[0]
        after = replace(sorted_by, after=sorted_by.cursor(middle))
        taken[f"by {sort}, from the middle"] = milliseconds(lambda query=after: store.page(query))
    for name, value in filters.items():
        filtered = replace(every, descending=True, **{name: value})
        taken[f"{name}={value}"] = milliseconds(lambda query=filtered: store.page(query))
        taken[f"count {name}={value}"] = milliseconds(lambda query=filtered: store.count(query))
    group = replace(every, phase=newest.phase, step=newest.step, group=newest.group)
    taken["a group"] = milliseconds(lambda: store.page(group))
    taken["a phase by reward"] = milliseconds(lambda: store.page(replace(every, phase="train", sort="reward")))
    taken["count"] = milliseconds(lambda: store.count(every))
    taken["phases"] = milliseconds(lambda: store.phases(run))
    taken["neighbours"] = milliseconds(lambda: store.neighbours(newest.id, replace(every, sort="reward")))
    taken["one episode"] = milliseconds(lambda: store.episode(newest.id).trajectory)
    return taken


def rates(place: str, options: argparse.Namespace) -> dict[str, float]:
    """Episodes written and read a second by several processes at once."""
    episodes = [make_episode(options.turns, options.tokens, seed) for seed in range(256)]
    RunStore(place).close()
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=write, args=(place, index, episodes, options.episodes))
        for index in range(options.processes)
    ]
    began = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    written = time.perf_counter()
    with RunStore(place) as store:
        run = store.run("benchmark").id
        count = sum(1 for found in store.episodes(run) if found.trajectory.turns)
        read = time.perf_counter()
        paid = [
            (f"0.{slot:04d}", 0, [[0.5] * options.tokens] * options.turns)
            for slot in range(1, min(64, options.episodes))
            if slot % 4
        ]
        advantages = milliseconds(lambda: store.set_advantages_of(run, "train", 0, paid))
    return {
        "episodes": count,
        "json_bytes_per_episode": len(episodes[0].to_json()),
        "writes_per_second": round(count / (written - began)),
        "reads_per_second": round(count / (read - written)),
        f"ms_advantages_of_{len(paid)}_episodes": advantages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000, help="episodes that each process writes")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=60, help="tokens sampled, and observed, in a turn")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="stores to question, by episodes")
    parser.add_argument("--store", help="URL of an empty database (it is filled) in the place of SQLite files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.store or f"{folder}/store.sqlite"
        report: dict[str, object] = {"rates": rates(place, options)}
        if not options.store:
            report["file_bytes_per_episode"] = Path(place).stat().st_size // (options.episodes * options.processes)
        asked: dict[str, list[float]] = {}
        episodes = [make_episode(options.turns, options.tokens, seed) for seed in range(1000)]
        for size in options.sizes:
            place = options.store or f"{folder}/{size}.sqlite"
            with RunStore(place) as store:
                run = store.begin_run(f"of {size}", "")
                for index in range(size):
                    phase = "train" if index % 4 else "eval/step"
                    group = f"{index % 64:04d}"
                    store.add_episode(run, phase, index // 64, group, 0, episodes[index % len(episodes)])
                for name, taken in questions(store, run, size).items():
                    asked.setdefault(name, []).append(taken)
        report["milliseconds"] = {"sizes": options.sizes, **asked}
    print(json.dumps(report, indent=1).replace(",\n   ", ","))


if __name__ == "__main__":
    main()
