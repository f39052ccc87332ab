"""Register an environment of your own, in this one file, and train on it.

    python examples/custom_environment.py
    python examples/custom_environment.py steps=40

The policy is asked for the larger of two numbers; a tool compares them. Everything that agentrl's own environments have
(limits, records, oracle, warm start, evaluation, command line) works for this one too.
"""

import random
import sys
from collections.abc import Sequence

import agentrl
from agentrl.env import GeneratedTasks, TaskSet
from agentrl.messages import ToolCall, assistant, user


@agentrl.tool(inline=True)
def larger(a: int, b: int) -> int:
    """Give the larger of two numbers.

    Args:
        a: one number
        b: the other number
    """
    return max(a, b)


@agentrl.register("example/Larger-v0")
class Larger(agentrl.ToolEnv):
    """Which of two numbers is larger?"""

    tools = (larger,)

    def tasks(self, split: str) -> TaskSet:
        return GeneratedTasks(split, 10_000 if split == "train" else 500, lambda index: self._task(split, index))

    def _task(self, split: str, index: int) -> agentrl.Task:
        numbers = random.Random(f"{split}:{index}")
        a, b = numbers.randrange(100), numbers.randrange(100)
        return agentrl.Task(f"{split}:{index}", split, (user(f"{a} or {b}?"),), {"a": a, "b": b})

    def judge(self, episode: agentrl.Episode) -> agentrl.Verdict:
        data = episode.task.data
        correct = float(episode.answer.strip() == str(max(data["a"], data["b"])))
        return agentrl.Verdict(correct, {"correct": correct})

    def oracle_action(self) -> agentrl.Message:
        data, calls = self.episode.task.data, self.episode.calls
        if calls:
            return assistant(calls[-1].result)
        arguments = f'{{"a": {data["a"]}, "b": {data["b"]}}}'
        return assistant(tool_calls=(ToolCall(id="call_0", name="larger", arguments=arguments),))


def main(overrides: Sequence[str]) -> None:
    config = agentrl.load_config(
        recipe="tiny",
        overrides=["name=larger", "rollout.max_turn_tokens=60", *overrides],
        env={"id": "example/Larger-v0"},
    )
    result = agentrl.train(config, observer=agentrl.make_display())
    print(f"accuracy {result.evaluations['trained'].accuracy.value:.1%}, report: {result.report}")


if __name__ == "__main__":
    main(sys.argv[1:])
