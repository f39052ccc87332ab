"""OpenAIEngine: any endpoint that speaks OpenAI's protocol, by HTTP.

Two modes. `tokens` sends and receives token ids (vLLM, SGLang): what comes back is exactly what was sampled, or it is
an error; text is never tokenised again. `chat` sends and receives messages, for endpoints that keep their tokens to
themselves: of use for evaluation, not for training. Streaming is off.

Invariant: what the mode needs was seen to work when `start` returned: the model is served and, in mode `tokens`, ids
and log-probabilities come back. Log-probabilities are those of the distribution that was sampled: nothing truncates or
penalises it, and a temperature other than 0 and 1 is refused where the server leaves it out of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl.components import checked_options, one_of
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, FinishReason, Reply, Sampling
from agentrl.engines.endpoint import Answer, Endpoint, Limits, StatusError
from agentrl.engines.openai_wire import (
    ChatCompletions,
    Choice,
    Completions,
    Metrics,
    ModelList,
    Served,
    W,
    finish_of,
    parse,
)
from agentrl.errors import ConfigError, EngineError
from agentrl.messages import Message
from agentrl.registry import engines, nearest

Mode = Literal["tokens", "chat"]
MaxTokensKey = Literal["max_tokens", "max_completion_tokens"]

DEFAULT_KEY = "OPENAI_API_KEY"
"""Environment variable that has the key, if no other is named."""

_UNTOUCHED: Mapping[str, Any] = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
"""The whole distribution; said aloud, since servers take other defaults from the model's generation_config.json."""
_IDS: Mapping[str, Any] = {"logprobs": 0, "return_token_ids": True, "return_tokens_as_token_ids": True}
_BENDING = frozenset(
    {"logit_bias", "bad_words", "allowed_token_ids", "min_tokens", "response_format", "structured_outputs", "regex"}
)
"""Further fields that would change the distribution that is sampled."""
_OWN = frozenset({"model", "prompt", "messages", "tools", "stream", "stream_options", "n", "best_of", "echo", "suffix"})
"""Fields that decide what an answer looks like."""
_SEEDS = 2**63
"""Servers take seeds of 63 bits."""
_PROBES = (1.0, 0.25)
"""Temperatures whose log-probabilities differ where the server counts the temperature in."""
_PROBED_IDS = (0, 1, 2)
"""Ids that every vocabulary has; after the first that leaves the next one open the answer is certain."""
_BROAD = -0.1
"""Nats: a likeliest id below this leaves enough to others for a temperature to show."""
_SAME = 1e-3
"""Nats by which two log-probabilities may differ and still be of the same distribution: rounding of half precision."""


@engines.register("openai")
class OpenAIEngine(Engine):
    """Completions of a model that another process serves."""

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        mode: Mode = "tokens",
        stop_ids: Sequence[int] = (),
        api_key_env: str | None = DEFAULT_KEY,
        concurrency: int = 64,
        retries: int = 4,
        timeout_seconds: float = 600.0,
        connect_seconds: float = 10.0,
        backoff_seconds: float = 0.5,
        max_context: int | None = None,
        max_tokens_key: MaxTokensKey = "max_tokens",
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        """`base_url` ends where the paths `/models` and `/completions` begin, as a rule in `/v1`.

        `model` may be left out where one is served. `stop_ids` (the renderer's) end a completion whose request names
        none; the server's own end-of-sequence ids end it too. The key is the value of the variable `api_key_env`, sent
        if it is set; a variable other than the default must be. `max_context` is the server's unless it is less.
        `extra_body` is added to every request; None takes a field out. Raises `ConfigError`.
        """
        self.mode: Mode = one_of("mode", mode, ("tokens", "chat"))
        self.max_tokens_key = one_of("max_tokens_key", max_tokens_key, ("max_tokens", "max_completion_tokens"))
        if max_context is not None and max_context < 2:
            raise ConfigError(f"max_context={max_context!r} must be at least 2")
        self.base_url = base_url
        self.model = model
        self.stop_ids = tuple(stop_ids)
        self.extra_body = _checked_extra(self.mode, extra_body or {})
        limits = Limits(concurrency, retries, timeout_seconds, connect_seconds, backoff_seconds)
        self.endpoint = Endpoint(base_url, key=_key(api_key_env), headers=headers or {}, limits=limits)
        self.counts_temperature = False
        """Whether the server's log-probabilities are those of the temperature, as found by `start`."""
        self.root: str | None = None
        """Where the server has the model from, if `start` heard of it: a folder or a hub id."""
        self._key_env = api_key_env
        self._asked_context = max_context
        self._started: asyncio.AbstractEventLoop | None = None
        self.capabilities = self._capabilities(max_context)

    @classmethod
    def connect(cls, base_url: str | Sequence[str], **options: Any) -> Engine:
        """The engine of one address, or replicas of several, with options as a configuration has them.

        Raises `ConfigError`.
        """
        from agentrl.engines.replicas import ReplicatedEngine

        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if not urls:
            raise ConfigError("base_url names no address")
        checked = checked_options("engine 'openai'", cls, {"base_url": urls[0], **options})
        built = [cls(**{**checked, "base_url": url}) for url in urls]
        return built[0] if len(built) == 1 else ReplicatedEngine(built, names=urls)

    @classmethod
    def for_policy(cls, model: Any, *, stop_ids: Sequence[int], **options: Any) -> Engine:
        """See `Engine.for_policy`: an endpoint does not serve the policy that is trained."""
        raise ConfigError(
            "engine 'openai' cannot be given new weights, so it cannot be trained against; "
            "use engine 'vllm' with server=... for a server, or 'transformers' in process"
        )

    # -- the contract --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the model and see that the endpoint gives what the mode needs. Idempotent.

        Raises `ConfigError` if it does not, `EngineError` if it cannot be reached.
        """
        loop = asyncio.get_running_loop()
        if self._started is loop:
            return
        await self.endpoint.open()
        try:
            await self._find_model()
            if self.mode == "tokens":
                await self._probe()
        except BaseException:
            await self.endpoint.close()
            raise
        self._started = loop

    async def close(self) -> None:
        """See `Engine.close`."""
        self._started = None
        await self.endpoint.close()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`. A prompt that fills the context gives an empty completion that ends by `length`."""
        if self.mode != "tokens":
            raise ConfigError("engine 'openai' with mode='chat' takes messages: call reply")
        if sampling.temperature not in (0.0, 1.0) and not self.counts_temperature:
            raise ConfigError(
                f"temperature={sampling.temperature:g}: {self.endpoint} reports log-probabilities of temperature 1; "
                "start vLLM with --logprobs-mode processed_logprobs, or sample at temperature 1"
            )
        if sampling.top_p < 1 and not self.counts_temperature:
            raise ConfigError(
                f"top_p={sampling.top_p:g}: {self.endpoint} reports log-probabilities of the whole distribution; "
                "start vLLM with --logprobs-mode processed_logprobs, or sample with top_p 1"
            )
        limit = self._limit(len(prompt_ids), sampling)
        if limit < 1:
            return Completion([], [], FinishReason.LENGTH)
        answer = await self.endpoint.request("POST", "completions", self._prompt_body(prompt_ids, sampling, limit))
        parsed = self._parse(Completions, answer)
        choice = parsed.choices[0]
        ids, logprobs = self._sampled(choice, prompt_ids, limit)
        finish = self._finish(choice.finish_reason)
        queued, prefill, decode = _times(answer, parsed.metrics)
        return Completion(
            ids, logprobs, finish, queue_seconds=queued, prefill_seconds=prefill, decode_seconds=decode
        )  # fmt: skip

    async def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        *,
        session: str | None = None,
    ) -> Reply:
        """See `Engine.reply`."""
        if self.mode != "chat":
            return await super().reply(messages, tools, sampling, session=session)
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = self._chat_body(messages, tools, sampling)
        answer = await self.endpoint.request("POST", "chat/completions", body)
        parsed = self._parse(ChatCompletions, answer)
        choice, usage = parsed.choices[0], parsed.usage
        said = choice.message
        return Reply(
            said.message(),
            self._finish(choice.finish_reason),
            usage.prompt_tokens if usage else None,
            usage.completion_tokens if usage else None,
            seconds=loop.time() - began,
            queue_seconds=_times(answer, parsed.metrics)[0],
            reasoning=said.reasoning_content or said.reasoning or "",
        )

    def load(self) -> EngineLoad:
        """See `Engine.load`: requests in flight, and those that wait for a place among them."""
        return EngineLoad(self.endpoint.running, self.endpoint.waiting)

    # -- at start ------------------------------------------------------------------------------------------------------

    async def _find_model(self) -> None:
        served = await self._served()
        if self.model is None:
            if not served:
                raise ConfigError(f"{self.endpoint}: it lists no models: name the model, or mend the address (.../v1)")
            if len(served) != 1:
                raise ConfigError(f"{self.endpoint}: name the model; {nearest('', sorted(served))}")
            self.model = next(iter(served))
        elif served and self.model not in served:
            raise ConfigError(f"{self.endpoint}: model={self.model!r} is not served; {nearest(self.model, [*served])}")
        found = served.get(self.model)
        self.root = found.root if found is not None and isinstance(found.root, str) else None
        limit, asked = found.max_model_len if found else None, self._asked_context
        if limit is not None and asked is not None and asked > limit:
            raise ConfigError(f"{self.endpoint}: max_context={asked} is more than the {limit} that the server allows")
        self.capabilities = self._capabilities(asked or limit)

    async def _served(self) -> dict[str, Served]:
        """The models that are served; none where the endpoint keeps no list."""
        try:
            answer = await self.endpoint.request("GET", "models")
        except StatusError as error:
            if error.status in (401, 403):
                raise ConfigError(self.refusal(error)) from None
            if error.status in (404, 405):
                return {}
            raise
        return {model.id: model for model in self._parse(ModelList, answer).data}

    def refusal(self, error: StatusError) -> str:
        """In words, that the endpoint refused the key, or that it wants one."""
        variable = self._key_env
        without = f"a request without a key{f' ({variable} is not set)' if variable else ''}"
        return f"{f'the key in {variable}' if _key(variable) else without} was refused: {error}"

    async def _probe(self) -> None:
        """See that ids and log-probabilities come back, and whether the latter know the temperature."""
        for token in _PROBED_IDS:
            hot, cold = [await self._best(token, temperature) for temperature in _PROBES]
            self.counts_temperature = hot is not None and cold is not None and abs(hot - cold) > _SAME
            if hot is None or hot < _BROAD:
                return

    async def _best(self, token: int, temperature: float) -> float | None:
        """Log-probability of the likeliest id after `token`, None if the server does not say."""
        body = self._prompt_body([token], Sampling(max_tokens=1, temperature=temperature, seed=0), 1)
        try:
            answer = await self.endpoint.request("POST", "completions", body | {"logprobs": 1})
            choice = self._parse(Completions, answer).choices[0]
            self._sampled(choice, [token], 1)
        except (StatusError, _Inexact) as error:
            raise ConfigError(
                "mode='tokens' needs an endpoint that takes and gives token ids, such as vLLM's or SGLang's; "
                f"try mode='chat' for evaluation: {error}"
            ) from None
        top = choice.logprobs.top_logprobs if choice.logprobs else None
        return max(top[0].values()) if top and top[0] else None

    def _capabilities(self, max_context: int | None) -> Capabilities:
        tokens = self.mode == "tokens"
        return Capabilities(logprobs=tokens, seeded=tokens, tokens=tokens, max_context=max_context, top_p=True)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _limit(self, prompt: int, sampling: Sampling) -> int:
        context = self.capabilities.max_context
        return sampling.max_tokens if context is None else min(sampling.max_tokens, context - prompt)

    def _prompt_body(self, prompt: Sequence[int], sampling: Sampling, limit: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "prompt": list(prompt), "max_tokens": limit, "stream": False}
        body |= {"temperature": sampling.temperature, **_seed(sampling), **_UNTOUCHED, **_IDS}
        body["top_p"] = sampling.top_p
        if stop := sampling.stop_ids or self.stop_ids:
            body["stop_token_ids"] = list(stop)
        return self._extended(body)

    def _chat_body(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: Sampling
    ) -> dict[str, Any]:
        wire = [message.to_wire() for message in messages]
        body: dict[str, Any] = {"model": self.model, "messages": wire, "stream": False}
        body |= {self.max_tokens_key: sampling.max_tokens, "temperature": sampling.temperature, **_seed(sampling)}
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        return self._extended(body)

    def _extended(self, body: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in {**body, **self.extra_body}.items() if value is not None}

    # -- answers -------------------------------------------------------------------------------------------------------

    def _parse(self, form: type[W], answer: Answer) -> W:
        try:
            return parse(form, answer.body)
        except ValueError as error:
            raise EngineError(f"{self.endpoint}: malformed answer: {error}") from None

    def _finish(self, reason: str | None) -> FinishReason:
        try:
            return finish_of(reason)
        except ValueError as error:
            raise EngineError(f"{self.endpoint}: {error}") from None

    def _sampled(self, choice: Choice, prompt: Sequence[int], limit: int) -> tuple[list[int], list[float]]:
        """Ids and log-probabilities, exact or an `EngineError`."""
        ids, logprobs = choice.sampled_ids, choice.sampled_logprobs
        if ids is None:
            raise _Inexact(f"{self.endpoint}: the answer has no token ids")
        if logprobs is None:
            raise _Inexact(f"{self.endpoint}: the answer has no log-probabilities")
        if len(ids) != len(logprobs):
            raise _Inexact(f"{self.endpoint}: the answer has {len(ids)} ids and {len(logprobs)} log-probabilities")
        if not 0 < len(ids) <= limit:
            raise _Inexact(f"{self.endpoint}: the answer has {len(ids)} ids, asked for were 1 to {limit}")
        read = choice.prompt_token_ids
        if read is not None and read != list(prompt):
            raise _Inexact(f"{self.endpoint}: the server read another prompt ({len(read)} ids) than it was sent")
        return ids, logprobs


class _Inexact(EngineError):
    """An answer that does not say exactly what was sampled."""


def _times(answer: Answer, metrics: Metrics | None) -> tuple[float, float, float]:
    """Seconds queued (here and in the server), reading and sampling; the attempt's whole time where it says nothing."""
    queued = (metrics.queue_time_ms or 0.0) / 1000 if metrics else 0.0
    prefill = (metrics.time_to_first_token_ms or 0.0) / 1000 if metrics else 0.0
    return answer.queue_seconds + queued, prefill, max(0.0, answer.seconds - queued - prefill)


def _seed(sampling: Sampling) -> dict[str, int]:
    return {} if sampling.seed is None else {"seed": sampling.seed % _SEEDS}


def _key(variable: str | None) -> str | None:
    """The key, which no message ever shows."""
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key and variable != DEFAULT_KEY:
        raise ConfigError(f"api_key_env={variable!r}: the environment has no such variable, or it is empty")
    return key or None


def _checked_extra(mode: Mode, extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` if none of its fields would change what an answer is or, in mode `tokens`, what it is sampled from."""
    refused = set(_OWN)
    if mode == "tokens":
        refused |= {*_UNTOUCHED, *_IDS, *_BENDING, "temperature", "seed", "max_tokens", "stop_token_ids"}
    for key in extra:
        if key in refused:
            raise ConfigError(f"extra_body: {key!r} is the engine's own in mode {mode!r}")
    return dict(extra)
