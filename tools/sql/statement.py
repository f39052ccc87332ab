"""One statement, read token by token, for the engines that cannot be asked what a statement would do.

SQLite has an authorizer; PostgreSQL and DuckDB have not. So the text is split into tokens (sqlglot), every name that is
called is looked up in a list, and what is sent is written anew from the tokens that were looked at: plain quotes, no
comments. Invariant: the server sees the tokens that were checked, whatever its lexer would have made of the text.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple

import sqlglot
from sqlglot import Token, TokenType, exp
from sqlglot.errors import SqlglotError

from .answer import NOTHING, ONE_STATEMENT, READ_ONLY, Refused
from .functions import names

_WORD = re.compile(r"[^\W\d][\w$]*(?:\s+[^\W\d][\w$]*)*")
"""A name, a keyword, or keywords that are one token: ORDER BY."""
_NUMBER = re.compile(r"[0-9][0-9a-zA-Z_.]*(?:[eE][+-]?[0-9]+)?")
_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|?.,:;()\[\]{}]+")
_BITS = re.compile(r"[bBxX]'[0-9a-fA-F]*'")
_STRINGS = frozenset({TokenType.STRING, TokenType.HEREDOC_STRING, TokenType.BYTE_STRING})
_MAY_PRECEDE = names(
    """
    all and any array as bernoulli between bigint bit by case char character check columns conflict cross cube
    decimal distinct double else end escape except exclude exists extract filter float foreign from full group
    having ilike in index inner int integer intersect interval into is join key lateral left like limit list map
    materialized not numeric offset on only or order outer over partition position primary qualify references
    replace returning right rollup row rows select set sets similar smallint some struct substring system table
    tablesample then time timestamp timestamptz timetz to tuple union unique unnest using values varbit varchar
    varying when where window with within
    """
)
"""Words of the grammar and types that a parenthesis may follow. Those that are functions, too, are harmless ones."""
_READS = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)
_WRITES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable, exp.Create, exp.Drop, exp.Alter)
_KINDS = frozenset({"TABLE", "VIEW", "INDEX"})

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it tells of statements that it leaves unparsed; we refuse them


@dataclass(frozen=True, slots=True)
class Rules:
    """What an engine allows."""

    dialect: str
    functions: frozenset[str]
    catalog: frozenset[str] = frozenset()
    """Names that may begin with `pg_` beside the functions."""
    methods: bool = False
    """Whether a dot before a function is a call on a value, and not a schema."""


class Checked(NamedTuple):
    """A statement that may be sent."""

    text: str
    rows: bool
    """Whether it has a result."""
    dotted: frozenset[str]
    """Names after a dot: columns, but in PostgreSQL `(x).f` is also a call `f(x)`."""


def checked(query: str, rules: Rules, *, writable: bool) -> Checked:
    """The statement to send, of an allowed kind. Raises `Refused`."""
    tokens = _tokens(query, rules.dialect)
    text, called = _scanned(query, tokens, rules)
    try:
        tree = sqlglot.parse_one(text, read=rules.dialect)
    except SqlglotError as error:
        raise Refused(f"syntax error: {_first_line(error)}") from None
    except RecursionError:
        raise Refused("the statement is nested too deeply") from None
    _check_calls(called, tree, rules)
    if not isinstance(tree, _READS) and not (writable and isinstance(tree, _WRITES)):
        raise Refused("this statement may not be used" if writable else READ_ONLY)
    for node in tree.walk():
        if isinstance(node, exp.Into | exp.Lock | exp.Command):
            raise Refused("SELECT INTO and row locks may not be used")
        if isinstance(node, _WRITES):
            if not writable:
                raise Refused(READ_ONLY)
            _check_kind(node)
    dotted = frozenset(name.text.lower() for dot, name in pairwise(tokens) if dot.token_type is TokenType.DOT)
    return Checked(text, isinstance(tree, _READS) or bool(tree.args.get("returning")), dotted)


def rewritten(query: str, rules: Rules) -> str:
    """The statement to send, of whatever kind: for an engine that says the kind itself. Raises `Refused`."""
    text, called = _scanned(query, _tokens(query, rules.dialect), rules)
    if called:
        try:
            tree = sqlglot.parse_one(text, read=rules.dialect)
        except (SqlglotError, RecursionError):  # then nothing shows that they are not calls
            tree = None
        _check_calls(called, tree, rules)
    return text


def _scanned(query: str, tokens: list[Token], rules: Rules) -> tuple[str, Counter[str]]:
    """The text written anew, and how often names stand before a parenthesis that are in no list."""
    return "".join(_texts(query, tokens)), Counter(_calls(tokens, rules))


def _check_calls(called: Counter[str], tree: Any, rules: Rules) -> None:
    """Each must be the definition of a list of columns; a call is refused."""
    if not called:
        return
    defined = Counter() if tree is None else Counter(_definitions(tree))
    for name, count in called.items():
        if count > defined[name]:
            raise Refused(_unknown_function(name, rules.functions))


def _tokens(query: str, dialect: str) -> list[Token]:
    try:
        tokens = list(sqlglot.tokenize(query, read=dialect))
    except SqlglotError as error:
        raise Refused(f"syntax error: {_first_line(error)}") from None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        raise Refused(NOTHING)
    if any(token.token_type is TokenType.SEMICOLON for token in tokens):
        raise Refused(ONE_STATEMENT)
    return tokens


def _texts(query: str, tokens: list[Token]) -> Iterator[str]:
    """The text of the tokens, with a gap where there was one and between words."""
    before: Token | None = None
    for token in tokens:
        written = _written(query, token)
        if before is not None:
            gap = query[before.end + 1 : token.start]
            word = not _OPERATOR.fullmatch(query[before.start : before.end + 1])
            if gap or (word and (written[0] == "&" or not _OPERATOR.match(written))):  # U&"..." would be one token
                yield "\n" if "\n" in gap or "\r" in gap else " "
        yield written
        before = token


def _written(query: str, token: Token) -> str:
    raw = query[token.start : token.end + 1]
    kind = token.token_type
    if kind in _STRINGS:
        if raw[-1] not in "'$":  # the rest of a statement that sqlglot does not read
            raise Refused("this statement may not be used")
        if kind is TokenType.BYTE_STRING and "\\" in raw:
            raise Refused("strings with escapes (E'...') may not be used: write chr(10) for a line end")
        return "'" + token.text.replace("'", "''") + "'"
    if kind is TokenType.IDENTIFIER:
        return '"' + token.text.replace('"', '""') + '"'
    if kind in (TokenType.BIT_STRING, TokenType.HEX_STRING):
        shape = _BITS
    elif kind is TokenType.NUMBER:
        shape = _NUMBER
    else:
        shape = _OPERATOR if _OPERATOR.match(raw) else _WORD
    if not shape.fullmatch(raw):
        raise Refused(f"syntax error at or near {raw[:20]!r}")
    return " ".join(raw.split())


def _calls(tokens: list[Token], rules: Rules) -> Iterator[str]:
    """Names before a parenthesis that stand in no list: calls, or definitions. Raises `Refused`."""
    for index, token in enumerate(tokens):
        kind = token.token_type
        if kind in _STRINGS or not (kind is TokenType.IDENTIFIER or _WORD.fullmatch(token.text)):
            continue
        name = token.text.lower().split()[-1] if kind is not TokenType.IDENTIFIER else token.text.lower()
        if name.startswith("pg_") and name not in rules.functions and name not in rules.catalog:
            raise Refused(f"{name} may not be used")
        if index + 1 == len(tokens) or tokens[index + 1].token_type is not TokenType.L_PAREN:
            continue
        if name in _MAY_PRECEDE and kind is not TokenType.IDENTIFIER:
            continue
        schema = tokens[index - 2].text.lower() if index > 1 and tokens[index - 1].token_type is TokenType.DOT else None
        if name in rules.functions and (rules.methods or schema in (None, "pg_catalog")):
            continue
        yield name


def _definitions(tree: Any) -> Iterator[str]:
    """Names that stand before a list of columns: `WITH t(a) AS`, `AS t(a)`, `INSERT INTO t (a)`, `ON t (a)`."""
    for node in tree.walk():
        if isinstance(node, exp.TableAlias):
            named = node.this if node.columns else None
        elif isinstance(node, exp.Schema):
            named = node.this if isinstance(node.this, exp.Table) else None
        else:
            named = node.args.get("table") if isinstance(node, exp.Index) else None
        if named is not None:
            yield named.name.lower()


def _check_kind(node: Any) -> None:
    if isinstance(node, exp.Create | exp.Drop | exp.Alter):
        kind = str(node.args.get("kind") or "").upper()
        if kind not in _KINDS:
            raise Refused(f"{node.key.upper()} {kind or 'of this kind'} may not be used")
    if isinstance(node, exp.Create) and node.find(exp.TemporaryProperty):
        raise Refused("temporary tables may not be used: they would be gone at the next call")


def _unknown_function(name: str, functions: frozenset[str]) -> str:
    close = get_close_matches(name, functions, n=2, cutoff=0.75)
    return f"function {name} may not be used" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _first_line(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error).strip().split("\n", 1)[0])[:200]
