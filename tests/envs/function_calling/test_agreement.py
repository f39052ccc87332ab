"""Our judge gives the verdicts that the leaderboard's own checker gave; `agreement.py` says how they were computed."""

from __future__ import annotations

import json
from collections import Counter

from agentrl.envs.function_calling.files import Problem, read_problems
from agentrl.envs.function_calling.match import calls_match
from tests.envs.function_calling.agreement import IN_TABLE, TABLE


def test_the_verdicts_are_those_of_the_published_checker() -> None:
    problems: dict[str, Problem] = {
        problem.name: problem for source, _ in IN_TABLE for problem in read_problems(str(source), None)
    }
    judged: Counter[bool] = Counter()
    seen = set()
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        problem = problems[row["id"]]
        calls = [(name, given) for name, given in row["calls"]]
        assert calls_match(problem.functions, problem.answers, calls) is row["valid"], row
        judged[row["valid"]] += 1
        seen.add(problem.name)
    assert judged[True] > 800 and judged[False] > 1500
    assert seen == {problem.name for problem in problems.values() if problem.answers}
