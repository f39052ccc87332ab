"""`agentrl view`: look at runs and episodes in a browser."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from agentrl.cli.output import console, examples
from agentrl.errors import ConfigError, StoreError

EXAMPLES = examples("agentrl view", "agentrl view runs/quickstart", "agentrl view runs --port 9000 --no-browser")


def view_command(
    store: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="A store, a run's folder, a folder of runs or a URL; default: runs."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    migrate: Annotated[bool, typer.Option("--migrate", help="First bring older stores up to date.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Serve a local page over run stores: runs, learning curves, comparisons, episodes token by token."""
    try:
        from agentrl.viewer import Catalog, serve
        from agentrl.viewer.catalog import default_target, find_places
        from agentrl.viewer.opening import bring_up_to_date
        from agentrl.viewer.security import is_loopback
    except ModuleNotFoundError as error:
        raise ConfigError(f"agentrl view needs the package {error.name}: pip install {error.name}") from error

    target = store or default_target()
    places = find_places(target) if migrate else []
    for place in places:
        try:
            bring_up_to_date(place.target)
        except StoreError as error:
            if len(places) == 1:
                raise
            _warn(f"--migrate left one store as it is: {error}")
    catalog = Catalog(target)
    if not is_loopback(host):
        _warn(f"--host {host} shows every episode to whoever can reach this machine; there is no password")
    out = console()

    def announce(address: str) -> None:
        out.print(f"{address}  (Ctrl-C ends it)", markup=False)

    try:
        serve(catalog, host=host, port=port, browser=browser, announce=announce)
    finally:
        catalog.close()


def _warn(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"warning: {text}", style="yellow", markup=False, highlight=False)
