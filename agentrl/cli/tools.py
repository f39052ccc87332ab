"""`agentrl tools list | show NAME | call NAME key=value ...`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from agentrl import registry
from agentrl.cli.output import Json, console, options_of, print_json, print_table
from agentrl.messages import ToolCall
from agentrl.tool import call_tool, resolve_tool

app = typer.Typer(help="Tools that environments offer to agents.", no_args_is_help=True)


@app.command("list", epilog="Example:  agentrl tools list --json")
def list_command(as_json: Json = False) -> None:
    """List the registered tools."""
    tools = [
        {"name": name, "description": resolve_tool(name).description, "from": registry.tools.origin(name)}
        for name in registry.tools.names()
    ]
    if as_json:
        print_json(tools)
    else:
        print_table(
            ["name", "what", "from"],
            [[tool["name"], tool["description"].split("\n")[0], tool["from"]] for tool in tools],
        )


@app.command("show", epilog="Example:  agentrl tools show calculator")
def show_command(name: Annotated[str, typer.Argument(help="A tool's name.")], as_json: Json = False) -> None:
    """Show a tool's schema (OpenAI form) and limits."""
    tool = resolve_tool(name)
    limits = {"timeout": tool.timeout, "max_output": tool.max_output, "concurrency": tool.concurrency}
    if as_json:
        print_json({**tool.schema(), "limits": limits, "from": registry.tools.origin(name)})
        return
    out = console()
    out.print(f"{name}: {tool.description}\nfrom:   {registry.tools.origin(name)}\nlimits: {limits}\n", markup=False)
    out.print_json(json.dumps(tool.schema()))


@app.command("call", epilog="""Example:  agentrl tools call calculator 'expression=2**10 + 1'""")
def call_command(
    name: Annotated[str, typer.Argument(help="A tool's name.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]... or JSON")] = None,
    as_json: Json = False,
) -> None:
    """Call a tool once, as an agent would; exit code 1 if the call fails."""
    tool = resolve_tool(name)
    given = arguments or []
    if len(given) == 1 and given[0].lstrip().startswith("{"):
        text = given[0]
    else:
        text = json.dumps(_arguments(tool.schema(), given))
    result, record = asyncio.run(call_tool({name: tool}, ToolCall(id="call_0", name=name, arguments=text)))
    if as_json:
        print_json({"text": result.text, "error": result.error, "seconds": record.seconds})
    else:
        typer.echo(result.text)
    if result.error:
        raise typer.Exit(1)


def _arguments(schema: dict[str, object], given: list[str]) -> dict[str, object]:
    """Values as YAML, but as they stand where the tool wants text."""
    properties = schema["function"]["parameters"]["properties"]  # type: ignore[index]
    values = dict(options_of(given))
    for item in given:
        key, _, text = item.partition("=")
        if properties.get(key, {}).get("type") == "string":
            values[key] = text
    return values
