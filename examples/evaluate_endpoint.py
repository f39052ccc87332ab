"""Evaluate whatever an OpenAI-compatible endpoint serves on a suite of tasks with tools.

    python examples/evaluate_endpoint.py http://127.0.0.1:8000/v1
    OPENAI_API_KEY=... python examples/evaluate_endpoint.py https://HOST/v1 --model NAME --suite core --tasks 50

A server that gives token ids and whose model is on this disk is asked as a local policy is; any other one gets messages
and tool schemas and gives messages back. `--suite` is a bundled suite, a YAML file or an environment's id.
"""

from __future__ import annotations

import argparse

import agentrl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint", help="ends where /chat/completions begins, as a rule in /v1")
    parser.add_argument("--model", help="may be left out where the endpoint serves one model")
    parser.add_argument("--suite", default="agentrl/Arithmetic-v0")
    parser.add_argument("--tasks", type=int, default=20, help="of each entry of the suite")
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()

    done = agentrl.evaluate(
        arguments.suite,
        arguments.model,
        tasks=arguments.tasks,
        samples=1,
        endpoint=arguments.endpoint,
        concurrency=arguments.concurrency,
    )
    share = done.report.total.accuracy
    print(f"accuracy {share.value:.1%} [{share.low:.1%}, {share.high:.1%}], {done.missing} episodes missing")
    print(f"report: {done.folder / 'report.html'}")


if __name__ == "__main__":
    try:
        main()
    except agentrl.AgentRLError as error:
        raise SystemExit(f"error: {error}") from None
