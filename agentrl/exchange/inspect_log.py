"""A run as logs of Inspect AI (its JSON form, version 2): one log a phase, for its viewer and its frames of samples.

An episode is a sample: the task's opening is its input, the gold answer its target, `correct` and `reward` its scores,
the member of its group its epoch. Invariants: a log says nothing that the episode does not; token ids and
log-probabilities, for which that form has no place, stay out; what is counted stands before the samples, so that a list
of logs reads the beginning of each. The form is described at inspect.aisi.org.uk.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentrl.messages import Message, Role, ToolCall
from agentrl.store import EpisodeRecord, RunRecord, RunStore
from agentrl.trajectory import StopReason, ToolCallRecord, Trajectory

VERSION = 2
LONGEST = 120  # characters of a log's name that tell its task

_LIMITS = {
    StopReason.MAX_TURNS: "turn",
    StopReason.MAX_TOKENS: "token",
    StopReason.TOKEN_BUDGET: "token",
    StopReason.CALL_BUDGET: "custom",
    StopReason.TIMEOUT: "time",
}
_STATUS = {"running": "started", "finished": "success", "failed": "error", "interrupted": "cancelled"}


def write_logs(store: RunStore, run: RunRecord, folder: Path, phases: list[str], advance: Callable[[], object]) -> int:
    """Write a log for each of the phases that has episodes; returns the number of episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for found in store.phases(run.id):
        if found.phase in phases and found.episodes:
            total += _write(store, run, found.phase, folder / _name(run, found.phase), advance)
    return total


def _name(run: RunRecord, phase: str) -> str:
    """`time_task_id.json`: Inspect AI lists no other files."""
    began = datetime.fromtimestamp(run.created, UTC).strftime("%Y-%m-%dT%H-%M-%S+00-00")
    task = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{run.name}-{phase}")
    return f"{began}_{task[:LONGEST]}_{_id(run.name, phase, 'task')}.json"


def _write(store: RunStore, run: RunRecord, phase: str, file: Path, advance: Callable[[], object]) -> int:
    """The samples go to a file of their own, as they are read; what is counted over them is known at their end."""
    count = _Count()
    draft, samples = (file.with_name(f".{file.name}.{os.getpid()}.{part}") for part in ("tmp", "samples"))
    try:
        with samples.open("w+", encoding="ascii") as read, draft.open("w", encoding="ascii") as stream:
            for record in store.episodes(run.id, phase):
                sample = _sample(run, record, store) | {"id": count.identity(record)}
                read.write((",\n" if count.samples else "") + json.dumps(_finite(sample)))
                count.add(record)
                advance()
            read.seek(0)
            head = {"version": VERSION, "status": _STATUS[run.status], "eval": _spec(run, phase), "plan": {}}
            head |= {"results": count.results(), "stats": count.stats(run)}
            stream.write(json.dumps(_finite(head))[:-1] + ', "samples": [\n')
            shutil.copyfileobj(read, stream)
            stream.write("\n]}\n")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
        samples.unlink(missing_ok=True)
    return count.samples


class _Count:
    """What a log says of all its samples."""

    def __init__(self) -> None:
        self.samples = self.completed = self.read = self.written = 0
        self.verdicts: list[bool] = []
        self.rewards: list[float] = []
        self.last = 0.0
        self._group: dict[str, str] = {}
        """The first group of each task."""

    def identity(self, record: EpisodeRecord) -> str:
        """An epoch repeats a task; what the same task is in another step or group is another sample."""
        first = self._group.setdefault(record.task_id, record.group) == record.group
        return record.task_id if first and record.step == 0 else f"{record.task_id} {record.step} {record.group}"

    def add(self, record: EpisodeRecord) -> None:
        self.samples += 1
        self.read += record.prompt_tokens
        self.written += record.tokens
        self.last = max(self.last, record.created)
        if record.correct is not None:
            self.verdicts.append(record.correct)
        if not record.stop_reason.aborted:
            self.completed += 1
            if math.isfinite(record.reward):
                self.rewards.append(record.reward)

    def results(self) -> dict[str, Any]:
        found: dict[str, tuple[str, Sequence[float]]]
        found = {"correct": ("accuracy", self.verdicts), "reward": ("mean", self.rewards)}
        scores = [
            {
                "name": name,
                "scorer": name,
                "scored_samples": len(values),
                "unscored_samples": self.samples - len(values),
                "metrics": {metric: {"name": metric, "value": sum(values) / len(values)}},
            }
            for name, (metric, values) in found.items()
            if values
        ]
        return {"total_samples": self.samples, "completed_samples": self.completed, "scores": scores}

    def stats(self, run: RunRecord) -> dict[str, Any]:
        usage = {"input_tokens": self.read, "output_tokens": self.written, "total_tokens": self.read + self.written}
        times = {"started_at": _time(run.created), "completed_at": _time(self.last or run.updated)}
        return times | {"model_usage": {_model(run): usage}}


def _spec(run: RunRecord, phase: str) -> dict[str, Any]:
    from agentrl import __version__

    suite = run.meta.get("suite")
    task = f"{suite}/{phase.removeprefix('eval/')}" if suite else f"{run.name}/{phase}"
    return {
        "created": _time(run.created),
        "run_id": run.name,
        "eval_id": _id(run.name, phase),
        "task": task,
        "task_id": _id(run.name, phase, "task"),
        "task_version": run.meta.get("suite_version", 0),
        "dataset": {"name": task},
        "model": _model(run),
        "config": {},
        "packages": {"agentrl": __version__},
        "metadata": {"config": run.config},
    }


def _sample(run: RunRecord, record: EpisodeRecord, store: RunStore) -> dict[str, Any]:
    trajectory = record.trajectory
    posed = store.task(run.id, record.env_id, record.task_id)
    gold = posed.gold if posed else None
    messages = _messages(trajectory)
    said = [message for message in messages if message["role"] == "assistant"]
    usage = {"input_tokens": record.prompt_tokens, "output_tokens": record.tokens}
    usage["total_tokens"] = record.prompt_tokens + record.tokens
    limit = _LIMITS.get(record.stop_reason)
    stopped = "max_tokens" if limit == "token" else "stop"
    sample: dict[str, Any] = {
        "epoch": record.member + 1,
        "input": messages[: len(trajectory.opening)],
        "target": gold if isinstance(gold, str) else "" if gold is None else json.dumps(gold),
        "messages": messages,
        "output": {"model": _model(run), "choices": [{"message": said[-1], "stop_reason": stopped}] if said else []},
        "scores": _scores(record),
        "metadata": _metadata(record, trajectory),
        "model_usage": {_model(run): usage},
        "started_at": _time(record.created - (record.seconds if math.isfinite(record.seconds) else 0.0)),
        "completed_at": _time(record.created),
        "total_time": record.seconds,
        "turn_count": record.turns,
        "uuid": _id(run.name, record.phase, record.step, record.group, record.member),
    }
    if trajectory.aborted:
        message = trajectory.error or trajectory.stop_reason.meaning
        sample["error"] = {"message": message, "traceback": "", "traceback_ansi": ""}
    reached = {"turn": record.turns, "token": record.tokens, "time": record.seconds, "custom": record.tool_calls}
    if limit is not None and math.isfinite(reached[limit]):
        sample["limit"] = {"type": limit, "limit": reached[limit], "reason": record.stop_reason.meaning}
    return sample


def _scores(record: EpisodeRecord) -> dict[str, Any]:
    """An environment without a verdict has a reward; an episode that was aborted has neither. A reward that JSON has no
    number for stands as text."""
    scores: dict[str, Any] = {}
    if record.correct is not None:
        scores["correct"] = {"value": "C" if record.correct else "I", "answer": record.answer}
    if not record.stop_reason.aborted:
        scores["reward"] = {"value": record.reward if math.isfinite(record.reward) else str(record.reward)}
    return scores


def _metadata(record: EpisodeRecord, trajectory: Trajectory) -> dict[str, Any]:
    where = {"env_id": record.env_id, "task_id": record.task_id, "level": record.level, "phase": record.phase}
    ending = {"step": record.step, "group": record.group, "stop_reason": str(record.stop_reason)}
    turns = {"turn_rewards": [turn.reward for turn in trajectory.turns], "metrics": trajectory.metrics}
    return where | ending | turns | {"seed": str(trajectory.seed)}


def _messages(trajectory: Trajectory) -> list[dict[str, Any]]:
    """The conversation; a tool's answer carries the error of its call."""
    found = [_message(message, "input", {}) for message in trajectory.opening]
    for turn in trajectory.turns:
        calls = dict(zip((call.id for call in turn.message.tool_calls), turn.tool_calls, strict=False))
        found.append(_message(turn.message, "generate", {}))
        found += [_message(message, None, calls) for message in turn.observation]
    return found


def _message(message: Message, source: str | None, calls: dict[str, ToolCallRecord]) -> dict[str, Any]:
    tree: dict[str, Any] = {"role": str(message.role), "content": message.text}
    if source is not None:
        tree["source"] = source
    if message.tool_calls:
        tree["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.role is Role.TOOL:
        tree |= {"tool_call_id": message.tool_call_id, "function": message.name}
        record = calls.get(message.tool_call_id or "")
        if record is not None and record.error is not None:
            kind = {"timeout": "timeout", "parse": "parsing", "invalid_arguments": "parsing"}.get(
                record.error, "unknown"
            )
            tree["error"] = {"type": kind, "message": record.result}
    return tree


def _call(call: ToolCall) -> dict[str, Any]:
    tree: dict[str, Any] = {"id": call.id, "function": call.name, "arguments": {}, "type": "function"}
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if isinstance(arguments, dict) and call.error is None:
        tree["arguments"] = arguments
    else:
        tree["parse_error"] = call.error or f"not an object: {call.arguments}"
    return tree


def _model(run: RunRecord) -> str:
    return f"agentrl/{run.meta.get('model', run.name)}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _id(*parts: object) -> str:
    """The same for the same episode, however often it is written."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(["agentrl", *map(str, parts)])).hex


def _finite(value: Any) -> Any:
    """The same without numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list) else value
