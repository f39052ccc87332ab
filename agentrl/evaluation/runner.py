"""Evaluate a model on a suite; and the trainer's evaluations of the policy that it trains, over the same rollout.

Invariants: which episodes there are, and the seed of each, depend on the suite alone (of a trainer's evaluation: on
split, number and seed), so that two models are compared on the same tasks with the same random numbers; an episode
that has a result in the folder is never played again, whatever ended the process before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from agentrl.account import BatchAccount
from agentrl.assembly import Actors, task_set
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluation.budget import Budget, Prices
from agentrl.evaluation.folder import EvaluationFolder, default_folder
from agentrl.evaluation.identity import weights_of
from agentrl.evaluation.plan import Plan
from agentrl.evaluation.players import Player, PlayerSettings, PlayLimits, resolve_player
from agentrl.evaluation.session import Evaluation, Session
from agentrl.evaluation.suite import Suite
from agentrl.evaluation.tasksets import read_tasks
from agentrl.observe import Observer
from agentrl.registry import nearest
from agentrl.rollout import GroupRequest
from agentrl.seeding import derive_seed
from agentrl.settings import validated
from agentrl.suites import load_suite
from agentrl.trajectory import Trajectory

OnEpisode = Callable[[GroupRequest, Trajectory], None]


def evaluate(
    suite: str | Suite,
    model: str | None,
    *,
    samples: int | None = None,
    tasks: int | None = None,
    entries: Sequence[str] = (),
    overrides: Sequence[str] = (),
    temperature: float | None = None,
    seed: int | None = None,
    prices: Prices | None = None,
    out: Path | str | None = None,
    store: str | None = None,
    fresh: bool = False,
    observer: Observer | None = None,
    **serving: Any,
) -> Evaluation:
    """Evaluate `model` on a suite, or go on with an evaluation that was begun; returns once the folder has the report.

    Args:
        suite: a `Suite`, or what names one: a bundled or installed suite, a YAML file, an environment id.
        model: a hub id, folder, GGUF file, built-in name, run, adapter, `oracle`, `random`, what an endpoint
            serves (None: its one model).
        samples: episodes of each task, instead of the suite's.
        tasks: so many tasks of each entry, instead of the suite's.
        entries: these entries of the suite alone.
        overrides: `dotted.key=value` of a suite that is given by name.
        temperature: instead of the suite's.
        seed: instead of the suite's.
        prices: what tokens cost, for `Evaluation.cost` and `limits.cost`.
        out: the folder; default: one under `runs/eval` whose name says what decides the numbers.
        store: URL or file of a database for the episodes, which evaluations may share; default: one in the folder.
        fresh: forget what the folder holds.
        observer: who watches.
        **serving: how the model is served: `concurrency`, `endpoint`, `engine` ..., see `PlayerSettings`.

    Raises `ConfigError` for what cannot be honoured, before anything is loaded; `EngineError` once the engine is out
    of reach: what was finished by then is kept, and the same call goes on.
    """
    watch = observer or Observer()
    _said_once(overrides, samples=samples, tasks=tasks, temperature=temperature, seed=seed)
    asked = load_suite(suite, overrides) if isinstance(suite, str) else suite
    asked = _adjusted(asked, entries, samples=samples, temperature=temperature, seed=seed)
    budget = Budget(prices, asked.limits.cost)
    player = resolve_player(model, _settings(asked, serving))
    plan = Plan.of(asked, read_tasks(asked, tasks, watch))
    facts = {"model": player.model, **_known(player), "weights": weights_of(player, watch), **plan.suite.decisive()}
    folder = EvaluationFolder(Path(out) if out else default_folder(asked.name, player.model, facts), store)
    meta = {
        "suite": asked.name,
        "suite_version": asked.version,
        "model": player.model,
        "model_kind": str(player.kind),
        "weights_hash": None,
        "seed": asked.seed,
        "prices": None if prices is None else {"input": prices.input, "output": prices.output},
        "tasksets": {name: entry.digest for name, entry in plan.entries.items()},
        "tasks": {name: len(entry.tasks) for name, entry in plan.entries.items()},
    }
    with folder, folder.open() as kept:
        return Session(plan, player, kept, folder, budget, watch).run(facts, meta, fresh)


def _known(player: Player) -> dict[str, Any]:
    """What decides a player's numbers, as far as it is known before it is started."""
    about = player.describe()
    return {"player": {key: about[key] for key in about if key not in ("model", "weights_hash")}}


def _said_once(overrides: Sequence[str], **values: Any) -> None:
    """Raise `ConfigError` for a key of the suite that an argument and an override both set."""
    for override in overrides:
        key = override.partition("=")[0].strip().split(".")
        if values.get(key[-1]) is not None and "options" not in key:
            raise ConfigError(f"{override!r}: {key[-1]} is given twice, here and as {values[key[-1]]} for all of it")


def _adjusted(suite: Suite, entries: Sequence[str], *, samples: int | None, **values: Any) -> Suite:
    """The suite with what was asked otherwise; a value that it cannot hold is a `ConfigError`."""
    tree = (suite.chosen(entries) if entries else suite).model_dump(mode="json")
    if samples is not None:
        tree["samples"] = samples
        for entry in tree["entries"].values():
            entry["samples"] = None
    if values["temperature"] is not None:
        tree["sampling"]["temperature"] = values["temperature"]
    if values["seed"] is not None:
        tree["seed"] = values["seed"]
    return validated(Suite, tree)


def _settings(suite: Suite, serving: dict[str, Any]) -> PlayerSettings:
    own = {field.name for field in fields(PlayLimits)}
    valid = sorted({field.name for field in fields(PlayerSettings)} - own)
    for key in serving:
        if key in own:
            raise ConfigError(f"{key}={serving[key]!r}: the suite says it; use overrides=[...]")
        if key not in valid:
            raise ConfigError(f"{key}={serving[key]!r}: evaluate has no such argument; {nearest(key, valid)}")
    sampling, limits = suite.sampling, suite.limits
    return PlayerSettings(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_turn_tokens=sampling.max_turn_tokens,
        max_turns=limits.max_turns,
        max_tokens=limits.max_tokens,
        max_context=limits.max_context,
        tool_calls=limits.tool_calls,
        episode_seconds=limits.episode_seconds,
        **serving,
    )


# -- the trainer's -----------------------------------------------------------------------------------------------------


def eval_requests(env: Env, split: str, episodes: int, seed: int) -> list[GroupRequest]:
    """The first `episodes` tasks of the split, one episode each."""
    tasks = task_set(env, split, "split")
    return [
        GroupRequest(f"{index:05d}", tasks[index].id, 1, derive_seed(seed, "eval", tasks[index].id))
        for index in range(min(episodes, len(tasks)))
    ]


async def run_policy(actors: Actors, requests: list[GroupRequest], temperature: float, hook: OnEpisode) -> BatchAccount:
    """Play every request with the policy; episodes go to `hook` as they finish. Returns where the time went."""
    rollout = actors.evaluation(hook, temperature)
    async for _ in rollout.run(requests):
        pass
    return rollout.account()
