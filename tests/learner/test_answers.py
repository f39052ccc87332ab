"""Probability of the gold answer where turns begin: against the model's own forward pass, and where it must not go."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from agentrl import needs
from agentrl.advantages import GRPO, IGPO, attribute, credited_batch, tables_of
from agentrl.assembly import check
from agentrl.config import OptimiserConfig, load_config
from agentrl.errors import ConfigError, TrainingError
from agentrl.learner import Learner, Policy
from agentrl.learner.answers import gold_answers
from agentrl.messages import assistant
from agentrl.models.tiny import build_tiny
from agentrl.objectives.clip import ClippedRatio
from agentrl.trajectory import Trajectory, Turn

CLOSING = "The answer is "
NEED = needs.need("answer_probability", closing=CLOSING)


@cache
def built() -> tuple[Any, Any]:
    """Model and tokenizer."""
    return build_tiny()


def learner(**options: Any) -> Learner:
    return Learner(Policy(built()[0], precision="fp32"), objective=ClippedRatio(), optimiser=OptimiserConfig(**options))


def encode(text: str) -> list[int]:
    return list(built()[1].encode(text, add_special_tokens=False))


def episode(*texts: str, gold: object = None, task: str = "t", member: int = 0) -> Trajectory:
    """Turns of one token, with the context growing by each text."""
    turns = [
        Turn(encode(text), index - 1 if index else None, encode("x"), [-1.0], assistant("x"))
        for index, text in enumerate(texts)
    ]
    return Trajectory(task, turns=turns, member=member, info={"gold": gold or {"answer": "42"}})


def own(context: list[int], lead: list[int], answer: list[int], temperature: float = 1.0) -> float:
    """The same number from one forward pass of the model."""
    ids = torch.tensor([[*context, *lead, *answer]])
    with torch.no_grad():
        logprobs = (built()[0](input_ids=ids).logits[0] / temperature).log_softmax(-1)
    places = range(ids.shape[1] - len(answer) - 1, ids.shape[1] - 1)
    return math.exp(sum(float(logprobs[place, ids[0, place + 1]]) for place in places) / len(answer))


def scored(trajectories: list[Trajectory], need: str = NEED, **options: Any) -> list[list[float]]:
    columns = learner(**options).score(trajectories, frozenset({need}), built()[1])
    return [column[need][0].tolist() for column in columns]


@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_is_the_model_s_own_geometric_mean(budget: int) -> None:
    first, second = episode("what is it? ", "a hint"), episode("what else? ", gold={"answer": 7}, task="u")
    got = scored([first, second], micro_batch_tokens=budget)
    expected = [
        [own(first.context_ids(turn), encode(CLOSING), encode("42")) for turn in range(2)],
        [own(second.context_ids(0), encode(CLOSING), encode("7"))],
    ]
    assert got[0] == pytest.approx(expected[0], rel=1e-4)
    assert got[1] == pytest.approx(expected[1], rel=1e-4)


def test_a_token_over_the_border_is_the_answer_s() -> None:
    """`The answer is ` is one token: cut before its last word, that token is what the policy would write."""
    need = needs.need("answer_probability", closing="The answer ")
    item = episode("hm ", gold={"answer": "is 5"})
    whole = encode("The answer is 5")
    assert whole[: len(encode("The answer "))] != encode("The answer ")
    assert scored([item], need)[0] == pytest.approx([own(item.context_ids(0), [], whole)], rel=1e-4)


def test_without_a_closing_text_the_answer_begins_the_turn() -> None:
    item = episode("hm ")
    need = needs.need("answer_probability", closing="")
    assert scored([item], need)[0] == pytest.approx([own(item.context_ids(0), [], encode("42"))], rel=1e-4)


def test_equal_contexts_are_read_once() -> None:
    own_learner, read = learner(), []
    score = own_learner.policy.score

    def spy(tokens: Any, **options: Any) -> Any:
        read.append(tokens.input_ids.numel())
        return score(tokens, **options)

    own_learner.policy.score = spy  # type: ignore[method-assign]
    members = [episode("what? ", f"{hint}", member=i) for i, hint in enumerate("abca")]
    columns = [column[NEED][0] for column in own_learner.score(members, frozenset({NEED}), built()[1])]
    answer = len(encode(CLOSING + "42"))
    distinct = {tuple(item.context_ids(turn)) for item in members for turn in range(2)}
    assert len(distinct) == 4
    assert sum(read) == sum(len(context) + answer for context in distinct)
    assert len({column[0] for column in columns}) == 1
    assert columns[0][1] == columns[3][1] != columns[1][1]


def test_of_several_answers_the_most_probable_one_at_the_start_counts_everywhere() -> None:
    texts = ["42", "zq", "no"]
    members = [episode("what? ", hint, gold={"answers": texts}, member=i) for i, hint in enumerate("ab")]
    start = {text: own(members[0].context_ids(0), encode(CLOSING), encode(text)) for text in texts}
    best = max(texts, key=start.__getitem__)
    got = scored(members)
    for item, values in zip(members, got, strict=True):
        assert values == pytest.approx(
            [own(item.context_ids(turn), encode(CLOSING), encode(best)) for turn in range(2)], rel=1e-4
        )


def test_zero_length_turns_and_no_turns() -> None:
    stopped = episode("what? ")
    stopped.turns[0].sampled_ids, stopped.turns[0].logprobs = [], []
    nothing = Trajectory("t", info={"gold": {"answer": "42"}})
    assert [len(values) for values in scored([stopped, nothing])] == [1, 0]


def test_the_answer_enters_no_training_row() -> None:
    """Nor does its column become one of tokens, where there are as many turns as policy tokens."""
    members = [episode("what? ", "a", member=0), episode("what? ", member=1)]
    before = [item.rows() for item in members]
    transform = IGPO(closing=CLOSING)
    columns = learner().score(members, transform.needs, built()[1])
    batch = credited_batch(attribute([transform], [tables_of(members, columns)]))
    assert [item.rows() for item in batch.trajectories] == before
    assert all(NEED not in each for each in batch.columns)
    assert np.concatenate(batch.advantages).any()


def test_refusals() -> None:
    with pytest.raises(TrainingError, match="task 't' has no gold answer"):
        scored([episode("what? ", gold={"code": "x"})])
    with pytest.raises(TrainingError, match="needs the policy's tokenizer"):
        learner().score([episode("what? ")], frozenset({NEED}))
    with pytest.raises(ConfigError, match="closing"):
        learner().score([episode("what? ")], frozenset({"answer_probability"}), built()[1])
    assert learner().score([episode("what? ")], GRPO().needs, built()[1]) == [{}]


@pytest.mark.parametrize(
    ("gold", "texts"),
    [
        ({"answer": "a"}, ("a",)),
        ({"answer": 2.5}, ("2.5",)),
        ({"answers": ["a", "b"], "answer": "c"}, ("a", "b")),
        ({"answer": " "}, ()),
        ({"answer": [["row"]]}, ()),
        ({"answer": None}, ()),
        ({"answer": True}, ()),
        ({"query": "a"}, ()),
        (None, ()),
    ],
)
def test_gold_answers(gold: object, texts: tuple[str, ...]) -> None:
    assert gold_answers(gold) == texts


def test_an_environment_without_gold_answers_is_refused_at_the_start() -> None:
    config = load_config(advantages=["igpo"], env__id="agentrl/Code-v0")
    with pytest.raises(ConfigError, match="needs a gold answer that is text"):
        check(config)
    assert check(load_config(advantages=["igpo"]))
