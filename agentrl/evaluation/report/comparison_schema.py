"""Two evaluations compared, as data: what `agentrl compare --json` prints and the page is made from.

Invariant: every difference is B minus A, and says how many pairs of what it is over; what does not exist is null.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentrl.evaluation.paired import Unit
from agentrl.evaluation.report.schema import CurvePoint, Estimate, ModelFacts, Number, Part, SuiteFacts


class Side(Part):
    """One of the two evaluations."""

    run: str
    """Name of the run in its store."""
    model: ModelFacts
    """Who was asked."""
    suite: SuiteFacts
    """What was asked."""
    seed: int | None = None
    """The suite's."""
    accuracy: Estimate
    """Of all its judged episodes; interval clustered by task."""
    judged: int
    """Episodes with a verdict."""
    tokens: int
    """Tokens sampled in all episodes."""
    seconds: Number = None
    """Mean seconds of an episode."""


class PairedFigures(Part):
    """A paired difference and its test."""

    pairs: int
    """Pairs with a value on both sides."""
    tasks: int
    """Tasks that they are of."""
    mean_a: Number
    """Mean of A over the pairs."""
    mean_b: Number
    """Mean of B over the pairs."""
    difference: Estimate
    """B minus A, clustered by task: of verdicts Newcombe's interval, which lies in [-1, 1] and is never a point; of
    returns a t interval, whose bounds are null where the differences do not differ or are of one task."""
    p: Number
    """Two-sided, of a sign-flip test over tasks; not corrected for the number of entries that are looked at."""
    exact: bool
    """All sign patterns were taken."""
    only_a: int
    """Pairs in which A's value is larger; of verdicts: that A alone got right."""
    only_b: int
    """Pairs in which B's value is larger."""
    mcnemar_p: Number = None
    """Exact McNemar test; null unless the values are verdicts and every task has one pair."""
    unmatched_a: int
    """Samples (or tasks) of A without a partner; in no difference."""
    unmatched_b: int
    """The same of B."""
    unjudged: int
    """Pairs of which one side or both have no value; in no difference."""


class ComparedEntry(Part):
    """One entry, or `total`."""

    name: str
    """The entry's name."""
    accuracy: PairedFigures | None
    """Difference of verdicts; null where no pair has verdicts on both sides."""
    reward: PairedFigures | None
    """Difference of undiscounted returns; null where no pair was played on both sides."""


class Flip(Part):
    """A task that one side solves and the other does not, with equally many samples: the fewer that either has."""

    entry: str
    """The task's entry."""
    task_id: str
    """Id of the task in its environment."""
    level: int | None = None
    """The level that the task states."""
    samples: int
    """Samples with a verdict that count, of each side, the first by number."""
    right_a: int
    """Those of A that are right."""
    right_b: int
    """Those of B that are right."""


class SupportFigures(Part):
    """Tasks by which side solves them within a budget, and the ratios of that (the invisible leash)."""

    k: int | None
    """Samples of each side on each task that count, the first by number; null where entries have different budgets."""
    epsilon: Number
    """An answer that k samples did not find has at most this probability, with 95 % confidence."""

    preserved: int
    """Solved by both."""
    expanded: int
    """By B alone."""
    shrunk: int
    """By A alone."""
    outside: int
    """By neither."""
    srr: Number
    """Support retention rate: preserved / (preserved + shrunk)."""
    ndr: Number
    """Net discovery rate: expanded / (preserved + expanded)."""
    sds: Number
    """Support dynamic score: harmonic mean of the two."""
    nscr: Number
    """Net support change rate: (expanded - shrunk) / (preserved + expanded + shrunk)."""


class Boundary(Part):
    """A as base model, B as the one trained from it: what each reaches with how many tries."""

    tasks: int
    """Tasks that both were judged on; all of this is over them."""
    curve_a: list[CurvePoint]
    """pass@k at k = 1, 2, 4 ... n."""
    curve_b: list[CurvePoint]
    """The same of B."""
    difference: list[CurvePoint]
    """B minus A at each k, paired by task; Newcombe's interval."""
    crossover: int | None
    """Smallest k at which A is not behind although B led at k = 1; null: none."""
    sampling_gap: Number
    """pass@`gap_k` of A minus pass@1 of B (sampling-efficiency gap)."""
    gap_k: int
    """256, or the largest k of the grid below it."""
    support: SupportFigures
    """Of all entries: the counts of each added up, each entry with its own budget."""
    support_by_entry: dict[str, SupportFigures]
    """By entry."""
    histogram_a: list[int]
    """Tasks by their share of right samples, in tenths."""
    histogram_b: list[int]
    """The same of B."""
    entropies: dict[str, Estimate] = Field(default_factory=dict)
    """`a_answer`, `b_answer` (of final answers), `a_token`, `b_token` (of tokens' distributions), `a_surprisal`,
    `b_surprisal` (-log p of sampled tokens): means in nats; those that are known."""
    left_out: int
    """Tasks that one side was not judged on."""


class ComparisonReport(Part):
    """Evaluation B against evaluation A."""

    schema_version: Literal[1] = 1
    """Version of this form."""
    agentrl_version: str
    """Version that compared."""
    a: Side
    """The first evaluation."""
    b: Side
    """The second one."""
    unit: Unit
    """`sample`: samples were drawn with the same seeds on both sides and are compared one by one; else `task`."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know before the numbers."""
    total: ComparedEntry
    """All entries together."""
    entries: list[ComparedEntry]
    """In the order of A's suite."""
    boundary: Boundary | None
    """Null where no task has verdicts on both sides."""
    only_a: list[Flip]
    """Tasks that A alone solves."""
    only_b: list[Flip]
    """Tasks that B alone solves."""

    @property
    def rows(self) -> list[ComparedEntry]:
        """What tables show: the entries, and the total where there are several."""
        return [*self.entries] if len(self.entries) == 1 else [*self.entries, self.total]
