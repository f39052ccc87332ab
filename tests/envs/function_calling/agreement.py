"""Our judge against the leaderboard's own checker, on answers that are right, nearly right and wrong.

    pip download --no-deps bfcl-eval && unzip bfcl_eval-*.whl -d bfcl
    PYTHONPATH=. python -m tests.envs.function_calling.agreement bfcl --each 20
    PYTHONPATH=. python -m tests.envs.function_calling.agreement bfcl --write

The first compares on the published tasks and prints the agreement by category; the second writes `verdicts.jsonl`: the
checker's verdicts on our bundled tasks and on `edges/`, which `test_agreement.py` holds our judge to (bfcl-eval
2026.3.23). The package need not be installed (it pins some forty others): its checker is one file, and the table of
models that this imports is replaced here.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentrl.envs.function_calling.env import BUNDLED
from agentrl.envs.function_calling.files import Problem, read_problems
from agentrl.envs.function_calling.gold import gold_calls
from agentrl.envs.function_calling.match import Call, calls_match

TABLE = Path(__file__).with_name("verdicts.jsonl")
EDGES = Path(__file__).with_name("edges")
"""Declarations and answers at the edges of the rules."""
IN_TABLE = ((BUNDLED, 4), (EDGES, 90))
"""Tasks of the table, and changed answers of each."""
Checker = Callable[[list[dict[str, Any]], list[dict[str, Any]], list[Any], str], bool | None]
Random = random.Random


# -- answers to judge --------------------------------------------------------------------------------------------------


def variants(problem: Problem, rng: Random, count: int) -> Iterator[list[Call]]:
    """The gold calls, calls by other values that count, and both with one to three things changed."""
    yield gold_calls(problem)
    for _ in range(count):
        calls = [
            (name, dict(given)) for name, given in (gold_calls(problem) if rng.random() < 0.3 else drawn(problem, rng))
        ]
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            calls = _changed(problem, calls, rng)
        yield calls


def drawn(problem: Problem, rng: Random) -> list[Call]:
    """Calls by any values that count, left out now and then where that counts."""
    offered = {function.name: function.offered for function in problem.functions}
    calls: list[Call] = []
    for answer in problem.answers:
        ((name, values),) = answer.items()
        chosen = {key: rng.choice(options) for key, options in values.items() if options}
        given = {key: value for key, value in chosen.items() if value != "" or rng.random() < 0.1}
        calls.append((offered[name], {key: _resolved(value, rng) for key, value in given.items()}))
    return calls


def _resolved(value: Any, rng: Random) -> Any:
    """A dictionary of lists of values as a dictionary of values."""
    if isinstance(value, dict):
        chosen = {
            key: rng.choice(options) if isinstance(options, list) and options else options
            for key, options in value.items()
        }
        return {key: one for key, one in chosen.items() if one != "" or rng.random() < 0.1}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [_resolved(entry, rng) for entry in value]
    return copy.deepcopy(value)


def _changed(problem: Problem, calls: list[Call], rng: Random) -> list[Call]:
    calls = copy.deepcopy(calls)
    change = rng.randrange(14)
    if change == 0 and calls:
        calls.pop(rng.randrange(len(calls)))
    elif change == 1 and calls:
        calls.append(copy.deepcopy(rng.choice(calls)))
    elif change == 2:
        rng.shuffle(calls)
    elif change == 3 and calls:
        index = rng.randrange(len(calls))
        name, given = calls[index]
        other = rng.choice(
            [function.offered for function in problem.functions] + [name.upper(), name + "_", "f", name[1:]]
        )
        calls[index] = (other, given)
    elif calls:
        index = rng.randrange(len(calls))
        name, given = calls[index]
        calls[index] = (name, _arguments(problem, name, dict(given), rng))
    return calls


def _arguments(problem: Problem, name: str, given: dict[str, Any], rng: Random) -> dict[str, Any]:
    function = next((function for function in problem.functions if function.offered == name), None)
    change = rng.random()
    if change < 0.12 and given:
        del given[rng.choice(list(given))]
    elif change < 0.18:
        given["surprise"] = 1
    elif change < 0.28 and function is not None and function.parameters:
        given.setdefault(rng.choice(list(function.parameters)), rng.choice((1, "x", True, None, [], {}, 0.5)))
    elif given:
        key = rng.choice(list(given))
        given[key] = _value(given[key], rng)
    return given


def _value(value: Any, rng: Random) -> Any:
    """Another value: spelled otherwise, of another type, or simply another."""
    if rng.random() < 0.15:
        return rng.choice((None, "", [], {}, 0, 1, 1.0, True, False, "x", [1], ["x"], {"x": 1}, [[1]], [{"x": 1}]))
    if isinstance(value, bool):
        return rng.choice((not value, int(value), str(value)))
    if isinstance(value, int):
        return rng.choice((value + 1, float(value % 10**9), str(value % 10**9), value == 1, [value], 10**400))
    if isinstance(value, float):
        return rng.choice((value + 0.5, int(value), str(value), [value]))
    if isinstance(value, str):
        return _spelled(value, rng)
    if isinstance(value, list):
        return _entries(value, rng)
    if isinstance(value, dict):
        changed = dict(value)
        if changed and rng.random() < 0.8:
            key = rng.choice(list(changed))
            if rng.random() < 0.25:
                del changed[key]
            else:
                changed[key] = _value(changed[key], rng)
        else:
            changed["surprise"] = 1
        return changed
    return rng.choice(("x", 1, None))


def _spelled(text: str, rng: Random) -> Any:
    if rng.random() < 0.4:
        place = rng.randint(0, len(text))
        return text[:place] + rng.choice(" ,./-_*^'!:;?") + text[place:]
    spellings = (
        text.upper(), text.lower(), text.title(), text.replace(" ", ""), text.replace(" ", "_"), text.replace(",", ""),
        text + ".", f" {text} ", text.replace("-", "/"), text.replace("'", '"'), f"^{text}*", text + "!", text[:-1],
        text + "x", text.replace(" ", "\n"), [text], {"value": text}, text.replace(":", ""), f"({text})",
        text.replace("-", ""), text.replace("/", ""),
    )  # fmt: skip
    return rng.choice(spellings)


def _entries(values: list[Any], rng: Random) -> Any:
    changed = list(values)
    change = rng.randrange(6)
    if change == 0:
        rng.shuffle(changed)
    elif change == 1 and changed:
        changed.pop()
    elif change == 2:
        changed.append(changed[0] if changed else "x")
    elif change == 3:
        return json.dumps(changed)
    elif changed:
        index = rng.randrange(len(changed))
        changed[index] = _value(changed[index], rng)
    return changed


# -- the leaderboard's checker -----------------------------------------------------------------------------------------


def load_checker(folder: Path) -> Checker:
    """The checker in the unpacked package; None where it raises."""

    class AnyModel(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return types.SimpleNamespace(underscore_to_dot=True)

    sys.path.insert(0, str(folder))
    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = AnyModel()  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    from bfcl_eval.constants.enums import Language  # type: ignore[import-not-found]
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # type: ignore[import-not-found]

    def check(functions: list[Any], calls: list[Any], answers: list[Any], category: str) -> bool | None:
        try:
            return bool(ast_checker(functions, calls, answers, Language.PYTHON, category, "any")["valid"])
        except Exception:  # the checker meets values that it does not foresee
            return None

    return check


def declared(source: Path, problem_names: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Functions as the files declare them, by id."""
    found = {}
    for path in sorted(source.glob("*.json*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line) if line.startswith('{"') else {}
            if row.get("id") in problem_names:
                found[row["id"]] = row["function"]
    return found


def cases(source: Path, check: Checker, each: int, seed: int) -> Iterator[tuple[Problem, list[Call], bool | None]]:
    """(problem, calls, the checker's verdict)."""
    problems = [problem for problem in read_problems(str(source), None) if problem.answers]
    functions = declared(source, {problem.name for problem in problems})
    for problem in problems:
        rng = Random(f"{seed}/{problem.name}")
        for calls in variants(problem, rng, each):
            theirs = [{name: given} for name, given in copy.deepcopy(calls)]
            answers = copy.deepcopy(list(problem.answers))
            yield problem, calls, check(copy.deepcopy(functions[problem.name]), theirs, answers, problem.category)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder that the wheel of bfcl-eval was unpacked into")
    parser.add_argument("--each", type=int, default=20, help="changed answers a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    given = parser.parse_args()
    check = load_checker(given.package)
    if given.write:
        judged = (case for source, each in IN_TABLE for case in cases(source, check, each, given.seed))
        rows = [
            {"id": problem.name, "calls": calls, "valid": valid}
            for problem, calls, valid in judged
            if valid is not None
        ]
        TABLE.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{len(rows)} verdicts, {sum(row['valid'] is True for row in rows)} of them valid")
        return
    counts: Counter[tuple[str, str]] = Counter()
    for problem, calls, theirs in cases(given.package / "bfcl_eval" / "data", check, given.each, given.seed):
        ours = calls_match(problem.functions, problem.answers, calls)
        kind = "raised" if theirs is None else "equal" if ours == theirs else "different"
        counts[problem.category, kind] += 1
        counts[problem.category, f"valid: {theirs}"] += 1
        if kind == "different" or (kind == "raised" and ours):
            print(f"{problem.name}: ours {ours}, theirs {theirs}: {json.dumps(calls)[:300]}")
    for category in sorted({category for category, _ in counts}):
        print(category, {kind: count for (name, kind), count in sorted(counts.items()) if name == category})
    print(
        "total", {kind: sum(c for (_, k), c in counts.items() if k == kind) for kind in sorted({k for _, k in counts})}
    )


if __name__ == "__main__":
    main()
