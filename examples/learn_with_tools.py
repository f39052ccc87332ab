"""Does the tool help? Train the small policy on an environment with its tools and without them, and compare.

    python examples/learn_with_tools.py math
    python examples/learn_with_tools.py sql --seeds 0 1 2
    python examples/learn_with_tools.py search steps=20        # overrides go to both runs

Both runs have the same policy, questions, supervised warm start (on the environment's own solutions: with calls, or the
bare answer) and number of reinforcement steps. A run is a recipe (`tiny_math`, `tiny_code`, `tiny_sql`, `tiny_search`)
and takes a few minutes on one core. The figures also go to `runs/learn_with_tools_TASK.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import agentrl

TASKS = ("math", "code", "sql", "search")


def run(task: str, seed: int, tools: bool, overrides: list[str]) -> dict[str, Any]:
    """Train once; the held-out accuracy at each stage, with 95 % intervals."""
    name = f"{task}-{'tools' if tools else 'alone'}-{seed}"
    given = [f"name={name}", f"seed={seed}", *([] if tools else ["env.options.tools=[]"]), *overrides]
    result = agentrl.train(agentrl.load_config(recipe=f"tiny_{task}", overrides=given), observer=agentrl.make_display())
    stages = {stage: evaluation.accuracy for stage, evaluation in result.evaluations.items()}
    shares = {stage: [share.value, share.low, share.high] for stage, share in stages.items()}
    return {"task": task, "seed": seed, "tools": tools, **shares}


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'task':8}{'seed':>4}  {'':8}{'after warm start':>24}{'after training':>24}")
    for row in rows:
        cells = ["{:.1%} [{:.1%}, {:.1%}]".format(*row[stage]) for stage in ("warm_start", "trained")]
        print(f"{row['task']:8}{row['seed']:>4}  {'tools' if row['tools'] else 'alone':8}{cells[0]:>24}{cells[1]:>24}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the configuration, for both runs")
    arguments = parser.parse_intermixed_args()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        rows += [run(arguments.task, seed, tools, arguments.overrides) for tools in (True, False)]
        path = Path("runs") / f"learn_with_tools_{arguments.task}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    show(rows)


if __name__ == "__main__":
    main()
