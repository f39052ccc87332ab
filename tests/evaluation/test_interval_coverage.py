"""The benchmark of intervals: its truths, its draws, and one small run of it."""

from __future__ import annotations

import json
import sys
from math import inf

import numpy as np
import pytest

from agentrl.evaluation.intervals import Interval
from benchmarks import interval_coverage
from benchmarks.interval_coverage import Tally, true_pass_at_k, verdicts


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_the_truth_is_that_of_many_draws(share: float) -> None:
    right = verdicts(np.random.default_rng(0), 100_000, 4, (share, share))[0].sum(axis=1)
    assert true_pass_at_k(share, 1) == pytest.approx(share)
    assert true_pass_at_k(share, 4) == pytest.approx(float((right > 0).mean()), abs=5e-3)


def test_models_agree_on_tasks_and_tasks_agree_with_themselves() -> None:
    a, b = verdicts(np.random.default_rng(1), 20_000, 2, (0.6, 0.6))
    others = a[:, 1], b[:, 0], b[:, 1]
    same_task, same_sample, other_sample = (float(np.corrcoef(a[:, 0], other)[0, 1]) for other in others)
    assert same_sample > same_task > 0.2
    assert same_sample > other_sample > 0.15


def test_an_interval_without_bounds_holds_nothing() -> None:
    tally = Tally()
    for found in (Interval(0.5, 0.4, 0.6), Interval(0.5, -inf, inf), Interval(0.7, 0.6, 0.8), Interval(0.5, 0.5, 0.6)):
        tally.add("x", found, 0.5)
    assert tally.percent("x") == 50.0


def test_a_small_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--evaluations", "30", "--tasks", "20", "--samples", "4", "--shares", "0.7", "0.75"]
    shown = []
    for extra in (["--json"], []):
        monkeypatch.setattr(sys, "argv", ["interval_coverage.py", *arguments, *extra])
        interval_coverage.main()
        shown.append(capsys.readouterr().out)
    tree = json.loads(shown[0])
    (share,), (passed,) = tree["shares"], tree["pass_at_k"]
    assert share["clustered"] > share["wilson"] and share["newcombe"] >= 80
    assert (passed["k"], passed["samples"], passed["tasks"]) == (4, 16, 20) and passed["clustered"] >= 80
    assert "Newcombe" in shown[1] and f"{share['half_width']:.1f}" in shown[1]
    for wrong in (["--tasks", "1"], ["--shares", "0.7", "1"]):
        monkeypatch.setattr(sys, "argv", ["interval_coverage.py", *wrong])
        with pytest.raises(SystemExit):
            interval_coverage.main()
