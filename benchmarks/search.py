"""Index seconds and query milliseconds of the tool `search` beside SQLite FTS5 and bm25s, in one run.

python benchmarks/search.py --documents 1000 100000
python benchmarks/search.py --documents 1000000 --engines tantivy

The corpus is the generated world of `agentrl/Search-v0`, the queries are its oracle's (a name and what is asked), the
median of each engine's milliseconds is over the same queries, each with its k best articles read back.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl.envs.search.articles import write_corpus
from agentrl.envs.search.questions import draw
from agentrl.envs.search.world import shared_world
from agentrl.tools.search import index as tantivy_index
from agentrl.tools.search.corpus import Document, read_corpus

Search = Callable[[str, int], list[str]]
"""Titles of the k best articles for a query."""


def tantivy(corpus: Path, _documents: list[Document], folder: Path) -> Search:
    """What the tool does, passages included."""
    tantivy_index.build_index(corpus, folder / "tantivy")
    opened = tantivy_index.CorpusIndex(folder / "tantivy")
    return lambda query, k: [hit.document.title for hit in opened.search(query, k, 300)]


def fts5(_corpus: Path, documents: list[Document], folder: Path) -> Search:
    """SQLite's own full-text index with its BM25, the title twice as heavy."""
    database = sqlite3.connect(folder / "fts5.sqlite")
    database.execute("CREATE VIRTUAL TABLE articles USING fts5(title, text, tokenize = 'porter unicode61')")
    rows = ((document.title, document.text) for document in documents)
    database.executemany("INSERT INTO articles VALUES (?, ?)", rows)
    database.commit()
    statement = "SELECT title, text FROM articles WHERE articles MATCH ? ORDER BY bm25(articles, 2, 1) LIMIT ?"

    def search(query: str, k: int) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in query.split() if word != "of")
        return [title for title, _ in database.execute(statement, (words, k))]

    return search


def bm25s(_corpus: Path, documents: list[Document], _folder: Path) -> Search:
    """bm25s on numpy arrays, title and text as one."""
    import bm25s as library

    texts = [f"{document.title} {document.title} {document.text}" for document in documents]
    model = library.BM25()
    model.index(library.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def search(query: str, k: int) -> list[str]:
        tokens = library.tokenize([query], stopwords="en", show_progress=False)
        found, _ = model.retrieve(tokens, k=k, show_progress=False)
        return [documents[number].title for number in found[0].tolist()]

    return search


ENGINES: dict[str, Callable[[Path, list[Document], Path], Search]] = {"tantivy": tantivy, "fts5": fts5, "bm25s": bm25s}


def measure(name: str, corpus: Path, documents: list[Document], queries: list[tuple[str, str]], k: int) -> list[Any]:
    """A row of the table: seconds to index, milliseconds a query, share of queries whose article comes first."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        search = ENGINES[name](corpus, documents, Path(folder))
        indexed = time.perf_counter() - began
        search(*queries[0][:1], k)
        times, first = [], 0
        for query, title in queries:
            began = time.perf_counter()
            titles = search(query, k)
            times.append(1000 * (time.perf_counter() - began))
            first += titles[:1] == [title]
        times.sort()
        return [name, indexed, statistics.median(times), times[int(0.99 * len(times))], first / len(queries)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=3)
    options = parser.parse_args()
    for count in options.documents:
        began = time.perf_counter()
        corpus = write_corpus(count, 0, "full")
        print(
            f"{count:,} articles, {corpus.stat().st_size / 1e6:.1f} MB, written in {time.perf_counter() - began:.2f} s"
        )
        problems = [draw(shared_world(count, 0), "full", random.Random(seed), 1) for seed in range(options.queries)]
        queries = [(problem.data["hops"][0][0], problem.data["hops"][0][1]) for problem in problems]
        documents = list(read_corpus(corpus)) if set(options.engines) - {"tantivy"} else []
        print(f"{'engine':<10}{'index s':>10}{'median ms':>12}{'p99 ms':>10}{'first':>8}")
        for name in options.engines:
            _, indexed, median, slow, first = measure(name, corpus, documents, queries, options.k)
            print(f"{name:<10}{indexed:>10.2f}{median:>12.3f}{slow:>10.3f}{first:>8.2f}")
        print()


if __name__ == "__main__":
    main()
