"""Perplexity and entropy of given texts, against plain forward passes of a real tiny model."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from agentrl.chat import ChatRenderer
from agentrl.evaluation.perplexity import perplexities, rendered, score_texts, token_entropies
from agentrl.learner import Policy
from agentrl.messages import assistant, user
from agentrl.models.load import load_tokenizer
from agentrl.models.resolve import resolve
from agentrl.trajectory import Trajectory, Turn
from tests.learner.tiny_models import make_model, make_trajectory


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(make_model(), precision="fp32")


def plain(model: torch.nn.Module, trajectory: Trajectory, temperature: float = 1.0) -> tuple[list[float], list[float]]:
    """Log-probability and entropy of each sampled token, each turn read alone in its whole context."""
    logprobs: list[float] = []
    entropies: list[float] = []
    for index, turn in enumerate(trajectory.turns):
        ids = torch.tensor([trajectory.full_ids(index)])
        with torch.no_grad():
            table = torch.log_softmax(model(ids).logits[0].float() / temperature, -1)
        places = range(ids.shape[1] - len(turn.sampled_ids) - 1, ids.shape[1] - 1)
        for place, token in zip(places, turn.sampled_ids, strict=True):
            logprobs.append(float(table[place, token]))
            entropies.append(float(-(table[place].exp() * table[place]).sum()))
    return logprobs, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_those_of_plain_forward_passes(policy: Policy, temperature: float) -> None:
    rng = random.Random(0)
    episodes = [make_trajectory(rng, turns=1 + index % 3, fork=index == 2) for index in range(6)]
    model = make_model()
    for episode, found in zip(
        episodes, score_texts(policy, episodes, temperature=temperature, max_tokens=40), strict=True
    ):
        logprobs, entropies = plain(model, episode, temperature)
        assert found.tokens == len(logprobs)
        assert found.logprob == pytest.approx(sum(logprobs), abs=1e-3)
        assert found.perplexity == pytest.approx(math.exp(-sum(logprobs) / len(logprobs)), rel=1e-4)
        assert found.entropy == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
        assert len(found.turn_entropy) == len(episode.turns)
        first = len(episode.turns[0].sampled_ids)
        assert found.turn_entropy[0] == pytest.approx(sum(entropies[:first]) / first, abs=1e-4)


def test_observations_are_context_and_not_counted(policy: Policy) -> None:
    def episode(observed: list[int]) -> Trajectory:
        first = Turn([1, 2, 3], None, [4, 5], [0.0, 0.0], assistant("x"))
        second = Turn(observed, 0, [6, 7], [0.0, 0.0], assistant("y"))
        return Trajectory("t", turns=[first, second])

    short, other = score_texts(policy, [episode([8, 9]), episode([30, 31, 32, 33])])
    assert short.tokens == other.tokens == 4
    assert short.logprob != pytest.approx(other.logprob)  # the observation is read
    expected = [math.exp(-score.logprob / 4) for score in (short, other)]
    assert perplexities(policy, [episode([8, 9]), episode([30, 31, 32, 33])]) == pytest.approx(expected)


def test_what_the_sampler_said_is_not_read(policy: Policy) -> None:
    episode = make_trajectory(random.Random(1))
    score = score_texts(policy, [episode])
    for turn in episode.turns:
        turn.logprobs = [math.nan] * len(turn.sampled_ids)
    assert score_texts(policy, [episode]) == score
    assert math.isnan(episode.turns[0].logprobs[0])


def test_an_episode_without_tokens_has_no_perplexity(policy: Policy) -> None:
    empty = Trajectory("t", turns=[Turn([1, 2], None, [], [], assistant(""))])
    assert all(math.isnan(value) for value in [*perplexities(policy, [empty]), *token_entropies(policy, [empty])])
    assert perplexities(policy, []) == []


def test_its_own_samples_are_less_perplexing_than_another_models(policy: Policy) -> None:
    """Greedy continuations of two models, each under the first one: cross perplexity tells them apart."""
    other = make_model(seed=5)

    def continued(model: torch.nn.Module, prompt: list[int]) -> Trajectory:
        ids = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        sampled = ids[len(prompt) :]
        return Trajectory("t", turns=[Turn(prompt, None, sampled, [0.0] * 8, assistant(""))])

    prompts = [[3 * index + 1, index + 2, 7] for index in range(12)]
    own = perplexities(policy, [continued(make_model(), prompt) for prompt in prompts])
    foreign = perplexities(policy, [continued(other, prompt) for prompt in prompts])
    assert max(own) < min(foreign)


def test_text_alone_is_rendered_as_the_model_would_have_written_it(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(resolve("tiny"))
    renderer = ChatRenderer(tokenizer)
    turns = [
        Turn([], None, [], [], assistant("first thought"), [user("go on")]),
        Turn([], 0, [], [], assistant("the answer is 4")),
    ]
    found = rendered(Trajectory("t", "env", opening=[user("what is 2+2?")], turns=turns), renderer)
    context = renderer.opening([user("what is 2+2?")])
    assert found.context_ids(0) == context
    assert found.turns[0].sampled_ids == renderer.turn_ids(assistant("first thought"))
    following = renderer.next_context(
        context, found.turns[0].sampled_ids, [user("what is 2+2?"), assistant("first thought")], [user("go on")]
    )
    assert found.context_ids(1) == following
    assert found.turns[1].prefix_turn == 0
    assert "the answer is 4" in tokenizer.decode(found.turns[1].sampled_ids)
    assert turns[0].sampled_ids == []  # the record itself is left as it was
