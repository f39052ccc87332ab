"""`agentrl judge DIR --judge MODEL`: have the reasoning behind an evaluation's right answers judged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentrl.cli.output import Json, examples, options_of, print_json, print_table

if TYPE_CHECKING:
    from agentrl.evaluation.chain_of_thought import ReasoningReport
    from agentrl.evaluation.judge import JudgeCounts, JudgeSettings
    from agentrl.evaluation.players import PlayerSettings
    from agentrl.evaluation.samples import Sample
    from agentrl.observe import Observer
    from agentrl.store import RunRecord, RunStore

EXAMPLES = examples(
    "agentrl judge runs/eval/math --judge NAME --endpoint http://localhost:8000/v1",
    "agentrl judge runs/eval/math --judge MODEL --votes 5 --n-judge 4",
    "agentrl judge runs/eval/math --judge NAME --endpoint URL retries=8",
    "agentrl judge runs/grpo --phase train --step 1 --step 50 --judge NAME --endpoint URL",
)


def judge_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An evaluation's folder, or with --phase a run's.")],
    judge: Annotated[str, typer.Option(metavar="MODEL", help="The judge: a model's name at the endpoint, or a model.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Engine options.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Variable that holds the endpoint's key.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who serves a local judge: transformers or vllm.")] = None,
    device: Annotated[str | None, typer.Option(help="Where a local judge runs: auto, cpu, cuda.")] = None,
    votes: Annotated[int, typer.Option(min=1, help="Independent votes on each right answer.")] = 3,
    n_judge: Annotated[int | None, typer.Option(min=1, help="Judge this many right answers of a task.")] = None,
    entry: Annotated[list[str] | None, typer.Option(help="Only this entry of the suite; may be repeated.")] = None,
    phase: Annotated[str | None, typer.Option(help="A phase of a training run, such as train: a row a step.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="Only this step of the phase; may be repeated.")] = None,
    temperature: Annotated[float, typer.Option(help="The judge's sampling temperature, above 0.")] = 0.6,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one verdict, thinking included.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Votes asked for at one time.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the votes.")] = 0,
    as_json: Json = False,
) -> None:
    """Ask a judge whether right answers were reached soundly, for CoT-pass@k; goes on where it was stopped."""
    from rich.console import Console

    from agentrl.display import make_display
    from agentrl.evaluation.judge import JudgeSettings, votes_of
    from agentrl.evaluation.players import PlayerSettings

    settings = JudgeSettings(votes, n_judge, temperature, max_tokens, concurrency=concurrency, seed=seed)
    served = PlayerSettings(
        concurrency=concurrency,
        engine=engine,
        engine_options=dict(options_of(options or [])),
        endpoint=endpoint,
        api_key_env=key_env,
        device=device,
    )
    store, run = _open(folder, phase, entry, step)
    with store:
        samples = _samples(store, run.id, phase, entry, step)
        observer = make_display(Console(stderr=True))
        try:
            counts = asyncio.run(_judge(store, run.id, samples, judge, served, settings, observer))
        finally:
            observer.close()
        found = votes_of(store, run.id, samples, settings.name_for(judge))
        reports = _reports(samples, found, n_judge)
    if phase is None:
        from agentrl.evaluation.report import write_evaluation

        write_evaluation(folder)
    if as_json:
        print_json({"judge": settings.name_for(judge), **vars(counts), "entries": _trees(reports)})
    else:
        _print(counts, reports)
        if phase is None:
            typer.echo(f"report  {folder / 'report.html'}")


def _open(
    folder: Path, phase: str | None, entries: list[str] | None, steps: list[int] | None
) -> tuple[RunStore, RunRecord]:
    """The run of the folder, its last one."""
    from agentrl.errors import ConfigError, StoreError
    from agentrl.evaluation.folder import open_evaluation
    from agentrl.store.folder import open_folder, runs_of

    if phase is None:
        if steps:
            raise ConfigError(f"--step {steps[0]} needs --phase: an evaluation has no steps")
        return open_evaluation(folder)
    if entries:
        raise ConfigError(f"--entry {entries[0]!r} is of an evaluation; with --phase name steps")
    store = open_folder(folder)
    if runs := runs_of(folder, store):
        return store, runs[-1]
    store.close()
    raise StoreError(f"{str(folder)!r} holds no run")


def _samples(
    store: RunStore, run: int, phase: str | None, entries: list[str] | None, steps: list[int] | None
) -> list[Sample]:
    from agentrl.evaluation.samples import samples_of, samples_of_steps

    return (
        samples_of(store, run, entries or None) if phase is None else samples_of_steps(store, run, phase, steps or None)
    )


async def _judge(
    store: RunStore,
    run: int,
    samples: list[Sample],
    judge: str,
    served: PlayerSettings,
    settings: JudgeSettings,
    observer: Observer,
) -> JudgeCounts:
    from agentrl.evaluation.judge import judge_samples, open_judge

    observer.phase("load")
    async with open_judge(judge, served) as asker:
        return await judge_samples(store, run, samples, asker, model=judge, settings=settings, observer=observer)


def _reports(samples: list[Sample], votes: Any, n_judge: int | None) -> dict[str, ReasoningReport]:
    from agentrl.evaluation.chain_of_thought import reasoning_report

    entries: dict[str, list[Sample]] = {}
    for sample in samples:
        entries.setdefault(sample.entry, []).append(sample)
    return {entry: reasoning_report(members, votes, n_judge=n_judge) for entry, members in entries.items()}


def _trees(reports: dict[str, ReasoningReport]) -> dict[str, Any]:
    return {entry: report.to_dict() for entry, report in reports.items()}


def _print(counts: JudgeCounts, reports: dict[str, ReasoningReport]) -> None:
    columns = ["entry", "k", "tasks", "pass@k", "CoT-pass@k", "any", "all", "P(CA)", "P(CC|CA)"]
    rows: list[list[str]] = []
    for entry, report in reports.items():
        points = report.passed.points
        for point in dict.fromkeys((points[0], points[-1]) if points else ()):
            sound = [
                _percent(report.sound[rule].at(point.k).value if report.complete else None)
                for rule in ("majority", "any", "all")
            ]
            medians = [_percent(report.p_right), _percent(report.p_sound["majority"])]
            rows.append([entry, str(point.k), str(point.tasks), _percent(point.value), *sound, *medians])
    print_table(columns, rows)
    typer.echo(
        f"{counts.right} right answers; {counts.asked} votes now ({counts.yes} yes, {counts.no} no, "
        f"{counts.abstained} without a verdict), {counts.known} from before"
    )
    if undecided := sum(report.undecided for report in reports.values()):
        typer.echo(f"no vote on {undecided} right answers could be read: they count as not accepted")


def _percent(share: float | None) -> str:
    return "-" if share is None or share != share else f"{100 * share:.1f} %"
