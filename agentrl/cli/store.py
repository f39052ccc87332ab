"""`agentrl store list | export | import`: runs in and out of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from agentrl.cli.output import Json, console, examples, print_json, print_table

app = typer.Typer(help="Runs in a store: list them, write them to files, read them back.", no_args_is_help=True)

Place = Annotated[
    str, typer.Argument(metavar="STORE", help="A run's folder, an evaluation's, a store's file, or a database URL.")
]


@app.command("list", epilog=examples("agentrl store list runs/quickstart"))
def list_command(place: Place, as_json: Json = False) -> None:
    """List the runs of a store and what it holds of each."""
    from agentrl.store.folder import open_place, runs_at

    with open_place(place) as store:
        runs = [(run, store.phases(run.id)) for run in runs_at(place, store)]
    if as_json:
        print_json([{**vars(run), "phases": [vars(phase) for phase in phases]} for run, phases in runs])
        return
    rows = []
    for run, phases in runs:
        known = [[phase.phase, f"{phase.steps:,}", f"{phase.episodes:,}"] for phase in phases]
        rows += [[run.name, run.kind, run.status, *cells] for cells in known or [["-", "0", "0"]]]
    print_table(["run", "kind", "status", "phase", "steps", "episodes"], rows)


@app.command(
    "export",
    epilog=examples(
        "agentrl store export runs/quickstart quickstart.jsonl",
        "agentrl store export runs/quickstart train.parquet --phase train",
        "agentrl store export runs/eval/core-oracle-1a2b3c4d logs --form inspect",
    ),
)
def export_command(
    place: Place,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A file; for form inspect a folder.")],
    run: Annotated[str | None, typer.Option(help="Which run; default: the only one.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only this phase, such as train or eval/trained.")] = None,
    form: Annotated[str | None, typer.Option(help="jsonl, parquet or inspect; default: by the file's suffix.")] = None,
) -> None:
    """Write a run to JSON lines, to a Parquet table, or to logs of Inspect AI."""
    from agentrl.errors import ConfigError
    from agentrl.exchange import export_run, form_of
    from agentrl.registry import nearest
    from agentrl.store.folder import open_place, runs_at

    form = form_of(target, form)
    with open_place(place) as store:
        runs = runs_at(place, store)
        if not runs:
            raise ConfigError(f"store {store.place!r} holds no run yet")
        if run is None and len(runs) != 1:
            names = [record.name for record in runs]
            raise ConfigError(
                f"store {store.place!r} holds {len(runs)} runs; choose one by --run; {nearest('', names)}"
            )
        chosen = store.run(run) if run is not None else runs[0]
        total = sum(record.episodes for record in store.phases(chosen.id) if phase in (None, record.phase))
        with _bar("export", total) as advance:
            count = export_run(store, chosen, target, form, phase, advance)
    console().print(f"{count:,} episodes of {chosen.name}: {target}", markup=False)


@app.command("import", epilog=examples("agentrl store import quickstart.jsonl all.sqlite --name again"))
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, as export writes them.")],
    place: Annotated[str, typer.Argument(metavar="STORE", help="A store's file (made if there is none) or a URL.")],
    name: Annotated[str | None, typer.Option(help="The run's name in the store; default: the file's.")] = None,
) -> None:
    """Read a run from JSON lines into a store."""
    from agentrl.errors import ConfigError
    from agentrl.exchange import import_run
    from agentrl.store import RunStore

    if not file.is_file():
        raise ConfigError(f"{str(file)!r} is not there, or no file")
    try:
        with file.open("rb") as lines:
            total = sum(b'"trajectory"' in line for line in lines)
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be read: {error.strerror}") from None
    with RunStore(place) as store, _bar("import", total) as advance:
        run, count = import_run(store, file, name, advance)
    console().print(f"{count:,} episodes of {run.name}: {store.place}", markup=False)


@contextmanager
def _bar(what: str, episodes: int) -> Iterator[Callable[[], object]]:
    """Progress on stderr: told of each episode."""
    from rich.console import Console

    from agentrl.display import make_display

    observer = make_display(Console(stderr=True))
    observer.phase(what, episodes)
    try:
        yield observer.advance
    finally:
        observer.close()
