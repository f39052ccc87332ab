"""Evaluate a model, a checkpoint or an environment's own oracle on held-out tasks, with 95 % intervals.

python examples/evaluate_model.py oracle
python examples/evaluate_model.py smollm2-135m-instruct 50
python examples/evaluate_model.py runs/quickstart/policy 200
"""

import json
import sys

import agentrl


def main(model: str = "oracle", episodes: str = "100") -> None:
    result = agentrl.evaluate(model, "agentrl/Arithmetic-v0", episodes=int(episodes), observer=agentrl.make_display())
    print(json.dumps(result.to_dict(), indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
