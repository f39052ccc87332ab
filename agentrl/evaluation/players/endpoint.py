"""A model behind an OpenAI-compatible address as a player.

Mode `tokens` renders conversations here and exchanges ids, so that templates, tool calls and limits are those of a
local policy's; it needs the model's tokenizer and a server that gives ids (vLLM, SGLang). Mode `chat` leaves all that
to the server. `auto` takes `tokens` where the tokenizer is known and the server shows that it can, else `chat`, and
`describe` says which and why.

Invariant: after `start` the address was reached, the key was accepted, the model is served and has answered once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl import models
from agentrl.engines.base import Engine, Sampling
from agentrl.engines.endpoint import StatusError
from agentrl.engines.openai import DEFAULT_KEY, OpenAIEngine
from agentrl.env import Env
from agentrl.errors import ConfigError, EngineError, ModelError
from agentrl.evaluation.players.base import PlayerKind, PlayerSettings, PlayLimits, refuse
from agentrl.evaluation.players.played import RolloutPlayer
from agentrl.messages import user

if TYPE_CHECKING:
    from agentrl.chat import ChatRenderer

_PROBE_TOKENS = 16
"""The least that every server takes."""
_RENDERED = ("tokenizer", "tool_format", "tool_prompt", "history")
"""Settings of mode `tokens` alone."""
_DECISIVE = ("extra_body", "max_context")
"""Options of the engine that decide numbers, and are no secrets as headers may be."""
_RAW = (
    "its log-probabilities are not those of the sampled distribution "
    "(start vLLM with --logprobs-mode processed_logprobs)"
)


class EndpointPlayer(RolloutPlayer):
    """`--model NAME --endpoint URL`."""

    kind = PlayerKind.ENDPOINT

    def __init__(self, model: str | None, settings: PlayerSettings) -> None:
        """`model` is the name that the endpoint serves; None where it serves one. Raises `ConfigError`."""
        super().__init__(model or str(settings.endpoint), settings)
        refuse(settings, "an endpoint", "engine", "base", "device", "precision")
        if settings.token_entropy:
            raise ConfigError("token_entropy: an endpoint does not give its distributions; use a local model")
        if settings.mode == "chat":
            refuse(settings, "an endpoint with mode='chat'", *_RENDERED)
        if settings.tokenizer is not None:
            models.kind_of(settings.tokenizer)
        self._served = model
        self._found: dict[str, Any] = {}
        """What `start` found out: `served`, `mode`, and `reason` for a mode that is not `tokens`."""
        self._connect("chat")  # what is wrong with address, key and options shows now

    def describe(self) -> dict[str, Any]:
        """See `Player.describe`."""
        settings = self.settings
        options = {key: value for key, value in settings.engine_options.items() if key in _DECISIVE}
        chosen = {key: getattr(settings, key) for key in ("mode", *_RENDERED)}
        return super().describe() | {"endpoint": settings.endpoint, "engine_options": options, **chosen, **self._found}

    async def start(self) -> None:
        if self._engine is not None:
            return
        engine, reason = None, "asked for"
        if self.settings.mode != "chat":
            engine, reason = await self._started_with_tokens()
            if engine is None:
                self._may_fall_back(reason)
        engine = engine or await self._started_with_chat()
        self._found = {"served": engine.model, "mode": engine.mode, "reason": reason}
        self._engine = engine

    def renderer(self, env: Env) -> ChatRenderer | None:
        return None if self._tokenizer is None else self._rendering(env.tool_schemas())

    def check_limits(self, limits: PlayLimits) -> None:
        super().check_limits(limits)
        engine = self.engine
        if isinstance(engine, OpenAIEngine) and engine.mode == "tokens" and _bends(limits, engine):
            raise ConfigError(f"temperature={limits.temperature:g}, top_p={limits.top_p:g}: {_RAW}, or use mode='chat'")

    def _may_fall_back(self, reason: str) -> None:
        """Raise `ConfigError` unless mode `chat` honours all that was asked for."""
        if self.settings.mode == "tokens":
            raise ConfigError(f"mode='tokens': {reason}")
        for key in _RENDERED:
            if (value := getattr(self.settings, key)) is not None:
                raise ConfigError(f"{key}={value!r} needs mode='tokens', and {reason}")

    # -- the two modes -------------------------------------------------------------------------------------------------

    def _connect(self, mode: str, **more: Any) -> OpenAIEngine:
        settings = self.settings
        key = settings.api_key_env or DEFAULT_KEY
        fixed = {"mode": mode, "api_key_env": key, "model": self._served, **more}
        for name in fixed:
            if name in settings.engine_options:
                raise ConfigError(f"engine_options: {name!r} is set by the player")
        options = {"concurrency": settings.concurrency, **settings.engine_options, **fixed}
        engine: Engine = OpenAIEngine.connect(str(settings.endpoint), **options)
        assert isinstance(engine, OpenAIEngine)  # of one address
        return engine

    async def _model_root(self) -> str | None:
        """Where the server has the model from, if it says so; finds out whether it is there at all."""
        probe = self._connect("chat")
        try:
            await probe.start()
            return probe.root
        finally:
            await probe.close()

    def _find_tokenizer(self, root: str | None) -> tuple[Any, str]:
        """The tokenizer of the served model, and why there is none; nothing is fetched unless it was named."""
        from agentrl.models.load import load_tokenizer

        if self.settings.tokenizer is not None:
            return load_tokenizer(models.resolve(self.settings.tokenizer)), ""
        for name in dict.fromkeys(filter(None, (root, self._served))):
            try:
                if Path(name).is_dir() or "/" in name:
                    return load_tokenizer(models.resolve(name, offline=True)), ""
            except ModelError:
                continue
        return None, "the tokenizer of the served model is not on this disk (give tokenizer=MODEL)"

    async def _started_with_tokens(self) -> tuple[OpenAIEngine | None, str]:
        """An engine that exchanges ids; None and the reason where the server cannot, as this evaluation asks."""
        self._tokenizer, reason = self._find_tokenizer(await self._model_root())
        if self._tokenizer is None:
            return None, reason
        engine = self._connect("tokens", stop_ids=self._rendering([]).stop_ids)
        try:
            await engine.start()
            if not _bends(self.settings.limits, engine):
                return engine, ""
            reason = _RAW
        except ConfigError as error:
            reason = str(error)
        except BaseException:
            await engine.close()
            raise
        await engine.close()
        self._tokenizer = None
        return None, reason

    async def _started_with_chat(self) -> OpenAIEngine:
        """An engine that exchanges messages, after one short answer: not every server says by its list who may ask."""
        engine = self._connect("chat")
        try:
            await engine.start()
            await engine.reply([user("Hi.")], [], Sampling(_PROBE_TOKENS, self.settings.temperature))
        except StatusError as error:
            await engine.close()
            raise ConfigError(self._advice(engine, error)) from None
        except EngineError as error:
            await engine.close()
            raise EngineError(f"the endpoint does not answer: {error}") from error
        except BaseException:
            await engine.close()
            raise
        return engine

    def _advice(self, engine: OpenAIEngine, error: StatusError) -> str:
        """A refused probe in one line, with what to do about it."""
        if error.status in (401, 403):
            return engine.refusal(error)
        if error.status == 404:
            return f"the endpoint does not serve model={self._served!r}: {error}"
        if "max_completion_tokens" in str(error):
            return f"the endpoint wants engine option max_tokens_key=max_completion_tokens: {error}"
        return f"the endpoint refuses what it is asked: {error}"


def _bends(limits: PlayLimits, engine: OpenAIEngine) -> bool:
    """Whether the sampling changes the distribution and the server's log-probabilities leave that out."""
    return (limits.top_p < 1 or limits.temperature not in (0.0, 1.0)) and not engine.counts_temperature


def endpoint_settings(model: str | None, settings: PlayerSettings) -> tuple[str | None, PlayerSettings]:
    """`--model URL` is an endpoint that serves one model."""
    if settings.endpoint is None and model is not None and model.startswith(("http://", "https://")):
        return None, replace(settings, endpoint=model)
    return model, settings
