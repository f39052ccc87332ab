"""The tool `sql` on SQLite and DuckDB: whose database it is, what the policy and the judge get, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, EnvError
from agentrl.tool import resolve_tool
from agentrl.tools.sql import session as sessions
from agentrl.tools.sql.tool import SqlTool
from tests.tools.sql_support import SCRIPT, ask, duck_file, episode, opened, shop


@pytest.fixture
def shop_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    path.write_bytes(shop())
    return path


async def test_a_result_is_a_table_for_the_policy_and_raw_values_for_the_judge() -> None:
    async with opened(database=shop()) as tool:
        result = await ask(tool, "SELECT name, age, age * 0.5 AS half FROM people ORDER BY id")
    assert result.error is None
    assert result.text == "name | age | half\nAda | 36 | 18.0\nBob | NULL | NULL\nCy | 7 | 3.5"
    assert result.data == (("name", "age", "half"), [("Ada", 36, 18.0), ("Bob", None, None), ("Cy", 7, 3.5)])


async def test_values_are_shown_so_that_they_cannot_be_mistaken() -> None:
    async with opened(database=shop(), width=12) as tool:
        result = await ask(
            tool, "SELECT NULL, 'NULL', '', x'00ff', 'two' || char(10) || 'lines', 'a long cell of text', 'é'"
        )
    assert result.text.splitlines()[1:] == ["NULL | 'NULL' | '' | x'00ff' | two\\nlines | a long ce... | é"]
    assert result.data[1][0][4:6] == ("two\nlines", "a long cell of text")


async def test_rows_beyond_the_limit_are_counted_and_kept_for_the_judge() -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"
    async with opened(database=shop(), rows=2, fetch=5) as tool:
        three = await ask(tool, numbers.format(3))
        many = await ask(tool, numbers.format(900))
        endless = await ask(tool, numbers.format(10**12))
    assert three.text == "i\n1\n2\n(1 more row)" and three.data[1] == [(1,), (2,), (3,)]
    assert many.text == "i\n1\n2\n(898 more rows)" and many.data[1] == [(1,), (2,), (3,), (4,), (5,)]
    assert endless.text == "i\n1\n2\n(more than 10003 more rows)" and endless.error is None


async def test_a_table_too_long_for_the_policy_loses_whole_rows() -> None:
    async with opened(database=shop(), max_output=200) as tool:
        result = await ask(
            tool,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) "
            "SELECT i, 'abcdefghij' FROM n",
        )
    lines = result.text.splitlines()
    assert len(result.text) <= 200 and lines[1] == "1 | abcdefghij"
    assert lines[-1] == f"({50 - (len(lines) - 2)} more rows)"


async def test_no_rows_and_no_result() -> None:
    async with opened(database=shop(), writable=True) as tool:
        assert (await ask(tool, "SELECT name FROM people WHERE id > 9")).text == "name\n(no rows)"
        assert (await ask(tool, "UPDATE people SET age = 1 WHERE id < 3")).text == "OK, 2 rows changed"
        assert (await ask(tool, "CREATE INDEX by_name ON people(name)")).text == "OK"
        assert (await ask(tool, "-- only a comment")).text == "Error: the query contains no statement"
        assert (await ask(tool, "  ")).text == "Error: the query is empty"


async def test_text_that_is_not_utf8_can_be_read() -> None:
    async with opened(database=shop()) as tool:
        result = await ask(tool, "SELECT CAST(x'41ff42' AS TEXT)")
    assert result.text.splitlines()[1] == "A\ufffdB"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nme FROM people", "no such column: nme; did you mean name?"),
        ("SELECT p.nme FROM people p", "no such column: p.nme; did you mean name?"),
        ("SELECT zzzz FROM people", "no such column: zzzz; columns of people: id, name, age"),
        ("SELECT * FROM peoples", "no such table: peoples; did you mean people?"),
        ("SELECT * FROM zzzz", "no such table: zzzz; tables: people, orders, adults"),
        ("SELECT legnth(name) FROM people", "no such function: legnth; did you mean length?"),
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT 1; SELECT 2", "only one statement a call: make one call for each"),
    ],
)
async def test_an_error_is_the_engines_message_with_the_nearest_names(query: str, message: str) -> None:
    async with opened(database=shop()) as tool:
        result = await ask(tool, query)
    assert (result.error, result.text) == ("failed", f"Error: {message}")
    assert result.data is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1", "name\norders\npeople"),
        ("SELECT name FROM sqlite_schema WHERE type = 'view'", "name\nadults"),
        ("SELECT name FROM pragma_table_info('orders')", "name\nid\nperson\ntotal"),
        ("PRAGMA foreign_key_list(orders)", None),
        ("EXPLAIN QUERY PLAN SELECT * FROM people WHERE id = 1", None),
    ],
)
async def test_the_schema_can_be_asked_for(query: str, expected: str | None) -> None:
    async with opened(database=shop()) as tool:
        result = await ask(tool, query)
    assert result.error is None
    assert expected is None or result.text == expected


# -- whose database ----------------------------------------------------------------------------------------------------


async def test_a_file_is_read_in_place_and_cannot_be_changed(shop_file: Path) -> None:
    before = shop_file.read_bytes()
    for database in (shop_file, str(shop_file), f"sqlite:///{shop_file}"):
        async with opened(database=database) as tool:
            assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(3,)]
            refused = await ask(tool, "DELETE FROM people")
            assert refused.text == "Error: the database is read-only: only SELECT statements may be run"
    assert shop_file.read_bytes() == before
    assert list(shop_file.parent.iterdir()) == [shop_file]


async def test_a_file_that_changes_between_calls_is_read_anew(shop_file: Path) -> None:
    async with opened(database=shop_file) as tool:
        assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(3,)]
        connection = sqlite3.connect(shop_file)
        connection.execute("DELETE FROM people WHERE id = 1")
        connection.commit()
        connection.close()
        assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(2,)]


@pytest.mark.parametrize("inline", [128 << 10, 0], ids=["travels", "private file"])
async def test_a_writable_episode_has_a_copy_of_its_own(
    inline: int, shop_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "INLINE", inline)
    before = shop_file.read_bytes()
    for database in (shop(), shop_file):
        async with opened(database=database, writable=True) as one, opened(database=database, writable=True) as two:
            assert (await ask(one, "DELETE FROM people WHERE id > 1")).text == "OK, 2 rows changed"
            assert (await ask(one, "SELECT count(*) FROM people")).data[1] == [(1,)]
            assert (await ask(two, "SELECT count(*) FROM people")).data[1] == [(3,)]
    assert shop_file.read_bytes() == before


async def test_an_episode_names_its_own_database_and_limits() -> None:
    tool = resolve_tool("sql", rows=1)
    with pytest.raises(EnvError, match="there is no database"):
        await tool.open(episode())
    await tool.open(episode(database=shop(), writable=True))
    assert (await ask(tool, "DELETE FROM people WHERE id = 3")).error is None
    assert (await ask(tool, "SELECT name FROM people")).text == "name\nAda\n(1 more row)"
    await tool.open(episode(database=shop(), rows=3))  # the next episode: nothing is left of the last
    assert (await ask(tool, "SELECT name FROM people")).text == "name\nAda\nBob\nCy"
    assert (await ask(tool, "DELETE FROM people")).error == "failed"
    await tool.close()
    await tool.close()
    assert (await ask(tool, "SELECT 1")).text == "Error: no database is open"


async def test_a_new_database_begins_empty() -> None:
    for database in ("sqlite://", ":memory:", b""):
        async with opened(database=database, writable=True) as tool:
            assert (await ask(tool, "CREATE TABLE t AS SELECT 1 AS a")).text == "OK"
            assert (await ask(tool, "SELECT * FROM t")).text == "a\n1"


async def test_calls_of_one_message_write_in_their_order() -> None:
    async with opened(database=shop(), writable=True) as tool:
        await asyncio.gather(*(ask(tool, f"INSERT INTO people VALUES ({i}, 'P{i}', {i})") for i in range(10, 30)))
        assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(23,)]


async def test_a_database_in_write_ahead_mode(tmp_path: Path) -> None:
    path = tmp_path / "wal.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCRIPT)
    data = connection.serialize()
    for database in (path, data):
        for writable in (False, True):
            async with opened(database=database, writable=writable) as tool:
                assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(3,)]
    connection.close()


@pytest.mark.parametrize("inline", [128 << 10, 0], ids=["travels", "private file"])
async def test_a_snapshot_is_a_state_by_value(inline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "INLINE", inline)
    async with opened(database=shop(), writable=True) as tool:
        await ask(tool, "DELETE FROM people WHERE id = 1")
        state = await tool.snapshot()
        await ask(tool, "DELETE FROM people")
        for _ in range(2):  # the snapshot itself stays as it is
            async with opened(database=shop(), writable=True) as other:
                await other.restore(state)
                assert (await ask(other, "SELECT name FROM people")).text == "name\nBob\nCy"
                await ask(other, "DROP TABLE people")
        assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(0,)]


@pytest.mark.parametrize("inline", [128 << 10, 0], ids=["travels", "private file"])
async def test_a_killed_change_is_taken_back(inline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "INLINE", inline)
    bomb = "UPDATE people SET name = CASE WHEN id < 3 THEN 'changed' ELSE printf('%.*c', 900000000, 'x') END"
    async with opened(database=shop(), writable=True, seconds=0.2) as tool:
        assert (await ask(tool, bomb)).error == "timeout"
        async with opened(database=shop(), writable=True) as other:
            await other.restore(await tool.snapshot())
            assert (await ask(other, "SELECT name FROM people")).text == "name\nAda\nBob\nCy"
        assert (await ask(tool, "SELECT name FROM people")).text == "name\nAda\nBob\nCy"


async def test_a_reading_session_has_nothing_to_copy() -> None:
    async with opened(database=shop()) as tool:
        state = await tool.snapshot()
        assert state is None
        await tool.restore(state)
        assert (await ask(tool, "SELECT 1 AS a")).text == "a\n1"


# -- DuckDB ------------------------------------------------------------------------------------------------------------


async def test_a_duckdb_file_is_read_in_place(tmp_path: Path) -> None:
    path = duck_file(tmp_path)
    for database in (path, f"duckdb:///{path}"):
        async with opened(database=database, rows=2) as tool:
            result = await ask(tool, "SELECT name, [age] AS ages, {'a': 1} AS s FROM people ORDER BY id")
            assert result.text == 'name | ages | s\nAda | [36] | {"a": 1}\nBob | [null] | {"a": 1}\n(1 more row)'
            assert result.data[1][1] == ("Bob", [None], {"a": 1})
            assert (await ask(tool, "SHOW TABLES")).text == "name\nadults\norders\n(1 more row)"
            assert (await ask(tool, "SELECT name FROM people WHERE id > 9")).text == "name\n(no rows)"
            wrong = await ask(tool, "SELECT nme FROM people")
            assert 'Candidate bindings: "name"' in wrong.text and "\n" not in wrong.text
            assert (await ask(tool, "DELETE FROM people")).error == "failed"
    assert list(tmp_path.iterdir()) == [path]


async def test_a_writable_duckdb_episode_has_a_copy_of_its_own(tmp_path: Path) -> None:
    path = duck_file(tmp_path)
    async with opened(database=path, writable=True) as one, opened(database=path, writable=True) as two:
        assert (await ask(one, "DELETE FROM orders WHERE id > 1")).text == "OK, 2 rows changed"
        state = await one.snapshot()
        assert (await ask(one, "CREATE TABLE t AS SELECT 1 AS a")).text == "OK"
        assert (await ask(one, "INSERT INTO t VALUES (2) RETURNING a")).text == "a\n2"
        assert (await ask(one, "SELECT count(*) FROM t")).data[1] == [(2,)]
        assert (await ask(two, "SELECT count(*) FROM orders")).data[1] == [(3,)]
        await two.restore(state)
        assert (await ask(two, "SELECT count(*) FROM orders")).data[1] == [(1,)]
        assert (await ask(two, "SELECT * FROM t")).error == "failed"


# -- what is wrong with what was given ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database": "missing.db"}, "database='missing.db': there is no such file"),
        ({"database": "/"}, "database='/': Is a directory"),
        ({"database": __file__}, "is not an SQLite or DuckDB database"),
        ({"database": b"text"}, "the 4 bytes given are not a serialised SQLite database"),
        ({"database": "mysql://u:secret@h/d"}, "'mysql' is not supported; valid: sqlite, duckdb, postgresql"),
        ({"database": "sqlte:///x.db"}, "'sqlte' is not supported; valid: sqlite, duckdb, postgresql"),
        ({"database": "sqlite://shop.db"}, "write sqlite:///relative or sqlite:////absolute/path"),
        ({"database": "sqlite:///missing.db"}, "there is no such file"),
        ({"database": "duckdb://"}, "is empty; name a file"),
        ({"database": "postgresql://u:secret@h"}, "names no database"),
        ({"database": "postgresql+asyncpg://u:secret@h/d"}, "only the driver psycopg is supported"),
        ({"rows": 0}, "rows=0 must be a positive whole number"),
        ({"seconds": -1.0}, "seconds=-1.0 must be a positive number"),
        ({"functions": ["a b"]}, "must be a list of function names"),
        ({"databse": "x"}, "option 'databse' is unknown; did you mean 'database'"),
    ],
)
def test_a_users_mistake_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_tool("sql", **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"databse": b""}, "option 'databse' is unknown"),
        ({"database": b"junk"}, "not a serialised SQLite database"),
        ({"database": b""}, "an empty database that cannot be written to is of no use"),
        ({"database": b"", "writable": 1}, "writable=1 must be true or false"),
        ({"rows": True}, "rows=True must be a positive whole number"),
    ],
)
async def test_a_mistake_in_an_episodes_options_is_one_line(options: dict[str, Any], message: str) -> None:
    tool = SqlTool(database=shop())
    with pytest.raises(ConfigError) as raised:
        await tool.open(episode(**options))
    assert message in str(raised.value) and "\n" not in str(raised.value)


async def test_a_damaged_file_is_said_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    path.write_bytes(shop()[:16] + b"\xff" * 5000)
    tool = resolve_tool("sql", database=path)
    for writable in (False, True):
        with pytest.raises(EnvError, match=r"file is not a database|malformed"):
            await tool.open(episode(writable=writable))


# -- nothing is left behind --------------------------------------------------------------------------------------------


async def test_a_thousand_episodes_leave_nothing_behind(
    shop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    kinds: list[tuple[dict[str, Any], int]] = [
        ({"database": shop()}, 128 << 10),
        ({"database": shop(), "writable": True}, 128 << 10),
        ({"database": shop()}, 0),
        ({"database": shop(), "writable": True}, 0),
        ({"database": shop_file}, 0),
    ]
    tool = SqlTool()

    async def play(index: int) -> None:
        options, inline = kinds[index % len(kinds)]
        monkeypatch.setattr(sessions, "INLINE", inline)
        await tool.open(episode(**options))
        assert (await ask(tool, "SELECT count(*) FROM people")).data[1] == [(3,)]
        if options.get("writable"):
            assert (await ask(tool, "DELETE FROM people")).error is None

    for index in range(100):
        await play(index)
    descriptors = _descriptors()
    for index in range(1000):
        await play(index)
        assert len(list(folder.iterdir())) <= 1
    await tool.close()
    assert _descriptors() <= descriptors
    assert list(folder.iterdir()) == []


async def test_a_session_that_nobody_closes_is_removed_with_its_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sessions, "INLINE", 0)
    tool = SqlTool(database=shop())
    await tool.open(episode())
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.warns(ResourceWarning):
        del tool
        gc.collect()
    assert list(tmp_path.iterdir()) == []


def _descriptors() -> int:
    """Open descriptors of this process and of the processes that it started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(len(os.listdir(f"/proc/{process}/fd")) for process in ["self", *children])
