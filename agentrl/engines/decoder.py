"""Continuous batching over slots: jobs in, tokens out, one model call at a time, in one thread.

Rows that decode stand first in the store, behind them the rows that are kept for sessions between their turns. A job
of a session whose row is kept prefills only what is new; any other job starts from the longest prefix that some row
already holds, so that a system prompt or the prompt of a group is computed once. When the weights change, the running
jobs are taken out (`suspend`) and let in again with all of their ids as context: no key of the old weights is left.

Invariant: after every call each active row has sampled at least one token, all but its last sampled id are in the
store, and a row that is neither active nor kept is free.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.engines.base import FinishReason
from agentrl.engines.sampling import entropies, sample
from agentrl.engines.slots import SlotStore
from agentrl.trajectory import Switch

PREFILL_TOKENS = 4096
"""Most tokens, padding included, of one prefill call: bounds its activations (about 50 MB for the 135M model)."""
WORTH_COPYING = 16
"""A prefix of another row is copied, or waited for, if it saves at least this many tokens of prefill."""


@dataclass(eq=False)
class Job:
    """One completion on its way."""

    prompt: np.ndarray
    limit: int
    """Most tokens to sample, at least 1."""
    temperature: float
    stop_ids: frozenset[int]
    session: str | None
    seed: int | None
    top_p: float = 1.0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    """Of the distribution at temperature 1, where the decoder records them."""
    finish: FinishReason | None = None
    cancelled: bool = False
    """Set from any thread; the row is freed before the next model call."""
    enqueued: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    begun: float = 0.0
    """When the first id was there."""
    finished: float = 0.0
    random: random.Random = field(default_factory=random.Random)
    policy_version: int = 0
    """Of the weights that sample the first id."""
    weights_hash: str = ""
    switches: list[Switch] = field(default_factory=list)

    @property
    def context(self) -> np.ndarray:
        """All ids so far, shape (len(prompt) + len(ids),)."""
        return np.concatenate([self.prompt, np.array(self.ids, dtype=np.int64)]) if self.ids else self.prompt

    def serve(self, version: int, weights_hash: str) -> None:
        """The next id will be sampled by these weights."""
        if not self.ids:
            self.policy_version, self.weights_hash = version, weights_hash
            return
        if self.switches and self.switches[-1].index == len(self.ids):  # weights that sampled nothing
            self.switches.pop()
        self.switches.append(Switch(len(self.ids), version, weights_hash))

    def take(self, token: int, logprob: float) -> None:
        """Record one sampled token."""
        self.begun = self.begun or time.perf_counter()
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token in self.stop_ids:
            self.finish = FinishReason.STOP
        elif len(self.ids) >= self.limit:
            self.finish = FinishReason.LENGTH
        if self.finish is not None:
            self.finished = time.perf_counter()


@dataclass(eq=False)
class _Row:
    job: Job | None
    session: str | None
    used: int = 0
    """When the row was last active, for eviction: the least recently used session goes first."""


class BatchDecoder:
    """Decodes jobs with one model. Not safe across threads: one thread calls everything but `Job.cancelled`."""

    def __init__(self, model: Any, *, max_slots: int, num_layers: int, token_entropy: bool = False) -> None:
        """`token_entropy` records the entropy that each id was sampled at, for one more pass over the logits."""
        self.model = model
        self.token_entropy = token_entropy
        self.max_slots = max_slots
        self.store = SlotStore(num_layers, max_slots, next(model.parameters()).device)
        self.rows: list[_Row] = []
        self.active = 0
        self.suspended: list[Job] = []
        """Jobs that were running when the weights changed, until `admit` lets them in again."""
        self.prefilled_tokens = 0
        """Tokens that went through prefill calls so far, padding not counted."""
        self._uses = 0

    def reset(self) -> None:
        """Drop every row and its memory (the weights changed, or a call failed)."""
        self.rows, self.active = [], 0
        self.store.clear()

    def suspend(self) -> list[Job]:
        """Drop every row, the kept ones too, and take the running jobs out; returns all that are out."""
        self.sweep()
        running = [row.job for row in self.rows[: self.active] if row.job is not None]
        self.suspended = [job for job in [*self.suspended, *running] if not job.cancelled]
        self.reset()
        return self.suspended

    def release(self, sessions: Iterable[str]) -> None:
        """Free the kept rows of these sessions; without a row left the memory is given back."""
        for session in sessions:
            row = self._kept(session)
            if row is not None:
                self._free(row)
        if not self.rows:
            self.reset()

    def sweep(self) -> None:
        """Free the rows of cancelled jobs."""
        for row in [row for row in self.rows[: self.active] if row.job is not None and row.job.cancelled]:
            self._retire(row, keep=False)

    def admit(self, jobs: Sequence[Job]) -> bool:
        """Prefill the suspended jobs and `jobs` and sample the next token of each; True if any finished by that.

        Together they are at most `max_slots - active`.
        """
        jobs = [*(job for job in self.suspended if not job.cancelled), *jobs]
        self.suspended = []
        if not jobs:
            return False
        wanted = {job.session for job in jobs if job.session is not None}
        waiting = [self._seat(job, wanted) for job in jobs]
        self.store.reserve(len(self.rows), max(len(job.prompt) + len(job.ids) for job in jobs))
        with self._running():
            while waiting:
                wave, waiting = self._wave(waiting)
                for chunk in self._chunks(wave):
                    self._prefill(chunk)
        return any(job.finish is not None for job in jobs)

    def decode(self, until: Callable[[], bool]) -> None:
        """Decode the active rows until one of them finishes or `until()` is true."""
        with self._running():
            while self.active:
                rows = self.rows[: self.active]
                last = [np.array(row.job.ids[-1:]) for row in rows if row.job is not None]
                if self._sample(rows, self.store.forward(self.model, 0, last)) or until():
                    return

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _seat(self, job: Job, wanted: set[str]) -> _Row:
        """A row for `job`: its session's own, a free one, or that of the session that was idle longest."""
        job.admitted = job.admitted or time.perf_counter()
        row = self._kept(job.session) if job.session is not None else None
        if row is None:
            if len(self.rows) >= self.max_slots:
                idle = [row for row in self.rows[self.active :] if row.job is None]
                self._free(min(idle, key=lambda row: (row.session in wanted, row.used)))
            row = _Row(None, job.session)
            self.rows.append(row)
            self.store.reserve(len(self.rows), 0)
            self.store.lengths[len(self.rows) - 1] = 0
        row.job = job
        return row

    def _kept(self, session: str) -> _Row | None:
        found = (row for row in self.rows[self.active :] if row.job is None and row.session == session)
        return next(found, None)

    def _swap(self, first: int, second: int) -> None:
        self.store.swap(first, second)
        self.rows[first], self.rows[second] = self.rows[second], self.rows[first]

    def _free(self, row: _Row) -> None:
        """Free a row behind the active ones."""
        index, last = self.rows.index(row), len(self.rows) - 1
        self.store.lengths[index] = 0
        self._swap(index, last)
        self.rows.pop()

    def _retire(self, row: _Row, *, keep: bool) -> None:
        """Take a row out of the active ones, and keep it for its session or free it."""
        self._swap(self.rows.index(row), self.active - 1)
        self.active -= 1
        self._uses += 1
        row.job, row.used = None, self._uses
        if not keep or row.session is None:
            self._free(row)

    # -- prefill -------------------------------------------------------------------------------------------------------

    def _wave(self, waiting: list[_Row]) -> tuple[list[_Row], list[_Row]]:
        """The rows to prefill now, their shared prefixes copied, and those that gain by waiting for one of them."""
        now: list[_Row] = []
        later: list[_Row] = []
        prompts: list[np.ndarray] = []
        for row in waiting:
            assert row.job is not None
            prompt, index = row.job.context, self.rows.index(row)
            most = len(prompt) - 1  # the last token is always computed: its logits are needed
            own = min(int(self.store.shared(prompt, index + 1)[index]), most)
            if most - own >= WORTH_COPYING:
                held = np.minimum(self.store.shared(prompt, len(self.rows)), most)
                best = int(held.argmax())
                ahead = max((_common(prompt, other) for other in prompts), default=0)
                if min(ahead, most) >= max(int(held[best]), own) + WORTH_COPYING:
                    later.append(row)
                    continue
                if held[best] >= own + WORTH_COPYING:
                    own = int(held[best])
                    self.store.copy_prefix(best, index, own)
                if not any(len(other) == len(prompt) and np.array_equal(other, prompt) for other in prompts):
                    prompts.append(prompt)
            self.store.lengths[index] = own
            now.append(row)
        return now, later

    def _chunks(self, wave: list[_Row]) -> Iterator[list[_Row]]:
        """The wave in calls of at most `PREFILL_TOKENS` tokens, rows of like length together."""
        chunk: list[_Row] = []
        for row in sorted(wave, key=self._missing):
            if chunk and (len(chunk) + 1) * self._missing(row) > PREFILL_TOKENS:
                yield chunk
                chunk = []
            chunk.append(row)
        yield chunk

    def _missing(self, row: _Row) -> int:
        assert row.job is not None
        return len(row.job.prompt) + len(row.job.ids) - int(self.store.lengths[self.rows.index(row)])

    def _prefill(self, chunk: list[_Row]) -> None:
        """Bring the chunk's rows right behind the active ones, compute their missing ids, sample."""
        places = range(self.active, self.active + len(chunk))
        holes = [place for place in places if self.rows[place] not in chunk]
        for row in chunk:
            if (index := self.rows.index(row)) not in places:
                self._swap(index, holes.pop(0))
        rows = [self.rows[place] for place in places]
        new: list[np.ndarray] = []
        for place, row in zip(places, rows, strict=True):
            assert row.job is not None
            new.append(row.job.context[int(self.store.lengths[place]) :])
        self.prefilled_tokens += sum(len(ids) for ids in new)
        logits = self.store.forward(self.model, self.active, new)
        self.active += len(chunk)
        self._sample(rows, logits)

    def _sample(self, rows: list[_Row], logits: Tensor) -> bool:
        """Sample one token for each row and retire those that finish; True if any did."""
        jobs = [row.job for row in rows if row.job is not None]
        uniforms = [job.random.random() for job in jobs]
        if self.token_entropy:
            for job, entropy in zip(jobs, entropies(logits), strict=True):
                job.entropies.append(entropy)
        ids, logprobs = sample(logits, [job.temperature for job in jobs], uniforms, [job.top_p for job in jobs])
        for job, token, logprob in zip(jobs, ids, logprobs, strict=True):
            job.take(token, logprob)
        finished = [row for row in rows if row.job is not None and row.job.finish is not None]
        for row in finished:
            self._retire(row, keep=True)
        return bool(finished)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Inference mode and evaluation mode around model calls."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if training:
                self.model.train()


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
