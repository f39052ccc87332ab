"""Does turn-level credit learn faster than GRPO? The same small policy, several credit rules, several seeds.

    python benchmarks/turn_credit.py --reward turns                     # all rules, 10 seeds; resumes where it was
    python benchmarks/turn_credit.py --rules grpo gigpo --seeds 3 --reward outcome
    python benchmarks/turn_credit.py --report-only --figure docs/turn_credit.svg
    python benchmarks/turn_credit.py --quick                            # 1 step of each rule: whether it runs at all

The environment is a walk past drawers: the policy sees a sign, opens a drawer by a tool call, reads whether it was the
right one and the next sign, and says `done` when it wants to stop. At half of the signs the demonstrations of the warm
start take a wrong drawer every other time, so that the policy has to find out from the reward which of the two is
right; and now and then they stop early. With `--reward turns` a right drawer earns 1/length and a walk without a
mistake 1 more; with `--reward outcome` there is only that 1, so one wrong call anywhere loses all.

All cells start from the same warm-started weights and use the same learning rate; all rules of a seed see the same
tasks.
A finished cell (rule, seed, reward, settings) is a line of RESULTS and is not run again. Intervals are Student's, 95 %,
over seeds; differences are paired by seed.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import agentrl
from agentrl.config import RunConfig
from agentrl.env import GeneratedTasks, TaskSet
from agentrl.errors import ConfigError
from agentrl.messages import ToolCall, assistant, user
from agentrl.observe import Observer
from agentrl.task import Episode
from agentrl.tool import Tool, ToolResult
from agentrl.trajectory import ToolCallRecord

ENV_ID = "benchmark/Drawers-v0"
SIGNS = "abcdefghijkl"
DRAWERS = "1234"
REWARDS = ("turns", "outcome")
RULES: dict[str, list[Any]] = {
    "grpo": ["grpo"],
    "rloo": ["rloo"],
    "turn_loo": [{"name": "turn_loo", "peers": "pad_final"}],
    "turn_loo_alive": [{"name": "turn_loo", "peers": "alive"}],
    "mt_grpo": ["mt_grpo"],
    "gigpo": ["gigpo"],
}
"""Name in tables and on the command line -> `advantages` of the configuration."""
COLOURS = ("#1f2328", "#8c959f", "#2563c9", "#0891b2", "#b45309", "#0f7b5f", "#9333ea", "#be123c")


# -- the environment ---------------------------------------------------------------------------------------------------


class OpenDrawer(Tool):
    """Open a drawer; says whether it was the right one, and the next sign."""

    name = "search"  # a name that the tiny policy's vocabulary has a token for

    async def open(self, episode: Episode) -> None:
        self.signs, self.drawers = episode.task.data["signs"], episode.task.data["drawers"]
        self.opened = 0

    async def call(self, query: str) -> ToolResult:
        if self.opened == len(self.signs):
            return ToolResult("none left", "failed")
        right = query == self.drawers[self.opened]
        self.opened += 1
        following = self.signs[self.opened] if self.opened < len(self.signs) else "end"
        return ToolResult(f"{'yes' if right else 'no'} {following}")

    async def snapshot(self) -> int:
        return self.opened

    async def restore(self, state: int) -> None:
        self.opened = state


@agentrl.register(ENV_ID)
class Drawers(agentrl.ToolEnv):
    """A walk of `length` signs. Metrics: `correct` (no mistake, none left out), `right` (share of right drawers)."""

    tools = (OpenDrawer,)

    def __init__(
        self,
        *,
        length: int = 5,
        doubtful: int = 6,
        reward: str = "turns",
        demonstrate: bool = False,
        leave: float = 0.02,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """`demonstrate`: the oracle leaves with probability `leave` a turn and errs at every other `doubtful` sign."""
        super().__init__(**{"max_turns": length + 1, **options})
        if reward not in REWARDS:
            raise ConfigError(f"reward={reward!r}: one of {', '.join(REWARDS)}")
        self.length, self.reward, self.demonstrate, self.leave = length, reward, demonstrate, leave
        rng = random.Random(f"drawers:{seed}")
        signs = rng.sample(SIGNS, len(SIGNS))
        self.drawer_of = {sign: DRAWERS[place % len(DRAWERS)] for place, sign in enumerate(signs)}
        wrong = {sign: rng.choice([drawer for drawer in DRAWERS if drawer != self.drawer_of[sign]]) for sign in signs}
        self.believed = {sign: (self.drawer_of[sign], wrong[sign]) for sign in signs[:doubtful]}

    def tasks(self, split: str) -> TaskSet:
        self.check_split(split)
        return GeneratedTasks(split, 100_000 if split == "train" else 1_000, lambda index: self._task(split, index))

    def _task(self, split: str, index: int) -> agentrl.Task:
        signs = random.Random(f"{split}:{index}").choices(SIGNS, k=self.length)
        data = {"signs": signs, "drawers": [self.drawer_of[sign] for sign in signs]}
        return agentrl.Task(f"{split}:{index}", split, (user(signs[0]),), data)

    def turn_reward(self, episode: Episode, records: Sequence[ToolCallRecord]) -> float:
        return _right(records) / self.length if self.reward == "turns" else 0.0

    def judge(self, episode: Episode) -> agentrl.Verdict:
        right = _right(episode.calls)
        correct = float(right == self.length)
        return agentrl.Verdict(correct, {"correct": correct, "right": right / self.length})

    def state_key(self, episode: Episode) -> str:
        """The Markov state: the place in the walk and whether the outcome is lost already."""
        return f"{episode.task.id}:{len(episode.calls)}:{_right(episode.calls) == len(episode.calls)}"

    def oracle_action(self) -> agentrl.Message:
        episode, place = self.episode, len(self.episode.calls)
        rng = random.Random(f"{episode.seed}:{place}")
        if place == self.length or (self.demonstrate and rng.random() < self.leave):
            return assistant("done")
        drawer = episode.task.data["drawers"][place]
        if self.demonstrate:
            drawer = rng.choice(self.believed.get(episode.task.data["signs"][place], (drawer,)))
        return assistant(tool_calls=(ToolCall(id="call_0", name="search", arguments=json.dumps({"query": drawer})),))


def _right(records: Sequence[ToolCallRecord]) -> int:
    return sum(record.error is None and record.result.startswith("yes") for record in records)


# -- cells -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What all cells of a comparison share."""

    steps: int = 16
    groups: int = 4
    group_size: int = 8
    lr: float = 5e-4
    warm_steps: int = 80
    episodes: int = 64
    """Held-out episodes of the final evaluation."""


@dataclass(frozen=True)
class Cell:
    """One training run of the comparison."""

    rule: str
    reward: str
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


class Bar(Observer):
    """Shows training steps of all cells in one bar, and keeps the metrics of this cell's."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task
        self.metrics: list[Mapping[str, float]] = []

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics.append(metrics)
        self.progress.advance(self.task)


def configuration(cell: Cell, folder: Path, **changes: Any) -> RunConfig:
    """The run of a cell, over the recipe `tiny`; `changes` are dotted keys with `__`."""
    settings = cell.settings
    values: dict[str, Any] = {
        "name": folder.name,
        "out": folder.parent,
        "seed": cell.seed,
        "steps": settings.steps,
        "advantages": RULES[cell.rule],
        "env": {"id": ENV_ID, "options": {"reward": cell.reward}},
        "rollout__groups_per_step": settings.groups,
        "rollout__group_size": settings.group_size,
        "rollout__max_turns": 6,
        "optimiser__lr": settings.lr,
        "eval": {"episodes": settings.episodes, "before": False},
        "checkpoint__every": 10**6,
    }
    return agentrl.load_config(recipe="tiny", **values | changes)


def warm_started(cell: Cell, work: Path) -> tuple[Path, float]:
    """The policy that every cell starts from, and its success; made once."""
    steps = cell.settings.warm_steps
    folder = work / f"warm-{steps}"
    record = folder / "success.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        warm = {"steps": steps, "episodes_per_step": 32, "lr": 2e-3}
        env = {"id": ENV_ID, "options": {"demonstrate": True}}
        config = configuration(cell, folder, seed=0, steps=0, warm_start=warm, env=env)
        success = agentrl.train(config).evaluations["trained"].accuracy.value
        record.write_text(json.dumps(success), encoding="utf-8")
    return folder / "policy", float(json.loads(record.read_text(encoding="utf-8")))


def run_cell(cell: Cell, work: Path, bar: Bar) -> dict[str, Any]:
    """Train and evaluate one cell; its folder is removed afterwards."""
    began = time.perf_counter()
    policy, start = warm_started(cell, work)
    folder = work / "cell"
    shutil.rmtree(folder, ignore_errors=True)
    gc.collect()
    gc.freeze()  # the trainer collects garbage twice a step; what was imported by now need not be looked at again
    config = configuration(cell, folder, warm_start=None, model__name=str(policy.absolute()))
    final = agentrl.train(config, observer=bar).evaluations["trained"]
    shutil.rmtree(folder, ignore_errors=True)
    return {
        **asdict(cell),
        "start": start,
        "success": [round(metrics.get("accuracy", 0.0), 4) for metrics in bar.metrics],
        "right": [round(metrics.get("right", 0.0), 4) for metrics in bar.metrics],
        "turns": [round(metrics.get("turns", 0.0), 3) for metrics in bar.metrics],
        "final": final.accuracy.value,
        "seconds": round(time.perf_counter() - began, 1),
    }


def read_results(file: Path) -> list[dict[str, Any]]:
    """Finished cells; a line torn by a kill is left out, so its cell runs again."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def key_of(row: Mapping[str, Any]) -> str:
    return json.dumps({name: row[name] for name in ("rule", "reward", "seed", "settings")}, sort_keys=True)


def run_missing(cells: Sequence[Cell], file: Path, work: Path, console: Console) -> int:
    """Run the cells that `file` has no line of, seed by seed; returns how many there were."""
    done = {key_of(row) for row in read_results(file)}
    missing = [cell for cell in cells if cell.key not in done]
    work.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=sum(cell.settings.steps for cell in missing))
        for cell in missing:
            progress.update(task, description=f"{cell.rule}, {cell.reward}, seed {cell.seed}")
            row = run_cell(cell, work, Bar(progress, task))
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            progress.console.print(
                f"{cell.rule}, {cell.reward}, seed {cell.seed}: success {row['start']:.1%} -> {row['final']:.1%}, "
                f"{row['seconds']:.0f} s",
                highlight=False,
            )
    return len(missing)


# -- the report --------------------------------------------------------------------------------------------------------


def student_quantile(freedom: int, coverage: float = 0.95) -> float:
    """Two-sided quantile of Student's t by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + coverage / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval over seeds; infinite for one seed."""
    if len(values) < 2:
        return fmean(values), float("inf")
    return fmean(values), student_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))


Results = dict[str, dict[int, dict[str, Any]]]
"""Rule -> seed -> row."""


def gather(rows: Sequence[Mapping[str, Any]], cells: Sequence[Cell], reward: str) -> Results:
    """The rows of `cells` with this reward, rules in the order of RULES."""
    wanted = {cell.key for cell in cells if cell.reward == reward}
    found: Results = {}
    for row in rows:
        if key_of(row) in wanted:
            found.setdefault(row["rule"], {})[row["seed"]] = dict(row)
    return {rule: found[rule] for rule in RULES if rule in found}


def area(row: Mapping[str, Any]) -> float:
    """Mean training success over the steps: the area under the learning curve, in [0, 1]."""
    return fmean(row["success"])


def table_rows(results: Results) -> list[list[str]]:
    """Of each rule: seeds, final success, its paired difference from grpo, area, its paired difference."""
    lines = []
    base = results.get("grpo", {})
    for rule, by_seed in results.items():
        line = [rule, str(len(by_seed))]
        for value in (lambda row: float(row["final"]), area):
            line.append(
                "{:.1f} ± {:.1f}".format(*(100 * part for part in mean_and_half([*map(value, by_seed.values())])))
            )
            shared = [seed for seed in by_seed if seed in base]
            gains = [value(by_seed[seed]) - value(base[seed]) for seed in shared]
            known = rule != "grpo" and len(gains) > 1
            line.append("{:+.1f} ± {:.1f}".format(*(100 * part for part in mean_and_half(gains))) if known else "")
        lines.append(line)
    return lines


HEADER = ["rule", "seeds", "final success, %", "minus grpo", "area, %", "minus grpo"]


def markdown(results: Results) -> str:
    lines = [HEADER, ["---"] + ["---:"] * (len(HEADER) - 1), *table_rows(results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(panels: Mapping[str, Results]) -> str:
    """Training success by step, one panel a reward: means over seeds with 95 % bands, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "turn_credit", "font.size": 9}):
        drawing = Figure(figsize=(4.6 * len(panels) + 0.4, 3.8), layout="constrained", facecolor="white")
        row = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (reward, results) in zip(row, panels.items(), strict=True):
            for rule, by_seed in results.items():
                colour = COLOURS[list(RULES).index(rule) % len(COLOURS)]
                points = [
                    mean_and_half(values) for values in zip(*(r["success"] for r in by_seed.values()), strict=True)
                ]
                steps = range(1, len(points) + 1)
                axes.plot(steps, [100 * mean for mean, _ in points], color=colour, linewidth=1.6, label=rule)
                if len(by_seed) > 1:
                    low, high = ([100 * (mean + sign * half) for mean, half in points] for sign in (-1, 1))
                    axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_title({"turns": "reward a turn and outcome", "outcome": "outcome only"}[reward])
            axes.set_xlabel("training step")
            axes.set_ylim(0, 100)
            axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("walks without a mistake, %")
        row[-1].legend(loc="upper left", frameon=False)
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def report(cells: Sequence[Cell], file: Path, figure_file: Path | None, console: Console) -> None:
    """Print a table a reward, and write the figure."""
    rows = read_results(file)
    panels = {reward: gather(rows, cells, reward) for reward in REWARDS}
    panels = {reward: results for reward, results in panels.items() if results}
    for reward, results in panels.items():
        starts = [row["start"] for by_seed in results.values() for row in by_seed.values()]
        console.print(
            f"\nreward: {reward}; success after the warm start {100 * fmean(starts):.1f} %\n", highlight=False
        )
        print(markdown(results))
    if figure_file and panels:
        figure_file.write_text(figure(panels), encoding="utf-8")
        console.print(f"\nfigure: {figure_file}", highlight=False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rules", nargs="+", choices=list(RULES), default=list(RULES), metavar="RULE", help=", ".join(RULES)
    )
    parser.add_argument("--reward", nargs="+", choices=REWARDS, default=list(REWARDS))
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 ... SEEDS - 1")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="training steps of a cell")
    parser.add_argument("--lr", type=float, default=Settings.lr, help="learning rate, the same for all rules")
    parser.add_argument("--results", type=Path, default=Path("runs/turn_credit/results.jsonl"), help="a line a cell")
    parser.add_argument("--figure", type=Path, help="where the SVG goes")
    parser.add_argument("--report-only", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="1 step of 2 x 2 episodes of each rule")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    settings = Settings(steps=given.steps, lr=given.lr)
    if given.quick:
        settings = Settings(steps=1, groups=2, group_size=2, warm_steps=2, episodes=4)
    seeds = range(1 if given.quick else given.seeds)
    cells = [Cell(rule, reward, seed, settings) for seed in seeds for reward in given.reward for rule in given.rules]
    console = Console()
    if not given.report_only:
        run_missing(cells, given.results, given.results.parent / "work", console)
    report(cells, given.results, given.figure, console)


if __name__ == "__main__":
    main()
