"""Small decision processes whose policy gradient is known exactly, and the exact expectation of an estimator on them.

A process is a tree of nodes in which a softmax policy draws one token a node; the environment's draws follow. Nothing
is sampled: every episode is listed with its probability, every batch of groups of episodes with its own, and the
estimate of each is weighed by it. Invariant: the true gradient is not computed through scores and episodes, as the
estimate is, but by differentiating the value recursion, so that the two can only agree if both are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import factorial, prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from agentrl.advantages import Array, Credit, Transform, TurnTable, attribute

T = TypeVar("T")
Complex = npt.NDArray[np.complex128]
Logits = Mapping[str, Complex]
Decorate = Callable[["Episode"], TurnTable]
Weigh = Callable[[Sequence["Episode"]], Array]


@dataclass(frozen=True)
class Outcome:
    """What the environment may answer to an action."""

    reward: float = 0.0
    then: str | None = None
    """The next node; None ends the episode."""
    probability: float = 1.0


@dataclass(frozen=True)
class Node:
    """One token that the policy draws."""

    actions: Sequence[Sequence[Outcome]]
    logits: Sequence[float]
    key: str = ""
    """What the policy sees, hence the turn's state key; nodes with one key have the same logits."""
    ends_turn: bool = True
    """False: the next node's token belongs to the same turn (and no reward comes between)."""

    def policy(self, logits: Complex | None = None) -> Complex:
        """Probability of each action."""
        exponentials = np.exp(np.asarray(self.logits, dtype=np.complex128) if logits is None else logits)
        return np.asarray(exponentials / exponentials.sum())

    @property
    def free(self) -> list[int]:
        """Actions that have a parameter: of two the second one's logit (the first is fixed), of one none, else all."""
        return list(range(len(self.actions)))[1 if len(self.actions) <= 2 else 0 :]


@dataclass(frozen=True)
class Episode:
    """One way through a process."""

    probability: float
    nodes: tuple[str, ...]
    """The node of each token, shape (L,)."""
    scores: Array
    """Gradient of each token's log-probability, shape (L, parameters)."""
    table: TurnTable
    path: tuple[tuple[str, int, int], ...]
    """(node, action, outcome) of each token: what tells episodes apart."""


@dataclass(frozen=True)
class Process:
    """Nodes by name; every node has parameters of its own, also where a key is shared."""

    start: str
    nodes: Mapping[str, Node]

    @cached_property
    def parameters(self) -> list[tuple[str, int]]:
        """(node, action) of each free logit, in the order of the gradients below."""
        return [(name, action) for name, node in self.nodes.items() for action in node.free]

    def value(self, name: str | None = None, logits: Logits | None = None, gamma: float = 1.0) -> complex:
        """Expected reward from node `name` (the start) on, under other `logits` where given; `gamma` is per turn."""
        name = name or self.start
        node = self.nodes[name]
        chances = node.policy((logits or {}).get(name))
        discount = gamma if node.ends_turn else 1.0
        worths = [
            sum(
                o.probability * (o.reward + (discount * self.value(o.then, logits, gamma) if o.then else 0.0))
                for o in action
            )
            for action in node.actions
        ]
        return complex(sum(chance * worth for chance, worth in zip(chances, worths, strict=True)))

    def _slope(self, parameter: tuple[str, int], start: str, gamma: float) -> float:
        """Derivative of `value(start)` by a complex step: no difference is taken, so nothing is lost."""
        name, action = parameter
        logits = np.asarray(self.nodes[name].logits, dtype=np.complex128)
        logits[action] += 1e-30j
        return self.value(start, {name: logits}, gamma).imag / 1e-30

    @cached_property
    def true_gradient(self) -> Array:
        """Gradient of the expected undiscounted reward with respect to `parameters`."""
        return np.array([self._slope(parameter, self.start, 1.0) for parameter in self.parameters])

    def discounted_gradient(self, gamma: float) -> Array:
        """Each parameter's effect on the discounted return from its own node on, times how often that is reached.

        What estimators with discounted returns aim at; below gamma 1 it is the gradient of no objective.
        """
        slopes = np.array([self._slope(parameter, parameter[0], gamma) for parameter in self.parameters])
        return slopes * np.array([self.reached(name) for name, _ in self.parameters])

    def reached(self, name: str) -> float:
        """Probability that an episode comes to node `name`."""
        return sum(episode.probability for episode in self.episodes if name in episode.nodes)

    @cached_property
    def episodes(self) -> list[Episode]:
        """Every episode with its probability; the probabilities add up to 1."""
        return [episode for episode in self._follow(_Partial(self.start))]

    def _follow(self, partial: _Partial) -> Iterator[Episode]:
        if partial.node is None:
            yield partial.finish(self)
            return
        node = self.nodes[partial.node]
        for action, (chance, outcomes) in enumerate(zip(node.policy().real, node.actions, strict=True)):
            for index, outcome in enumerate(outcomes):
                yield from self._follow(partial.extend(node, (action, index), float(chance), outcome))

    def score(self, name: str, action: int) -> Array:
        """Gradient of log pi(action | node) with respect to `parameters`."""
        policy = self.nodes[name].policy().real
        return np.array([float(a == action) - policy[a] if n == name else 0.0 for n, a in self.parameters])


@dataclass(frozen=True)
class _Partial:
    """An episode under way."""

    node: str | None
    probability: float = 1.0
    path: tuple[tuple[str, int, int], ...] = ()
    rewards: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    length: int = 0

    def extend(self, node: Node, drawn: tuple[int, int], chance: float, outcome: Outcome) -> _Partial:
        assert self.node is not None
        length = self.length + 1
        after = replace(
            self,
            node=outcome.then,
            probability=self.probability * chance * outcome.probability,
            path=(*self.path, (self.node, *drawn)),
            keys=self.keys if self.length else (*self.keys, node.key or self.node),
            length=length,
        )
        if not node.ends_turn:
            assert outcome.then is not None and not outcome.reward
            return after
        return replace(after, rewards=(*self.rewards, outcome.reward), lengths=(*self.lengths, length), length=0)

    def finish(self, process: Process) -> Episode:
        return Episode(
            self.probability,
            tuple(name for name, _, _ in self.path),
            np.array([process.score(name, action) for name, action, _ in self.path]),
            TurnTable(np.array(self.rewards, dtype=np.float64), np.array(self.lengths), state_keys=self.keys),
            self.path,
        )


@dataclass
class Moments:
    """Exact expectation and variance of a gradient estimate."""

    size: int
    mean: Array = field(init=False)
    square: Array = field(init=False)
    weight: float = 0.0

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros(self.size), np.zeros(self.size)

    def add(self, weight: float, gradient: Array) -> None:
        self.weight += weight
        self.mean += weight * gradient
        self.square += weight * gradient**2

    @property
    def variance(self) -> Array:
        return np.asarray(self.square - self.mean**2)


def multisets(items: Sequence[T], probabilities: Sequence[float], size: int) -> Iterator[tuple[float, tuple[T, ...]]]:
    """Every unordered draw of `size` items with its probability: enough for what does not ask for an order."""
    for indices in combinations_with_replacement(range(len(items)), size):
        orders = factorial(size) // prod(factorial(count) for count in Counter(indices).values())
        yield orders * prod(probabilities[i] for i in indices), tuple(items[i] for i in indices)


def sequences(items: Sequence[T], probabilities: Sequence[float], size: int) -> Iterator[tuple[float, tuple[T, ...]]]:
    """Every ordered draw of `size` items with its probability."""
    for indices in product(range(len(items)), repeat=size):
        yield prod(probabilities[i] for i in indices), tuple(items[i] for i in indices)


def sequence_mean(episodes: Sequence[Episode]) -> Array:
    """Weight of every token of a batch where each episode's tokens are summed and episodes averaged."""
    return np.full(sum(episode.table.num_tokens for episode in episodes), 1.0 / len(episodes))


def estimate(groups: Sequence[Sequence[Episode]], credits: Sequence[Credit], weigh: Weigh = sequence_mean) -> Array:
    """Sum over episodes and tokens of weight x A x grad log pi: one batch's gradient estimate."""
    episodes = [episode for group in groups for episode in group]
    advantages = np.concatenate([tokens for credit in credits for tokens in _trained(credit)])
    return np.asarray((weigh(episodes) * advantages) @ np.concatenate([episode.scores for episode in episodes]))


def _trained(credit: Credit) -> list[Array]:
    """The members' token advantages, 0 where the loss is masked."""
    assert not credit.dropped
    return [
        np.where(credit.masked.get(member, False), 0.0, tokens)
        for member, tokens in enumerate(credit.token_advantages())
    ]


def moments(
    process: Process,
    transforms: Sequence[Transform],
    size: int,
    *,
    batch: int = 1,
    table: Decorate = lambda episode: episode.table,
    weigh: Weigh = sequence_mean,
    draws: Callable[..., Iterator[tuple[float, tuple[T, ...]]]] = multisets,
) -> Moments:
    """Mean and variance of the gradient estimate over every batch of `batch` groups of `size` episodes.

    `table` makes the turn table of an episode, for what a transform reads beyond rewards and keys. Each batch is
    attributed by itself: what is whitened over a batch must not see the others. `draws=sequences` is for transforms
    that are not symmetric in the members.
    """
    pairs = [(episode, table(episode)) for episode in process.episodes]
    groups = list(draws(pairs, [episode.probability for episode in process.episodes], size))
    result = Moments(len(process.parameters))
    for weight, chosen in draws([group for _, group in groups], [weight for weight, _ in groups], batch):
        credits = attribute(transforms, [[entry for _, entry in group] for group in chosen])
        result.add(weight, estimate([[episode for episode, _ in group] for group in chosen], credits, weigh))
    return result


def cosine(one: Array, other: Array) -> float:
    """Of the angle between two gradients."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
