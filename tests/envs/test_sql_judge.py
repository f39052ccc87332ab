"""The judge of SQL answers: what counts as the same result, and what hostile SQL gets."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.envs.sql.connections import opened
from agentrl.envs.sql.judge import judge_change, judge_query, same_results
from agentrl.errors import EnvError

SCHEMA = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL, total REAL, paid TEXT);
INSERT INTO orders VALUES (1, 'open', 10.5, NULL), (2, 'paid', 20.25, '2024-01-02'), (3, 'paid', 7.0, '2024-03-04');
CREATE TABLE items (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (id), name TEXT);
INSERT INTO items VALUES (1, 1, 'pen'), (2, 2, 'ink'), (3, 2, 'pen');
"""


def made(*statements: str) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        return bytes(connection.serialize())


DATABASE = made()


async def verdict(answer: str, gold: Any, *, ordered: bool = False, permute: bool = False) -> str:
    return (await judge_query(DATABASE, answer, gold, ordered=ordered, permute=permute, seconds=2.0))[0]


# -- the same result ---------------------------------------------------------------------------------------------------

NO_ORDER: dict[str, bool] = {"ordered": False, "permute": False}


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ([(1,), (2,)], [(2,), (1,)], True),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False),
        ([(1,)], [(1,), (1,)], False),
        ([], [], True),
        ([(3,)], [(3.0,)], True),
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(1_000_000.5,)], [(1_000_000.9,)], True),
        ([(1.0001,)], [(1.0,)], False),
        ([(1_000_001,)], [(1_000_000,)], False),
        ([(0.0,)], [(1e-12,)], True),
        ([("3",)], [(3,)], False),
        ([("Oslo",)], [("oslo",)], False),
        ([("Oslo ",)], [("Oslo",)], False),
        ([(None,)], [(None,)], True),
        ([(None,)], [(0,)], False),
        ([(None,)], [("",)], False),
        ([(b"a",)], [("a",)], False),
        ([(float("inf"),)], [(float("inf"),)], True),
        ([("a", 1)], [(1, "a")], False),
        ([("a", 1)], [("a",)], False),
        ([("a", 0.1 + 0.2), ("b", 0.3)], [("b", 0.1 + 0.2), ("a", 0.3)], True),
        ([("a", 1.0), ("b", 2.0)], [("a", 2.0), ("b", 1.0)], False),
    ],
)
def test_what_is_the_same_result(found: list[Any], wanted: list[Any], same: bool) -> None:
    assert same_results(found, wanted, **NO_ORDER) is same


def test_order_counts_where_it_is_asked_for() -> None:
    rows = [("a", 1), ("b", 2)]
    assert same_results(rows, rows, ordered=True, permute=False)
    assert not same_results(rows[::-1], rows, ordered=True, permute=False)


def test_columns_may_be_permuted_where_it_is_allowed() -> None:
    wanted = [("a", 1, 1), ("b", 1, 2)]
    found = [(2, "b", 1), (1, "a", 1)]
    assert same_results(found, wanted, ordered=False, permute=True)
    assert not same_results(found, wanted, ordered=True, permute=True)
    assert not same_results(found, wanted, ordered=False, permute=False)
    # every column holds the right values, the rows do not
    assert not same_results([(1, "b", 1), (2, "a", 1)], wanted, ordered=False, permute=True)


cells = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from(["a", "b"]), st.floats(-2, 2, width=16))
tables = st.lists(st.tuples(cells, cells), max_size=6)


@given(rows=tables, seed=st.randoms(use_true_random=False))
def test_a_shuffled_result_is_the_same_multiset(rows: list[Any], seed: Any) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)
    assert same_results(shuffled, rows, **NO_ORDER)
    assert same_results([row[::-1] for row in shuffled], rows, ordered=False, permute=True)


@given(found=tables, wanted=tables)
def test_sameness_does_not_depend_on_the_side(found: list[Any], wanted: list[Any]) -> None:
    assert same_results(found, wanted, **NO_ORDER) == same_results(wanted, found, **NO_ORDER)


# -- queries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("SELECT COUNT(*) FROM orders WHERE status = 'paid'", "right"),
        ("select sum(status = 'paid') from orders;", "right"),
        ("WITH p AS (SELECT * FROM orders WHERE paid IS NOT NULL) SELECT COUNT(*) FROM p -- two", "right"),
        ("SELECT COUNT(*) FROM orders", "wrong"),
        ("SELECT COUNT(*), 1 FROM orders WHERE status = 'paid'", "wrong"),
        ("SELECT '2'", "wrong"),
        ("SELECT 2 UNION ALL SELECT 2", "wrong"),
        ("SELECT 2 FROM orders WHERE 0", "wrong"),
        ("SELECT COUNT(*) FROM order", "failed"),
        ("how many?", "failed"),
        ("", "failed"),
        (";", "failed"),
    ],
)
async def test_a_query_is_judged_by_its_result(answer: str, outcome: str) -> None:
    gold = "SELECT COUNT(*) FROM orders WHERE status = 'paid'"
    assert await verdict(answer, gold) == outcome
    assert await verdict(answer, [[2]]) == outcome


async def test_the_order_of_rows_is_judged_only_where_it_matters() -> None:
    gold = "SELECT id, total FROM orders ORDER BY total"
    assert await verdict("SELECT id, total FROM orders ORDER BY total DESC", gold) == "right"
    assert await verdict("SELECT id, total FROM orders ORDER BY total DESC", gold, ordered=True) == "wrong"
    assert await verdict("SELECT id, total FROM orders ORDER BY 2", gold, ordered=True) == "right"
    assert await verdict("SELECT total, id FROM orders", gold) == "wrong"
    assert await verdict("SELECT total, id FROM orders", gold, permute=True) == "right"


HOSTILE = {
    "delete": "DELETE FROM orders",
    "delete returning": "DELETE FROM orders RETURNING 2",
    "insert": "INSERT INTO orders (id, status) VALUES (9, 'paid')",
    "drop": "DROP TABLE orders",
    "two statements": "SELECT 2; SELECT 2",
    "attach": "ATTACH DATABASE '/tmp/x.db' AS x",
    "vacuum into": "VACUUM INTO '/tmp/stolen.db'",
    "pragma": "PRAGMA writable_schema = ON",
    "pragma function": "SELECT 2 FROM pragma_database_list",
    "extension": "SELECT load_extension('evil.so')",
    "file": "SELECT readfile('/etc/passwd')",
    "tokenizer": "SELECT fts3_tokenizer('simple')",
    "endless": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
    "product": "SELECT COUNT(*) FROM "
    + ", ".join(f"(SELECT id FROM items UNION SELECT id FROM orders) t{i}" for i in range(25)),
    "big blob": "SELECT zeroblob(900000000)",
    "random blob": "SELECT randomblob(900000000)",
    "one opcode": "SELECT length(printf('%.*c', 900000000, 'x'))",
    "grows": "WITH RECURSIVE t(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM t) SELECT MAX(s) FROM t",
    "sorts for ever": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n ORDER BY -i",
    "pattern": "SELECT '" + "a" * 3000 + "' LIKE '" + "%a" * 1500 + "b'",
    "deep": "SELECT " + "(" * 5000 + "2" + ")" * 5000,
    "long": "SELECT 2 -- " + "x" * 1_000_000,
    "null character": "SELECT 2 \x00 FROM",
    "surrogate": "SELECT '\ud800'",
    "explain": "EXPLAIN DELETE FROM orders",
    "transaction": "BEGIN EXCLUSIVE",
    "comment": "/* nothing */",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_sql_is_not_right_and_leaves_the_judge_as_it_was(name: str) -> None:
    began = time.monotonic()
    outcome, reason = await judge_query(DATABASE, HOSTILE[name], [[2]], ordered=False, permute=False, seconds=0.3)
    assert time.monotonic() - began < 30
    # a call that takes seconds within one opcode is killed or ends; either way it is not the answer
    assert outcome == "failed" or (name == "one opcode" and outcome == "wrong")
    assert reason
    assert await verdict("SELECT COUNT(*) FROM orders WHERE status = 'paid'", [[2]]) == "right"


async def test_a_file_is_read_and_never_written(tmp_path: Path) -> None:
    path = tmp_path / "odd name's #1%.sqlite"
    path.write_bytes(DATABASE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for query, wanted in (("SELECT COUNT(*) FROM orders", "right"), ("DELETE FROM orders", "failed")):
        outcome, _ = await judge_query(path, query, [[3]], ordered=False, permute=False, seconds=1.0)
        assert outcome == wanted
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


async def test_text_that_is_not_unicode_can_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "latin.sqlite"
    path.write_bytes(made("UPDATE orders SET status = CAST(x'6fe96f' AS TEXT) WHERE id = 1"))
    query = "SELECT status FROM orders WHERE id = 1"
    assert (await judge_query(path, query, query, ordered=False, permute=False, seconds=1.0))[0] == "right"


async def test_a_gold_query_that_fails_is_an_error_of_the_environment() -> None:
    with pytest.raises(EnvError, match="gold query fails: no such table: nowhere"):
        await verdict("SELECT 1", "SELECT * FROM nowhere")


# -- changes -----------------------------------------------------------------------------------------------------------

RAISE = "UPDATE orders SET total = ROUND(total * 1.1, 2) WHERE status = 'paid'"


@pytest.mark.parametrize(
    ("statements", "right"),
    [
        ([RAISE], True),
        (
            [
                "UPDATE orders SET total = total * 1.1 + 1e-9 WHERE id IN (2, 3)",
                "UPDATE orders SET total = 22.28 WHERE id = 2",
            ],
            True,
        ),
        ([], False),
        ([RAISE, RAISE], False),
        ([RAISE, "DELETE FROM items WHERE id = 3"], False),
        ([RAISE, "INSERT INTO items (id) VALUES (9)"], False),
        ([RAISE, "CREATE TABLE notes (id)"], False),
        ([RAISE, "ALTER TABLE items ADD COLUMN more"], False),
        ([RAISE, "DROP TABLE items"], False),
        ([RAISE, "ALTER TABLE items RENAME TO old", "CREATE VIEW items AS SELECT * FROM old"], False),
        ([RAISE, "CREATE INDEX by_name ON items (name)"], True),
    ],
)
async def test_a_change_is_judged_by_the_state_it_leaves(statements: list[str], right: bool) -> None:
    assert await judge_change(DATABASE, made(*statements), RAISE, seconds=2.0) is right


async def test_a_gold_statement_that_fails_is_no_verdict() -> None:
    with pytest.raises(EnvError, match="the change cannot be judged"):
        await judge_change(DATABASE, DATABASE, "UPDATE nowhere SET price = 1", seconds=2.0)


@pytest.mark.parametrize("state", [b"", b"nonsense" * 100, DATABASE[:5000], b"SQLite format 3\x00" + bytes(4096)])
async def test_bytes_that_are_no_database_are_not_the_state(state: bytes) -> None:
    assert await judge_change(DATABASE, state, RAISE, seconds=2.0) is False


def test_a_connection_is_private() -> None:
    with opened(DATABASE) as first, opened(DATABASE) as second:
        first.execute("DELETE FROM orders")
        assert second.execute("SELECT COUNT(*) FROM orders").fetchone() == (3,)
