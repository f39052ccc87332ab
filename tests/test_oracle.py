"""An oracle's episode has the tokens of a policy that says the same."""

from __future__ import annotations

import pytest

from agentrl.chat import ChatRenderer
from agentrl.env import Env, make
from agentrl.errors import ConfigError
from agentrl.messages import Message
from agentrl.models.tiny import build_tiny
from agentrl.oracle import oracle_trajectory
from agentrl.trajectory import StopReason, Trajectory

LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def env() -> Env:
    return make("agentrl/Arithmetic-v0", levels=LEVELS)


@pytest.fixture(scope="module")
def renderer(env: Env) -> ChatRenderer:
    return ChatRenderer(build_tiny()[1], env.tool_schemas(), tool_prompt="none")


@pytest.mark.parametrize("index", range(8))
async def test_the_oracle_solves_every_level(env: Env, index: int) -> None:
    trajectory = await oracle_trajectory(env, None, f"test:{index}", seed=0)
    assert trajectory.reward == 1.0
    assert trajectory.metrics["correct"] == 1.0
    assert trajectory.stop_reason is StopReason.TERMINATED
    assert len(trajectory.turns) == LEVELS[index % 4] + 1  # a call for each operation, then the answer
    assert [len(turn.tool_calls) for turn in trajectory.turns] == [1] * LEVELS[index % 4] + [0]
    assert trajectory.num_policy_tokens == 0  # text only


async def test_token_ids_are_what_a_policy_would_have_sampled(env: Env, renderer: ChatRenderer) -> None:
    """The recorded ids, given back to the parser and the environment turn by turn, give the same episode."""
    recorded = await oracle_trajectory(env, renderer, "train:3", seed=0)
    opening, _ = await env.areset(seed=0, options={"task": "train:3"})
    context, history = renderer.opening(list(opening)), list(opening)
    for index, turn in enumerate(recorded.turns):
        assert recorded.context_ids(index) == context
        assert turn.logprobs == [0.0] * len(turn.sampled_ids)
        message = renderer.parse(turn.sampled_ids)
        observation, reward, *_ = await env.astep(message)
        assert (said(observation), reward) == (said(turn.observation), turn.reward)
        history.append(message)
        if index + 1 < len(recorded.turns):
            context = renderer.next_context(context, turn.sampled_ids, history, observation)
        history += observation
    assert len(recorded.rows()) == 1
    assert recorded.num_forks == 0


async def test_with_and_without_tokens_the_conversation_is_the_same(env: Env, renderer: ChatRenderer) -> None:
    with_ids = await oracle_trajectory(env, renderer, "train:1", seed=0)
    text = await oracle_trajectory(env, None, "train:1", seed=0)
    assert said(with_ids.messages) == said(text.messages)
    assert with_ids.reward == text.reward
    assert with_ids.info == text.info
    assert Trajectory.from_json(with_ids.to_json()) == with_ids


async def test_a_limit_ends_the_oracle_too(renderer: ChatRenderer) -> None:
    short = make("agentrl/Arithmetic-v0", levels=(4,), max_turns=2)
    trajectory = await oracle_trajectory(short, renderer, "train:0", seed=0)
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert len(trajectory.turns) == 2
    assert trajectory.reward == 0.0


async def test_an_environment_without_an_oracle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("agentrl/Arithmetic-v0")
    monkeypatch.setattr(type(env.unwrapped), "oracle_action", Env.oracle_action)
    with pytest.raises(ConfigError, match="ArithmeticEnv has no oracle"):
        await oracle_trajectory(env, None, "train:0", seed=0)


def said(messages: list[Message] | tuple[Message, ...]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [(str(m.role), m.text, [(call.name, call.arguments) for call in m.tool_calls]) for m in messages]
