"""Evaluate a model, a run, or the environments' own oracle on a suite of tasks, with intervals.

python examples/evaluate_model.py
python examples/evaluate_model.py smollm2-135m-instruct core 8
python examples/evaluate_model.py runs/quickstart agentrl/Arithmetic-v0 200

The second call with the same arguments finds the finished folder and only prints; a call that was killed goes on.
"""

import sys

import agentrl


def main(model: str = "oracle", suite: str = "core", tasks: str = "2") -> None:
    observer = agentrl.make_display()
    try:
        done = agentrl.evaluate(suite, model, tasks=int(tasks), samples=2, observer=observer)
    finally:
        observer.close()
    for entry in [*done.report.entries, done.report.total]:
        share = entry.accuracy
        print(
            f"{entry.name:<14} accuracy {share.value:.1%} [{share.low:.1%}, {share.high:.1%}], {entry.judged} episodes"
        )
    print(f"{done.missing} episodes are missing; report: {done.folder / 'report.html'}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except agentrl.AgentRLError as error:
        raise SystemExit(f"error: {error}") from None
