"""Player: whoever plays the episodes of an evaluation - a model, an endpoint, the environments' oracle, a random agent.

    player = resolve_player("smollm2-135m-instruct", PlayerSettings(temperature=0.6))
    await player.start()
    async with aclosing(player.play(sources, requests)) as played:
        async for request, trajectory in played: ...
    await player.close()

Invariants: an environment is reset with a seed that depends on the request's alone, so that two players meet the same
tasks under the same seeds; every request that is taken comes out exactly once, finished or aborted, unless the iterator
is closed; requests are taken as places become free, so that a supply that stops giving ends an evaluation early with
nothing lost; what a player cannot honour is a `ConfigError` before the first episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple, get_args

from agentrl.components import one_of
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.trajectory import Trajectory

Precision = Literal["fp32", "bf16", "fp16"]
EndpointMode = Literal["auto", "tokens", "chat"]
ToolPrompt = Literal["schema", "signature", "none"]
History = Literal["template", "keep"]


class PlayerKind(StrEnum):
    """Who plays."""

    POLICY = "policy"
    """A model in this process."""
    VLLM = "vllm"
    """A model in a vLLM that is started for it."""
    ENDPOINT = "endpoint"
    """A model behind an OpenAI-compatible address."""
    ORACLE = "oracle"
    """The environments' own scripted solutions: the ceiling."""
    RANDOM = "random"
    """Valid calls and answers drawn at random: the floor."""


SCRIPTED = (PlayerKind.ORACLE, PlayerKind.RANDOM)
"""Players that are no model: their names are what `--model` calls them, and no temperature concerns them."""


@dataclass(frozen=True, kw_only=True)
class PlayLimits:
    """Sampling and bounds of an episode; a source may have others than the player's. Raises `ConfigError`."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Mass of the nucleus that is sampled from; 1: the whole distribution."""
    max_turns: int = 8
    max_turn_tokens: int = 512
    """Tokens sampled in one turn."""
    max_tokens: int | None = None
    """Tokens sampled in the whole episode."""
    max_context: int = 4096
    """Context + completion, tokens; the model's own limit applies too."""
    tool_calls: int | None = None
    """Tool calls that are executed in the whole episode."""
    episode_seconds: float = 600.0
    """Hard deadline of the episode, teardown included."""
    step_seconds: float = 120.0
    """Deadline of one call of the environment."""

    def __post_init__(self) -> None:
        for key in ("max_turns", "max_turn_tokens", "max_tokens", "tool_calls", "episode_seconds", "step_seconds"):
            value, timed, least = getattr(self, key), key.endswith("seconds"), 0 if key == "tool_calls" else 1
            if value is not None and not (value > 0 if timed else value >= least):
                raise ConfigError(f"{key}={value!r} must be {'above 0' if timed else f'at least {least}'}")
        if self.max_context < 2:
            raise ConfigError(f"max_context={self.max_context!r} must be at least 2")
        if not self.temperature >= 0:
            raise ConfigError(f"temperature={self.temperature!r} must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p!r} must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class PlayerSettings(PlayLimits):
    """How a model is to be served and asked. What a kind of player has no use for is refused by `resolve_player`."""

    concurrency: int = 32
    """Episodes at one time."""
    engine: str | None = None
    """Who serves a local model: `transformers` (default) or `vllm`; a run's folder brings its own."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the engine, also of an endpoint's (`retries`, `timeout_seconds`, `extra_body` ...)."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server, as a rule ending in `/v1`; the model is then the name that it serves."""
    api_key_env: str | None = None
    """Variable that holds the endpoint's key; default: OPENAI_API_KEY where it is set."""
    mode: EndpointMode = "auto"
    """`tokens` renders here and exchanges ids, `chat` leaves templates and tool calls to the server, `auto` takes
    tokens where the server gives them and the tokenizer is known."""
    tokenizer: str | None = None
    """Model whose tokenizer renders for an endpoint in mode `tokens`; default: the served one, if on this disk."""
    base: str | None = None
    """Base model of an adapter, instead of the one that its adapter_config.json names."""
    device: str | None = None
    """`auto` (default), `cpu`, `cuda`, `cuda:1` ..."""
    precision: Precision | None = None
    """What a local model computes in; default: what the run's engine used, else fp32."""
    tool_format: str | None = None
    """See `ModelConfig`; default: the run's, else `auto`."""
    tool_prompt: ToolPrompt | None = None
    """See `ModelConfig`; default: the run's, else `schema`."""
    history: History | None = None
    """See `ModelConfig`; default: the run's, else `template`."""
    token_entropy: bool = False
    """Record the entropy of the full distribution at each sampled token (`Trajectory.info["token_entropy"]`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.concurrency < 1:
            raise ConfigError(f"concurrency={self.concurrency!r} must be at least 1")
        one_of("mode", self.mode, get_args(EndpointMode))
        for key, valid in (("precision", Precision), ("tool_prompt", ToolPrompt), ("history", History)):
            if getattr(self, key) is not None:
                one_of(key, getattr(self, key), get_args(valid))

    @property
    def limits(self) -> PlayLimits:
        """Sampling and bounds alone."""
        return PlayLimits(**{item.name: getattr(self, item.name) for item in fields(PlayLimits)})


@dataclass(frozen=True, slots=True)
class EntrySource:
    """The environment of one entry of a suite."""

    name: str
    """The entry's."""
    make_env: Callable[[], Env]
    """Makes one environment; each plays episode after episode and is closed at the end."""
    limits: PlayLimits | None = None
    """None: the player's own."""


@dataclass(frozen=True, slots=True)
class PlayRequest:
    """One episode that is wanted."""

    entry: str
    """Name of its source."""
    index: int
    """Number of the task within the entry."""
    task_id: str
    sample: int
    """Which of the task's episodes, from 0."""
    seed: int
    """Seeds the environment and what is sampled."""

    @property
    def group(self) -> str:
        """What the samples of one task are kept under in a store."""
        return f"{self.index:05d}"


class Played(NamedTuple):
    """An episode that has ended."""

    request: PlayRequest
    trajectory: Trajectory
    """Its `member` is the request's sample."""


class Player(ABC):
    """Plays episodes. `resolve_player` makes one and has checked all that needs no loading."""

    kind: PlayerKind

    def __init__(self, model: str, settings: PlayerSettings) -> None:
        self.model = model
        """As the user named it."""
        self.settings = settings

    @property
    def weights_hash(self) -> str | None:
        """Hash of the weights that are served; None before `start` and where nobody can tell."""
        return None

    def describe(self) -> dict[str, Any]:
        """What decides this player's numbers beside its weights, the tasks and the limits; JSON-able, no secrets.

        Complete after `start`; before it, what is known without loading anything.
        """
        return {"kind": str(self.kind), "model": self.model}

    async def start(self) -> None:  # noqa: B027 - optional: there may be nothing to do
        """Load, connect and see that it works. Idempotent. Raises `ConfigError` or `EngineError`, one line."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Release everything. Idempotent."""

    @abstractmethod
    def play(self, sources: Sequence[EntrySource], requests: Iterable[PlayRequest]) -> AsyncGenerator[Played, None]:
        """Play every request and yield each episode as it ends. Closing the generator cancels what is under way.

        Requests that follow one another and whose sources have equal limits are played together. Raises `ConfigError`
        for what a source needs and the player has not (an oracle, a tool format), before the first episode, and
        `EngineError` once the engine is out of reach.
        """

    def account(self) -> list[str]:
        """Where the time went of what was played so far, in lines for people."""
        return []


def refuse(settings: PlayerSettings, who: str, *keys: str) -> None:
    """Raise `ConfigError` for the first of `keys` that is not at its default, since `who` has no use for it."""
    defaults = PlayerSettings()
    for key in keys:
        value = getattr(settings, key)
        if value != getattr(defaults, key):
            raise ConfigError(f"{key}={value!r} has no meaning for {who}")


def source_of(sources: Mapping[str, EntrySource], request: PlayRequest) -> EntrySource:
    """The source of a request; raises `ConfigError`."""
    if request.entry not in sources:
        raise ConfigError(f"entry={request.entry!r} has no environment; {nearest(request.entry, list(sources))}")
    return sources[request.entry]
