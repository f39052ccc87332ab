"""Two environments in one stream of rollouts, without a trainer and without a model.

    python examples/stream_rollouts.py --groups 12
    python examples/stream_rollouts.py --in-flight discard --branch

A scripted policy calls tools, now and then wrongly. Groups come out as they are completed; after every four the weights
are "updated", and what that does to the episodes under way is a choice. At the end stands where the time went.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import agentrl
from agentrl.chat import ChatRenderer
from agentrl.engines.latency import LogNormal
from agentrl.engines.scripted import ScriptedEngine
from agentrl.models.tiny import build_tiny
from agentrl.rollout import EnvSource, GroupRequest, InFlight, RolloutContext, RolloutLimits, RolloutPolicies
from agentrl.rollouts.branching import BranchAtTurns
from agentrl.rollouts.independent import IndependentChains

ENVIRONMENTS = {"arithmetic": "agentrl/Arithmetic-v0", "sql": "agentrl/SQL-v0"}
CALLS = (
    {"name": "calculator", "arguments": {"expression": "17 + 25"}},
    {"name": "sql", "arguments": {"query": "SELECT 1"}},
)


def sources() -> dict[str, EnvSource]:
    """Each environment with a renderer that knows its tools."""
    tokenizer = build_tiny()[1]
    found = {}
    for name, env_id in ENVIRONMENTS.items():
        schemas = agentrl.make(env_id).tool_schemas()
        renderer = ChatRenderer(tokenizer, schemas, tool_format="hermes", tool_prompt="none")
        found[name] = EnvSource(lambda env_id=env_id: agentrl.make(env_id), renderer)  # type: ignore[misc]
    return found


def replies() -> dict[str, float]:
    """What the scripted policy says, with weights."""
    calls = {f"<tool_call>\n{json.dumps(call)}\n</tool_call>": 1.0 for call in CALLS}
    return {**calls, "The answer is 42.": 0.7}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=12, help="groups of four episodes")
    parser.add_argument("--in-flight", type=InFlight, default=InFlight.FINISH, choices=list(InFlight))
    parser.add_argument("--branch", action="store_true", help="half of each group branches off after its first turn")
    arguments = parser.parse_args()

    envs = sources()
    own = envs["arithmetic"]
    assert own.renderer is not None
    table = replies()
    engine = ScriptedEngine(own.renderer, lambda prompt, sampling: table, latency=LogNormal(mean=0.05, sigma=1.0))
    context = RolloutContext(
        engine,
        own.renderer,
        own.make_env,
        RolloutLimits(max_turns=4, max_context=20_000, concurrency=16, decoding=8, tools=4),
        policies=RolloutPolicies(in_flight=arguments.in_flight, max_staleness=1, groups_per_version=4),
        envs=envs,
    )
    rollout = BranchAtTurns(context, turns=[1]) if arguments.branch else IndependentChains(context)
    tasks = {name: source.make_env().tasks("train") for name, source in envs.items()}
    names = [list(envs)[number % len(envs)] for number in range(arguments.groups)]
    requests = [GroupRequest(f"{n:03d}", tasks[name][n].id, 4, seed=n, env=name) for n, name in enumerate(names)]

    done = version = 0
    async for group in rollout.run(requests):
        done += 1
        ends = ", ".join(f"{t.stop_reason} after {len(t.turns)}" for t in group.trajectories)
        print(f"{group.group_id} {group.trajectories[0].env_id:22} {ends}")
        if done % 4 == 0:
            version += 1
            new = version
            served = await rollout.update(lambda: engine.publish({"weight": bytes([new])}, new), new)  # noqa: B023
            print(f"--- version {version}, weights {served[:8]}")
    print("\n".join(rollout.account().lines()))


if __name__ == "__main__":
    asyncio.run(main())
