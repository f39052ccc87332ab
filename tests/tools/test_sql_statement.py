"""What is sent to an engine without an authorizer: the tokens that were checked, and nothing else."""

from __future__ import annotations

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.tools.sql.answer import Refused
from agentrl.tools.sql.functions import DUCKDB, POSTGRES, POSTGRES_CATALOG
from agentrl.tools.sql.statement import Rules, checked, rewritten

RULES = Rules("postgres", POSTGRES, POSTGRES_CATALOG)
DUCK = Rules("duckdb", DUCKDB, methods=True)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "VALUES (1), (2)",
        "TABLE people",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "WITH t(a, b) AS (SELECT 1, 2) SELECT u.x FROM t AS u(x, y)",
        "SELECT g.i FROM generate_series(1, 10) g(i)",
        "SELECT * FROM (VALUES (1, 'x')) AS v(a, b)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT i FROM n",
        "SELECT a, count(*) FILTER (WHERE b > 1) FROM t GROUP BY GROUPING SETS ((a), ()) HAVING count(*) > 1",
        "SELECT sum(a) OVER (PARTITION BY b ORDER BY (c) ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT CAST(a AS numeric(10, 2)), a::varchar(5), x.y FROM t x WHERE a IN (1, 2) AND NOT (b = ANY (ARRAY[1]))",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT DISTINCT ON (a) a, extract(year FROM d), date_trunc('month', d), pg_catalog.lower('X') FROM t",
        "SELECT j ->> 'a', j #>> '{a,b}', a || b, a ~* 'x', d + interval '1 day', \"Odd name\" FROM t LIMIT 3 OFFSET 1",
        "SELECT relname FROM pg_class JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace",
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'people'",
    ],
)
def test_reading_statements_are_sent_as_they_are(query: str) -> None:
    assert checked(query, RULES, writable=False)[:2] == (query, True)


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("SELECT 1 -- ; DROP TABLE x", "SELECT 1"),
        ("SELECT /* a /* b */ c */ 1", "SELECT 1"),
        ("SELECT/**/1", "SELECT 1"),
        ("SELECT 1 -- x\rFROM t", "SELECT 1\nFROM t"),
        ("SELECT $$a'b$$, $t$c;$$d$t$", "SELECT 'a''b', 'c;$$d'"),
        ("SELECT 'a''b\\', \"c\"\"d\"", "SELECT 'a''b\\', \"c\"\"d\""),
        ("SELECT 'a'\n'b'", "SELECT 'a'\n'b'"),
        ("SELECT a  ORDER\n BY b", "SELECT a ORDER BY b"),
        ('SELECT U&"\\0061" FROM t', 'SELECT U &"\\0061" FROM t'),
        ("SELECT\u00a01\u3000AS\u2003x", "SELECT 1 AS x"),
    ],
)
def test_comments_and_quoting_of_other_kinds_do_not_reach_the_server(query: str, sent: str) -> None:
    assert checked(query, RULES, writable=False).text == sent


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT pg_sleep(10)", "pg_sleep may not be used"),
        ('SELECT "pg_sleep"(10)', "pg_sleep may not be used"),
        ("SELECT PG_SLEEP /* x */ (10)", "pg_sleep may not be used"),
        ("SELECT pg_catalog . pg_sleep (10)", "pg_sleep may not be used"),
        ('SELECT U&"\\0070g_sleep"(10)', "g_sleep may not be used"),
        ("SELECT U&'\\0070' ", "syntax error"),
        ("SELECT E'\\' || pg_sleep(10) --'", "escapes"),
        ("SELECT 1 AS a$b$, pg_sleep(10) AS c$b$", "pg_sleep may not be used"),
        ("SELECT 1 -- \r, pg_sleep(10)", "pg_sleep may not be used"),
        ("SELECT 1 BETWEEN SYMMETRIC dblink('x') AND 2", "function dblink may not be used"),
        ("WITH dblink(a) AS (SELECT 1) SELECT dblink('x') FROM dblink", "function dblink may not be used"),
        ("SELECT * FROM dblink('x', 'SELECT 1') AS t(a int)", "function dblink may not be used"),
        ("SELECT public.lower('X')", "function lower may not be used"),
        ("SELECT set_config('statement_timeout', '0', false)", "function set_config may not be used"),
        ("SELECT lo_import('/etc/passwd')", "function lo_import may not be used"),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", "function query_to_xml may not be used"),
        ("SELECT nextval('s')", "function nextval may not be used"),
        ("SELECT current_setting('x')", "function current_setting may not be used"),
        ("SELECT legnth('x')", "function legnth may not be used; did you mean length?"),
        ("SELECT * FROM pg_stat_activity", "pg_stat_activity may not be used"),
        ("SELECT rolname FROM pg_authid", "pg_authid may not be used"),
        ("SELECT 1; SELECT 2", "only one statement a call"),
        ("SELECT 1;; DROP TABLE t", "only one statement a call"),
        (" -- nothing\n", "contains no statement"),
        ("SELECT * INTO t FROM people", "SELECT INTO"),
        ("SELECT * FROM people FOR UPDATE", "row locks"),
        ("SELECT (SELECT 1 FROM people FOR SHARE)", "row locks"),
        ("WITH x AS (DELETE FROM people RETURNING *) SELECT * FROM x", "read-only"),
        ("INSERT INTO people VALUES (1)", "read-only"),
        ("COPY people TO '/tmp/x'", "read-only"),
        ("SET statement_timeout = 0", "read-only"),
        ("BEGIN", "read-only"),
        ("LISTEN x", "read-only"),
        ("NOTIFY x", "read-only"),
        ("DO $$ BEGIN END $$", "read-only"),
        ("EXPLAIN ANALYZE DELETE FROM people", "may not be used"),
        ("CALL p()", "may not be used"),
        ("SELECT 'x", "syntax error"),
        ("SELECT $1", "syntax error"),
        ("SELECT a[", "syntax error"),
        ("SELECT `a`", "syntax error"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "nested too deeply"),
        ("SELECT " + "CASE WHEN 1 THEN " * 3000 + "1" + " END" * 3000, "nested too deeply"),
        ("SELECT " + "NOT " * 10000 + "1", "nested too deeply"),
    ],
)
def test_what_a_reading_episode_may_not_send(query: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        checked(query, RULES, writable=False)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("INSERT INTO t (a, b) VALUES (1, 2) ON CONFLICT (a) DO UPDATE SET b = 3", False),
        ("INSERT INTO t (a) VALUES (1) RETURNING a", True),
        ("UPDATE t SET a = lower('X') WHERE b IN (1)", False),
        ("DELETE FROM t USING u WHERE t.a = u.a", False),
        ("CREATE TABLE t (a INT PRIMARY KEY, b NUMERIC(10, 2) CHECK (b > 0), FOREIGN KEY (a) REFERENCES u (a))", False),
        ("CREATE TABLE t AS SELECT 1 AS a", False),
        ("CREATE INDEX i ON t(a)", False),
        ("CREATE VIEW v(a) AS SELECT 1", False),
        ("ALTER TABLE t ADD COLUMN c INT", False),
        ("DROP TABLE t", False),
        ("TRUNCATE t", False),
    ],
)
def test_what_a_writing_episode_may_send(query: str, rows: bool) -> None:
    assert checked(query, RULES, writable=True)[:2] == (query, rows)


@pytest.mark.parametrize(
    "query",
    [
        "CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE sql",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TEMPORARY VIEW t AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON people EXECUTE FUNCTION f()",
        "CREATE EXTENSION dblink",
        "CREATE DATABASE d",
        "CREATE ROLE r SUPERUSER",
        "DROP DATABASE d",
        "DROP SCHEMA public CASCADE",
        "ALTER ROLE agent SUPERUSER",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "ALTER DATABASE d SET work_mem = '1GB'",
        "GRANT ALL ON people TO PUBLIC",
        "COPY people FROM PROGRAM 'id'",
        "CREATE TABLE t (a text DEFAULT pg_read_file('/etc/passwd'))",
        "INSERT INTO people SELECT pg_sleep(10)",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "PREPARE TRANSACTION 'x'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "RESET ALL",
        "DISCARD ALL",
        "LOCK TABLE people",
        "VACUUM",
        "LOAD 'x'",
        "LISTEN x",
        "SECURITY LABEL ON TABLE people IS 'x'",
        "COMMENT ON TABLE people IS 'x'",
        "REFRESH MATERIALIZED VIEW x",
        "DECLARE c CURSOR FOR SELECT 1",
    ],
)
def test_what_even_a_writing_episode_may_not_send(query: str) -> None:
    with pytest.raises(Refused):
        checked(query, RULES, writable=True)


@pytest.mark.parametrize(
    "query",
    [
        "FROM people SELECT name",
        "SELECT * EXCLUDE (id) FROM people",
        "SELECT COLUMNS(*) FROM people",
        "SELECT 'x'.upper(), {'a': 1}, [1, 2]",
        "SUMMARIZE people",
        "DESCRIBE people",
        "SHOW TABLES",
    ],
)
def test_duckdbs_own_forms_are_sent_as_they_are(query: str) -> None:
    assert rewritten(query, DUCK) == query


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT '/etc/passwd'.read_text()",
        "FROM \"read_text\" ('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT getenv('HOME')",
        "SELECT sleep_ms(1000)",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM read_blob('x') AS read_blob(a)",
    ],
)
def test_duckdbs_functions_that_reach_out_are_refused(query: str) -> None:
    with pytest.raises(Refused, match="may not be used"):
        rewritten(query, DUCK)


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_no_text_at_all_makes_it_fail_otherwise(text: str) -> None:
    for query in (text, f"SELECT '{text}'", f"SELECT {text} FROM t"):
        try:
            sent = checked(query, RULES, writable=False).text
        except Refused:
            continue
        again = checked(sent, RULES, writable=False).text
        assert again == sent
        before = [(token.token_type, token.text) for token in sqlglot.tokenize(sent, read="postgres")]
        assert before == [(token.token_type, token.text) for token in sqlglot.tokenize(again, read="postgres")]
