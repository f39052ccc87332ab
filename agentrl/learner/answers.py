"""How probable the gold answer is where each turn begins: scored text that nobody sampled and nobody trains on (T6).

The context of each turn, as the engine saw it, is continued by a closing text and the gold answer; the
log-probabilities of the answer's tokens alone make the quantity. Invariants: nothing of the answer enters a training
row; equal contexts (of a group's members before their first turn, of branches) are read once and get the same number.

Source: IGPO, GuoqingWang1/IGPO `verl/utils/reward_score/info_gain.py`; which of several gold answers counts: the most
probable one in the bare prompt, the same one for every turn and every member of the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agentrl.errors import TrainingError
from agentrl.learner.batch import PackedTokens, TrainingRow, pack
from agentrl.learner.policy import Policy
from agentrl.learner.quantities import Quantity
from agentrl.trajectory import Trajectory

Ids = tuple[int, ...]


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, **options: Any) -> list[int]: ...


def gold_answers(gold: object) -> tuple[str, ...]:
    """The texts of a task's gold answer: `answers`, or `answer`, a text or a number; empty if it has none."""
    if not isinstance(gold, Mapping):
        return ()
    given = gold.get("answers", gold.get("answer"))
    listed = given if isinstance(given, list | tuple) else [given]
    texts = tuple(str(item) for item in listed if isinstance(item, str | int | float) and not isinstance(item, bool))
    return tuple(text for text in texts if text.strip()) if len(texts) == len(listed) else ()


@dataclass(frozen=True)
class AnswerScorer:
    """Scores one quantity of gold answers under a policy as it is now."""

    policy: Policy
    quantity: Quantity
    """Of source `answer`, with the option `closing`."""
    tokenizer: Encoder
    temperature: float
    max_tokens: int
    """Packed tokens of one forward pass."""

    def columns(self, trajectories: Sequence[Trajectory]) -> list[NDArray[np.float64]]:
        """The quantity where each turn begins, an array of shape (1, T_i) a trajectory.

        Raises `TrainingError` for a task without a gold answer.
        """
        answers = self._chosen(trajectories)
        asked = [
            [(tuple(item.context_ids(turn)), answers[item.task_id]) for turn in range(len(item.turns))]
            for item in trajectories
        ]
        values = self._score({question for questions in asked for question in questions})
        return [np.array([[values[question] for question in questions]], dtype=np.float64) for questions in asked]

    def _chosen(self, trajectories: Sequence[Trajectory]) -> dict[str, str]:
        """The gold answer of each task that counts."""
        asked: dict[str, list[tuple[Ids, str]]] = {}
        for item in trajectories:
            if item.task_id in asked or not item.turns:
                continue
            texts = gold_answers(item.info.get("gold"))
            if not texts:
                raise TrainingError(f"task {item.task_id!r} has no gold answer; {self.quantity.name} needs one")
            asked[item.task_id] = [(tuple(item.context_ids(0)), text) for text in texts]
        values = self._score({question for several in asked.values() if len(several) > 1 for question in several})
        return {
            task: max(several, key=lambda question: values.get(question, 0.0))[1] for task, several in asked.items()
        }

    def _score(self, questions: set[tuple[Ids, str]]) -> dict[tuple[Ids, str], float]:
        """(context, answer) -> the quantity."""
        ordered = sorted(questions)
        rows = [self._row(index, *question) for index, question in enumerate(ordered)]
        values: dict[tuple[Ids, str], float] = {}
        for members in pack(rows, self.max_tokens):
            chosen = [rows[index] for index in members]
            with torch.no_grad():
                packed = PackedTokens.of(chosen, self.policy.device)
                logprobs = self.policy.score(packed, temperature=self.temperature).logprobs
            parts = torch.split(logprobs, [len(row.positions) for row in chosen])
            values |= {ordered[index]: float(self.quantity(part)) for index, part in zip(members, parts, strict=True)}
        return values

    def _row(self, index: int, context: Ids, answer: str) -> TrainingRow:
        closing = self._encode(self.quantity.options["closing"])
        whole = self._encode(self.quantity.options["closing"] + answer)
        # Text is cut into tokens as a whole, as the policy would write it: a token over the border is the answer's.
        differ = (place for place, pair in enumerate(zip(closing, whole, strict=False)) if pair[0] != pair[1])
        lead = min(next(differ, len(closing)), len(whole) - 1)
        count = len(whole) - lead
        return TrainingRow(
            ids=np.array([*context, *whole], dtype=np.int64),
            positions=np.arange(len(context) + lead, len(context) + len(whole)),
            turn_ids=np.ones(count, dtype=np.int64),
            behaviour=np.zeros(count),
            advantages=np.zeros(count),
            trajectory=index,
            tokens=np.arange(count),
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []
