"""`agentrl envs list | show ID | play ID | check ID`."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentrl.chat.tool_calls import signature
from agentrl.cli.output import Json, console, examples, options_of, print_json, print_table
from agentrl.env import Env, ensure_env, make
from agentrl.errors import ConfigError
from agentrl.messages import Message, ToolCall, assistant
from agentrl.oracle import oracle_trajectory
from agentrl.registration import env_ids
from agentrl.signature import constructor_parameters

if TYPE_CHECKING:
    from agentrl.conformance import Report

app = typer.Typer(help="Environments: tasks, tools and judges.", no_args_is_help=True)
EnvId = Annotated[str, typer.Argument(metavar="ID", help="Environment id; see `agentrl envs list`.")]
_CHECKS = examples("agentrl envs check agentrl/Arithmetic-v0 'levels=[2]'", "agentrl envs check --all --json")
Options = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Environment options.")]


@app.command("list", epilog=examples("agentrl envs list --json"))
def list_command(as_json: Json = False) -> None:
    """List the registered environments."""
    environments = [{"id": name, "from": origin} for name, origin in sorted(env_ids().items())]
    if as_json:
        print_json(environments)
    else:
        print_table(["id", "from"], [[environment["id"], environment["from"]] for environment in environments])


@app.command("show", epilog=examples("agentrl envs show agentrl/Arithmetic-v0 'levels=[2]'"))
def show_command(env_id: EnvId, options: Options = None, as_json: Json = False) -> None:
    """Show what an environment is: options, splits, tools, a task and the oracle's solution of it."""
    env = ensure_env(make(env_id, **options_of(options or [])))
    about = _describe(env, env_id)
    if as_json:
        print_json(about)
        return
    out = console()
    out.print(f"{env_id}\n\n{about['description']}\n", markup=False)
    print_table(["option", "default"], [[name, repr(default)] for name, default in about["options"].items()])
    splits = ", ".join(f"{split} ({size})" for split, size in about["splits"].items())
    out.print(f"\nsplits: {splits}\ntools:  {', '.join(about['tools']) or 'none'}\n", markup=False)
    reward = about["example"]["reward"]
    solved = "" if reward is None else ", solved by the oracle"
    out.print(f"task {about['example']['task']}{solved}:", markup=False)
    for offered in about["example"].get("tools", ()):
        out.print(f"on offer: {offered}", markup=False)
    for message in about["example"]["messages"]:
        _print_message(Message.from_wire(message))
    if reward is not None:
        out.print(f"reward {reward:g}", markup=False)


@app.command("play", epilog=examples("agentrl envs play agentrl/Arithmetic-v0 --task test:3 'levels=[2]'"))
def play_command(
    env_id: EnvId,
    options: Options = None,
    task: Annotated[str | None, typer.Option(help="Task id, such as test:3; default: a random one.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds the choice of the task.")] = None,
) -> None:
    """Play an episode yourself: answer in words, or call a tool as `calculator {"expression": "1+1"}`; q quits."""
    asyncio.run(_play(ensure_env(make(env_id, **options_of(options or []))), task, seed))


@app.command("check", epilog=_CHECKS)
def check_command(
    env_id: Annotated[str | None, typer.Argument(metavar="ID", help="Environment id.")] = None,
    options: Options = None,
    every: Annotated[bool, typer.Option("--all", help="Check every registered environment.")] = False,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks of each split to try.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the episodes.")] = 0,
    as_json: Json = False,
) -> None:
    """Check that an environment keeps the contract; exit code 1 if it does not."""
    from agentrl.conformance import check_environment

    if (env_id is None) != every:
        raise ConfigError("name an environment, or give --all")
    reports: list[Report] = []
    ids, given = sorted(env_ids()) if env_id is None else [env_id], options_of(options or [])
    for number, name in enumerate(ids, 1):
        make(name, **given).close()  # a mistake of the caller's is his, not the environment's
        if not as_json:
            console().print(f"[{number}/{len(ids)}] {name}", markup=False)
        reports.append(check_environment(partial(make, name, **given), name, tasks=tasks, seed=seed))
        if not as_json:
            _print_report(reports[-1])
    if as_json:
        print_json([asdict(report) for report in reports])
    if any(report.failures for report in reports):
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    said = {True: "ok", False: "NO", None: "-"}
    rows = [[said[f.holds], f.rule, "; ".join(filter(None, (f.seen, f.advice)))] for f in report.findings]
    print_table(["", "rule", "seen"], rows)
    if report.steps_per_second:
        console().print(f"{report.steps_per_second:,.1f} steps/s of the oracle, one episode at a time\n", markup=False)


async def _play(env: Env, task: str | None, seed: int | None) -> None:
    messages, info = await env.areset(seed=seed, options={"task": task} if task else None)
    tools = info.get("tools", env.tool_schemas())
    names = {schema["function"]["name"]: schema["function"]["parameters"] for schema in tools}
    out, total, finished = console(), 0.0, False
    for tool in info.get("tools", ()):
        out.print(f"on offer: {signature(tool)}", markup=False)
    try:
        while not finished:
            for message in messages:
                _print_message(message)
            line = _ask()
            if line is None or line in ("q", "quit"):
                break
            messages, reward, terminated, truncated, info = await env.astep(_action(line, names))
            total += reward
            finished = terminated or truncated
            if finished:
                for message in messages:
                    _print_message(message)
                out.print(f"{info.get('stop_reason')}: reward {total:g}, {info.get('metrics', {})}", markup=False)
    finally:
        await env.aclose()
    if not finished:
        out.print(f"left; reward so far {total:g}", markup=False)


def _ask() -> str | None:
    """The next line, without spaces around it; None at the end of the input."""
    try:
        line = input("you> ").strip()
    except EOFError:
        print()
        return None
    if not sys.stdin.isatty():
        print(line)  # a terminal shows what is typed; a pipe's transcript should hold it, too
    return line


def _action(line: str, tools: dict[str, dict[str, Any]]) -> Message:
    """A line that begins with a tool's name is a call; its rest is JSON, or the text of the tool's one argument."""
    name, _, rest = line.partition(" ")
    if name not in tools:
        return assistant(line)
    rest = rest.strip()
    properties = list(tools[name].get("properties", {}))
    arguments = rest if rest.startswith("{") or len(properties) != 1 else json.dumps({properties[0]: rest})
    return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments or "{}"),))


def _print_message(message: Message) -> None:
    out = console()
    if message.text:
        out.print(f"{message.role}: {message.text}", markup=False)
    for call in message.tool_calls:
        out.print(f"{message.role} calls {call.name} {call.arguments}", markup=False)


def _describe(env: Env, env_id: str) -> dict[str, Any]:
    inner = env.unwrapped
    splits = {split: len(env.tasks(split)) for split in env.splits}
    first = next((split for split, size in splits.items() if size), None)
    if first is None:
        raise ConfigError(f"{env_id} has no tasks")
    about: dict[str, Any] = {
        "id": env_id,
        "description": inspect.getdoc(type(inner)) or "",
        "options": _options(type(inner)),
        "splits": splits,
        "tools": [schema["function"]["name"] for schema in env.tool_schemas()],
        "example": _example(env, env.tasks(first)[0].id),
    }
    env.close()
    return about


def _options(kind: type[Any]) -> dict[str, Any]:
    """Options of the constructor with their defaults, and of those that it hands `**options` on to."""
    parameters = constructor_parameters(f"environment {kind.__name__}", kind) or {}
    return {name: default for name, (_, default) in parameters.items() if default is not inspect.Parameter.empty}


def _example(env: Env, task: str) -> dict[str, Any]:
    """A task, with the oracle's solution if there is one, and its tools where it has its own."""
    about: dict[str, Any] = {"task": task, "reward": None}
    try:
        solved = asyncio.run(oracle_trajectory(env, None, task, seed=0))
        messages, info, about["reward"] = solved.messages, solved.info, solved.reward
    except ConfigError:
        opening, info = env.reset(seed=0, options={"task": task})
        messages = list(opening)
    about["messages"] = [message.to_wire() for message in messages]
    if "tools" in info:
        about["tools"] = [signature(tool) for tool in info["tools"]]
    return about
