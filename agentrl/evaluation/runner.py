"""Run a policy on an environment's tasks and summarise what came out.

Invariant: which tasks are run, and the seed of every episode, depend on (split, number, seed) alone, so that two
policies are compared on the same tasks with the same random numbers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl.account import BatchAccount
from agentrl.assembly import Actors, build_actors, env_factory, load_policy, task_set
from agentrl.config import RunConfig
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluation.result import EvalResult, summarise
from agentrl.observe import Observer
from agentrl.oracle import oracle_trajectory
from agentrl.rollout import GroupRequest
from agentrl.seeding import derive_seed
from agentrl.store import RunStore
from agentrl.trajectory import Trajectory

OnEpisode = Callable[[GroupRequest, Trajectory], None]


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


async def run_oracle(make_env: Callable[[], Env], requests: list[GroupRequest], hook: OnEpisode) -> None:
    """Play every request with the environment's own oracle."""
    env = make_env()
    try:
        for request in requests:
            trajectory = await oracle_trajectory(env, None, request.task_id, request.seed)
            hook(request, trajectory)
    finally:
        await env.aclose()


def evaluate(
    model: str,
    env: str | None = None,
    *,
    env_options: dict[str, Any] | None = None,
    split: str = "test",
    episodes: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
    config: RunConfig | None = None,
    out: Path | None = None,
    observer: Observer | None = None,
) -> EvalResult:
    """Evaluate a model (anything that `agentrl models` resolves, or `oracle`) on an environment.

    `config` gives environment, engine, rollout limits and the model's chat options where they are not given. With
    `out`, the episodes go to `out/store.sqlite`. Raises `ConfigError` for what cannot be honoured.
    """
    settings = _settings(config or RunConfig(), model, env, env_options, split)
    watch = observer or Observer()
    make_env = env_factory(settings.env)
    requests = eval_requests(make_env(), split, episodes, seed)
    store = _store(out) if out else None
    run = store.begin_run(f"eval {model}", settings.to_yaml()) if store else 0
    finished: list[Trajectory] = []

    def hook(request: GroupRequest, trajectory: Trajectory) -> None:
        finished.append(trajectory)
        if store:
            store.add_episode(run, "eval/base", 0, request.group_id, 0, trajectory)
        correct = sum(episode.metrics.get("correct", 0.0) for episode in finished)
        watch.advance(1, accuracy=correct / len(finished))

    async def play() -> None:
        if model == "oracle":
            await run_oracle(make_env, requests, hook)
            return
        watch.phase("load")
        actors = build_actors(settings, *load_policy(settings))
        await actors.engine.start()
        watch.phase("evaluate", len(requests))
        try:
            account = await run_policy(actors, requests, temperature, hook)
            for line in account.lines():
                watch.note(line)
        finally:
            await actors.engine.close()

    began = time.perf_counter()
    asyncio.run(play())
    seconds = time.perf_counter() - began
    result = summarise(
        finished, model=model, env=settings.env.id, split=split, temperature=temperature, seed=seed, seconds=seconds
    )
    if store:
        store.log(run, "eval/base", 0, result.to_metrics())
        store.close()
    return result


def _store(out: Path) -> RunStore:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={str(out)!r}: the folder cannot be written: {error.strerror}") from None
    return RunStore(out / "store.sqlite")


def _settings(
    config: RunConfig, model: str, env: str | None, env_options: dict[str, Any] | None, split: str
) -> RunConfig:
    tree = config.model_dump()
    if env is not None and env != config.env.id:
        tree["env"] |= {"id": env, "options": {}}
    if env_options is not None:
        tree["env"]["options"] = env_options
    tree["env"]["eval_split"] = split
    tree["model"]["name"] = model
    return RunConfig.model_validate(tree)
