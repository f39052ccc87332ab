"""The tool `sql` on a real PostgreSQL server that the tests start themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from agentrl.errors import EnvError
from agentrl.tool import Tool, resolve_tool
from agentrl.tools.sql.functions import POSTGRES
from agentrl.workers import shared_pool
from tests.tools.sql_support import ask, episode, opened

pytest.importorskip("psycopg")
from tests.tools.postgres_server import READER, WRITER, Server, programs, running

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL server's programs here (Debian: apt-get install postgresql)")
    with running(binaries) as started:
        yield started
        shared_pool().close()


def sessions(server: Server, condition: str) -> list[tuple[Any, ...]]:
    with server.connect() as connection:
        query = f"SELECT datname, state, query FROM pg_stat_activity WHERE application_name = 'agentrl' AND {condition}"
        return list(connection.execute(query))


def databases(server: Server) -> set[str]:
    with server.connect() as connection:
        return {str(name) for (name,) in connection.execute("SELECT datname FROM pg_database")}


async def assert_untouched(tool: Tool) -> None:
    result = await ask(tool, "SELECT count(*), sum(id) FROM people")
    assert result.error is None and result.data[1] == [(3, 6)]


async def test_results_are_tables_and_raw_values(server: Server) -> None:
    async with opened(database=server.url()) as tool:
        result = await ask(
            tool, "SELECT name, age, total FROM people LEFT JOIN orders ON person = people.id ORDER BY total"
        )
        typed = await ask(
            tool,
            "SELECT 1.50::numeric(10, 2) AS n, date '2020-02-03' AS d, ARRAY[1, 2] AS a, "
            "'{\"k\": 1}'::jsonb AS j, 'x%y' AS p",
        )
        empty = await ask(tool, "SELECT name AS who, age FROM people WHERE id > 10")
    assert result.text == "name | age | total\nCy | 7 | 1.0\nAda | 36 | 4.0\nAda | 36 | 10.5\nBob | NULL | NULL"
    assert typed.text == 'n | d | a | j | p\n1.50 | 2020-02-03 | [1, 2] | {"k": 1} | x%y'
    assert typed.data[1] == [(Decimal("1.50"), date(2020, 2, 3), [1, 2], {"k": 1}, "x%y")]
    assert (empty.text, empty.data) == ("who | age\n(no rows)", (("who", "age"), []))


async def test_rows_beyond_the_limit_are_counted(server: Server) -> None:
    async with opened(database=server.url(), rows=2, fetch=3) as tool:
        some = await ask(tool, "SELECT i FROM generate_series(1, 500) AS g(i)")
        endless = await ask(tool, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n")
        assert some.text == "i\n1\n2\n(498 more rows)" and some.data[1] == [(1,), (2,), (3,)]
        assert endless.text == "i\n1\n2\n(more than 10001 more rows)"
        await assert_untouched(tool)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT nme FROM people",
            'column "nme" does not exist (Perhaps you meant to reference the column "people.name".)',
        ),
        ("SELECT zzzz FROM people", 'column "zzzz" does not exist; columns of people: id, name, age'),
        ("SELECT * FROM peopl", 'relation "peopl" does not exist; did you mean people?'),
        ("SELECT 1 / 0", "division by zero"),
        ("SELECT 'x'::int", 'invalid input syntax for type integer: "x"'),
    ],
)
async def test_an_error_is_the_servers_message_with_the_nearest_names(server: Server, query: str, message: str) -> None:
    async with opened(database=server.url()) as tool:
        result = await ask(tool, query)
        assert (result.error, result.text) == ("failed", f"Error: {message}")
        await assert_untouched(tool)


async def test_the_schema_can_be_asked_for(server: Server) -> None:
    async with opened(database=server.url()) as tool:
        columns = (
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'orders' ORDER BY ordinal_position"
        )
        assert (await ask(tool, columns)).text == "column_name\nid\nperson\ntotal"
        assert (await ask(tool, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")).error is None


def test_every_listed_function_is_one_that_the_server_has_or_a_word_of_its_grammar(server: Server) -> None:
    """A name that means nothing today could mean a user's own function tomorrow."""
    grammar = {
        "bool", "cast", "coalesce", "current_catalog", "current_date", "current_schema", "current_time",
        "current_timestamp", "current_user", "every", "extract", "greatest", "grouping", "least", "localtime",
        "localtimestamp", "mode", "nullif", "position", "time", "trim", "xmlagg", "regexp_count", "regexp_like",
        "regexp_substr", "substring", "overlay",
    }  # fmt: skip
    with server.connect("shop") as connection:
        known = {str(name) for (name,) in connection.execute("SELECT proname FROM pg_proc WHERE prolang IN (12, 14)")}
    assert set(POSTGRES) - known - grammar == set()


# -- hostile -----------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    "SELECT pg_sleep(100)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_create(0)",
    "SELECT dblink_connect('host=localhost')",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_notify('x', 'y')",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_cancel_backend(1)",
    "SELECT query_to_xml('SELECT 1', true, false, '')",
    "SELECT nextval('s')",
    "SELECT txid_current()",
    "SELECT current_setting('data_directory')",
    "SELECT repeat('x', 100000000)",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_settings",
    "SELECT * FROM pg_hba_file_rules",
    "COPY people TO '/tmp/x'",
    "COPY people TO PROGRAM 'id'",
    "COPY people TO STDOUT",
    "SET statement_timeout = 0",
    "SET ROLE postgres",
    "RESET ALL",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT s",
    "LISTEN x",
    "NOTIFY x",
    "LOCK TABLE people",
    "DO $$ BEGIN PERFORM pg_sleep(100); END $$",
    "CREATE TEMP TABLE t (a int)",
    "CREATE TABLE t (a int)",
    "DELETE FROM people",
    "UPDATE people SET name = 'x'",
    "WITH x AS (DELETE FROM people RETURNING *) SELECT * FROM x",
    "SELECT * INTO t FROM people",
    "SELECT * FROM people FOR UPDATE",
    "EXPLAIN ANALYZE DELETE FROM people",
    "SELECT 1; DELETE FROM people",
    "TRUNCATE people",
    "DECLARE c CURSOR FOR SELECT 1",
    "PREPARE p AS SELECT 1",
    'SELECT U&"\\0070g_sleep"(100)',
    "SELECT 1 AS a$b$, pg_sleep(100) AS c$b$",
    "SELECT E'\\' || pg_sleep(100) --'",
    "SELECT ('/etc/passwd'::text).lo_import",
    'SELECT (0::oid) . /* x */ "lo_create"',
    "SELECT x.ts_stat FROM CAST('SELECT 1' AS text) AS x(y)",
    "SELECT ('data_directory'::text).current_setting",
    "SELECT (10::float8).pg_sleep",
]
BOUNDED = {
    "series": "SELECT count(*) FROM generate_series(1, 100000000000)",
    "cross join": "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b",
    "recursion": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "sort": "SELECT * FROM generate_series(1, 100000000) g(i) ORDER BY -i",
    "group": "SELECT i FROM generate_series(1, 100000000) g(i) GROUP BY i",
    "aggregate": "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000000) g(i)",
    "one large row": "WITH RECURSIVE d(s, n) AS "
    "(SELECT 'xxxxxxxx', 1 UNION ALL SELECT s || s, n + 1 FROM d WHERE n < 26) SELECT s FROM d ORDER BY n DESC LIMIT 1",
    "nesting": "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "long list": "SELECT 1 WHERE 1 IN (" + ", ".join(["1"] * 15000) + ", 'x')",
}


@pytest.mark.parametrize("query", FORBIDDEN)
async def test_what_a_reader_may_not_do(server: Server, query: str) -> None:
    """Also where the role itself could: it owns the tables."""
    async with opened(database=server.url(WRITER), seconds=5.0) as tool:
        result = await ask(tool, query)
        assert result.error == "failed" and "\n" not in result.text
        await assert_untouched(tool)


@pytest.mark.parametrize("query", BOUNDED.values(), ids=BOUNDED)
async def test_what_takes_too_much_ends(server: Server, query: str) -> None:
    async with opened(database=server.url(), seconds=0.5) as tool:
        began = time.monotonic()
        result = await ask(tool, query)
        assert time.monotonic() - began < 20
        assert result.error in ("timeout", "failed") and len(result.text) < 400
        await assert_untouched(tool)
    assert sessions(server, "state = 'active'") == []


async def test_attributes_may_be_called_like_harmless_functions(server: Server) -> None:
    async with opened(database=server.url()) as tool:
        assert (
            await ask(tool, "SELECT p.name, ('Ab'::text).lower FROM people p WHERE p.id = 1")
        ).text == "name | lower\nAda | ab"


async def test_rows_that_double_end_at_the_limit_of_bytes(server: Server) -> None:
    query = "WITH RECURSIVE d(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM d) SELECT s FROM d"
    async with opened(database=server.url(), bytes=100_000) as tool:
        result = await ask(tool, query)
        assert result.text.endswith("more rows)") and "(more than" in result.text
        assert sum(len(text) for (text,) in result.data[1]) <= 100_000
        await assert_untouched(tool)


async def test_the_functions_bound_the_policy_and_the_transaction_bounds_the_functions(server: Server) -> None:
    """With every function allowed that could undo a limit, each limit still stands by another means."""
    functions = ["set_config", "pg_sleep", "pg_advisory_lock", "nextval", "lo_create", "pg_notify", "current_setting"]
    async with opened(database=server.url(WRITER), seconds=0.5, functions=functions) as tool:
        began = time.monotonic()
        unset = (
            "SELECT set_config('statement_timeout', '0', false), "
            "set_config('default_transaction_read_only', 'off', false)"
        )
        slept = await ask(tool, f"WITH s AS MATERIALIZED ({unset}) SELECT pg_sleep(100) FROM s")
        assert slept.error == "timeout" and time.monotonic() - began < 20
        assert (await ask(tool, unset)).error is None
        shown = await ask(tool, "SELECT current_setting('statement_timeout'), current_setting('transaction_read_only')")
        assert shown.data[1] == [("500ms", "on")]
        assert (await ask(tool, "SELECT pg_advisory_lock(7)")).error is None
    async with opened(database=server.url(WRITER), seconds=0.5, functions=functions) as tool:
        for _ in range(2 * shared_pool().size):  # whichever worker answers: nobody holds the lock
            assert (await ask(tool, "SELECT pg_advisory_lock(7)")).error is None
        await assert_untouched(tool)


async def test_a_killed_call_leaves_no_statement_behind(server: Server) -> None:
    tool = resolve_tool("sql", database=server.url(), seconds=60.0, timeout=0.5, functions=["pg_sleep"])
    await tool.open(episode())
    result = await ask(tool, "SELECT pg_sleep(50)")
    assert result.error == "timeout"
    for _ in range(100):
        if not sessions(server, "state = 'active'"):
            break
        await asyncio.sleep(0.1)
    assert sessions(server, "state = 'active'") == []
    await tool.close()


async def test_a_connection_that_the_server_ended_is_made_anew(server: Server) -> None:
    async with opened(database=server.url()) as tool:
        await assert_untouched(tool)
        with server.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentrl'"
            )
        await assert_untouched(tool)


# -- writing -----------------------------------------------------------------------------------------------------------


async def test_a_writing_episode_has_a_database_of_its_own(server: Server) -> None:
    before = databases(server)
    options = {"database": server.url(WRITER, "stock"), "writable": True}
    async with opened(**options) as one, opened(**options) as two:
        assert len(databases(server) - before) == 2
        assert (await ask(one, "DELETE FROM orders")).text == "OK, 3 rows changed"
        assert (await ask(one, "INSERT INTO people VALUES (9, 'Z', 1) RETURNING id, name")).text == "id | name\n9 | Z"
        assert (await ask(one, "CREATE TABLE t (a int, b numeric(10, 2) CHECK (b > 0))")).text == "OK"
        assert (await ask(one, "INSERT INTO t VALUES (1, -1)")).error == "failed"
        assert (await ask(one, "SELECT count(*) FROM people")).data[1] == [(4,)]
        assert (await ask(two, "SELECT count(*) FROM orders")).data[1] == [(3,)]
        with pytest.raises(EnvError, match="cannot be copied by value"):
            await one.snapshot()
    assert databases(server) == before
    async with opened(database=server.url(WRITER, "stock")) as tool:
        await assert_untouched(tool)
    async with opened(**options) as three:  # the connections kept for reading it do not stand in the way
        await assert_untouched(three)


async def test_what_even_a_writer_may_not_do(server: Server) -> None:
    before = databases(server)
    async with opened(database=server.url(WRITER, "stock"), writable=True) as tool:
        for query in (
            "CREATE EXTENSION dblink",
            "CREATE FUNCTION f() RETURNS int AS 'SELECT 1' LANGUAGE sql",
            "CREATE ROLE r SUPERUSER",
            "CREATE DATABASE d",
            "DROP DATABASE shop",
            "ALTER SYSTEM SET work_mem = '1GB'",
            "COPY people FROM PROGRAM 'id'",
            "GRANT ALL ON people TO PUBLIC",
            "SET ROLE postgres",
            "COMMIT",
            "INSERT INTO people SELECT 9, pg_read_file('/etc/passwd'), 1",
            "CREATE TABLE t (a text DEFAULT pg_read_file('/etc/passwd'))",
        ):
            assert (await ask(tool, query)).error == "failed"
        await assert_untouched(tool)
        assert len(databases(server) - before) == 1
    assert databases(server) == before


# -- mistakes and leftovers --------------------------------------------------------------------------------------------


async def test_a_database_that_cannot_be_used_is_one_line(server: Server) -> None:
    cases = {
        server.url("postgres"): "role 'postgres' is a superuser",
        server.url("nobody_here"): 'role "nobody_here" does not exist',
        server.url(database="missing"): 'database "missing" does not exist',
        "postgresql://agent:secret@/shop?host=/nowhere": "No such file or directory",
    }
    for url, message in cases.items():
        with pytest.raises(EnvError) as raised:
            await resolve_tool("sql", database=url).open(episode())
        assert message in str(raised.value) and "\n" not in str(raised.value) and "secret" not in str(raised.value)
    with pytest.raises(EnvError, match="permission denied"):
        await resolve_tool("sql", database=server.url(READER), writable=True).open(episode())


async def test_many_episodes_leave_no_connections_and_no_databases(server: Server) -> None:
    reading = resolve_tool("sql", database=server.url())
    writing = resolve_tool("sql", database=server.url(WRITER, "stock"), writable=True)
    before = databases(server)
    for index in range(100):
        await reading.open(episode())
        await assert_untouched(reading)
        if index % 25 == 0:
            await writing.open(episode())
            await assert_untouched(writing)
            assert len(databases(server)) == len(before) + 1
    await reading.close()
    await writing.close()
    assert databases(server) == before
    # a worker keeps at most a handful: of the database read, of the one for statements about databases
    assert len(sessions(server, "true")) <= 4 * shared_pool().size
