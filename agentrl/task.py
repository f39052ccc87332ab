"""Task, TaskSet, Episode, Verdict: what an environment poses, and what it judges.

Invariant: a task is addressed by an id `split:name` and is the same whenever and wherever it is asked for. What the
judge needs (`data`) never stands in the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentrl.errors import UnknownNameError
from agentrl.messages import Message, Role
from agentrl.registry import nearest
from agentrl.trajectory import StopReason, ToolCallRecord

if TYPE_CHECKING:
    from agentrl.tool import Tool


@dataclass(frozen=True, slots=True)
class Task:
    """One problem."""

    id: str
    """`split:name`, for example `train:17`."""
    split: str
    messages: tuple[Message, ...]
    """The opening messages: all that the policy sees of the task."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the environment needs to judge; never shown to the policy."""
    level: int = 1
    """Difficulty, for curricula and for reports by level."""


@runtime_checkable
class TaskSet(Protocol):
    """The tasks of one split: countable, addressable by index and by id, the same at every asking."""

    split: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task:
        """Task number `index`; raises `IndexError` outside 0 ... len - 1."""
        ...

    def by_id(self, task_id: str) -> Task:
        """The task of that id; raises `UnknownNameError`."""
        ...


class GeneratedTasks:
    """`size` tasks made on demand by `make(index)`, with ids `split:index`; `make` must be a function of its index."""

    def __init__(self, split: str, size: int, make: Callable[[int], Task]) -> None:
        self.split = split
        self._size = size
        self._make = make

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self._size:
            raise IndexError(f"task {index} of {self._size}")
        return self._make(index)

    def __iter__(self) -> Iterator[Task]:
        return (self._make(index) for index in range(self._size))

    def by_id(self, task_id: str) -> Task:
        split, _, name = task_id.partition(":")
        # plain ASCII digits in their shortest form, so that a task has one id
        if split == self.split and name.isascii() and name.isdigit() and len(name) < 19 and str(int(name)) == name:
            index = int(name)
            if index < self._size:
                return self._make(index)
        valid = f"{self.split}:0 ... {self.split}:{self._size - 1}" if self._size else "the split is empty"
        raise UnknownNameError(f"task {task_id!r} is unknown; valid: {valid}")


class ListedTasks:
    """Tasks that are at hand, in their order."""

    def __init__(self, split: str, tasks: Sequence[Task]) -> None:
        self.split = split
        self._tasks = tuple(tasks)
        self._by_id = {task.id: task for task in self._tasks}

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self._tasks):
            raise IndexError(f"task {index} of {len(self._tasks)}")
        return self._tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def by_id(self, task_id: str) -> Task:
        if task_id not in self._by_id:
            raise UnknownNameError(f"task {task_id!r} is unknown; {nearest(task_id, list(self._by_id))}")
        return self._by_id[task_id]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an episode was worth."""

    reward: float
    """Added to the last turn's reward."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What is worth reporting beside it. `correct`, and every name that begins so, is 0.0 or 1.0."""
    answer: str | None = None
    """The final answer's text; empty where none could be read. None: `ToolEnv` takes `Episode.answer`, if any."""


@dataclass(slots=True)
class Episode:
    """One play of one task, as the environment sees it."""

    task: Task
    seed: int
    messages: list[Message] = field(default_factory=list)
    """The conversation so far, opening included."""
    tool_calls: list[list[ToolCallRecord]] = field(default_factory=list)
    """The calls of each turn, as they were executed."""
    rewards: list[float] = field(default_factory=list)
    """The turn rewards so far, the verdict not included."""
    tools: dict[str, Tool] = field(default_factory=dict)
    """The open tools by name: a judge may look at the state that they are left in."""
    tool_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of tools for this episode alone, by the tool's name: which database, which files. Known before `open`."""
    submission: str | None = None
    """The answer that a final tool call gave; None if there was none."""
    stop_reason: StopReason | None = None
    """Why the episode ended; None while it goes on."""
    invalid_streak: int = 0
    """Turns in a row in which no call was valid."""
    state: dict[str, Any] = field(default_factory=dict)
    """Whatever an environment keeps between turns; copied by value in a snapshot."""

    @property
    def turns(self) -> int:
        """Assistant's messages since the opening."""
        return len(self.tool_calls)

    @property
    def calls(self) -> list[ToolCallRecord]:
        """Every tool call of the episode in order."""
        return [record for turn in self.tool_calls for record in turn]

    @property
    def answer(self) -> str:
        """What was submitted, else the text of the last message if it is the assistant's and calls no tool.

        Empty if nothing was answered.
        """
        if self.submission is not None:
            return self.submission
        if not self.turns or self.messages[-1].role is not Role.ASSISTANT or self.messages[-1].tool_calls:
            return ""
        return self.messages[-1].text
