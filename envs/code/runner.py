"""What calls a submission inside the sandbox; its source text is sent there, nothing imports it here but tests.

Standard library alone, and nothing of agentrl's. It gets a submission and encoded arguments, and answers with encoded
values: it is told no expected value and gives no verdict, so that whoever takes it over from within can do no more than
answer with other values. The form of the data is described in `wire`.

Invariant: a test's arguments are built just before its call from text that the submission has no hold on, so that what
one call does to its arguments cannot disturb the next.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

LARGEST = 20_000
"""Characters of one encoded answer."""


class TooSlow(BaseException):
    """Past a limit, with the signal that says which.

    Not an Exception: a submission that catches those is interrupted all the same.
    """


class NotPlain(Exception):
    """The submission returned something that is no plain data."""


class Printed:
    """The answer as the value of the last expression, as it stands: its repr is the text itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def decode(data: Any) -> Any:
    """The value that `wire.encode` wrote."""
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    tag, items = data["t"], data["v"]
    if tag == "int":
        return int(items, 16)
    if tag == "float":
        return float(items)
    if tag == "bytes":
        return bytes.fromhex(items)
    if tag == "complex":
        return complex(*map(decode, items))
    if tag == "dict":
        return {decode(key): decode(item) for key, item in items}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[tag](map(decode, items))


def encode(value: Any) -> Any:
    """The counterpart of `wire.encode`; the standard library's kinds of dict are taken as the dicts that they are."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if abs(value) < 2**53 else {"t": "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"t": "float", "v": repr(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind in (tuple, set, frozenset):
        return {"t": kind.__name__, "v": [encode(item) for item in value]}
    if kind is dict or (kind.__module__ == "collections" and isinstance(value, dict)):
        return {"t": "dict", "v": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    if kind is bytes:
        return {"t": "bytes", "v": value.hex()}
    if kind is complex:
        return {"t": "complex", "v": [encode(value.real), encode(value.imag)]}
    raise NotPlain(f"returned {kind.__name__}, which is not plain data")


def said(error: BaseException) -> str:
    """One line about an exception."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception as second:
        text = f"(its text cannot be shown: {type(second).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def interrupt(number: int, _frame: FrameType | None) -> None:
    raise TooSlow(number)


def guarded(seconds: float, left: float, function: Callable[..., Any], *arguments: Any, **named: Any) -> dict[str, Any]:
    """`{"value": encoded}` or `{"error": line}`, as far as what is called can be interrupted.

    Within `seconds` of the processor, which do not depend on how busy the machine is, and `left` of the clock.
    """
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)  # again and again: one may be caught on the way
            signal.setitimer(signal.ITIMER_REAL, left, 0.05)
            answer = encode(function(*arguments, **named))
            if len(json.dumps(answer)) > LARGEST:
                return {"error": f"the result has more than {LARGEST} characters"}
            return {"value": answer}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TooSlow as late:
        if late.args == (signal.SIGPROF,):
            return {"error": f"took longer than {seconds:g} s"}
        return {"error": "not finished when the time for all tests was up"}
    except NotPlain as error:
        return {"error": str(error)}
    except RecursionError:
        return {"error": "RecursionError: maximum recursion depth exceeded"}
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too: no way out of the test
        return {"error": said(error)}


def load(source: str, entry_point: str, space: dict[str, Any]) -> None:
    """Run a program's text; what it defines is in `space`."""
    exec(compile(source, "<submission>", "exec", dont_inherit=True), space)
    if not callable(space.get(entry_point)):
        raise NameError(f"there is no function {entry_point!r}")


def prepared(payload: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request, with the process made ready for it, and an empty module."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, interrupt)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    sys.set_int_max_str_digits(0)  # what is long is bounded by time and size
    return json.loads(payload), {"__name__": "submission", "__builtins__": __builtins__}


def main(payload: str) -> Printed:
    """Call the submission: the outcome of every call, or why there is none."""
    request, space = prepared(payload)
    end = time.monotonic() + request["total"]
    random.seed(0)
    loaded = guarded(request["seconds"], request["total"], load, request["source"], request["entry_point"], space)
    if "error" in loaded:
        return Printed(json.dumps(loaded))
    outcomes = []
    for text in request["calls"]:
        left = end - time.monotonic()
        if left <= 0:
            outcomes.append({"error": "not run: the time for all tests is up"})
            continue
        arguments, named = decode(json.loads(text))
        random.seed(0)
        outcomes.append(guarded(request["seconds"], left, space[request["entry_point"]], *arguments, **named))
    return Printed(json.dumps({"outcomes": outcomes}))


# -- a benchmark's own check(candidate): trusted code, in a process that never holds a submission ----------------------


def check(request: dict[str, Any], space: dict[str, Any], candidate: Callable[..., Any]) -> dict[str, Any]:
    """`{"value": None}` if the benchmark's check accepts the candidate, else `{"error": line}`."""
    random.seed(0)
    loaded = guarded(request["seconds"], request["total"], load, request["source"], "check", space)
    return loaded if "error" in loaded else guarded(request["total"], request["total"], space["check"], candidate)


def record(payload: str) -> Printed:
    """Run the check on the solution in `source`: its calls, their outcomes, and the check's own."""
    request, space = prepared(payload)
    calls: list[str] = []
    outcomes: list[dict[str, Any]] = []

    def candidate(*arguments: Any, **named: Any) -> Any:
        calls.append(json.dumps(encode([list(arguments), named])))
        try:
            answer = space[request["entry_point"]](*arguments, **named)
        except Exception as error:
            outcomes.append({"error": said(error)})
            raise
        outcomes.append({"value": encode(answer)})
        return answer

    verdict = check(request, space, candidate)
    return Printed(json.dumps({"verdict": verdict, "calls": calls, "outcomes": outcomes}))


def replay(payload: str) -> Printed:
    """Run the check on a stand-in that answers what a submission answered elsewhere, by value, call by call."""
    request, space = prepared(payload)
    answers: Iterator[tuple[str, dict[str, Any]]] = iter(zip(request["calls"], request["outcomes"], strict=True))

    def candidate(*arguments: Any, **named: Any) -> Any:
        text, outcome = next(answers, ("", {}))
        if text != json.dumps(encode([list(arguments), named])):
            raise AssertionError("the check's calls depend on their results")
        if "error" in outcome:
            kind = getattr(builtins, outcome["error"].partition(":")[0], None)
            raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(outcome["error"])
        return decode(outcome["value"])

    return Printed(json.dumps({"verdict": check(request, space, candidate)}))
