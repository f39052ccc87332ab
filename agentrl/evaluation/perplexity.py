"""How probable a model finds given texts: perplexity and full-vocabulary entropy of anybody's episodes.

A text is scored where it stands: all that came before it in the episode is context, the policy's own tokens alone are
counted (observations are masked). An episode of the same tokenizer is read id for id; one of another tokenizer, or one
that was never tokenised (an oracle's), is first rendered as this model would have written it (`rendered`).

Invariant: nothing here has a gradient or samples; the numbers are those of the learner's own scoring pass.
Source: cross perplexity of arXiv 2504.13837 and 2507.14843.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer
    from agentrl.learner import Policy
    from agentrl.trajectory import Trajectory

PACKED_TOKENS = 8192
"""Tokens of one forward pass."""


@dataclass(frozen=True, slots=True)
class TextScore:
    """What a model says to the policy tokens of one episode."""

    logprob: float
    """Sum of log p, nats."""
    tokens: int
    entropy: float
    """Mean entropy of the distributions that the tokens stand in, nats; NaN without a token."""
    turn_entropy: tuple[float, ...]
    """The same by turn; NaN for a turn without a token."""

    @property
    def perplexity(self) -> float:
        """exp(-mean log p); NaN without a token."""
        return math.exp(-self.logprob / self.tokens) if self.tokens else math.nan


def score_texts(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float = 1.0,
    max_tokens: int = PACKED_TOKENS,
) -> list[TextScore]:
    """Score the policy tokens of every episode, in the policy's own token ids.

    Raises `TrainingError` for an episode with a token without context.
    """
    import numpy as np
    import torch

    from agentrl.learner.batch import PackedTokens, flatten, pack

    # What an episode's own sampler said of its tokens is not read: it may be missing or be of another model.
    plain = [replace(item, turns=[replace(turn, logprobs=[0.0] * len(turn.sampled_ids)) for turn in item.turns])
             for item in trajectories]  # fmt: skip
    rows = flatten(plain, [np.zeros(item.num_policy_tokens) for item in plain])
    logprobs = [np.zeros(item.num_policy_tokens) for item in plain]
    entropies = [np.zeros(item.num_policy_tokens) for item in plain]
    for members in pack(rows, max_tokens):
        chosen = [rows[index] for index in members]
        with torch.no_grad():
            scores = policy.score(PackedTokens.of(chosen, policy.device), temperature=temperature, entropy=True)
        sizes = [len(row.positions) for row in chosen]
        parts = zip(chosen, torch.split(scores.logprobs, sizes), torch.split(scores.entropy, sizes), strict=True)
        for row, logprob, entropy in parts:
            logprobs[row.trajectory][row.tokens] = logprob.double().cpu().numpy()
            entropies[row.trajectory][row.tokens] = entropy.double().cpu().numpy()
    return [
        _score(item, found.tolist(), spread.tolist())
        for item, found, spread in zip(plain, logprobs, entropies, strict=True)
    ]


def perplexities(policy: Policy, trajectories: Sequence[Trajectory], *, temperature: float = 1.0) -> list[float]:
    """exp(-mean log p) of every episode's policy tokens; NaN for an episode without one."""
    return [score.perplexity for score in score_texts(policy, trajectories, temperature=temperature)]


def token_entropies(policy: Policy, trajectories: Sequence[Trajectory], *, temperature: float = 1.0) -> list[float]:
    """Mean entropy over every episode's policy tokens, over the whole vocabulary, nats; NaN without a token."""
    return [score.entropy for score in score_texts(policy, trajectories, temperature=temperature)]


def rendered(trajectory: Trajectory, renderer: ChatRenderer) -> Trajectory:
    """The episode in the token ids with which `renderer`'s model would have written the same messages."""
    from agentrl.trajectory import Trajectory

    copy = Trajectory(trajectory.task_id, trajectory.env_id, opening=list(trajectory.opening))
    if "tools" in trajectory.info:
        renderer = renderer.for_tools(trajectory.info["tools"])
    context = renderer.opening(copy.opening)
    for turn in trajectory.turns:
        sampled = renderer.turn_ids(turn.message)
        prefix, new_ids = copy.locate(context)
        copy.turns.append(
            replace(turn, new_ids=new_ids, prefix_turn=prefix, sampled_ids=sampled, logprobs=[0.0] * len(sampled))
        )
        history = copy.messages[: -len(turn.observation) or None]
        if turn is not trajectory.turns[-1]:
            context = renderer.next_context(context, sampled, history, turn.observation)
    return copy


def _score(trajectory: Trajectory, logprobs: Sequence[float], entropies: Sequence[float]) -> TextScore:
    by_turn: list[float] = []
    start = 0
    for turn in trajectory.turns:
        end = start + len(turn.sampled_ids)
        by_turn.append(_mean(entropies[start:end]))
        start = end
    return TextScore(math.fsum(logprobs), len(logprobs), _mean(entropies), tuple(by_turn))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
