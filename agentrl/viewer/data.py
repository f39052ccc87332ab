"""What the pages' scripts fetch: metrics for the charts, tokens for the colours, the rest of a long text. JSON.

Invariant: an answer is bounded whatever the store holds (points of a curve, tokens, characters), and says how much
there is, so that the script can ask for more; texts come visible (`agentrl.text.visible`) and are put on the page as
text. Numbers that JSON does not have are null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.text import visible
from agentrl.trajectory import Trajectory
from agentrl.viewer.excerpt import CHUNK
from agentrl.viewer.runs import Runs, RunView, Steps
from agentrl.viewer.vocabulary import Vocabulary

POINTS = 1200  # of one curve: more than a screen has columns
TOKENS = 3000  # of one answer
SIGNIFICANT = 6  # digits: nobody sees more


def series_of(runs: Runs, view: RunView, after: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Metrics of every phase of a run as columns; with `after` (phase to step) only from that step on.

    The step that is known comes again: its metrics may have become more, and if they have become others, the run was
    resumed from an earlier step and everything must be asked for again.

    A phase of more than `POINTS` steps is thinned evenly, its last step kept; `thinned` says so.
    """
    phases: dict[str, Any] = {}
    for phase in view.phases:
        steps = runs.metrics(view, phase)
        if not steps:
            continue
        last = steps[-1][0]
        name = visible(phase.phase)  # the only name of it that a page ever sees, also in `after`
        known = None if after is None else after.get(name)
        if known is not None:
            steps = [entry for entry in steps if entry[0] >= known]
        chosen = _evenly(steps, POINTS)
        phases[name] = {"last": last, "thinned": len(chosen) < len(steps), **_columns(chosen)}
    return {"run": view.key, "name": visible(view.label), "live": view.live, "phases": phases}


def tokens_of(
    trajectory: Trajectory,
    turn: int,
    advantages: Sequence[float] | None,
    vocabulary: Vocabulary | None,
    start: int = 0,
    context: bool = False,
) -> dict[str, Any]:
    """Sampled tokens of a turn from `start` on, or with `context` the ids that were new in its context."""
    record = trajectory.turns[turn]
    ids = record.new_ids if context else record.sampled_ids
    window = slice(start, start + TOKENS)
    answer: dict[str, Any] = {
        "start": start,
        "total": len(ids),
        "ids": ids[window],
        "pieces": vocabulary.pieces(ids[window]) if vocabulary else None,
    }
    if not context:
        answer["logprobs"] = [_number(value) for value in record.logprobs[window]]
        answer["advantages"] = None if advantages is None else [_number(value) for value in advantages[window]]
        if record.switches:
            answer["versions"] = record.versions[window]
    return answer


def chunk_of(text: str, start: int, end: int | None = None) -> dict[str, Any]:
    """Characters of a long text from `start` on, at most up to `end`, and where the next request goes on."""
    stop = len(text) if end is None else min(end, len(text))
    upto = min(stop, start + CHUNK)
    return {"text": visible(text[start:upto]), "next": upto if upto < stop else None, "total": len(text)}


def _evenly(steps: Steps, points: int) -> Steps:
    if len(steps) <= points:
        return steps
    return [steps[index * (len(steps) - 1) // (points - 1)] for index in range(points)]


def _columns(steps: Steps) -> dict[str, Any]:
    names = sorted({name for _, metrics in steps for name in metrics})
    columns = {visible(name): [_number(metrics.get(name, math.nan)) for _, metrics in steps] for name in names}
    return {"steps": [step for step, _ in steps], "metrics": columns}


def _number(value: float) -> float | None:
    return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None
