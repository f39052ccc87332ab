"""Handlers of what scripts fetch (`data`), and of a whole text as plain text for those who run none."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from agentrl.errors import ConfigError
from agentrl.text import visible
from agentrl.viewer.beside import Beside
from agentrl.viewer.data import chunk_of, series_of, tokens_of
from agentrl.viewer.pages import Missing, Pages
from agentrl.viewer.vocabulary import fitting_vocabulary


class Services:
    """They share the pages' memory of stores and run in threads."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def series(self, request: Request) -> JSONResponse:
        """Metrics of a run; `after=phase:step` (again for each phase) asks only for that step and later ones."""
        view = self._pages.view(request)
        after: dict[str, int] = {}
        for pair in request.query_params.getlist("after"):
            phase, _, step = pair.rpartition(":")
            after[phase] = _whole("after", step)
        return _json(series_of(self._pages.runs, view, after))

    def tokens(self, request: Request) -> JSONResponse:
        """Tokens of a turn."""
        view = self._pages.view(request)
        record = self._pages.record(view, request.path_params["episode"])
        turn, trajectory = request.path_params["turn"], record.trajectory
        if turn >= len(trajectory.turns):
            raise Missing(f"The episode has no turn {turn + 1}.")
        start = _whole("start", request.query_params.get("start", "0"))
        advantages = record.advantages[turn] if record.advantages else None
        vocabulary = fitting_vocabulary(view, trajectory)
        context = request.query_params.get("context") == "1"
        return _json(tokens_of(trajectory, turn, advantages, vocabulary, start, context))

    def text(self, request: Request) -> JSONResponse:
        """A piece of a long text, from character `start` to `end`."""
        params = request.query_params
        end = _whole("end", params["end"]) if "end" in params else None
        return _json(chunk_of(self._text(request), _whole("start", params.get("start", "0")), end))

    def whole_text(self, request: Request) -> PlainTextResponse:
        """All of a text."""
        return PlainTextResponse(visible(self._text(request)))

    def _text(self, request: Request) -> str:
        view = self._pages.view(request)
        record = self._pages.record(view, request.path_params["episode"])
        text = Beside(self._pages.runs.store(view), view.run.id, record).text(request.path_params["address"])
        if text is None:
            raise Missing("The episode has no such text.")
        return text


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ConfigError(f"{name}={text!r} is no whole number")
    return int(text)


def _json(content: object) -> JSONResponse:
    return JSONResponse(content, headers={"cache-control": "no-cache"})
