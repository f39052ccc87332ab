"""The report of an evaluation as data: what `report.json` holds, and nothing else makes the page or the table.

Invariant: a number that does not exist (no verdict, no data, not recorded) is null, never 0 and never not-a-number;
`docs/report_schema.md` says what each field means, and `EvaluationReport.model_json_schema()` is the same for programs.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""A finite number, or None where there is none."""


class Part(BaseModel):
    """A piece of a report: immutable, and a key that the schema does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Estimate(Part):
    """A point estimate with its 95 % interval."""

    value: Number = None
    """The estimate; null without data."""
    low: Number = None
    """Lower bound; null where nothing is bounded."""
    high: Number = None
    """Upper bound."""


class CurvePoint(Estimate):
    """One k of a curve over k."""

    k: int
    """Number of samples."""
    tasks: int
    """Tasks with k verdicts or more: what the value is the mean over."""


class Stratum(Part):
    """The tasks of one level."""

    level: int | None
    """The level that the tasks state; null for tasks without one."""
    tasks: int
    """Tasks with a verdict."""
    judged: int
    """Episodes with a verdict."""
    accuracy: Estimate
    """Interval clustered by task."""
    reward: Estimate
    """Interval clustered by task."""


class ToolFigures(Part):
    """Use of tools, over the episodes that were not aborted."""

    calls: int = 0
    """Calls in all of them."""
    calls_per_episode: Number = None
    """Mean calls of an episode."""
    episodes_with_calls: Number = None
    """Share of the episodes with a call that could be executed."""
    valid_share: Number = None
    """Calls that were well-formed, of all calls; null without a call."""
    error_share: Number = None
    """Calls that were answered by an error, ill-formed ones included, of all calls; null without a call."""
    seconds_per_call: Number = None
    """Mean seconds that a call ran."""
    seconds_per_episode: Number = None
    """Mean seconds in tools."""


class Reasoning(Part):
    """What a judge holds of the reasoning behind right answers (CoT-pass@k)."""

    judge: str
    """The judge's name in the store."""
    complete: bool
    """Every right answer was judged; there are curves only then."""
    missing: str | None = None
    """What is not judged yet."""
    votes: int
    """Votes on right answers."""
    abstentions: int = 0
    """Votes that could not be read: neither yes nor no."""
    p_sound: dict[str, Number] = Field(default_factory=dict)
    """Median over tasks of the share of right answers whose reasoning is accepted, by the rule that joins votes."""
    cot_pass_at_k: dict[str, list[CurvePoint]] = Field(default_factory=dict)
    """pass@k that counts a right answer only with accepted reasoning, by the rule `any`, `majority` or `all`."""


class TaskOutcome(Part):
    """What became of one task: one entry a sample, in the order of the samples."""

    task_id: str
    """Id of the task in its environment."""
    env_id: str
    """Id of the environment."""
    level: int | None = None
    """The level that the task states."""
    correct: list[bool | None]
    """By sample: true, false, or null where there is no verdict (aborted) or no episode (missing)."""
    reward: list[Number]
    """By sample: undiscounted return; null where there is no verdict or no episode."""

    @model_validator(mode="after")
    def _same_samples(self) -> Self:
        if len(self.correct) != len(self.reward):
            raise ValueError(f"task {self.task_id!r} has {len(self.correct)} verdicts and {len(self.reward)} rewards")
        return self


class Figures(Part):
    """The numbers of one entry, or of all entries together."""

    name: str
    """The entry's name; `total` for all of them."""
    environments: list[str]
    """Ids of the environments."""
    tasks: int
    """Tasks that were asked for."""
    samples: int | None
    """Samples asked for of each task; null where entries differ."""
    planned: int
    """Episodes that were asked for."""
    episodes: int
    """Episodes that ended: judged, aborted, and those whose environment gives no verdict."""
    judged: int
    """Episodes with a verdict. One that ran past its own deadline has one: wrong."""
    correct: int
    """Judged episodes that the verifier accepts."""
    aborted: int
    """Episodes without a verdict: the engine or the environment failed, or the run was stopped. In no share."""
    missing: int
    """Episodes that were never finished."""
    accuracy: Estimate
    """Share of the judged episodes that the verifier accepts; interval clustered by task."""
    accuracy_wilson: Estimate
    """The same share with Wilson's interval, which takes every episode as independent."""
    reward: Estimate
    """Mean undiscounted return of the episodes that were not aborted; interval clustered by task, null bounds where all
    tasks have the same mean."""
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    """Means of what else the environments' verdicts report, each over the entries that report it; intervals clustered
    by task."""
    pass_at_k: list[CurvePoint] = Field(default_factory=list)
    """Unbiased pass@k for every k up to the most verdicts of a task: the mean over the tasks with k verdicts; interval
    clustered by task."""
    pass_hat_k: list[CurvePoint] = Field(default_factory=list)
    """Unbiased pass^k (all of k samples are right), likewise."""
    reasoning: list[Reasoning] = Field(default_factory=list)
    """One for each judge of the right answers' reasoning; empty without judgements."""
    strata: list[Stratum] = Field(default_factory=list)
    """By level; empty where no task states one."""
    tools: ToolFigures = Field(default_factory=ToolFigures)
    """Use of tools."""
    stop_reasons: dict[str, int] = Field(default_factory=dict)
    """Episodes by why they ended, the most frequent first."""
    turns: Number = None
    """Mean turns of an episode that was not aborted."""
    tokens_per_episode: Number = None
    """Mean sampled tokens of an episode that was not aborted."""
    tokens: int = 0
    """Tokens that the policy sampled, in all episodes."""
    prompt_tokens: int = 0
    """Tokens of context that the engine was given, summed over turns and episodes."""
    seconds: Number = None
    """Mean seconds of an episode that was not aborted."""
    stages: dict[str, float] = Field(default_factory=dict)
    """Episode-seconds by what they were spent on (see `agentrl.account.MEANING`)."""
    cost: Number = None
    """Dollars that the tokens cost, in `total` also those of failed episodes that were played again; null where no
    prices were given."""
    answer_entropy: Estimate = Field(default_factory=Estimate)
    """Mean over tasks of the entropy (nats) of their samples' final answers, over the entries that state any; bootstrap
    over tasks; null where no answers are recorded, or one sample a task was asked for."""
    token_entropy: Estimate = Field(default_factory=Estimate)
    """Mean over episodes of the mean entropy (nats) of the distributions that their tokens were sampled from, at
    temperature 1; clustered by task; null where it was not recorded."""
    surprisal: Estimate = Field(default_factory=Estimate)
    """Mean over episodes of the mean -log p (nats) of their sampled tokens at the sampling temperature; clustered by
    task; null where no engine reported log-probabilities."""
    unjudged_tasks: list[str] = Field(default_factory=list)
    """Tasks without a single verdict (n = 0): in no share and in no curve."""
    outcomes: list[TaskOutcome] = Field(default_factory=list)
    """Every task's verdicts; empty for `total`."""


class SuiteFacts(Part):
    """What was asked."""

    name: str
    """The suite's name."""
    version: str | None = None
    """The suite's version: it goes up with any change of what is asked."""
    tasksets: dict[str, str] = Field(default_factory=dict)
    """Digest of the tasks by entry: equal digests, equal tasks."""


class ModelFacts(Part):
    """Who was asked."""

    name: str
    """As it was named on the command line."""
    kind: str | None = None
    """`policy`, `endpoint`, `vllm`, `oracle` or `random`."""
    weights_hash: str | None = None
    """Hash of the weights that answered; null where nobody can tell."""


class EvaluationReport(Part):
    """The report of one evaluation: `report.json`."""

    schema_version: Literal[1] = 1
    """Version of this form."""
    agentrl_version: str
    """Version that wrote the report."""
    run: str
    """Name of the run in its store."""
    started: str
    """UTC, ISO 8601."""
    updated: str
    """When something of the evaluation was last recorded; UTC, ISO 8601."""
    finished: bool
    """Everything that was asked for was played."""
    seconds: Number = None
    """Wall clock of the evaluation, over all its sittings."""
    seed: int | None = None
    """The suite's; every sample's seed follows from it, the entry, the task and the sample's number."""
    suite: SuiteFacts
    """What was asked."""
    model: ModelFacts
    """Who was asked."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The resolved suite."""
    prices: dict[str, Any] | None = None
    """Dollars a million tokens, `input` and `output`; null where none were given."""
    total: Figures
    """All entries together: every episode counts once, whichever entry it is of."""
    entries: list[Figures]
    """In the order of the suite."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know before the numbers: aborted, missing, tasks without a verdict, curves that leave tasks
    out, samples that are no independent draws."""

    @property
    def headline_k(self) -> int:
        """The k of the pass@k that stands for the evaluation: the largest that every row has; 0 without a verdict."""
        return min((len(figures.pass_at_k) for figures in self.rows if figures.pass_at_k), default=0)

    @property
    def rows(self) -> list[Figures]:
        """What tables show: the entries, and the total where there are several."""
        return [*self.entries] if len(self.entries) == 1 else [*self.entries, self.total]
