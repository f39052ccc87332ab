"""Episodes a second that the run store writes (each committed when `add_episode` returns) and reads.

python benchmarks/store.py --episodes 2000 --turns 4 --tokens 60 --processes 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

from agentrl.messages import assistant, tool_result
from agentrl.store import RunStore
from agentrl.trajectory import Trajectory, Turn


def make_episode(turns: int, tokens: int, seed: int) -> Trajectory:
    """An episode of random ids and log-probabilities, which compress as badly as real ones."""
    draw = random.Random(seed)

    def ids() -> list[int]:
        return [draw.randrange(49_152) for _ in range(tokens)]

    def turn(index: int) -> Turn:
        text = " ".join(str(draw.randrange(1000)) for _ in range(tokens // 2))
        logprobs = [-draw.expovariate(2) for _ in range(tokens)]
        return Turn(ids(), index - 1 if index else None, ids(), logprobs, assistant(text), [tool_result(text, "c")])

    return Trajectory(f"task-{seed}", "env", turns=[turn(index) for index in range(turns)], metrics={"correct": 1.0})


def write(file: Path, worker: int, episodes: list[Trajectory]) -> None:
    """Write the episodes under keys of the worker's own."""
    with RunStore(file) as store:
        run = store.begin_run("benchmark", "")
        for index, episode in enumerate(episodes):
            store.add_episode(run, "train", index // 64, f"{worker}.{index % 64:04d}", 0, episode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000, help="episodes that each process writes")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=60, help="tokens sampled, and observed, in a turn")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    episodes = [make_episode(options.turns, options.tokens, seed) for seed in range(options.episodes)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.sqlite"
        RunStore(file).close()
        context = multiprocessing.get_context("fork")
        writers = [context.Process(target=write, args=(file, index, episodes)) for index in range(options.processes)]
        began = time.perf_counter()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        written = time.perf_counter()
        with RunStore(file) as store:
            count = sum(1 for found in store.episodes(1) if found.trajectory.turns)
        read = time.perf_counter()
        report = {
            "episodes": count,
            "json_bytes_per_episode": len(episodes[0].to_json()),
            "file_bytes_per_episode": file.stat().st_size // count,
            "writes_per_second": round(count / (written - began)),
            "reads_per_second": round(count / (read - written)),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
