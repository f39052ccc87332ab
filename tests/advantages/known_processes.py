"""The processes of the exact bias tests and of docs/credit.md; most of them let the policy decide when to stop."""

from __future__ import annotations

import numpy as np

from tests.advantages.processes import Node, Outcome, Process


def two(probability: float) -> tuple[float, float]:
    """Logits of a node with two actions, the second of which is drawn with `probability`."""
    return 0.0, float(np.log(probability / (1.0 - probability)))


def end(reward: float) -> list[Outcome]:
    return [Outcome(reward)]


def go(node: str, reward: float = 0.0) -> list[Outcome]:
    return [Outcome(reward, node)]


BANDIT = Process("arm", {"arm": Node([end(1.0), end(0.0), end(0.5)], (0.2, 0.0, -0.3))})
"""B1 (b), B3 (b): one turn, three arms."""

STOP_OR_TRY = Process(
    "first", {"first": Node([end(0.3), go("second")], two(0.6)), "second": Node([end(0.0), end(1.0)], two(0.3))}
)
"""T7 (b): stop with 0.3 or go on; then fail or succeed. Going on is worth as much as stopping: gradient [0, .126]."""

GO_ON = Process(
    "first",
    {
        "first": Node(
            [[Outcome(r, None, 0.5) for r in (0.0, 2.0)], [Outcome(r, "second", 0.5) for r in (0.0, 2.0)]], two(0.5)
        ),
        "second": Node([[Outcome(0.0, None, 0.5), Outcome(2.0, None, 0.5)]], (0.0,)),
    },
)
"""The policy decides nothing but whether there is a second turn, which is worth 1 on average: true gradient [.25]."""


def _search(later: tuple[str, str] | None) -> Node:
    """Give up for 0.2, or search: found with 0.6 (and 0.1 reward). `later`: the nodes after success and failure."""
    if later is None:
        return Node([end(0.2), [Outcome(0.1, None, 0.6), Outcome(0.0, None, 0.4)]], two(0.7), key="search")
    return Node([end(0.2), [Outcome(0.1, later[0], 0.6), Outcome(0.0, later[1], 0.4)]], two(0.7), key="search")


def _read(value: float, later: str | None) -> Node:
    """Answer, for `value` on average, or read on."""
    return Node([end(value), go(later) if later else end(0.0)], two(0.4), key="read")


SEARCH = Process(
    "search 1",
    {
        "search 1": _search(("read 2", "search 2")),
        "search 2": _search(("read 3", "search 3")),
        "search 3": _search(None),
        "read 2": _read(0.5, "read 2 again"),
        "read 3": _read(0.5, None),
        "read 2 again": _read(0.9, None),
    },
)
"""Three turns: search until found, read, answer; a stop in every turn, rewards between, two keys that come again."""

TWO_FAIR_TURNS = Process(
    "first",
    {"first": Node([go("second", 0.0), go("second", 1.0)], two(0.5)), "second": Node([end(0.0), end(1.0)], two(0.5))},
)
"""T2 (b): two independent fair turns, each with a reward of its own."""

TWO_TOKENS = Process(
    "tool",
    {
        "tool": Node([go("argument"), go("other argument")], two(0.5), ends_turn=False),
        "argument": Node([end(0.1), go("answer")], two(0.5)),
        "other argument": Node([end(0.4), go("answer", 0.2)], two(0.6)),
        "answer": Node([end(0.0), end(1.0)], two(0.3)),
    },
)
"""A first turn of two tokens: what the first one is worth shows in what the second can do."""


def loop(turns: int) -> Process:
    """T3 (b): one state, from which the goal is a step away or a detour leads back; everybody gets there in the end."""
    nodes = {}
    for turn in range(1, turns + 1):
        detour = go(f"room {turn + 1}") if turn < turns else end(1.0)
        nodes[f"room {turn}"] = Node([end(1.0), detour], two(0.4), key="room")
    return Process("room 1", nodes)


PROCESSES = {
    "bandit": BANDIT,
    "go_on": GO_ON,
    "stop_or_try": STOP_OR_TRY,
    "search": SEARCH,
    "two_fair_turns": TWO_FAIR_TURNS,
    "two_tokens": TWO_TOKENS,
}
