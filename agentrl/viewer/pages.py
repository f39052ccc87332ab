"""The pages: each is made on the server from the address alone, and works before any script has run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from agentrl.errors import ConfigError
from agentrl.store import EpisodeQuery, EpisodeRecord, EpisodeSummary, RunStore
from agentrl.trajectory import StopReason
from agentrl.viewer.beside import Beside, laid_out
from agentrl.viewer.catalog import Catalog
from agentrl.viewer.compare import MOST_RUNS, metric_rows, setting_rows
from agentrl.viewer.episode import episode_view
from agentrl.viewer.excerpt import Excerpt
from agentrl.viewer.filters import PAGE_SIZES, Filters
from agentrl.viewer.overview import metric_names, tiles_of
from agentrl.viewer.runs import Runs, RunView
from agentrl.viewer.templating import render
from agentrl.viewer.timeline import timeline_of
from agentrl.viewer.tree import Tree, tree_of

MEMBERS_SHOWN = 64  # of a group
TREE_TOKENS = 200_000  # of a group whose records are read for the tree without being asked
_ORDERS: dict[str, Callable[[RunView], Any]] = {
    "created": lambda view: view.run.created,
    "updated": lambda view: view.run.updated,
    "name": lambda view: view.title.lower(),
    "episodes": lambda view: view.episodes,
    "progress": lambda view: view.progress or 0.0,
}


class Missing(HTTPException):
    """What the address names is not there."""

    def __init__(self, text: str) -> None:
        super().__init__(404, text)

    def __str__(self) -> str:
        return str(self.detail)


class Pages:
    """Handlers of the pages that people see; they run in threads."""

    def __init__(self, catalog: Catalog) -> None:
        self.runs = Runs(catalog)

    def list_runs(self, request: Request) -> HTMLResponse:
        """Every run of every store."""
        views, faults = self.runs.all()
        params = request.query_params
        order, down = params.get("sort", "created"), params.get("down", "1") == "1"
        if order not in _ORDERS:
            raise ConfigError(f"sort={order!r} is unknown; valid are {', '.join(_ORDERS)}")
        wanted, kind, state = params.get("q", "").strip(), params.get("kind", ""), params.get("state", "")
        shown = [
            view
            for view in views
            if (not wanted or wanted.lower() in _searched(view))
            and kind in ("", view.run.kind)
            and state in ("", view.state)
        ]
        shown.sort(key=_ORDERS[order], reverse=down)
        several = len({view.place.slug for view in views}) > 1
        return _page(
            "runs.html.j2",
            views=shown,
            total=len(views),
            faults=faults,
            several=several,
            params={"q": wanted, "kind": kind, "state": state, "sort": order, "down": "1" if down else "0"},
            kinds=sorted({str(view.run.kind) for view in views}),
            states=sorted({view.state for view in views}),
            target=self.runs.catalog.target,
        )

    def run(self, request: Request) -> HTMLResponse:
        """Learning curves, evaluations and phases of a run."""
        view = self.view(request)
        evaluations, outcomes = self.runs.evaluations(view), self.runs.outcomes(view)
        return _page(
            "run.html.j2",
            view=view,
            tab="overview",
            tiles=tiles_of(evaluations, outcomes),
            evaluations=evaluations,
            names=metric_names(evaluations),
            outcomes=outcomes,
        )

    def configuration(self, request: Request) -> HTMLResponse:
        """Configuration and facts of a run."""
        view = self.view(request)
        meta = [(name, laid_out(value)) for name, value in sorted(view.run.meta.items())]
        return _page("configuration.html.j2", view=view, tab="configuration", meta=meta)

    def compare(self, request: Request) -> HTMLResponse:
        """Chosen runs beside one another."""
        views = [self._by_key(key) for key in dict.fromkeys(request.query_params.getlist("run"))]
        if len(views) > MOST_RUNS:
            raise ConfigError(f"run: {len(views)} runs are chosen; at most {MOST_RUNS} can be compared")
        rows = metric_rows(self.runs, views)
        return _page("compare.html.j2", views=views, metrics=rows, settings=setting_rows(views))

    def episodes(self, request: Request) -> HTMLResponse:
        """The table of a run's episodes."""
        view, filters = self.view(request), Filters.read(request.query_params)
        store, query = self.runs.store(view), filters.query(view.run.id)
        return _page(
            "episodes.html.j2",
            view=view,
            tab="episodes",
            filters=filters,
            rows=store.page(query),
            total=store.count(query),
            reasons=list(StopReason),
            sizes=PAGE_SIZES,
        )

    def episode(self, request: Request) -> HTMLResponse:
        """One episode."""
        view, filters = self.view(request), Filters.read(request.query_params)
        store = self.runs.store(view)
        record = self.record(view, request.path_params["episode"])
        members, beside = _members(store, view.run.id, record), Beside(store, view.run.id, record)
        shown = episode_view(record, _first_turn(request))
        previous, following = store.neighbours(record.id, filters.query(view.run.id))
        return _page(
            "episode.html.j2",
            view=view,
            tab="episodes",
            filters=filters,
            record=record,
            shown=shown,
            timeline=timeline_of(shown.trajectory),
            members=members,
            tree=_tree(store, record, members, asked=request.query_params.get("tree") == "1"),
            task=beside.task(),
            judgements=[
                (entry, Excerpt.of(entry.text, f"judgement.{index}")) for index, entry in enumerate(beside.judgements)
            ],
            previous=previous,
            following=following,
        )

    # -- what an address names -----------------------------------------------------------------------------------------

    def view(self, request: Request) -> RunView:
        """The run of the address; raises `Missing`."""
        found = self.runs.find(request.path_params["slug"], request.path_params["run"])
        if found is None:
            raise Missing("There is no such run in this store (any more).")
        return found

    def record(self, view: RunView, episode: int) -> EpisodeRecord:
        """The episode of that number in the run; raises `Missing`."""
        return find_episode(self.runs.store(view), view, episode)

    def _by_key(self, key: str) -> RunView:
        slug, _, number = key.rpartition(":")
        known = number.isascii() and number.isdigit() and len(number) < 16
        found = self.runs.find(slug, int(number)) if known else None
        if found is None:
            raise Missing(f"There is no run {key!r}; choose runs in the list.")
        return found


def find_episode(store: RunStore, view: RunView, episode: int) -> EpisodeRecord:
    """The episode of that number if it belongs to the run; raises `Missing`."""
    query = EpisodeQuery(view.run.id, limit=1, after=f"{episode - 1},{episode - 1}")
    if [row.id for row in store.page(query)] != [episode]:
        raise Missing("There is no such episode in this run (any more).")
    return store.episode(episode)


def _members(store: RunStore, run: int, record: EpisodeRecord) -> list[EpisodeSummary]:
    """The episode's group, itself included, by member."""
    query = EpisodeQuery(run, phase=record.phase, step=record.step, group=record.group, limit=MEMBERS_SHOWN)
    return sorted(store.page(query), key=lambda row: row.member)


def _tree(store: RunStore, record: EpisodeRecord, members: Sequence[EpisodeSummary], asked: bool) -> Tree | str | None:
    """The group's tree, None if it has none, or `"large"` if reading it would take long and nobody asked."""
    if len(members) < 2:
        return None
    if not asked and sum(row.tokens + row.prompt_tokens for row in members) > TREE_TOKENS:
        return "large"
    return tree_of([record if row.id == record.id else store.episode(row.id) for row in members], record.id)


def _first_turn(request: Request) -> int:
    text = request.query_params.get("turn", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"turn={text!r} is no whole number from 1 on")
    return max(0, int(text) - 1)


def _searched(view: RunView) -> str:
    return f"{view.title}\n{view.place.title}\n{view.model or ''}\n{view.subject or ''}".lower()


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(render(template, **values), headers={"cache-control": "no-cache"})
