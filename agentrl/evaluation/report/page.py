"""The page of an evaluation: one file that loads nothing.

Invariant: everything comes from the report and from episodes that have passed `agentrl.report.episodes`; whatever the
run's texts hold, they reach the page as visible, escaped text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml
from markupsafe import Markup

from agentrl.account import MEANING
from agentrl.evaluation.pass_at_k import powers_of_two
from agentrl.evaluation.report.plots import curves_svg, levels_svg
from agentrl.evaluation.report.schema import CurvePoint, EvaluationReport, Figures, Reasoning
from agentrl.evaluation.report.shown import Key, episode_shown
from agentrl.evaluation.report.telling import EACH, Rule
from agentrl.evaluation.samples import Sample
from agentrl.report.data import Part
from agentrl.report.episodes import EpisodeView, MessageView, opening_views
from agentrl.report.page import render_page
from agentrl.store import EpisodeRecord
from agentrl.text import one_line, visible
from agentrl.trajectory import StopReason

TEMPLATE = "evaluation.html.j2"
SHOWN_SECONDS = 0.05  # less would read as 0.0 s
SHOWN_KS = 7  # columns of k in a table; report.json has every k


@dataclass(frozen=True)
class TellingEpisode:
    """An episode that is shown, and where it stands."""

    entry: str
    task_id: str
    sample: int
    level: int | None
    opening: list[MessageView]
    episode: EpisodeView


@dataclass(frozen=True)
class SoundRow:
    """What a judge holds of one entry, or of all of them, by one rule."""

    figures: Figures
    rule: str
    accepted: float | None
    curve: list[CurvePoint]


def evaluation_page(
    report: EvaluationReport, chosen: Sequence[tuple[Rule, list[Sample]]], episodes: Mapping[Key, EpisodeRecord]
) -> str:
    """The page; `episodes` holds the records of the chosen samples."""
    rows = report.rows
    ks = shown_ks(rows, report.headline_k)
    spent = {stage: seconds for stage, seconds in report.total.stages.items() if seconds >= SHOWN_SECONDS}
    leveled = [figures for figures in report.entries if figures.strata]
    return render_page(
        "agentrl.evaluation.report",
        TEMPLATE,
        report=report,
        total=report.total,
        rows=rows,
        settings=_settings(report),
        ks=ks,
        headline=report.headline_k,
        metrics=sorted({name for figures in rows for name in figures.metrics}),
        curves=Markup(curves_svg([figures.pass_at_k for figures in rows], total=len(rows) > 1)) if ks else None,
        sound=_sound(rows),
        levels=Markup(levels_svg([figures.strata for figures in leveled])) if leveled else None,
        leveled=[(figures.name, {stratum.level: stratum for stratum in figures.strata}) for figures in leveled],
        all_levels=levels_of(leveled),
        account=[Part(stage.replace("_", " "), seconds) for stage, seconds in spent.items()],
        stages=[(stage, MEANING[stage]) for stage in spent],
        endings=[(StopReason(reason), count) for reason, count in report.total.stop_reasons.items()],
        telling=[(rule, [_telling(sample, episodes) for sample in samples]) for rule, samples in chosen],
        each=EACH,
        config=visible(yaml.safe_dump(report.settings, sort_keys=False, allow_unicode=True)),
    )


def shown_ks(rows: Sequence[Figures], common: int) -> list[int]:
    """Powers of two, the last k of any row and that of all of them; none where there is k = 1 alone."""
    most = max((len(figures.pass_at_k) for figures in rows), default=0)
    return sorted({*powers_of_two(most), common} - {0})[-SHOWN_KS:] if most > 1 else []


def levels_of(rows: Sequence[Figures]) -> list[int | None]:
    """All levels, tasks without one last."""
    found = {stratum.level for figures in rows for stratum in figures.strata}
    return sorted(found, key=lambda level: (level is None, level or 0))


def _sound(rows: Sequence[Figures]) -> list[tuple[Reasoning, list[SoundRow]]]:
    """By judge the rows that have figures: of each entry the majority's, of the last one every rule's."""
    found = []
    for place, judge in enumerate(rows[-1].reasoning):
        own = [(figures, figures.reasoning[place]) for figures in rows]
        lines = [
            SoundRow(figures, rule, accepted, held.cot_pass_at_k.get(rule, []))
            for figures, held in own
            for rule, accepted in held.p_sound.items()
            if figures is rows[-1] or rule == "majority"
        ]
        if lines:
            found.append((judge, lines))
    return found


def _telling(sample: Sample, episodes: Mapping[Key, EpisodeRecord]) -> TellingEpisode:
    record = episodes[sample.key]
    return TellingEpisode(
        one_line(sample.entry),
        one_line(sample.task_id),
        sample.sample,
        sample.level,
        opening_views(record.trajectory),
        episode_shown(record, sample),
    )


def _settings(report: EvaluationReport) -> list[tuple[str, str]]:
    sampling = report.settings.get("sampling", {})
    found = [
        ("model", report.model.name),
        ("played by", report.model.kind),
        ("weights", (report.model.weights_hash or "")[:12] or None),
        ("suite", " ".join(filter(None, (report.suite.name, report.suite.version)))),
        ("seed", report.seed),
        ("temperature", sampling.get("temperature") if isinstance(sampling, Mapping) else None),
        ("started", report.started.replace("T", " ").removesuffix("+00:00") + " UTC"),
    ]
    return [(name, one_line(str(value))) for name, value in found if value is not None]
