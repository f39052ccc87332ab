"""Hostile SQL on SQLite and DuckDB: every statement is refused or bounded, and the next call works.

The bounds of time here are bounds against hangs. Each attack is a statement that a policy could send.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentrl.tool import Tool
from tests.tools.sql_support import ask, duck_file, opened, shop

COUNTER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n {}) "
DOUBLING = "WITH RECURSIVE d(s, i) AS (SELECT 'xxxxxxxx', 1 UNION ALL SELECT s || s, i + 1 FROM d WHERE i < 60) "


async def assert_untouched(tool: Tool) -> None:
    """The next call works, on the database as it was."""
    result = await ask(tool, "SELECT count(*), sum(id) FROM people")
    assert (result.error, result.data) == (None, (result.data[0], [(3, 6)]))


# -- SQLite: refused ---------------------------------------------------------------------------------------------------

CHANGES = [
    "DELETE FROM people",
    "UPDATE people SET name = 'x'",
    "INSERT INTO people VALUES (9, 'x', 1)",
    "REPLACE INTO people VALUES (1, 'x', 1)",
    "WITH x AS (SELECT 1) DELETE FROM people",
    "DELETE FROM people RETURNING *",
    "CREATE TABLE t (a)",
    "CREATE TABLE t AS SELECT * FROM people",
    "DROP TABLE people",
    "DROP VIEW adults",
    "ALTER TABLE people RENAME TO t",
    "ALTER TABLE people DROP COLUMN age",
    "CREATE INDEX i ON people(name)",
    "REINDEX",
    "ANALYZE",
    "CREATE VIEW t AS SELECT 1",
    "EXPLAIN DELETE FROM people",
]
FORBIDDEN = {
    "SELECT load_extension('/lib/x86_64-linux-gnu/libc.so.6')": "function load_extension",
    "SELECT readfile('/etc/passwd')": "no such function",
    "SELECT writefile('{folder}/out', 'x')": "no such function",
    "SELECT edit('x')": "no such function",
    "SELECT fts3_tokenizer('simple')": "function fts3_tokenizer",
    "SELECT sqlite_compileoption_get(1)": "function sqlite_compileoption_get",
    "SELECT sqlite_rename_table(1, 2, 3, 4, 5, 6, 7)": "function",
    "SELECT name FROM people WHERE name REGEXP '(a+)+$'": "no such function: REGEXP",
    "ATTACH '{folder}/out' AS other": "ATTACH",
    "ATTACH 'file:{folder}/out?mode=rwc' AS other": "ATTACH",
    "DETACH main": "DETACH",
    "VACUUM": "VACUUM",
    "VACUUM INTO '{folder}/out'": "VACUUM",
    "BEGIN": "transactions",
    "COMMIT": "transactions",
    "ROLLBACK": "transactions",
    "SAVEPOINT s": "savepoints",
    "PRAGMA database_list": "PRAGMA database_list",
    "SELECT * FROM pragma_database_list": "PRAGMA database_list",
    "PRAGMA hard_heap_limit = 0": "PRAGMA hard_heap_limit",
    "PRAGMA writable_schema = ON": "PRAGMA writable_schema",
    "PRAGMA query_only = OFF": "PRAGMA query_only",
    "PRAGMA temp_store_directory = '{folder}'": "PRAGMA temp_store_directory",
    "PRAGMA journal_mode = WAL": "PRAGMA journal_mode",
    "PRAGMA mmap_size = 1000000000000": "PRAGMA mmap_size",
    "SELECT * FROM dbstat": "table dbstat",
    "SELECT * FROM sqlite_stmt": "table sqlite_stmt",
    "UPDATE sqlite_master SET sql = 'x'": "may not be modified",
    "CREATE TEMP TABLE t (a)": "may",
    "CREATE TEMP VIEW t AS SELECT 1": "may",
    "CREATE TRIGGER t AFTER INSERT ON people BEGIN DELETE FROM orders; END": "triggers",
    "CREATE TEMP TRIGGER t AFTER INSERT ON people BEGIN DELETE FROM orders; END": "may",
    "CREATE VIRTUAL TABLE t USING fts5(a)": "may",
    "SELECT 1; DELETE FROM people": "only one statement",
    "SELECT 1; SELECT 2": "only one statement",
    "SELECT 1 /* ; */; -- ;\n DROP TABLE people": "only one statement",
    "SELECT ?": "binding",
    "SELECT 'a\x00b'": "character that SQL text cannot hold",
}


@pytest.mark.parametrize("query", CHANGES)
async def test_a_reading_episode_changes_nothing(query: str) -> None:
    async with opened(database=shop()) as tool:
        result = await ask(tool, query)
        assert result.text == "Error: the database is read-only: only SELECT statements may be run"
        await assert_untouched(tool)


@pytest.mark.parametrize("writable", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("query", FORBIDDEN)
async def test_what_reaches_beyond_the_database_is_refused(query: str, writable: bool, tmp_path: Path) -> None:
    async with opened(database=shop(), writable=writable) as tool:
        result = await ask(tool, query.format(folder=tmp_path))
        assert result.error == "failed" and FORBIDDEN[query] in result.text
        await assert_untouched(tool)
    assert list(tmp_path.iterdir()) == []


async def test_text_that_cannot_be_encoded_is_refused() -> None:
    async with opened(database=shop()) as tool:
        result = await tool.call(query="SELECT '\ud800'")
        assert result.error == "failed" and "character that SQL text cannot hold" in result.text


async def test_a_file_cannot_be_written_by_any_way(tmp_path: Path) -> None:
    """The file is opened read-only: it stands even if the authorizer were wrong."""
    path = tmp_path / "shop.db"
    path.write_bytes(shop())
    async with opened(database=path) as tool:
        for query in (*CHANGES, *FORBIDDEN):
            assert (await ask(tool, query.format(folder=tmp_path))).error == "failed"
        await assert_untouched(tool)
    assert path.read_bytes() == shop()
    assert list(tmp_path.iterdir()) == [path]


async def test_a_hidden_trigger_or_view_may_do_no_more_than_a_statement(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE people (id INTEGER); INSERT INTO people VALUES (1), (2), (3);"
        "CREATE VIEW bad AS SELECT load_extension('x') FROM people;"
        "CREATE TRIGGER log AFTER DELETE ON people BEGIN SELECT load_extension('x'); END;"
    )
    async with opened(database=connection.serialize(), writable=True) as tool:
        for query in ("SELECT * FROM bad", "DELETE FROM people"):
            result = await ask(tool, query)
            assert result.error == "failed" and "load_extension" in result.text
        await assert_untouched(tool)
    connection.close()


# -- SQLite: bounded ---------------------------------------------------------------------------------------------------

BOUNDED = {
    "recursion that never ends": COUNTER.format("") + "SELECT count(*) FROM n",
    "recursion sorted": COUNTER.format("") + "SELECT i FROM n ORDER BY i % 7",
    "recursion grouped": COUNTER.format("") + "SELECT i % 1000003, group_concat(i) FROM n GROUP BY 1",
    "recursion distinct": COUNTER.format("") + "SELECT DISTINCT i FROM n ORDER BY 1 DESC",
    "cross join": COUNTER.format("LIMIT 5000") + "SELECT count(*) FROM n a, n b, n c",
    "printf by one opcode": "SELECT length(printf('%.*c', 900000000, 'x'))",
    "search by one opcode": "SELECT instr(hex(zeroblob(490000)), hex(zeroblob(240000)) || '1')",
    "aggregate that fills memory": COUNTER.format("") + "SELECT json_group_array(hex(zeroblob(1000))) FROM n",
    "window over everything": COUNTER.format("") + "SELECT sum(i) OVER (ORDER BY -i) FROM n",
    "hash of a set": COUNTER.format("") + "SELECT count(DISTINCT i) FROM n",
}
TOO_LARGE = {
    "zeroblob": "SELECT zeroblob(900000000)",
    "randomblob": "SELECT randomblob(900000000)",
    "hex": "SELECT hex(zeroblob(999999))",
    "doubling": DOUBLING + "SELECT s FROM d",
    "replace": "SELECT replace(hex(zeroblob(400000)), '0', 'xxxxxxxxxxxxxxxx')",
    "group_concat": COUNTER.format("LIMIT 2000000") + "SELECT group_concat(i) FROM n",
    "char": "SELECT char(" + ", ".join(["65"] * 200) + ")",
    "parentheses": "SELECT " + "(" * 20000 + "1" + ")" * 20000,
    "operators": "SELECT 1" + " + 1" * 5000,
    "negations": "SELECT " + "NOT " * 10000 + "1",
    "cases": "SELECT " + "CASE WHEN 1 THEN " * 2000 + "1" + " END" * 2000,
    "subqueries": "SELECT * FROM " + "(SELECT * FROM " * 500 + "people" + ")" * 500,
    "functions": "SELECT " + "abs(" * 5000 + "1" + ")" * 5000,
    "unions": " UNION ALL ".join(["SELECT 1"] * 2000),
    "columns": "SELECT " + ", ".join(["1"] * 5000),
    "joins": "SELECT * FROM " + ", ".join(f"people p{i}" for i in range(200)),
    "length of the text": "SELECT 1 -- " + "x" * 60000,
    "exponential views": "WITH a0 AS (SELECT 1 x), "
    + ", ".join(f"a{i} AS (SELECT * FROM a{i - 1} UNION ALL SELECT * FROM a{i - 1})" for i in range(1, 40))
    + " SELECT count(*) FROM a39",
}


@pytest.mark.parametrize("query", BOUNDED.values(), ids=BOUNDED)
async def test_what_takes_for_ever_ends(query: str) -> None:
    async with opened(database=shop(), seconds=0.2) as tool:
        began = time.monotonic()
        result = await ask(tool, query)
        assert time.monotonic() - began < 15
        assert result.error in ("timeout", "failed") and len(result.text) < 300
        await assert_untouched(tool)


@pytest.mark.parametrize("query", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_what_is_too_large_is_refused(query: str) -> None:
    async with opened(database=shop(), seconds=2.0) as tool:
        result = await ask(tool, query)
        assert (result.error in ("failed", "timeout")) or len(result.text) < 400
        await assert_untouched(tool)


# -- DuckDB ------------------------------------------------------------------------------------------------------------

DUCK_FORBIDDEN = [
    "DELETE FROM people",
    "INSERT INTO people VALUES (9, 'x', 1)",
    "CREATE TABLE t (a INT)",
    "CREATE TEMP TABLE t (a INT)",
    "DROP TABLE people",
    "COPY people TO '{folder}/out'",
    "COPY (SELECT 1) TO '{folder}/out'",
    "EXPORT DATABASE '{folder}/out'",
    "ATTACH '{folder}/out' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "RESET memory_limit",
    "SET lock_configuration = false",
    "PRAGMA enable_external_access = true",
    "CALL pragma_version()",
    "CHECKPOINT",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM people",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'https://localhost/x.csv'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT getenv('HOME')",
    "SELECT sleep_ms(100000)",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM functions",  # a variable of the worker's
    "SELECT 1; DELETE FROM people",
]
DUCK_BOUNDED = {
    "range": "SELECT count(*) FROM range(1000000000000)",
    "cross join": "SELECT count(*) FROM range(1000000) a, range(1000000) b",
    "recursion": COUNTER.format("") + "SELECT count(*) FROM n",
    "sort": "SELECT * FROM range(10000000000) t(i) ORDER BY -i",
    "list": "SELECT list(i) FROM range(10000000000) t(i)",
    "text": "SELECT string_agg(i, ',') FROM range(10000000000) t(i)",
    "distinct": "SELECT count(DISTINCT i) FROM range(10000000000) t(i)",
    "doubling": DOUBLING + "SELECT length(s) FROM d ORDER BY 1 DESC",
    "parentheses": "SELECT " + "(" * 20000 + "1" + ")" * 20000,
    "cases": "SELECT " + "CASE WHEN true THEN " * 2000 + "1" + " END" * 2000,
}


@pytest.fixture
async def duck(tmp_path: Path) -> AsyncIterator[Tool]:
    async with opened(database=duck_file(tmp_path), seconds=0.3) as tool:
        yield tool


async def test_duckdb_reaches_nothing_beyond_its_file(duck: Tool, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for query in DUCK_FORBIDDEN:
        result = await ask(duck, query.format(folder=tmp_path))
        assert result.error == "failed" and "\n" not in result.text, query
    await assert_untouched(duck)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("query", DUCK_BOUNDED.values(), ids=DUCK_BOUNDED)
async def test_what_takes_too_much_of_duckdb_ends(duck: Tool, query: str) -> None:
    began = time.monotonic()
    result = await ask(duck, query)
    assert time.monotonic() - began < 20
    assert result.error in ("timeout", "failed") and len(result.text) < 1100
    await assert_untouched(duck)


async def test_a_writable_duckdb_file_may_be_changed_and_nothing_else(tmp_path: Path) -> None:
    path = duck_file(tmp_path)
    before = path.read_bytes()
    async with opened(database=path, writable=True) as tool:
        for query in DUCK_FORBIDDEN[5:]:
            assert (await ask(tool, query.format(folder=tmp_path))).error == "failed", query
        await assert_untouched(tool)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
