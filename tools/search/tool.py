"""The tools themselves: `search` finds articles by words, `read_page` reads one.

Invariant: a session is nothing but a reference to an index or a client that all episodes share and none changes, so
that a snapshot is empty. Reading an index takes well below a millisecond and is done on the event loop, but for large
ones; building it is done in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from agentrl.bridge import in_thread
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.tool import Tool, ToolResult

from .corpus import Document, check_corpus
from .index import MAX_QUERY, CorpusIndex, open_index, opened_index
from .passages import best_passage, pages
from .remote import RemoteClient, RemoteError, Server, acquire, release

if TYPE_CHECKING:
    from agentrl.task import Episode

MAX_K = 20
MAX_SNIPPET = 4000
_LARGE = 300_000
"""Articles from which on an index is read in a thread."""
_SHOWN = 100
"""Characters of a query or title that a message repeats."""


@dataclass(frozen=True)
class _Settings:
    corpus: str | Path | None
    url: str | None
    k: int
    snippet: int

    def __post_init__(self) -> None:
        if self.corpus is not None and self.url is not None:
            raise ConfigError("tool 'search': give corpus= or url=, not both")
        for key, least, most in (("k", 1, MAX_K), ("snippet", 16, MAX_SNIPPET)):
            if not least <= getattr(self, key) <= most:
                raise ConfigError(f"tool 'search': {key}={getattr(self, key)!r} must be {least} to {most}")


class SearchTool(Tool):
    """Searches a collection of articles by words and gives the best passage of each article found.

    Args:
        query: words to look for, such as a name and what is asked about it
        k: number of articles
    """

    name = "search"

    def __init__(
        self,
        *,
        corpus: str | Path | None = None,
        url: str | None = None,
        k: int = 3,
        snippet: int = 300,
        connections: int = 32,
        attempts: int = 3,
        attempt_timeout: float = 10.0,
    ) -> None:
        """An episode may name another `corpus`, `url`, `k` or `snippet`. Raises `ConfigError`.

        Args:
            corpus: file of JSON lines with id, title and text, also gzipped; its index is built when first needed.
            url: of a retrieval server's endpoint, instead of a corpus.
            k: results of a call that does not say how many.
            snippet: characters of a passage.
            connections: requests to the server at a time, all episodes together.
            attempts: requests for one call before it fails.
            attempt_timeout: seconds of one request.
        """
        self._settings = _Settings(corpus, url, k, snippet)
        self._remote = Server(url or "http://127.0.0.1/retrieve", connections, attempts, attempt_timeout)
        if corpus is not None:
            check_corpus(Path(corpus))
        self._now = self._settings
        self._index: CorpusIndex | None = None
        self._client: RemoteClient | None = None

    async def open(self, episode: Episode) -> None:
        await self.close()
        now = self._now = _with(self._settings, episode.tool_options.get(self.name, {}))
        if now.url is not None:
            self._client = acquire(replace(self._remote, url=now.url))
        else:
            self._index = await _opened(self.name, now.corpus)

    async def close(self) -> None:
        client, self._client, self._index = self._client, None, None
        if client is not None:
            await release(client)

    async def snapshot(self) -> None:
        return None

    async def call(self, query: str, k: Annotated[int | None, Field(ge=1, le=MAX_K)] = None) -> ToolResult:
        count, snippet = k or self._now.k, self._now.snippet
        found: list[tuple[Document, str]]
        if self._client is not None:
            try:
                documents = await self._client.retrieve(query[:MAX_QUERY], count)
            except RemoteError as error:
                return ToolResult(f"Error: {error}", "failed")
            found = [(document, _passage(document, query[:MAX_QUERY], snippet)) for document in documents]
        else:
            index = _required(self._index)
            if len(index) > _LARGE:
                hits = await in_thread(index.search, query, count, snippet)
            else:
                hits = index.search(query, count, snippet)
            found = [(hit.document, hit.passage) for hit in hits]
        if not found:
            return ToolResult(f"No article was found for {query[:_SHOWN]!r}.", data=[])
        lines = [_result(document, passage) for document, passage in found]
        if len(lines) > 1:
            lines = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
        return ToolResult("\n".join(lines), data=[document.id for document, _ in found])


class ReadPage(Tool):
    """Reads an article found by search, a page at a time.

    Args:
        title: of the article, as search shows it
        page: its number, from 1
    """

    name = "read_page"

    def __init__(self, *, corpus: str | Path | None = None, page_size: int = 2000) -> None:
        """An episode may name another `corpus` or `page_size`. Raises `ConfigError`.

        Args:
            corpus: as for the tool `search`.
            page_size: characters of a page.
        """
        self._options: dict[str, Any] = {"corpus": corpus, "page_size": page_size}
        self._page_size = _page_size(page_size)
        if corpus is not None:
            check_corpus(Path(corpus))
        self._index: CorpusIndex | None = None

    async def open(self, episode: Episode) -> None:
        given = episode.tool_options.get(self.name, {})
        _check_keys(self.name, given, list(self._options))
        now = {**self._options, **given}
        self._page_size = _page_size(now["page_size"])
        self._index = await _opened(self.name, now["corpus"])

    async def close(self) -> None:
        self._index = None

    async def snapshot(self) -> None:
        return None

    async def call(self, title: str, page: Annotated[int, Field(ge=1)] = 1) -> ToolResult:
        index = _required(self._index)
        article = index.find(title[:MAX_QUERY])
        if article is None:
            near = [hit.document.title for hit in index.search(title, 3, 16)]
            advice = f"; there are: {', '.join(near)}" if near else ""
            return ToolResult(f"Error: there is no article {title[:_SHOWN]!r}{advice}", "failed")
        parts = pages(article.text, self._page_size)
        if page > len(parts):
            return ToolResult(f"Error: {article.title!r} has {len(parts)} page(s)", "failed")
        return ToolResult(f"{article.title} (page {page} of {len(parts)})\n{parts[page - 1]}", data=article.id)


async def _opened(tool: str, corpus: str | Path | None) -> CorpusIndex:
    if corpus is None:
        raise ConfigError(f"tool {tool!r}: no corpus; give corpus=FILE" + " or url=ADDRESS" * (tool == "search"))
    path = Path(corpus)
    index = opened_index(path)
    return index if index is not None else await in_thread(open_index, path)


def _with(settings: _Settings, given: Mapping[str, Any]) -> _Settings:
    """The settings with those of an episode, in which a corpus takes the place of a url and the other way round."""
    if not given:
        return settings
    _check_keys("search", given, [field.name for field in fields(_Settings)])
    source = {"corpus": None, "url": None} if given.keys() & {"corpus", "url"} else {}
    return replace(settings, **{**source, **given})


def _check_keys(tool: str, given: Mapping[str, Any], valid: list[str]) -> None:
    for key in given:
        if key not in valid:
            raise ConfigError(f"tool {tool!r}: option {key!r} of an episode is unknown; {nearest(str(key), valid)}")


def _page_size(value: int) -> int:
    if not 100 <= value <= 100_000:
        raise ConfigError(f"tool 'read_page': page_size={value!r} must be 100 to 100000")
    return value


def _required(index: CorpusIndex | None) -> CorpusIndex:
    if index is None:
        raise ConfigError("the tool is not open: an environment opens it for each episode")
    return index


def _passage(document: Document, query: str, limit: int) -> str:
    """The passage of a server's article, whose words are all equal: there is no index here to say which are rare."""
    said = set(_words(document.title))
    return best_passage(document.text, {word: 1.0 for word in _words(query) if word not in said}, _words, limit)


def _words(text: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in text.casefold()).split()


def _result(document: Document, passage: str) -> str:
    """One line: title and passage."""
    return f"{' '.join(document.title.split())[:_SHOWN]}: {passage}"
