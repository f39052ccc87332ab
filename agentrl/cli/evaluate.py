"""`agentrl eval SUITE --model MODEL`: a model on a suite of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentrl.cli import EXIT_FAILURE, EXIT_INTERRUPTED
from agentrl.cli.output import Json, console, examples, options_of, print_json
from agentrl.cli.termination import terminable
from agentrl.errors import ConfigError

if TYPE_CHECKING:
    from agentrl.evaluation import Evaluation, Prices

EXIT_LIMIT = 3
"""A limit of cost or time ended the evaluation before its end."""
EXAMPLES = examples(
    "agentrl eval core --model smollm2-135m-instruct",
    "agentrl eval math --model runs/quickstart -k 8 --temperature 0.6",
    "agentrl eval core --model NAME --endpoint http://127.0.0.1:8000/v1",
    "agentrl eval agentrl/SQL-v0 --model oracle -n 20 options.rows=50",
)
_SUITE = "A suite (`agentrl suites list`), a YAML file, or an environment id."
_MODEL = "Hub id, folder, GGUF file, built-in name, run, adapter, `oracle`, `random`, or what the endpoint serves."


def eval_command(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help=_SUITE)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys of the suite, as limits.max_turns=4.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    samples: Annotated[int | None, typer.Option("--samples", "-k", min=1, help="Episodes of each task.")] = None,
    tasks: Annotated[int | None, typer.Option("--tasks", "-n", min=1, help="Tasks of each entry.")] = None,
    entry: Annotated[list[str] | None, typer.Option(help="Only this entry; may be given again.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seeds tasks' environments and samples.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/eval/SUITE-MODEL-HASH.")] = None,
    store: Annotated[str | None, typer.Option(help="Database for the episodes, which evaluations may share.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the folder holds.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Variable that holds the endpoint's key.")] = None,
    mode: Annotated[str | None, typer.Option(help="How an endpoint is asked: auto, tokens or chat.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Whose tokenizer renders for an endpoint.")] = None,
    engine: Annotated[str | None, typer.Option(help="Who serves a local model: transformers or vllm.")] = None,
    engine_option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the engine.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model of an adapter.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda ...")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Episodes at one time.")] = None,
    limit_cost: Annotated[float | None, typer.Option(help="Stop at so many dollars.")] = None,
    limit_seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds.")] = None,
    price_input: Annotated[float | None, typer.Option(help="Dollars a million tokens of context.")] = None,
    price_output: Annotated[float | None, typer.Option(help="Dollars a million sampled tokens.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a suite; the same command goes on where it was stopped, and shows what is finished."""
    from rich.console import Console

    from agentrl.display import make_display
    from agentrl.evaluation import evaluate
    from agentrl.suites import load_suite

    if model is None and endpoint is None:
        load_suite(suite)  # what is no suite may be the model
        raise ConfigError(f"--model is missing: agentrl eval {suite} --model MODEL")
    stops = {"limits.cost": limit_cost, "limits.seconds": limit_seconds}
    limits = [f"{key}={value}" for key, value in stops.items() if value is not None]
    serving = {
        "endpoint": endpoint, "api_key_env": key_env, "mode": mode, "tokenizer": tokenizer, "engine": engine,
        "base": base, "device": device, "precision": precision, "concurrency": concurrency,
        "engine_options": dict(options_of(engine_option or [])) or None,
    }  # fmt: skip
    observer = make_display(Console(stderr=True))
    try:
        with terminable():
            done = evaluate(
                suite,
                model,
                samples=samples,
                tasks=tasks,
                entries=entry or (),
                overrides=[*(overrides or []), *limits],
                temperature=temperature,
                seed=seed,
                prices=_prices(price_input, price_output),
                out=out,
                store=store,
                fresh=fresh,
                observer=observer,
                **{key: value for key, value in serving.items() if value is not None},
            )
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        observer.close()
    _show(done, as_json)
    if done.stopped:
        raise typer.Exit(EXIT_LIMIT)
    if done.missing:
        raise typer.Exit(EXIT_FAILURE)


def _prices(given: float | None, written: float | None) -> Prices | None:
    from agentrl.evaluation import Prices

    if given is None and written is None:
        return None
    if given is None or written is None:
        there, missing = ("output", "input") if given is None else ("input", "output")
        raise ConfigError(f"--price-{there} needs --price-{missing}, too (0 where that costs nothing)")
    return Prices(given, written)


def _show(done: Evaluation, as_json: bool) -> None:
    from agentrl.evaluation.report import evaluation_summary

    if as_json:
        print_json(done.report.model_dump(mode="json"))
        return
    out = console()
    out.print(evaluation_summary(done.report))
    if done.stopped:
        missing = f"{done.missing} of {done.planned} episodes are missing"
        out.print(f"stopped by limits.{done.stopped}: {missing}; raise it to go on", markup=False)
    if done.cost is not None:
        out.print(f"cost    {done.cost:.4g} dollars", markup=False)
    out.print(f"report  {done.folder / 'report.html'}", markup=False)
