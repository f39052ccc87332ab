"""`agentrl suites list | show NAME | digest NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentrl.cli import EXIT_FAILURE
from agentrl.cli.output import Json, console, examples, print_json, print_table
from agentrl.errors import ConfigError
from agentrl.suites import load_suite, pin, suite_names

if TYPE_CHECKING:
    from agentrl.evaluation.suite import Entry, Suite

app = typer.Typer(help="Suites: what an evaluation asks, and how.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A suite's name, a YAML file, or an environment id.")]


@app.command("list", epilog=examples("agentrl suites list --json"))
def list_command(as_json: Json = False) -> None:
    """List the bundled suites and those of installed packages."""
    found = [{**_about(name), "from": origin} for name, origin in suite_names().items()]
    if as_json:
        print_json(found)
    else:
        keys = ("name", "version", "entries", "tasks", "description")
        print_table(list(keys), [["-" if suite[key] is None else str(suite[key]) for key in keys] for suite in found])


@app.command("show", epilog=examples("agentrl suites show core"))
def show_command(name: Name, as_json: Json = False) -> None:
    """Show a suite: its entries, and the file as it is resolved."""
    suite = load_suite(name)
    if as_json:
        print_json(suite.model_dump(mode="json"))
        return
    out = console()
    out.print(f"{suite.label}: {suite.description}\n", markup=False)
    print_table(
        ["entry", "environment", "levels", "tasks", "samples"],
        [_row(suite, key, entry) for key, entry in suite.entries.items()],
    )
    out.print()
    out.print(suite.to_yaml(), markup=False)


@app.command("digest", epilog=examples("agentrl suites digest my_suite.yaml --write"))
def digest_command(
    name: Name,
    write: Annotated[
        bool, typer.Option("--write", help="Pin them in the file, which must be one of one's own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute the digests of a suite's tasks as they are now; exit code 1 if it pins others."""
    from agentrl.evaluation.tasksets import read_tasks

    suite = load_suite(name)
    found = {key: entry.digest for key, entry in read_tasks(suite.unpinned()).items()}
    if write:
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"--write needs a file, {name!r} is none")
        pin(path, found)
    pinned = {key: entry.digest for key, entry in suite.entries.items()}
    if as_json:
        print_json([{"entry": key, "digest": now, "pinned": pinned[key]} for key, now in found.items()])
    else:
        print_table(
            ["entry", "digest", "before" if write else "pinned"],
            [[*item, pinned[item[0]] or "-"] for item in found.items()],
        )
    others = [key for key, now in found.items() if pinned[key] not in (None, now)]
    if others and not write:
        typer.echo(f"other tasks than were pinned: {', '.join(others)}", err=True)
        raise typer.Exit(EXIT_FAILURE)


def _about(name: str) -> dict[str, Any]:
    try:
        suite = load_suite(name)
    except ConfigError as error:  # one package's mistake must not hide the others' suites
        return {"name": name, "version": None, "description": str(error), "entries": None, "tasks": None}
    counts = [entry.tasks for entry in suite.entries.values()]
    known = [count for count in counts if count is not None]
    return {
        "name": name,
        "version": suite.version,
        "description": suite.description,
        "entries": len(suite.entries),
        "tasks": sum(known) if len(known) == len(counts) else None,
    }


def _row(suite: Suite, name: str, entry: Entry) -> list[str]:
    levels = entry.levels or entry.options.get("levels") or ()
    tasks = "all" if entry.tasks is None else str(entry.tasks)
    shown = ",".join(map(str, levels)) or "-"
    return [name, entry.env, shown, tasks, str(suite.samples_of(name))]
