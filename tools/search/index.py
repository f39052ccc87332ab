"""A corpus's full-text index: built once by tantivy, kept in the user's cache, opened read-only.

Ranking is BM25 over the text, stemmed as English, and the title, as it is written and twice as heavy. A query is a bag
of words: it is analysed here and never parsed, so it has no syntax that could fail or run for long. Invariants: an
index's folder is named by the hash of the corpus's bytes and is complete under that name, so a corpus that changes
gets another; a process opens each index once; equal scores come in the corpus's order.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tantivy
from filelock import FileLock

from agentrl.errors import ConfigError
from agentrl.models.cache import cache_dir
from agentrl.models.progress import reporting

from .corpus import Document, content_hash, read_corpus, title_key
from .passages import best_passage

FORMAT = 1
"""Part of the folder's name: raise it with any change of schema or analysis."""
MAX_QUERY = 1000
"""Characters of a query that are looked at."""
MAX_TERMS = 32
"""Words of a query that are looked up."""
_HEAP = 128_000_000
_TIES = 32
"""Hits beyond those asked for that are put in order when scores are equal."""
_KEPT_OPEN = 16
"""Indices that a process keeps open; an older one stays open as long as an episode reads it."""
_QUIET_SECONDS = 2.0
"""Building shows its progress after so long."""
_STOP_WORDS = frozenset(
    (  # noqa: SIM905 - sixty lines otherwise
        "a an and are as at be but by did do does for from had has have he her his how i if in into is it its no not "
        "of on or she such that the their then there these they this to was were what when where which who whom whose "
        "why will with"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Hit:
    """An article that was found."""

    document: Document
    score: float
    passage: str


class CorpusIndex:
    """An index, open for reading; safe to use from several threads. See `open_index`."""

    def __init__(self, folder: Path) -> None:
        """Raises `ValueError` where the folder holds no whole index."""
        self._index = tantivy.Index.open(str(folder))
        self._plain, self._stemmed = _register(self._index)
        self._index.config_reader("manual")
        self._searcher = self._index.searcher()
        self._schema = self._index.schema

    def __len__(self) -> int:
        return self._searcher.num_docs

    def search(self, query: str, k: int, limit: int) -> list[Hit]:
        """The best `k` articles, each with its passage of at most `limit` characters; none if no word is known."""
        words = self.words(query)
        if not words:
            return []
        stems = [(self._stemmed.analyze(word) or [word])[0] for word in words]
        clauses = [self._term("text", stem) for stem in stems]
        clauses += [tantivy.Query.boost_query(self._term("title", word), 2.0) for word in words]
        joined = tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])
        found = self._searcher.search(joined, k + _TIES, count=False).hits
        order = self._searcher.fast_field_values("number", [address for _, address in found])
        ranked = sorted(zip(found, order, strict=True), key=lambda item: (-item[0][0], item[1]))[:k]
        weights = {word: (stem, self._weight(stem)) for word, stem in zip(words, stems, strict=True)}
        return [self._hit(float(score), address, weights, limit) for (score, address), _ in ranked]

    def find(self, name: str) -> Document | None:
        """The article with this title, without regard to case, or with this id; the first if there are several."""
        for field, value in (("key", title_key(name)), ("id", name)):
            found = self._searcher.search(self._term(field, value), _TIES, count=False).hits
            addresses = [address for _, address in found]
            order = self._searcher.fast_field_values("number", addresses)
            if addresses:
                return self._document(min(zip(order, addresses, strict=True), key=lambda item: item[0] or 0)[1])
        return None

    def words(self, query: str) -> list[str]:
        """The query's distinct words as they are looked up; stop words only if there are no others."""
        text = query[:MAX_QUERY].encode("utf-8", "replace").decode()
        words = list(dict.fromkeys(self._plain.analyze(text)))
        return ([word for word in words if word not in _STOP_WORDS] or words)[:MAX_TERMS]

    def _hit(self, score: float, address: tantivy.DocAddress, weights: dict[str, tuple[str, float]], limit: int) -> Hit:
        """The article with the passage about those words of the query that its title does not say already."""
        document = self._document(address)
        said = set(self._plain.analyze(document.title))
        wanted = dict(found for word, found in weights.items() if word not in said)
        return Hit(document, score, best_passage(document.text, wanted, self._stemmed.analyze, limit))

    def _term(self, field: str, value: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, field, value, "basic" if field in ("id", "key") else "freq")

    def _weight(self, stem: str) -> float:
        return math.log(1 + len(self) / (1 + self._searcher.doc_freq("text", stem)))

    def _document(self, address: tantivy.DocAddress) -> Document:
        stored = self._searcher.doc(address)
        return Document(*(stored.get_first(field) or "" for field in ("id", "title", "text")))


def open_index(corpus: Path) -> CorpusIndex:
    """The index of a corpus, built if the cache has none; one object a process. May take minutes: not on a loop.

    Raises `ConfigError` for a corpus that cannot be read and a cache that cannot be written.
    """
    key = _identity(corpus)
    with _lock:
        own = _locks.setdefault(key, threading.Lock())
    with own:
        if key not in _opened:
            _opened[key] = _open(corpus)
            for oldest in list(_opened)[:-_KEPT_OPEN]:
                _opened.pop(oldest, None)
        return _opened[key]


def opened_index(corpus: Path) -> CorpusIndex | None:
    """The index if this process has it open."""
    return _opened.get(_identity(corpus))


def index_folder(corpus: Path) -> Path:
    """Where the index of a corpus lies, whether there is one or not."""
    return cache_dir() / "search" / f"{content_hash(corpus)}-v{FORMAT}"


_Identity = tuple[str, int, int, int]
_lock = threading.Lock()
_locks: dict[_Identity, threading.Lock] = {}
_opened: dict[_Identity, CorpusIndex] = {}


def _after_fork() -> None:
    """Another thread may have held a lock when the process forked."""
    global _lock
    _lock = threading.Lock()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _identity(corpus: Path) -> _Identity:
    """Changes whenever the file does, at the cost of one look at its folder."""
    try:
        status = corpus.stat()
    except OSError as error:
        raise ConfigError(f"corpus {corpus} cannot be read: {error.strerror or error}") from None
    return str(corpus.absolute()), status.st_size, status.st_mtime_ns, status.st_ino


def _open(corpus: Path) -> CorpusIndex:
    folder = index_folder(corpus)
    if folder.is_dir():
        try:
            return CorpusIndex(folder)
        except ValueError as error:
            warnings.warn(f"search index {folder} is damaged ({_line(error)}): building it again", stacklevel=2)
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            try:
                return CorpusIndex(folder)  # another process built it while this one waited
            except ValueError:
                build_index(corpus, folder)
    return CorpusIndex(folder)


def build_index(corpus: Path, folder: Path) -> None:
    """Build the index of a corpus in `folder`, which is whole or not there. Raises `ConfigError`."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process: the lock is ours, so nobody is writing it
    try:
        partial.mkdir()
        index = tantivy.Index(_schema(), path=str(partial))
        _register(index)
        writer = index.writer(_HEAP, 1)  # several threads would put equal scores in an order of their own
        try:
            _fill(writer, index.schema, corpus)
        finally:
            writer.wait_merging_threads()  # ends its threads: they must not write into a folder that is removed
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(writer: tantivy.IndexWriter, schema: tantivy.Schema, corpus: Path) -> None:
    number = -1
    for number, document in enumerate(_shown(corpus)):
        fields = {"number": number, "id": document.id, "key": title_key(document.title)}
        fields |= {"title": document.title, "text": document.text}
        writer.add_document(tantivy.Document.from_dict(fields, schema))
    if number < 0:
        raise ConfigError(f"corpus {corpus} has no documents")
    writer.commit()


def _shown(corpus: Path) -> Iterator[Document]:
    """The documents, with a report of the progress once it has taken long enough to want one."""
    size, done, began = corpus.stat().st_size, 0, time.monotonic()
    total = 0 if corpus.suffix == ".gz" else size
    with reporting() as report:
        for number, document in enumerate(read_corpus(corpus), 1):
            yield document
            done += len(document.text) + len(document.title)
            if number % 1000 == 0 and time.monotonic() - began > _QUIET_SECONDS:
                report(f"building the search index of {corpus.name}", min(done, total), total)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot write the search index in {folder} ({_line(error)}): set AGENTRL_CACHE to a folder that you can "
            "write, with room for about the size of the corpus"
        ) from error


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("number", fast=True)
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("key", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("title", stored=True, tokenizer_name="plain", index_option="freq")
    builder.add_text_field("text", stored=True, tokenizer_name="stemmed", index_option="freq")
    return builder.build()


def _register(index: tantivy.Index) -> tuple[tantivy.TextAnalyzer, tantivy.TextAnalyzer]:
    """The analysers (plain, stemmed), which an index does not store."""
    analysers = []
    for name, filters in {"plain": [], "stemmed": [tantivy.Filter.stemmer("english")]}.items():
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        common = [tantivy.Filter.remove_long(60), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()]
        for step in [*common, *filters]:
            builder = builder.filter(step)
        analyser = builder.build()
        index.register_tokenizer(name, analyser)
        analysers.append(analyser)
    return analysers[0], analysers[1]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
