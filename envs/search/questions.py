"""Questions of one to four hops: each follows a fact of one article to the next article, from a name to the answer.

Invariant: the answer is unique, since every fact has one value; and for two hops or more no article in which the
question's name stands has the answer in it, so that no single search can give both.
"""

from __future__ import annotations

import random

from agentrl.errors import ConfigError
from agentrl.generators import Problem

from .articles import Style, fact
from .relations import OF_KIND, Relation
from .world import World

MAX_HOPS = 4
_ATTEMPTS = 1000

Hop = tuple[int, Relation]


def draw(world: World, style: Style, rng: random.Random, hops: int) -> Problem:
    """A question about the entity `data["subject"]`.

    `data["hops"]` has for each hop the query that finds it, the article's title, the sentence that states the fact, and
    the fact's value; the last value is the answer.
    """
    for _ in range(_ATTEMPTS):
        chain = _chain(world, rng, hops)
        if chain is not None and not (hops > 1 and standing_together(world, chain)):
            return _problem(world, style, rng, chain)
    raise ConfigError(f"documents={world.documents}: there is no question of {hops} hops")


def standing_together(world: World, chain: list[Hop]) -> bool:
    """Whether the answer stands in an article together with the entity that the chain begins with."""
    start, (last, relation) = chain[0][0], chain[-1]
    answer = world.shown(last, relation)
    return any(answer in world.mentions(entity) for entity in world.mentioned_by(start))


def _chain(world: World, rng: random.Random, hops: int) -> list[Hop] | None:
    entity = rng.randrange(world.documents)
    seen, chain = {entity}, list[Hop]()
    for number in range(hops):
        facts = OF_KIND[world.kind(entity)]
        if number < hops - 1:
            facts = tuple(relation for relation in facts if isinstance(relation.target, str))
        relation = rng.choice(facts)
        chain.append((entity, relation))
        if isinstance(relation.target, str):
            entity = world.value(entity, relation)
            if entity in seen:
                return None
            seen.add(entity)
    return chain


def _problem(world: World, style: Style, rng: random.Random, chain: list[Hop]) -> Problem:
    subject = asked = world.name(chain[0][0])
    for _, relation in chain[:-1]:
        asked = relation.phrase.format(asked)
    last = chain[-1][1]
    question = (last.questions[0] if style == "short" else rng.choice(last.questions)).format(asked)
    found = []
    for entity, relation in chain:
        title = world.name(entity)
        words = relation.label.lower() if style == "short" else relation.query
        found.append([f"{title} {words}", title, fact(world, entity, relation, style), world.shown(entity, relation)])
    return Problem(question, {"subject": subject, "answers": [found[-1][3]], "hops": found})
