"""`agentrl tools list | show NAME | call NAME key=value ...`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from agentrl import registry
from agentrl.cli.output import Json, console, examples, first_line, options_of, print_json, print_table
from agentrl.errors import ConfigError, EnvError, UnknownNameError
from agentrl.messages import ToolCall
from agentrl.registry import nearest
from agentrl.task import Episode, Task
from agentrl.tool import Tool, ToolResult, Toolset, call_tool, resolve_tool, resolve_tools
from agentrl.trajectory import ToolCallRecord

app = typer.Typer(help="Tools that environments offer to agents.", no_args_is_help=True)
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A tool's name, see `agentrl tools list`; SET:NAME for one of a set.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option that the tool is made with; may be repeated."),
]
_SHOWN = examples("agentrl tools show calculator", "agentrl tools show mcp -o 'command=[python, server.py]'")
_CALLS = examples(
    "agentrl tools call calculator 'expression=2**10 + 1'",
    """agentrl tools call calculator '{"expression": "7 / 4"}' --json""",
    "agentrl tools call sql -o database=shop.sqlite 'query=SELECT COUNT(*) FROM orders'",
    "agentrl tools call mcp:add -o 'command=[python, server.py]' a=1 b=2",
)


@app.command("list", epilog=examples("agentrl tools list --json"))
def list_command(as_json: Json = False) -> None:
    """List the registered tools."""
    tools = [
        {"name": name, "description": _description(name), "from": registry.tools.origin(name)}
        for name in registry.tools.names()
    ]
    if as_json:
        print_json(tools)
    else:
        print_table(
            ["name", "what", "from"],
            [[tool["name"], first_line(tool["description"]), tool["from"]] for tool in tools],
        )


@app.command("show", epilog=_SHOWN)
def show_command(name: Name, options: Options = None, as_json: Json = False) -> None:
    """Show a tool's schema (OpenAI form) and limits; of a set, those of all of its tools."""
    tools, origin = _tools(name, options), registry.tools.origin(name.partition(":")[0])
    shown = [
        {
            **tool.schema(),
            "limits": {"timeout": tool.timeout, "max_output": tool.max_output, "concurrency": tool.concurrency},
            "from": origin,
        }
        for tool in tools
    ]
    if as_json:
        print_json(shown[0] if len(shown) == 1 else shown)
        return
    out = console()
    for tool, entry in zip(tools, shown, strict=True):
        limits = entry["limits"]
        out.print(f"{tool.name}: {tool.description}\nfrom:   {origin}\nlimits: {limits}\n", markup=False)
        out.print_json(json.dumps(tool.schema()))


@app.command("call", epilog=_CALLS)
def call_command(
    name: Name,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE|JSON", help="The tool's arguments, or one JSON object.")
    ] = None,
    options: Options = None,
    as_json: Json = False,
) -> None:
    """Call a tool once, as an agent would; exit code 1 if the call fails."""
    tools = _tools(name, options)
    if len(tools) != 1:
        raise ConfigError(f"{name!r} is a set of tools; call one as {name}:{tools[0].name}")
    tool = tools[0]
    given = arguments or []
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        text = given[0]
    else:
        text = json.dumps(_arguments(tool.schema(), given))
    result, record = asyncio.run(_call(tool, ToolCall(id="call_0", name=tool.name, arguments=text)))
    if as_json:
        print_json({"text": result.text, "error": result.error, "seconds": record.seconds})
    else:
        typer.echo(result.text)
    if result.error:
        raise typer.Exit(1)


async def _call(tool: Tool, call: ToolCall) -> tuple[ToolResult, ToolCallRecord]:
    """One call in a session of its own."""
    episode = Episode(Task("call:0", "call", ()), seed=0, tools={tool.name: tool})
    try:
        try:
            await tool.open(episode)
        except Exception as error:  # the author's code: to the caller it is one line, as in an episode
            raise EnvError(f"tool {tool.name!r} could not be opened: {error}") from error
        return await call_tool(episode.tools, call)
    finally:
        await tool.close()


def _tools(name: str, options: list[str] | None) -> list[Tool]:
    """The tool of that name, or the tools of a set; `SET:NAME` is one of a set."""
    source, _, wanted = name.partition(":")
    tools = resolve_tools(source, **options_of(options or []))
    chosen = [tool for tool in tools if not wanted or tool.name == wanted]
    if not chosen:
        offer = nearest(wanted, [tool.name for tool in tools])
        raise UnknownNameError(f"{source!r} has no tool {wanted!r}; {offer}")
    return chosen


def _description(name: str) -> str:
    try:
        component = registry.tools.get(name)
        if isinstance(component, type) and issubclass(component, Tool | Toolset):
            return component.description  # of the class: a tool that lacks an option or its sandbox has one, too
        return resolve_tool(name).description
    except ConfigError as error:  # one package's mistake must not hide the other tools
        return f"cannot be loaded: {error}"


def _arguments(schema: dict[str, object], given: list[str]) -> dict[str, object]:
    """Values as YAML, but as they stand where the tool wants text."""
    properties = schema["function"]["parameters"]["properties"]  # type: ignore[index]
    values = dict(options_of(given))
    for item in given:
        key, _, text = item.partition("=")
        if properties.get(key, {}).get("type") == "string":
            values[key] = text
    return values
