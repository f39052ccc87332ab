"""One door for every form a run is written out in.

Invariant: a file appears under its name when it is whole; what is interrupted leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.store import RunRecord, RunStore

Advance = Callable[[], object]
"""Told of each episode that was written or read."""

FORMS = {
    "jsonl": "JSON lines: configuration, tasks, metrics, episodes, judgements; `import` reads it back bit for bit",
    "parquet": "a table of episodes for data tools: one row an episode, token ids and log-probabilities as lists",
    "inspect": "a folder of logs of Inspect AI, one a phase, for its viewer and its analysis",
}
_SUFFIXES = {".jsonl": "jsonl", ".parquet": "parquet"}


def form_of(target: Path, form: str | None = None) -> str:
    """The form that `form` names, else the one that the target's suffix tells. Raises `ConfigError`."""
    if form is not None:
        if form not in FORMS:
            raise ConfigError(f"form={form!r} is unknown; {nearest(form, list(FORMS))}")
        return form
    found = _SUFFIXES.get(target.suffix)
    if found is None:
        raise ConfigError(
            f"{str(target)!r}: the name does not tell the form; end it in .jsonl or .parquet, or say form"
        )
    return found


def export_run(
    store: RunStore,
    run: RunRecord,
    target: Path,
    form: str | None = None,
    phase: str | None = None,
    advance: Advance | None = None,
) -> int:
    """Write a run, or one phase of it, to `target`; returns the number of episodes.

    `target` is a file, for form `inspect` a folder. Raises `ConfigError` for an unknown form or phase, a missing
    package or a place that cannot be written, `StoreError` for a damaged episode.
    """
    form = form_of(target, form)
    phases = [record.phase for record in store.phases(run.id)]
    if phase is not None and phase not in phases:
        raise ConfigError(f"phase={phase!r}: run {run.name!r} has none; {nearest(phase, phases)}")
    tell = advance or (lambda: None)
    if form == "inspect":
        from agentrl.exchange.inspect_log import write_logs

        with _told(target):
            return write_logs(store, run, target, [phase] if phase else phases, tell)
    if form == "parquet":
        from agentrl.exchange.parquet import write_table

        with _draft(target) as draft:
            return write_table(store, run, draft, phase, tell)
    from agentrl.exchange.jsonl import write_lines

    with _draft(target) as draft:
        return write_lines(store, run, draft, phase, tell)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A file that takes the target's place when it is whole."""
    if target.is_dir():
        raise ConfigError(f"{str(target)!r} is a folder; name a file")
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{str(target)!r} cannot be written: {error.strerror or error}") from None
