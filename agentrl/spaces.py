"""Gymnasium spaces of chat messages: actions are the assistant's messages, observations are tuples of messages.

Both are infinite sets, so membership is a question of form, and `sample` draws short random texts (enough for
checkers and for exercising an environment, not for exploring it). Invariant: samples are members, depend on the seed
alone, survive `to_jsonable` and back, and work in Gymnasium's vectors, where a batch is a tuple.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gymnasium.spaces import Space, Text
from gymnasium.vector.utils import batch_differing_spaces

from agentrl.messages import Message, Role, assistant, user

Observation = tuple[Message, ...]

_LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789"
_MAX_SAMPLE = 24
"""Characters of a sampled text."""


class ActionSpace(Space[Any]):
    """The assistant's messages: a `Message` of role `assistant`, or its text as `str`."""

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Message:
        """A message of random text without tool calls; masks make no sense here and are refused."""
        _refuse_masks(mask, probability)
        return assistant(_random_text(self))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) or (isinstance(x, Message) and x.role is Role.ASSISTANT)

    def to_jsonable(self, sample_n: Iterable[Any]) -> list[Any]:
        """Messages in their own JSON form (which keeps what the wire form drops), texts as they are."""
        return [item if isinstance(item, str) else item.model_dump(mode="json") for item in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[Any]:
        return [item if isinstance(item, str) else Message.model_validate(item) for item in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace)

    def __hash__(self) -> int:
        return hash(ActionSpace)

    def __repr__(self) -> str:
        return "ActionSpace()"


class ObservationSpace(Space[Observation]):
    """Tuples of messages of any length; the empty one ends an episode."""

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Observation:
        """Up to three user messages of random text; masks make no sense here and are refused."""
        _refuse_masks(mask, probability)
        return tuple(user(_random_text(self)) for _ in range(int(self.np_random.integers(4))))

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(isinstance(item, Message) for item in x)

    def to_jsonable(self, sample_n: Iterable[Observation]) -> list[Any]:
        return [[message.model_dump(mode="json") for message in item] for item in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[Observation]:
        return [tuple(Message.model_validate(message) for message in item) for item in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservationSpace)

    def __hash__(self) -> int:
        return hash(ObservationSpace)

    def __repr__(self) -> str:
        return "ObservationSpace()"


def _random_text(space: Space[Any]) -> str:
    letters = space.np_random.integers(len(_LETTERS), size=int(space.np_random.integers(1, _MAX_SAMPLE + 1)))
    return "".join(_LETTERS[letter] for letter in letters)


def _refuse_masks(mask: Any, probability: Any) -> None:
    if mask is not None or probability is not None:
        raise ValueError("a space of messages takes neither a mask nor a probability")


# Gymnasium batches unknown spaces as tuples by itself, but not with observation_mode="different".
_batch_tuples = batch_differing_spaces.dispatch(Text)
batch_differing_spaces.register(ActionSpace, _batch_tuples)
batch_differing_spaces.register(ObservationSpace, _batch_tuples)
