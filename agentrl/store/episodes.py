"""Episodes: writing them as they finish, their advantages and judgements, reading and paging them.

Invariant: `add_episode` has committed all of an episode when it returns, and no reader ever sees half of one. An
episode that is written again keeps its id and loses what was said of the one before (advantages, judgements).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, bindparam, delete, insert, literal_column, select, tuple_, update

from agentrl.errors import StoreError
from agentrl.store import query as queries
from agentrl.store.codec import (
    COMPRESSION,
    EpisodeData,
    TurnData,
    encode,
    encode_advantages,
    number,
    rows_of,
    summarise,
    told,
)
from agentrl.store.database import Compiled, Database
from agentrl.store.records import EpisodeQuery, EpisodeRecord, EpisodeSummary, JudgementRecord
from agentrl.store.runs import key_text
from agentrl.store.schema import EPISODES, JUDGEMENTS, RECORDS, TURNS
from agentrl.trajectory import StopReason, Trajectory

PAGE = 64  # episodes read in one query, so that no reader holds an old view of the write-ahead log open

_KEY = (EPISODES.c.phase, EPISODES.c.step, EPISODES.c.group, EPISODES.c.member)
_BY_KEY = (EPISODES.c.run, *_KEY)
_FIND = select(EPISODES.c.id).where(*(column == bindparam(column.name) for column in _BY_KEY))
_LENGTHS = select(TURNS.c.turn, TURNS.c.tokens).where(TURNS.c.episode == bindparam("id")).order_by(TURNS.c.turn)
_SET = (
    update(TURNS)
    .where(TURNS.c.episode == bindparam("of"), TURNS.c.turn == bindparam("at"))
    .values(advantages=bindparam("found"))
)


Paid = tuple[str, int, Sequence[Sequence[float] | NDArray[np.float64]]]
"""Group, member, advantages a turn and token."""


class EpisodeTables(Database):
    """The part of a store that knows episodes."""

    @cached_property
    def _put(self) -> Compiled:
        new = self._insert(EPISODES)
        fixed = ("id", "rewritten", *(column.name for column in _BY_KEY))
        values = {column.name: new.excluded[column.name] for column in EPISODES.c if column.name not in fixed}
        again = values | {"rewritten": EPISODES.c.rewritten + literal_column("1")}
        put = new.on_conflict_do_update(index_elements=list(_BY_KEY), set_=again)
        names = [column.name for column in EPISODES.c if column.name != "id"]
        return self._compiled(put.returning(EPISODES.c.id, EPISODES.c.rewritten), names)

    @cached_property
    def _put_record(self) -> Compiled:
        return self._compiled(insert(RECORDS), [column.name for column in RECORDS.c])

    @cached_property
    def _put_turns(self) -> Compiled:
        return self._compiled(insert(TURNS), [column.name for column in TURNS.c if column is not TURNS.c.advantages])

    def add_episode(self, run: int, phase: str, step: int, group: str, member: int, trajectory: Trajectory) -> None:
        """Record an episode, in place of the one that had the same run, phase, step, group and member."""
        values = _key(run, phase, step, group, member) | {"rewritten": 0, "created": time.time()}
        data, values = encode(trajectory), values | summarise(trajectory)
        with self._writing() as connection:
            row = self._put.execute(connection, values).one()
            if row.rewritten:
                for table in (JUDGEMENTS, TURNS, RECORDS):
                    connection.execute(delete(table).where(table.c.episode == row.id))
            record, turns = rows_of(row.id, data)
            self._put_record.execute(connection, record)
            if turns:
                self._put_turns.execute(connection, *turns)

    def set_advantages(
        self, run: int, phase: str, step: int, group: str, member: int, advantages: Sequence[Sequence[float]]
    ) -> None:
        """Add the advantages that an episode was trained with: a list a turn, a number a sampled token.

        They are rounded to float32. Raises `StoreError` if the episode is not there or has another shape.
        """
        self.set_advantages_of(run, phase, step, [(group, member, advantages)])

    def set_advantages_of(self, run: int, phase: str, step: int, members: Iterable[Paid]) -> None:
        """As `set_advantages`, of several episodes of a step in one transaction."""
        rows: list[dict[str, Any]] = []
        with self._writing() as connection:
            for group, member, advantages in members:
                found = self._find(connection, run, phase, step, group, member)
                lengths = [row.tokens for row in connection.execute(_LENGTHS, {"id": found})]
                given = [len(turn) for turn in advantages]
                if lengths != given:
                    raise StoreError(f"advantages of {given} tokens a turn for an episode that sampled {lengths}")
                coded = [encode_advantages(turn) for turn in advantages]
                rows += [{"of": found, "at": turn, "found": values} for turn, values in enumerate(coded)]
            if rows:
                connection.execute(_SET, rows)

    def add_judgement(
        self,
        run: int,
        phase: str,
        step: int,
        group: str,
        member: int,
        judge: str,
        number: int,
        verdict: bool | None,
        text: str,
    ) -> None:
        """Record what a judge said of an episode, in place of its judgement of the same number."""
        said = zlib.compress(text.encode("utf-8", "surrogatepass"), COMPRESSION)
        values = {"judge": key_text("judge", judge), "number": number, "verdict": verdict, "text": said}
        put = self._upsert(JUDGEMENTS, "verdict", "text", "created")
        with self._writing() as connection:
            found = self._find(connection, run, phase, step, group, member)
            connection.execute(put, values | {"episode": found, "created": time.time()})

    def judgements(self, run: int, phase: str | None = None, episode: int | None = None) -> list[JudgementRecord]:
        """What judges said, in the order of episodes, judges and numbers; with `episode`, of the one of that id."""
        wanted = (EPISODES.c.id == JUDGEMENTS.c.episode, EPISODES.c.run == run)
        query = select(JUDGEMENTS, *_KEY, EPISODES.c.task_id).where(*wanted)
        if phase is not None:
            query = query.where(EPISODES.c.phase == phase)
        if episode is not None:
            query = query.where(JUDGEMENTS.c.episode == episode)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(*_KEY, JUDGEMENTS.c.judge, JUDGEMENTS.c.number)).all()
        return [_judgement(row) for row in rows]

    def episodes(
        self,
        run: int,
        phase: str | None = None,
        step: int | None = None,
        limit: int | None = None,
        correct: bool | None = None,
    ) -> Iterator[EpisodeRecord]:
        """The episodes of a run in the order of (phase, step, group, member), read a page at a time.

        Episodes that are added while one iterates may or may not be seen; none is seen twice.
        """
        query = select(*queries.SUMMARY).where(EPISODES.c.run == run).order_by(*_KEY)
        for column, wanted in ((EPISODES.c.phase, phase), (EPISODES.c.step, step), (EPISODES.c.correct, correct)):
            if wanted is not None:
                query = query.where(column == wanted)
        left, page = math.inf if limit is None else limit, query
        while left > 0:
            size = int(min(PAGE, left))
            with self._reading() as connection:
                rows = connection.execute(page.limit(size)).all()
                records = _records(connection, rows)
            yield from records
            if len(rows) < size:
                return
            left -= size
            page = query.where(tuple_(*_KEY) > tuple(rows[-1]._mapping[column] for column in _KEY))

    def page(self, query: EpisodeQuery) -> list[EpisodeSummary]:
        """A page of what the query asks for."""
        with self._reading() as connection:
            return [EpisodeSummary(**_summary(row)) for row in queries.page(connection, query)]

    def count(self, query: EpisodeQuery) -> int:
        """How many episodes the query asks for, all pages together."""
        with self._reading() as connection:
            return queries.count(connection, query)

    def episode(self, id: int) -> EpisodeRecord:
        """One episode in full; raises `StoreError` if it is not there."""
        with self._reading() as connection:
            return _records(connection, [self._row(connection, id)])[0]

    def neighbours(self, id: int, query: EpisodeQuery) -> tuple[int | None, int | None]:
        """Ids of the episodes before and after this one among those that the query asks for, in its order."""
        with self._reading() as connection:
            after = queries.cursor_of(query, self._row(connection, id))
            one = replace(query, after=after, limit=1, offset=0)
            previous = queries.page(connection, one, backwards=True)
            following = queries.page(connection, one)
        return (previous[0].id if previous else None, following[0].id if following else None)

    def _row(self, connection: Connection, id: int) -> Row[Any]:
        row = connection.execute(select(*queries.SUMMARY).where(EPISODES.c.id == id)).one_or_none()
        if row is None:
            raise StoreError(f"store {self.place!r} has no episode of id {id}")
        return row

    def _find(self, connection: Connection, run: int, phase: str, step: int, group: str, member: int) -> int:
        found: int | None = connection.scalar(_FIND, _key(run, phase, step, group, member))
        if found is None:
            where = f"run {run}, phase {phase!r}, step {step}, group {group!r}, member {member}"
            raise StoreError(f"store {self.place!r} has no episode of {where}")
        return found


def _key(run: int, phase: str, step: int, group: str, member: int) -> dict[str, Any]:
    names = {"phase": key_text("phase", phase), "group": key_text("group", group)}
    return {"run": run, **names, "step": step, "member": member}


def _summary(row: Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)
    numbers = {name: number(values[name]) for name in ("reward", "seconds", "tool_seconds")}
    with told(f"episode {row.id}"):
        return values | numbers | {"stop_reason": StopReason(row.stop_reason)}


def _judgement(row: Row[Any]) -> JudgementRecord:
    with told(f"judgement {row.number} of {row.judge} of episode {row.episode}"):
        text = zlib.decompress(row.text).decode("utf-8", "surrogatepass")
    return JudgementRecord(**dict(row._mapping) | {"text": text})


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[EpisodeRecord]:
    """The episodes of these rows in full, read within one transaction."""
    ids = [row.id for row in rows]
    texts = {row.episode: row.record for row in connection.execute(select(RECORDS).where(RECORDS.c.episode.in_(ids)))}
    arrays: dict[int, list[TurnData]] = {}
    columns = (TURNS.c.tokens, TURNS.c.context, TURNS.c.sampled, TURNS.c.logprobs, TURNS.c.advantages)
    turns = select(TURNS.c.episode, *columns).where(TURNS.c.episode.in_(ids)).order_by(TURNS.c.episode, TURNS.c.turn)
    for episode, *values in connection.execute(turns):
        arrays.setdefault(episode, []).append(TurnData(*values))
    return [
        EpisodeRecord(**_summary(row), data=EpisodeData(texts.get(row.id, b""), tuple(arrays.get(row.id, ()))))
        for row in rows
    ]
