"""Write an evaluation's files beside its store: `report.json`, `report.html`, `episodes.jsonl`.

Invariant: the three are made from one reading of the episodes, each is put in place whole, and an evaluation that is
still under way may be written as often as one likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agentrl.evaluation.folder import open_evaluation
from agentrl.evaluation.report.build import Evaluated, Reading, report_of
from agentrl.evaluation.report.page import evaluation_page
from agentrl.evaluation.report.schema import EvaluationReport
from agentrl.evaluation.report.shown import read_episodes
from agentrl.evaluation.report.telling import choose
from agentrl.exchange import episode_line
from agentrl.report.page import put_files
from agentrl.store import RunStore

JSON_FILE, PAGE_FILE, EPISODES_FILE = "report.json", "report.html", "episodes.jsonl"
_PLAIN_LIST = re.compile(r'\[\n([^][{}"]*)\n *\]')  # a line's end within a text is escaped and never matches


def write_evaluation(folder: Path) -> EvaluationReport:
    """Write the three files of the evaluation in `folder`; returns the report.

    Raises `StoreError` if the folder holds no evaluation, `ConfigError` if it cannot be written.
    """
    store, run = open_evaluation(folder)
    with store:
        reading = Reading(store, run)
        put_files(folder, {EPISODES_FILE: episode_lines(reading)})
        found = reading.found()
        report = report_of(found)
        page = page_of(store, found, report).encode("utf-8", "replace")
        put_files(folder, {JSON_FILE: report_json(report), PAGE_FILE: page})
    return report


def report_json(report: EvaluationReport) -> bytes:
    """`report.json`: readable, and JSON to the letter (what is no number is null); lists of numbers take one line."""
    text = report.model_dump_json(indent=1)
    return _PLAIN_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text).encode() + b"\n"


def page_of(store: RunStore, found: Evaluated, report: EvaluationReport) -> str:
    """`report.html`, with the most telling episodes read from the store."""
    chosen = choose(found.samples)
    shown = [sample for _, samples in chosen for sample in samples]
    return evaluation_page(report, chosen, read_episodes(store, found.run, shown))


def episode_lines(reading: Reading) -> Iterator[bytes]:
    """`episodes.jsonl`: one episode a line, see docs/report_schema.md; a store's import reads them back."""
    for episode in reading.episodes():
        yield episode_line(episode, reading.run.name).encode() + b"\n"
