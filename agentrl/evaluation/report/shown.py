"""Episodes of an evaluation for a page: read from the store by their sample, with the sample's verdict.

Invariant: what the page says of an episode is what the statistics counted, so that one that ran past its own deadline
is wrong there as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentrl.evaluation.samples import PHASE, Sample
from agentrl.report.episodes import EpisodeView, episode_view
from agentrl.store import EpisodeQuery, EpisodeRecord, RunRecord, RunStore

Key = tuple[str, str, int]
"""`Sample.key`."""
MANY = 100_000  # more samples than anybody draws of one task


def read_episodes(store: RunStore, run: RunRecord, samples: Iterable[Sample]) -> dict[Key, EpisodeRecord]:
    """The episodes of some samples, by `Sample.key`."""
    found: dict[Key, EpisodeRecord] = {}
    for sample in samples:
        asked = EpisodeQuery(run.id, phase=PHASE + sample.entry, step=sample.step, group=sample.group, limit=MANY)
        row = next(row for row in store.page(asked) if row.member == sample.sample)
        found[sample.key] = store.episode(row.id)
    return found


def episode_shown(record: EpisodeRecord, sample: Sample) -> EpisodeView:
    """An episode as a page shows it; its verdict is that of the sample, where a passed deadline is wrong."""
    view = episode_view(record)
    if sample.aborted:
        return view
    verdict = "no verdict" if sample.correct is None else "correct" if sample.correct else "wrong"
    return replace(view, verdict=verdict)
