"""Suite: which tasks an agent is asked, how it is sampled and where it is stopped, as one YAML file.

A suite's entries are kept by name, so that `entries.sql.options.rows=50` on a command line means one of them.
Invariants: a key that is not here is refused with the nearest valid one; two suites with equal `decisive()` ask the
same tasks in the same way, so that their numbers can be set side by side, and the samples of one are those of the other
as far as both have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.settings import Section

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class SuiteSampling(Section):
    """How the agent is sampled."""

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus sampling; an engine that cannot do it refuses anything but 1."""
    max_turn_tokens: int = Field(512, ge=1)
    """Tokens sampled in one turn."""


class SuiteLimits(Section):
    """Bounds of every episode, and of the whole evaluation."""

    max_turns: int = Field(8, ge=1)
    """Turns of an episode; it is judged as it stands then."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens sampled in all turns of an episode; it is judged as it stands then."""
    max_context: int = Field(4096, ge=2)
    """Conversation and answer of a turn, tokens; the episode is judged as it stands then."""
    episode_seconds: float = Field(600.0, gt=0)
    """Hard deadline of an episode, teardown included; it counts as wrong then."""
    tool_calls: int | None = Field(None, ge=1)
    """Tool calls of an episode that are executed; it is judged as it stands when more are asked for."""
    cost: float | None = Field(None, gt=0)
    """Dollars of the whole evaluation, at the prices that the command names; it stops there."""
    seconds: float | None = Field(None, gt=0)
    """Seconds of the whole evaluation, over all processes that worked on it; it stops there."""


class Entry(Section):
    """Tasks of one environment."""

    env: str
    """Environment id."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment."""
    split: str = "test"
    levels: tuple[int, ...] | None = None
    """Levels to ask: the environment's own option where it has one, else a choice among its tasks."""
    tasks: int | None = Field(None, ge=1)
    """Number of tasks, the first ones of the split (with `levels` chosen among the tasks: of each level in turn);
    null: all of them."""
    samples: int | None = Field(None, ge=1)
    """Episodes of each task; null: the suite's."""
    digest: str | None = None
    """Digest of the tasks; when it is given and the tasks are others, the evaluation does not start."""

    @model_validator(mode="after")
    def _levels_once(self) -> Self:
        if self.levels is not None and "levels" in self.options:
            raise ValueError("levels are given twice, here and in options")
        if self.levels is not None and (not self.levels or len(set(self.levels)) != len(self.levels)):
            raise ValueError(f"levels {list(self.levels)}: one or more, each once")
        return self


class Suite(Section):
    """An evaluation suite."""

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    version: int = Field(1, ge=1)
    """Goes up with any change of what is asked: numbers of one version can be compared."""
    description: str = ""
    seed: int = Field(0, ge=0)
    """Every sample's seed is derived from it, the entry, the task and the sample's number."""
    samples: int = Field(1, ge=1)
    """Episodes of each task."""
    sampling: SuiteSampling = Field(default_factory=SuiteSampling)
    limits: SuiteLimits = Field(default_factory=SuiteLimits)
    entries: dict[str, Entry] = Field(min_length=1)
    """What is asked, by a name that results carry."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name in self.entries:
            if not _NAME.fullmatch(name):
                raise ValueError(f"entry {name!r}: a name is made of letters, digits and . _ + -")
        return self

    @property
    def label(self) -> str:
        """Name and version, as results carry them."""
        return f"{self.name} {self.version}"

    def samples_of(self, entry: str) -> int:
        """Episodes of each task of an entry."""
        return self.entries[entry].samples or self.samples

    def chosen(self, names: Sequence[str]) -> Suite:
        """The suite with these entries alone; raises `ConfigError` for a name that it does not have."""
        for name in names:
            if name not in self.entries:
                raise ConfigError(f"--entry {name!r}: suite {self.name!r}: {nearest(name, list(self.entries))}")
        kept = {name: entry for name, entry in self.entries.items() if name in names}
        return self.model_copy(update={"entries": kept})

    def unpinned(self) -> Suite:
        """The suite without its digests."""
        bare = self.model_copy(deep=True)
        for entry in bare.entries.values():
            entry.digest = None
        return bare

    def decisive(self) -> dict[str, Any]:
        """All that decides what a sample is: everything but words for people, the limits that only cut the work short,
        and how many samples there are, of which each has a seed of its own."""
        tree = self.model_dump(mode="json")
        del tree["description"], tree["samples"]
        for entry in tree["entries"].values():
            del entry["samples"]
        for key in ("cost", "seconds"):
            del tree["limits"][key]
        return tree

    def to_yaml(self) -> str:
        """The resolved suite; `load_suite` reads it back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
