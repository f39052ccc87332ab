"""The application: addresses to pages, and every mistake to a page that says what is wrong.

Invariant: a handler raises `Missing` (404) for what is not there, `ConfigError` for a wrong value in the address (400)
and lets `StoreError` pass (503: a store that cannot be read now); anything else is a fault of the viewer's own.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agentrl.errors import ConfigError, StoreError
from agentrl.text import one_line
from agentrl.viewer.catalog import Catalog
from agentrl.viewer.pages import Missing, Pages
from agentrl.viewer.security import Guard
from agentrl.viewer.services import Services
from agentrl.viewer.templating import render

_RUN = "/runs/{slug}/{run:number}"
_DATA = "/data/{slug}/{run:number}"
_LONGEST = 500  # characters of a message: it may quote a value of the address


class _Number(IntegerConvertor):
    """A whole number that every database can hold; an address with a longer one names nothing."""

    regex = "[0-9]{1,15}"


register_url_convertor("number", _Number())


def create_app(catalog: Catalog, host: str = "127.0.0.1") -> ASGIApp:
    """The viewer over these stores; `host` is the address that it will be served on (see `security.Guard`)."""
    pages = Pages(catalog)
    services = Services(pages)
    routes = [
        Route("/", pages.list_runs),
        Route("/compare", pages.compare),
        Route(_RUN, pages.run),
        Route(f"{_RUN}/configuration", pages.configuration),
        Route(f"{_RUN}/episodes", pages.episodes),
        Route(f"{_RUN}/episodes/{{episode:number}}", pages.episode),
        Route(f"{_RUN}/episodes/{{episode:number}}/text/{{address}}", services.whole_text),
        Route(f"{_DATA}/series", services.series),
        Route(f"{_DATA}/episodes/{{episode:number}}/tokens/{{turn:number}}", services.tokens),
        Route(f"{_DATA}/episodes/{{episode:number}}/text/{{address}}", services.text),
        Mount("/static", StaticFiles(packages=[("agentrl.viewer", "static")])),
    ]
    handlers = {ConfigError: _wrong_value, StoreError: _unreadable, HTTPException: _no_page, Exception: _fault}
    # The guard stands outside of everything, so that even a failure's answer carries its headers.
    return Guard(Starlette(routes=routes, exception_handlers=handlers), host)  # type: ignore[arg-type]


def _answer(request: Request, status: int, title: str, text: str) -> Response:
    text = one_line(text, _LONGEST)
    if request.url.path.startswith("/data/"):
        return JSONResponse({"error": text}, status_code=status)
    return HTMLResponse(render("error.html.j2", title=title, text=text), status_code=status)


def _wrong_value(request: Request, error: ConfigError) -> Response:
    return _answer(request, 400, "That address cannot be read", str(error))


def _unreadable(request: Request, error: StoreError) -> Response:
    return _answer(request, 503, "The store cannot be read", str(error))


def _no_page(request: Request, error: HTTPException) -> Response:
    text = str(error) if isinstance(error, Missing) else "There is no page at this address."
    return _answer(request, error.status_code, "Nothing here", text)


def _fault(request: Request, error: Exception) -> Response:
    return _answer(request, 500, "The viewer failed", f"{type(error).__name__}: a fault of the viewer's own")
