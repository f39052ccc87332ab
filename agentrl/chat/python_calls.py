"""Tool calls in Python's syntax: `name(argument="value", other=[1, 2])`, literals only, nothing evaluated.

The extent of a call is found by a scan that knows strings and brackets, so that it can stand in any text and its name
may be any tool's; Python's own parser then reads the arguments. JSON's `true`, `false` and `null` are accepted beside
Python's names, as models mix them.

Invariant: nothing raises, and a scan never returns to what it has passed.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from typing import Any

from agentrl.chat.json_calls import arguments_of, dump, object_text, skip_space
from agentrl.chat.tool_calls import ReadCall, Schemas
from agentrl.messages import ToolCall

CALLEE = re.compile(r"\w[\w.\-]*+(?=\s*\()")
"""A tool's name before its parentheses; tools' names may have hyphens."""
_CUT = "cut off: the call is not closed"
_TOKEN = re.compile(
    r"""(?P<string>\"{3}(?:[^"\\]++|\\.|"(?!""))*+\"{3}|'{3}(?:[^'\\]++|\\.|'(?!''))*+'{3}"""
    r"""|"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')"""
    r"""|(?P<quote>["'])|(?P<open>[(\[{])|(?P<close>[)\]}])|\#[^\n]*+""",
    re.DOTALL,
)
_NAMED = {"true": True, "false": False, "null": None, "nan": float("nan"), "inf": float("inf")}


class NotLiteral(ValueError):
    """An expression is no literal; the text says which."""


def read_calls(text: str, begin: int, schemas: Schemas | None) -> tuple[list[ReadCall], int]:
    """The calls of a list `[one(...), two(...)]` from behind its bracket, and the position behind the list."""
    calls: list[ReadCall] = []
    position = skip_space(text, begin)
    while True:
        if text.startswith("]", position):
            return calls, position + 1
        call, end = read_call(text, position, schemas)
        calls.append(call)
        if call.error is not None and end >= len(text):
            return calls, end
        position = skip_space(text, end)
        if text.startswith(",", position):
            position = skip_space(text, position + 1)
        elif not text.startswith("]", position):
            # Without its closing bracket a list of whole calls still is one.
            return calls, end


def read_call(text: str, begin: int, schemas: Schemas | None) -> tuple[ReadCall, int]:
    """The call that starts at `begin`, and the position behind it: behind the line where no call starts."""
    callee = CALLEE.match(text, begin)
    if callee is None:
        newline = text.find("\n", begin)
        end = newline if newline >= 0 else len(text)
        found = text[begin:end].strip()
        return ReadCall("", found, f"expected name(argument=value, ...), got {found[:40]!r}" if found else _CUT), end
    open_ = text.index("(", callee.end())
    close = closing(text, open_ + 1)
    name = callee[0].removesuffix(".call")
    if close is None:
        return ReadCall(name, text[begin:].strip(), _CUT), len(text)
    source = text[begin:close]
    try:
        arguments = _arguments(text[open_ + 1 : close - 1], name, schemas)
        return ReadCall(name, dump(arguments)), close
    except NotLiteral as error:
        return ReadCall(name, source, str(error)), close
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too large or nested too deeply"
        return ReadCall(name, source, f"invalid Python: {reason}"), close


def closing(text: str, begin: int) -> int | None:
    """The position behind the bracket that closes the one before `begin`; None if there is none."""
    depth = 1
    while token := _TOKEN.search(text, begin):
        begin = token.end()
        if token["quote"]:
            return None
        depth += bool(token["open"]) - bool(token["close"])
        if depth == 0:
            return begin
    return None


def literal(source: str) -> Any:
    """The JSON value of a Python literal; raises `NotLiteral`, `ValueError` and what Python's parser raises."""
    return _value(_parsed(source.strip()))


def _parsed(source: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string is what it says
        return ast.parse(source, mode="eval").body


def _arguments(source: str, name: str, schemas: Schemas | None) -> dict[str, Any]:
    call = _parsed(f"call({source}\n)")
    if not isinstance(call, ast.Call):
        raise NotLiteral("expected name(argument=value, ...)")
    arguments = _positional(call.args, name, schemas)
    for item in call.keywords:
        given = {item.arg: _value(item.value)} if item.arg is not None else _value(item.value)
        if not isinstance(given, dict):
            raise NotLiteral("** takes a dict")
        if twice := [key for key in given if key in arguments]:
            raise NotLiteral(f"argument {twice[0]!r} is given twice")
        arguments |= given
    return arguments


def _positional(values: list[ast.expr], name: str, schemas: Schemas | None) -> dict[str, Any]:
    if not values:
        return {}
    if schemas is None or name not in schemas:
        raise NotLiteral("an argument has no name: write name=value")
    names = list(schemas[name].get("properties") or {})
    if len(values) > len(names):
        raise NotLiteral(f"{len(values)} arguments without a name, but {name} takes {len(names)}")
    return {key: _value(value) for key, value in zip(names, values, strict=False)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return _mapping(node)
    if isinstance(node, ast.Name) and node.id in _NAMED:
        return _NAMED[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand)
        if isinstance(operand, int | float) and not isinstance(operand, bool):
            return -operand if isinstance(node.op, ast.USub) else operand
    raise NotLiteral(f"only literal values can be given, not {_shown(node)!r}")


def _mapping(node: ast.Dict) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        name = None if key is None else _value(key)
        if not isinstance(name, str):
            raise NotLiteral("the keys of a dict must be strings")
        mapping[name] = _value(value)
    return mapping


def _shown(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else type(node).__name__.lower()


def call_text(call: ToolCall) -> str:
    """`name(argument="value")`; a call with an error as its raw text, one without readable arguments as JSON."""
    if call.error is not None:
        return call.arguments
    arguments = arguments_of(call)
    if arguments is None:
        return object_text(call)
    parts = [f"{key}={value!r}" if _is_keyword(key) else f"**{ {key: value}!r}" for key, value in arguments.items()]
    return f"{call.name}({', '.join(parts)})"


def _is_keyword(name: str) -> bool:
    # Python normalises other letters, and refuses __debug__
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name != "__debug__"
