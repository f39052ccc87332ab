"""Evaluations side by side, for terminals.

Invariant: a share never stands without its interval where the evaluation gave one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from agentrl.text import one_line

_COUNTS = ("episodes", "tokens", "seconds")
_NOT_SHOWN = frozenset({"accuracy", "correct", "reward"})  # first anyway; the same number; no share


def evaluation_table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """One row a policy: its shares with 95 % intervals, then how many episodes, tokens and seconds it took.

    `results`: metrics as `EvalResult.to_metrics()` gives them, by the policy's name (`base`, `warm_start`, `trained`).
    """
    names = share_names(results.values())
    counts = [name for name in _COUNTS if any(name in metrics for metrics in results.values())]
    title = "held-out evaluation, 95 % intervals"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for name in counts:
        table.add_column(name, justify="right")
    for policy, metrics in results.items():
        cells = [Text(one_line(policy).replace("_", " "))]
        cells += [Text(share(metrics, name)) for name in names]
        cells += [Text(f"{metrics[name]:,.0f}" if name in metrics else "-") for name in counts]
        table.add_row(*cells)
    return table


def share_names(results: Iterable[Mapping[str, float]]) -> list[str]:
    """Names of the shares that every result has an interval of, accuracy first; `reward` is no share."""
    found = [[name[:-4] for name in metrics if name.endswith("_low")] for metrics in results]
    common = [name for name in (found[0] if found else []) if all(name in names for names in found)]
    return ["accuracy", *(name for name in common if name not in _NOT_SHOWN)]


def share(metrics: Mapping[str, float], name: str) -> str:
    """`59.0 % [52.1, 65.6]`, or as much of it as there is."""
    value = metrics.get(name, math.nan)
    if math.isnan(value):
        return "-"
    low, high = metrics.get(f"{name}_low", math.nan), metrics.get(f"{name}_high", math.nan)
    bounds = f" [{100 * low:.1f}, {100 * high:.1f}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{100 * value:.1f} %{bounds}"
