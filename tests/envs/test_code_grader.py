"""Grading: values compared type by type, and a verdict that nothing inside a sandbox can forge."""

from __future__ import annotations

import json
import math
import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.envs.code import grader, runner, wire
from agentrl.envs.code.grader import Budget, Case, Judgement, answers, extract_code, grade, judge_by_cases
from agentrl.errors import ConfigError
from agentrl.sandbox import get_sandbox
from tests.envs.code_support import BEST, SANDBOXES, Spy

BUDGET = Budget(seconds=0.5, total=20.0)
PUBLIC = [Case((n,), n * 7 + 3) for n in (1, 2)]
HIDDEN = [Case((n,), n * 7 + 3) for n in range(100, 110)]
TASK: dict[str, Any] = {"entry_point": "f", "public": PUBLIC, "hidden": HIDDEN}
RIGHT = "def f(n):\n    return n * 7 + 3\n"


async def judged(source: str, sandbox: str = BEST, budget: Budget = BUDGET) -> Judgement:
    return await judge_by_cases(get_sandbox(sandbox), textwrap.dedent(source), TASK, budget)


# -- values ------------------------------------------------------------------------------------------------------------

SAME: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    (-(2**53), -(2**53)),
    (2**200, 2**200),
    (0.1 + 0.2, 0.3),
    (1e300, 1e300 * (1 + 1e-12)),
    (math.nan, math.nan),
    (math.inf, math.inf),
    ("", ""),
    ("\ud800 \x00 é", "\ud800 \x00 é"),
    ([1, [2.0, "x"], None], [1, [2.0, "x"], None]),
    ((1, (2,)), (1, (2,))),
    ({1: "a", "b": [2]}, {"b": [2], 1: "a"}),
    ({3, 1, 2}, {1, 2, 3}),
    (frozenset({(1, frozenset({2, 3}))}), frozenset({(1, frozenset({3, 2}))})),
    (b"\x00\xff", b"\x00\xff"),
    (1 + 2j, 1 + 2j),
]
DIFFERENT: list[tuple[Any, Any]] = [
    (1, 1.0),
    (1, True),
    (0, False),
    (1.0, True),
    (1.0, 1),
    (True, 1),
    (None, False),
    (None, "None"),
    ("1", 1),
    (b"a", "a"),
    ([1, 2], (1, 2)),
    ((1, 2), [1, 2]),
    ({1}, [1]),
    ({1}, frozenset({1})),
    ({1}, {1.0}),
    ({1}, {True}),
    ({}, set()),
    ({1: 2}, [(1, 2)]),
    ({1: 2}, {1: 2.0}),
    ({1: 2}, {True: 2}),
    ({"a": [1]}, {"a": (1,)}),
    ([1], [1, 1]),
    ([[]], []),
    (0.5, 0.5 + 1e-6),
    (math.inf, -math.inf),
    (math.inf, 1e308),
    (math.nan, 0.0),
    (2**60, float(2**60)),
    (2**60, hex(2**60)),
    (1 + 0j, 1.0),
    ([1, 2, 3], {"t": "list", "v": [1, 2, 3]}),
]


def sent(value: Any) -> Any:
    """A value as a sandbox sends it."""
    return json.loads(json.dumps(runner.encode(value)))


@pytest.mark.parametrize(("expected", "got"), SAME)
def test_equal_values_match(expected: Any, got: Any) -> None:
    assert wire.matches(expected, sent(got))


@pytest.mark.parametrize(("expected", "got"), DIFFERENT)
def test_values_of_other_types_or_other_contents_do_not(expected: Any, got: Any) -> None:
    assert not wire.matches(expected, sent(got))


HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=3),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=3) | st.tuples(inner),
    max_leaves=12,
)


@given(PLAIN)
@settings(max_examples=50, deadline=None)
def test_a_value_survives_the_way_to_the_sandbox_and_back(value: Any) -> None:
    there = json.loads(json.dumps(wire.encode(value)))
    assert there == sent(value)
    assert wire.matches(value, sent(runner.decode(there)))
    assert wire.show(there)


@given(PLAIN, PLAIN)
@settings(max_examples=50, deadline=None)
def test_two_values_match_only_if_python_finds_them_equal(one: Any, other: Any) -> None:
    if wire.matches(one, sent(other)):
        assert one == other or "." in repr(one)  # floats have a tolerance


@pytest.mark.parametrize(
    "forged",
    [
        {"t": "tuple"},
        {"t": "tuple", "v": 1},
        {"t": "set", "v": {"a": 1}},
        {"t": "dict", "v": [[1]]},
        {"t": "dict", "v": [[[], 1], 2]},
        {"t": "int", "v": "zz"},
        {"t": ["int"], "v": []},
        {"t": "float", "v": "7"},
        {"v": []},
        {},
        [[[]]],
    ],
)
@pytest.mark.parametrize("expected", [1, 2**70, 7.0, (), (1,), {1}, {}, {1: 1}, b"", 1j, [], None, "x"])
def test_a_malformed_answer_matches_nothing_and_can_be_shown(expected: Any, forged: Any) -> None:
    assert not wire.matches(expected, forged)
    assert isinstance(wire.show(forged), str)


def test_a_deep_answer_is_refused_without_an_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert not wire.matches([[[]]], deep)
    assert wire.show(deep) == "a malformed value"
    with pytest.raises(wire.NotPlain):
        wire.encode(deep)
    with pytest.raises(wire.NotPlain, match="object is not plain data"):
        wire.encode([object()])


def test_values_are_shown_as_python_prints_them() -> None:
    for value in (None, True, -3, 2**60, 1.5, "a'b", [1, (2,), ()], {"k": {1}}, set(), frozenset(), b"x", {}):
        assert wire.show(wire.encode(value)) == repr(value)
    assert len(wire.show("x" * 5000)) == wire.SHOWN


# -- honest submissions ------------------------------------------------------------------------------------------------

HONEST = {
    "plain": RIGHT,
    "lambda": "f = lambda n: n * 7 + 3",
    "helper and noise": """
        import math, sys
        print("loading"); sys.stderr.write("noise")
        def helper(n): return n * 7
        def f(n):
            print({"outcomes": [n]})
            return helper(n) + 3
        if __name__ == "__main__":
            sys.exit("not run as a program")
    """,
    "exceptions within": """
        def f(n):
            try:
                raise KeyError(n)
            except KeyError as error:
                return error.args[0] * 7 + 3
    """,
    "callable object": """
        class Line:
            def __call__(self, n): return 7 * n + 3
        f = Line()
    """,
    "state between calls": """
        from functools import lru_cache
        @lru_cache
        def f(n): return n * 7 + 3
    """,
    "its own json and signal": """
        import json, signal
        signal.alarm(0)
        encode = decode = json = None
        def f(n): return n * 7 + 3
    """,
    "reads standard input": "import sys\nrest = sys.stdin.read()\ndef f(n): return n * 7 + 3 + len(rest)",
    "works with files": """
        def f(n):
            with open("note.txt", "w") as file: file.write(str(n))
            with open("note.txt") as file: return int(file.read()) * 7 + 3
    """,
}


@pytest.mark.parametrize("source", HONEST.values(), ids=HONEST.keys())
async def test_a_right_function_scores(source: str) -> None:
    assert await judged(source) == Judgement(True, 1.0, 1.0)


async def test_a_call_cannot_disturb_the_arguments_of_the_next() -> None:
    cases = [Case(([1, 2, 3],), 6), Case(([1, 2, 3],), 6), Case(({"a": [1]},), 1)]
    source = """
def f(values):
    if isinstance(values, dict):
        return values["a"].pop()
    total = 0
    while values:
        total += values.pop()
    return total
"""
    assert (await grade(get_sandbox(BEST), source, "f", cases, BUDGET)).all_passed


async def test_kinds_of_dict_from_the_standard_library_are_dicts() -> None:
    source = """
import collections
def f(n):
    made = collections.defaultdict(int, {"a": 2, "b": 1})
    return [collections.Counter("aab"), made, collections.OrderedDict(b=1, a=2)]
"""
    cases = [Case((1,), [{"a": 2, "b": 1}] * 3)]
    assert (await grade(get_sandbox(BEST), source, "f", cases, BUDGET)).all_passed


async def test_a_wrong_function_gets_its_share() -> None:
    half = await judged("def f(n):\n    return n * 7 + 3 if n % 2 else -1")
    assert (half.correct, half.hidden, half.public) == (False, 0.5, 0.5)
    only_public = await judged("def f(n):\n    return {1: 10, 2: 17}.get(n)")
    assert (only_public.correct, only_public.hidden, only_public.public) == (False, 0.0, 1.0)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def f(n) return n", "SyntaxError"),
        ("def g(n): return n", "there is no function 'f'"),
        ("f = 3", "there is no function 'f'"),
        ("", "there is no code"),
        (" \n", "there is no code"),
        ("#" * 70_000, "more than 65536 characters"),
        ("raise ValueError('at once')", "ValueError: at once"),
        ("while True: pass", "took longer than 0.5 s"),
        ("x = (" * 5000, "SyntaxError"),
        ("import os; os._exit(0)", "the interpreter was ended"),
    ],
)
async def test_what_cannot_be_loaded_is_told_in_a_line(source: str, told: str) -> None:
    graded = await grade(get_sandbox(BEST), source, "f", HIDDEN, BUDGET)
    assert not graded.all_passed
    assert graded.error is not None and told in graded.error and "\n" not in graded.error


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return n / 0", "ZeroDivisionError: division by zero"),
        ("return f(n)", "RecursionError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("while True: pass", "took longer than 0.5 s"),
        ("return object()", "returned object, which is not plain data"),
        ("return (x for x in [1])", "returned generator, which is not plain data"),
        ("return [0] * 10_000", "the result has more than 20000 characters"),
        ("return [[1, print]]", "returned builtin_function_or_method, which is not plain data"),
        ("a = []; a.append(a); return a", "RecursionError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return 'x' * 5_000_000_000", "MemoryError"),
    ],
)
async def test_what_goes_wrong_in_a_call_is_an_error_of_that_test(body: str, told: str) -> None:
    source = f"def f(n):\n    if n == 100:\n        {body}\n    return n * 7 + 3\n"
    graded = await grade(get_sandbox(BEST), source, "f", HIDDEN, BUDGET)
    assert graded.error is None
    assert told in graded.results[0].shown
    assert [result.passed for result in graded.results] == [False] + [True] * 9


async def test_slow_tests_share_the_total_time() -> None:
    source = "import time\ndef f(n):\n    time.sleep(0.4)\n    return n * 7 + 3\n"
    graded = await grade(get_sandbox(BEST), source, "f", HIDDEN, Budget(seconds=1.0, total=1.4))
    assert graded.error is None
    assert graded.results[0].passed
    assert graded.results[-1].shown == "not run: the time for all tests is up"


def test_the_last_fenced_block_is_the_code() -> None:
    assert extract_code("def f(): pass") == "def f(): pass"
    assert extract_code("No:\n```python\na\n```\nbetter:\n```py\nb\nc\n```\ndone") == "b\nc\n"
    assert extract_code("```\nx = '``'\n```") == "x = '``'\n"
    assert extract_code("so\n```python\ncut off") == "cut off"
    assert extract_code("  ```python\n  a\n  ```") == "  a\n"
    assert extract_code("") == ""


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="seconds=0 must be a positive number"):
        Budget(seconds=0)


# -- forgery -----------------------------------------------------------------------------------------------------------

FRAME = """
import json, os, struct
def frames(value):
    answer = json.dumps({"outcomes": [{"value": value}] * 12})
    for number in range(4):
        body = json.dumps({"outcome": "ok", "id": number, "value": answer, "truncated": False, "seconds": 0.1}).encode()
        yield struct.pack("!IB", len(body), ord("r")) + body
def everywhere(value):
    for frame in frames(value):
        for descriptor in range(64):
            try:
                os.write(descriptor, frame)
            except OSError:
                pass
"""
ATTACKS = {
    "equal to everything": """
        class Any:
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = lambda self: 0
        def f(n): return Any()
    """,
    "an int that equals everything": """
        class Int(int):
            __eq__ = lambda self, other: True
            __hash__ = int.__hash__
        def f(n): return Int(5)
    """,
    "a float that is nobody's": "def f(n): return float('nan')",
    "a dict with equality of its own": """
        class Same(dict):
            __eq__ = lambda self, other: True
        def f(n): return Same()
    """,
    "another class's face": """
        class Liar:
            __class__ = int
            def __int__(self): return 10
            __index__ = __int__
            def __repr__(self): return "10"
        def f(n): return Liar()
    """,
    "a lazy object": """
        class Lazy:
            def __getattr__(self, name): return Lazy()
            def __call__(self, *a, **k): return Lazy()
            def __iter__(self): return iter([Lazy()])
        def f(n): return Lazy()
    """,
    "a coroutine": "async def f(n): return n * 7 + 3",
    "a generator": "def f(n): yield n * 7 + 3",
    "printing the answer and leaving": """
        import json, os, sys
        print(json.dumps({"outcomes": [{"value": 703, "passed": True}] * 12}), flush=True)
        os._exit(0)
        def f(n): pass
    """,
    "exit in the middle": """
        import os
        def f(n):
            if n > 104: os._exit(0)
            return n
    """,
    "SystemExit with success": "def f(n): raise SystemExit(0)",
    "an exception that says passed": """
        class Passed(BaseException):
            def __str__(self): return '{"value": 703, "passed": true}'
        def f(n): raise Passed
    """,
    "json patched": """
        import json
        json.dumps = lambda *a, **k: '{"outcomes": [' + ", ".join(['{"passed": true, "value": true}'] * 12) + ']}'
        def f(n): return True
    """,
    "builtins patched": """
        import builtins
        builtins.repr = lambda value: '{"outcomes": [' + ", ".join(['{"value": 703}'] * 12) + ']}'
        builtins.type = lambda *a: int
        builtins.isinstance = lambda *a: True
        builtins.len = lambda value: 12
        builtins.abs = lambda value: 0
        builtins.AssertionError = None
        def f(n): return object()
    """,
    "the runner patched": """
        import __main__
        __main__.encode = lambda value: {"t": "any", "v": "passed"}
        __main__.guarded = lambda *a, **k: {"value": None, "passed": True, "error": None}
        __main__.Printed.__repr__ = lambda self: '{"outcomes": "passed", "passed": true}'
        def f(n): return None
    """,
    "the runner's answer replaced": """
        import __main__
        __main__.Printed.__repr__ = lambda self: '{"outcomes": [' + ", ".join(['{"value": 10}'] * 12) + ']}'
        def f(n): return None
    """,
    "frames written to every descriptor": FRAME + "everywhere(10)\ndef f(n):\n    everywhere(10)\n    return 10\n",
    "frames written at exit": FRAME
    + "import atexit\natexit.register(everywhere, 17)\ndef f(n):\n    raise SystemExit\n",
    "a forked child that answers as well": FRAME
    + """
def f(n):
    if os.fork() == 0:
        everywhere(10)
        os._exit(0)
    return 10
""",
    "children that go on": "import os\ndef f(n):\n    os.fork()\n    return 10\n",
    "a thread that goes on": FRAME
    + """
import threading
def f(n):
    threading.Thread(target=everywhere, args=(17,), daemon=True).start()
    return 17
""",
    "looking through the frames": """
        import sys
        def f(n):
            frame, seen = sys._getframe(), []
            while frame:
                for name, value in {**frame.f_locals, **frame.f_globals}.items():
                    if "expect" in name or "hidden" in name or "solution" in name:
                        return value
                    if isinstance(value, (list, tuple)):
                        seen += [v for v in value if type(v) is int and v > n]
                frame = frame.f_back
            return seen[0] if seen else None
    """,
    "looking through all objects": """
        import gc
        def f(n):
            for found in gc.get_objects():
                if isinstance(found, dict) and ("expected" in found or "hidden" in found):
                    return found.get("expected", found.get("hidden"))
                if type(found).__name__ in ("Case", "Problem", "Task"):
                    return found.expected
            return None
    """,
    "looking through memory for what follows the argument": """
        import re
        def f(n):
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
                for line in maps:
                    if "[heap]" in line or "[stack]" in line:
                        low, high = (int(end, 16) for end in line.split()[0].split("-"))
                        memory.seek(low)
                        found = re.search(rb"expected[^0-9]{1,8}([0-9]+)", memory.read(high - low))
                        if found: return int(found[1])
            return None
    """,
    "reading files that lie about": """
        import glob
        def f(n):
            for path in glob.glob("**/*", recursive=True) + glob.glob("../*") + glob.glob("/tmp/*.json"):
                try:
                    with open(path) as file: text = file.read()
                except OSError:
                    continue
                if "expected" in text: return text
            return None
    """,
    "an alarm of its own": """
        import signal
        signal.setitimer = lambda *a: None
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        def f(n):
            while True: pass
    """,
    "catching the interruption": """
        def f(n):
            while True:
                try:
                    while True: pass
                except BaseException:
                    continue
    """,
    "stopping the clock": """
        import time
        time.monotonic = lambda: 0.0
        def f(n): return 0
    """,
    "the public tests by heart": "def f(n): return {1: 10, 2: 17}.get(n, 17)",
    "a deep value": """
        def f(n):
            value = []
            for _ in range(900): value = [value]
            return value
    """,
    "a form that is not ours": """
        import __main__
        __main__.encode = lambda value: {"t": "int", "v": "__import__('os')._exit(0)"}
        def f(n): return 1
    """,
    "random numbers": "import random\ndef f(n): return random.randrange(10**6, 10**7)",
    "a flood of output": """
        def f(n):
            print("x" * 1_000_000)
            return None
    """,
    "all memory": """
        hoard = []
        def f(n):
            while True: hoard.append(bytearray(1 << 24))
    """,
}


UNISOLATED = (
    *("equal to everything", "printing the answer and leaving", "the runner patched", "the runner's answer replaced"),
    *("frames written to every descriptor", "looking through the frames", "looking through all objects"),
)
"""What must fail without any isolation, too: there is nothing in the process to be found."""


@pytest.mark.parametrize(
    ("sandbox", "attack"), [*((BEST, name) for name in ATTACKS), *(("none", name) for name in UNISOLATED)]
)
async def test_a_forgery_scores_nothing(sandbox: str, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "STARTUP_SECONDS", 0.5)  # what an interpreter that says no more is waited for
    verdict = await judged(ATTACKS[attack], sandbox, Budget(seconds=0.3, total=1.0))
    assert not verdict.correct
    assert verdict.hidden == 0.0


async def test_after_some_of_them_a_right_function_scores_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grader, "STARTUP_SECONDS", 0.5)
    for name in ("builtins patched", "frames written to every descriptor", "all memory", "exit in the middle"):
        await judged(ATTACKS[name], budget=Budget(seconds=0.3, total=1.0))
    assert (await judged(RIGHT)).correct


@pytest.mark.parametrize("sandbox", SANDBOXES[1:])
async def test_isolation_keeps_the_answers_out_of_reach(sandbox: str, tmp_path: Path) -> None:
    (tmp_path / "solutions.txt").write_text("703")
    reach = f"""
        import glob, os, sys
        def tried(attempt):
            try:
                return bool(attempt())
            except BaseException:
                return False
        def f(n):
            return [
                tried(lambda: open({str(tmp_path / "solutions.txt")!r}).read()),
                tried(lambda: __import__("agentrl")),
                tried(lambda: os.kill({os.getpid()}, {int(signal.SIGCONT)}) is None),
                tried(lambda: open("/proc/{os.getpid()}/mem", "rb")),
                tried(lambda: open("/proc/%d/mem" % os.getppid(), "rb").read(1)),
            ]
    """
    graded = await grade(get_sandbox(sandbox), textwrap.dedent(reach), "f", [Case((1,), [False] * 5)], BUDGET)
    assert graded.all_passed, graded.results


async def test_no_expected_value_is_ever_sent() -> None:
    spy = Spy()
    verdict = await judge_by_cases(spy, RIGHT, TASK, BUDGET)
    assert verdict.correct
    assert all(str(case.args[0]) in spy.sent[0] for case in HIDDEN)
    assert not any(str(case.expected) in text for case in HIDDEN for text in spy.sent)


@pytest.mark.parametrize("depth", [150, 250, 700, 900, 950, 980, 20_000])
async def test_a_deep_claim_is_an_error_of_that_test(depth: int) -> None:
    claim = f'{{"outcomes": [{{"value": {"[" * depth}1{"]" * depth}}}, {{"value": 7}}]}}'
    source = f"import __main__\n__main__.Printed.__repr__ = lambda self: {claim!r}\ndef f(n): return 1\n"
    graded = await grade(get_sandbox(BEST), source, "f", [Case((1,), [[1]]), Case((2,), 7)], BUDGET)
    assert not graded.results[0].passed
    assert graded.results[1].passed or depth > 700  # beyond what a parser of JSON takes there is no claim at all


async def test_an_equal_submission_is_not_run_again_unless_it_was_late() -> None:
    spy = Spy()
    for _ in range(3):
        assert (await judge_by_cases(spy, RIGHT, TASK, BUDGET)).correct
    assert len(spy.sent) == 1
    assert not (await judge_by_cases(spy, RIGHT + "f = len\n", TASK, BUDGET)).correct
    assert (await judge_by_cases(spy, RIGHT, {**TASK, "hidden": HIDDEN[1:]}, BUDGET)).correct
    assert len(spy.sent) == 3
    short = Budget(seconds=0.2, total=0.2)
    for _ in range(2):
        await judge_by_cases(spy, "def f(n):\n    while True: pass\n", TASK, short)
    assert len(spy.sent) == 5
    for _ in range(2):
        await judge_by_cases(spy, "import os\nos._exit(1)\n", TASK, short)
    assert len(spy.sent) == 7


async def test_a_claim_of_the_wrong_shape_is_no_result() -> None:
    for claim in (
        '{"outcomes": []}',
        '{"outcomes": [1]}',
        '{"outcomes": {"a": 1}}',
        "[]",
        "7",
        "{",
        "[" * 50_000,
        '{"outcomes": [{"value": 1, "error": 2}]}',
    ):
        source = f"import __main__\n__main__.Printed.__repr__ = lambda self: {claim!r}\ndef f(n): return 1\n"
        outcome = await answers(get_sandbox(BEST), source, "f", [json.dumps([[1], {}])], BUDGET)
        assert outcome == "the tests were not run to their end"
