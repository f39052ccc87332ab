"""Train a policy from Python: a small one from scratch, in about a minute on a laptop.

    python examples/train_from_python.py
    python examples/train_from_python.py name=longer steps=60 optimiser.lr=1e-4

Every argument is a `key=value` override of the configuration, as on the command line.
"""

import sys

import agentrl


def main(overrides: list[str]) -> None:
    config = agentrl.load_config(recipe="tiny", overrides=["name=from-python", *overrides])
    result = agentrl.train(config, observer=agentrl.make_display())
    for stage, evaluation in result.evaluations.items():
        share = evaluation.accuracy
        print(f"{stage:10s} accuracy {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]")
    print(f"report: {result.report}")


if __name__ == "__main__":
    main(sys.argv[1:])
