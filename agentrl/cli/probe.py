"""`agentrl probe BEFORE AFTER`: what training changed in the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentrl.cli.output import Json, console, examples, print_json, print_table
from agentrl.errors import ConfigError

if TYPE_CHECKING:
    from agentrl.probe import ProbeReport
    from agentrl.probe.figures import Sums

EXAMPLES = examples(
    "agentrl probe smollm2-135m-instruct runs/quickstart --out runs/quickstart/probe",
    "agentrl probe base/ runs/a --second runs/b",
    "agentrl probe base/ runs/a/policy/adapter --json",
)


def probe_command(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="The checkpoint that training began with.")],
    after: Annotated[
        str,
        typer.Argument(metavar="AFTER", help="Hub id, folder, GGUF file, built-in name, run or LoRA adapter folder."),
    ],
    second: Annotated[
        str | None, typer.Option(metavar="RUN2", help="Another run from BEFORE: do both change the same entries?")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write probe.json, probe.png and probe.svg there.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Leading singular directions whose rotation is measured.")] = 50,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Rank behind the principal mask; default: 10 % of the smaller side, at most 512."),
    ] = None,
    share: Annotated[float, typer.Option(help="Share of entries in the principal and low masks.")] = 0.3,
    as_json: Json = False,
) -> None:
    """Measure weight changes: sparsity in bf16, spectral drift, rotation, masks."""
    from rich.console import Console

    from agentrl.display import make_display
    from agentrl.probe import ProbeSettings, probe

    settings = ProbeSettings(top, rank, share)
    if out is not None:
        _make_folder(out)  # before minutes of measuring
    observer = make_display(Console(stderr=True))
    try:
        report = probe(before, after, second, settings=settings, observer=observer)
    finally:
        observer.close()
    written = [] if out is None else _write(report, out)
    if as_json:
        print_json(report.to_dict())
        return
    _print(report)
    for path in written:
        console().print(str(path), markup=False)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--out {str(folder)!r} cannot be written: {error.strerror or error}")


def _write(report: ProbeReport, folder: Path) -> list[Path]:
    from pydantic_core import to_json

    from agentrl.probe.plot import write_plots

    data = folder / "probe.json"
    try:
        data.write_bytes(to_json(report.to_dict(), indent=2, inf_nan_mode="null") + b"\n")
        return [data, *write_plots(report, folder)]
    except OSError as error:
        raise _unwritable(folder, error) from None


COLUMNS = {
    "bf16": "sparsity_bf16",
    "fp32": "sparsity_fp32",
    "change": "frobenius_ratio",
    "NSS": "nss",
    "U": "angle_u_max",
    "V": "angle_v_max",
    "princ": "overlap_principal",
    "low": "overlap_low",
}
COMPARED = {"agree": "agreement", "chance": "agreement_chance"}
"""With a second run."""
OF_ENTRIES = ("bf16", "fp32", "change", "agree", "chance")
"""What the row `all` shows: embeddings and vectors have no spectra."""
LEGEND = (
    "bf16, fp32: entries unchanged | change: |dW| / |W| | NSS: drift of singular values",
    "U, V: largest rotation, degrees | princ, low: updates inside these masks of W0",
)


def _print(report: ProbeReport) -> None:
    from agentrl.probe.layers import LAYER_TYPES

    rows = {**report.by_type(), "linear": report.total(*LAYER_TYPES), "all": report.total()}
    columns = COLUMNS | (COMPARED if report.second else {})
    cells = []
    for name, sums in rows.items():
        figures = sums.figures()
        shown = columns if name != "all" else {column: columns[column] for column in OF_ENTRIES if column in columns}
        cells.append([name, *(_cell(shown[column], figures) if column in shown else "-" for column in columns)])
    print_table(["type", *columns], cells)
    out = console()
    for line in (*LEGEND, "", *_summary(report, rows["all"], rows["linear"])):
        out.print(line, markup=False)


def _summary(report: ProbeReport, everything: Sums, linear: Sums) -> list[str]:
    figures, spectral = everything.figures(), linear.figures()
    lines = [
        f"{figures['entries']:,} entries in {figures['tensors']} tensors: {_percent(figures['sparsity_bf16'], 2)} "
        f"unchanged in bfloat16, {_percent(figures['sparsity_fp32'], 2)} in float32; "
        f"{_percent(figures['hidden'], 2)} moved by less than bfloat16 shows",
        f"stored as {', '.join(report.before['stored'])} before, {', '.join(report.after['stored'])} after; "
        f"|dW| = {_small(figures['frobenius'])}",
        f"of the updates, {_percent(spectral['overlap_principal'], 2)} lie in the principal mask, "
        f"{_percent(spectral['overlap_low'], 2)} in the low-magnitude mask; by chance "
        f"{_percent(spectral['chance_low'], 2)} would",
    ]
    if report.second:
        lines.append(
            f"agreement with {report.second['name']}: {_percent(figures['agreement'], 2)}, by chance "
            f"{_percent(figures['agreement_chance'], 2)}"
        )
    if linear.truncated:
        lines.append(f"NSS of {linear.truncated} large matrices is a lower bound (leading singular values only)")
    return [*lines, f"{report.seconds:.1f} s"]


def _cell(figure: str, figures: dict[str, float | int | None]) -> str:
    form = _small if figure in ("frobenius_ratio", "nss", "angle_u_max", "angle_v_max") else _percent
    return form(figures[figure])


def _percent(value: float | int | None, digits: int = 1) -> str:
    """`93.1%`; a share that is not 0 or 1 never reads as if it were."""
    if value is None or not math.isfinite(value):
        return "-"
    step = 10.0**-digits
    if 0 < value < 1 and not step <= 100 * value <= 100 - step:
        return f"<{step:g}%" if value < 0.5 else f">{100 - step:g}%"
    return f"{100 * value:.{0 if value in (0, 1) else digits}f}%"


def _small(value: float | int | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"
