"""The engine that serves a policy by vLLM, in processes of its own, driven from this one's event loop.

The policy's weights go to vLLM as files and replace its own in place at every `publish`. Invariants: token ids in and
out; log-probabilities are those of the sampled distribution, temperature included; the hash of a publish is made from
digests that vLLM's worker computed of what it multiplies with (`vllm_worker`), and a publish of which one tensor did
not arrive is an error; whatever ends vLLM, every pending request fails with `EngineError`, and the next call starts it
again with the last published weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.components import checked_options
from agentrl.engines import vllm_process
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, FinishReason, Sampling, check_top_p
from agentrl.engines.vllm_plan import Precision, make_plan, vllm_module
from agentrl.engines.vllm_policy import LoraMode, Published
from agentrl.engines.weights import check_weights
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.seeding import derive_seed
from agentrl.trajectory import Switch

COLDEST = 0.01
"""vLLM raises temperatures between 0 and this one to it."""
GRACE = 6.0
"""Seconds that vLLM gets to end by itself, which frees its shared memory, before it is killed."""


class VllmEngine(Engine):
    """vLLM around a `transformers` causal language model, which may carry LoRA layers."""

    def __init__(
        self,
        model: Any,
        *,
        stop_ids: Sequence[int],
        max_slots: int = 64,
        max_context: int | None = None,
        dtype: Precision | None = None,
        cache_gib: float = 1.0,
        compiled: bool | None = None,
        lora: LoraMode = "merge",
        sleep: bool = False,
        seed: int = 0,
    ) -> None:
        """`stop_ids` end a turn (the renderer's).

        `max_slots` sequences decode at once; more wait. `max_context` bounds context + completion, tokens (default: the
        model's own limit). `dtype` is what vLLM computes in (default: the module's type). `cache_gib` is the memory of
        the key-value cache, GiB. `compiled` has vLLM compile the model: faster decoding, a start longer by a minute or
        more; by default on a GPU only. `lora` says how a policy with LoRA travels: `merge` publishes merged weights,
        `adapter` the adapter alone, which vLLM then applies on its own. `sleep` allows the method `sleep` (GPU only).
        `seed` seeds requests that bring no seed. Raises `ConfigError` for what vLLM, the device or the policy cannot
        do.
        """
        self.plan = make_plan(
            model,
            max_slots=max_slots,
            max_context=max_context,
            dtype=dtype,
            cache_gib=cache_gib,
            compiled=compiled,
            lora=lora,
            sleep=sleep,
            seed=seed,
        )
        self.model = model
        self.stop_ids = tuple(stop_ids)
        self.max_context = self.plan.max_context
        self._files = self.plan.files
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._seed = seed
        self._numbers = itertools.count(1)
        self._folder: Path | None = None
        self._base: Published | None = None
        self._published: Published | None = None
        self._adapter: Any = None
        self._served: dict[str, tuple[int, str]] = {}
        """Version and hash of each label that vLLM was given: its outputs name the label of every token."""
        self._label = ""
        self._llm: Any = None
        self._processes: list[vllm_process.Process] = []
        self._load = _LoadWatch()
        self._in_flight = 0
        self._asleep = False
        self._lock = asyncio.Lock()
        in_flight = hasattr(vllm_module("vllm.v1.engine.async_llm").AsyncLLM, "update_weight_version")
        self._labels_tokens = in_flight
        self.capabilities = Capabilities(
            publish=True,
            publish_in_flight=in_flight and not self._files.by_adapter,
            max_context=self.max_context,
            top_p=True,  # `processed_logprobs` are those after the nucleus, renormalised
        )

    @classmethod
    def for_policy(cls, model: Any, *, stop_ids: Sequence[int], **options: Any) -> Engine:
        """The engine with options from a configuration; raises `ConfigError` for one that it does not have.

        `server: true` makes it a `VllmServerEngine` with a server of its own, `server: ADDRESS` one with a server that
        runs already; the other options are the same, without `sleep` and adapters that travel alone.
        """

        def configurable(
            max_slots: int = 64,
            max_context: int | None = None,
            dtype: Precision | None = None,
            cache_gib: float = 1.0,
            compiled: bool | None = None,
            lora: LoraMode = "merge",
            sleep: bool = False,
            seed: int = 0,
            server: bool | str = False,
        ) -> None: ...

        checked = checked_options("engine 'vllm'", configurable, options)
        server = checked.pop("server", False)
        if server is False:
            return cls(model, stop_ids=stop_ids, **checked)
        from agentrl.engines.vllm_server import VllmServerEngine

        return VllmServerEngine(
            model, make_plan(model, **checked), stop_ids=stop_ids, base_url=server if isinstance(server, str) else None
        )

    # -- the contract --------------------------------------------------------------------------------------------------

    @property
    def weights_hash(self) -> str:
        """See `Engine.weights_hash`."""
        return self._served[self._label][1] if self._label else ""

    async def start(self) -> None:
        """Start vLLM, or start it again after it died, and attest what it serves. Idempotent."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        """End vLLM's processes and remove the files; pending requests fail. Idempotent."""
        async with self._lock:
            await self._end()
            folder, self._folder, self._base, self._published = self._folder, None, None, None
            if folder is not None:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`. A prompt that fills the context gives an empty completion that ends by `length`."""
        limit = self._checked(prompt_ids, sampling)
        async with self._lock:  # not while weights are being replaced
            llm = await self._running()
            label, adapter = self._label, self._adapter
            self._in_flight += 1
        version, weights_hash = self._served[label]
        try:
            if limit < 1:
                return Completion([], [], FinishReason.LENGTH, version, weights_hash)
            parameters = self._parameters(sampling, limit)
            output = await _last(
                llm.generate(
                    {"prompt_token_ids": list(prompt_ids)},
                    parameters,
                    f"agentrl-{next(self._numbers)}",
                    lora_request=adapter,
                )
            )
        except EngineError:
            raise
        except Exception as error:  # whatever vLLM raised, its caller must hear of it as a fault of the engine
            raise _kind_of(error)(f"vLLM failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
        finally:
            self._in_flight -= 1
        return self._completion(output, label)

    def load(self) -> EngineLoad | None:
        """What vLLM's scheduler reported last; None before it ran."""
        return self._load.latest if self._llm is not None else None

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """See `Engine.publish`. A mapping is copied into the module first; None takes the module as it is now.

        Requests in flight go on under the new weights from their next token on: their cache is computed again, so
        what follows is sampled as if the new weights had read everything. With `lora="adapter"` they are refused.
        Raises `EngineError`, also when a single tensor that vLLM serves is not the published one (vLLM is then ended),
        and `ConfigError` for names or shapes that the model lacks.
        """
        async with self._lock:
            if self._in_flight and not self.capabilities.publish_in_flight:
                raise EngineError(f"weights cannot be published while {self._in_flight} requests are in flight")
            if weights is not None:
                check_weights(self.model, weights)
                self.model.load_state_dict(dict(weights), strict=False)
            llm = await self._running()
            before = self._base, self._published
            try:
                await self._replace(llm, version)
            except BaseException:  # half-loaded weights must not serve, whatever interrupted the load
                self._base, self._published = before
                await self._end()
                raise
            return self._served[self._label][1]

    async def sleep(self) -> None:
        """Free the GPU, weights to the CPU and the cache dropped, until the next call of any other method.

        Needs the option `sleep`. Raises `EngineError` while requests are in flight.
        """
        if not self.plan.arguments["enable_sleep_mode"]:
            raise ConfigError("engine 'vllm': set the option 'sleep' to put it to sleep")
        async with self._lock:
            if self._in_flight:
                raise EngineError(f"vLLM cannot sleep while {self._in_flight} requests are in flight")
            await (await self._running()).sleep(level=1)
            self._asleep = True

    # -- life ----------------------------------------------------------------------------------------------------------

    async def _running(self) -> Any:
        """A vLLM that lives and serves what was published last; the caller holds the lock."""
        if self._llm is not None and not self._llm.errored:
            if self._asleep:
                await self._llm.wake_up()
                self._asleep = False
            return self._llm
        version = self._served[self._label][0] if self._label else 0
        await self._end()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agentrl-vllm-"))
        if self._base is None:
            self._base = await asyncio.to_thread(self._files.write, self._folder / "base")
            self._published = None
        launch = asyncio.create_task(asyncio.to_thread(self._launch, self._base.folder))
        try:
            self._llm = await asyncio.shield(launch)
            self._processes = [found for pid in _core_ids(self._llm) for found in vllm_process.tree(pid)]
            await self._llm.collective_rpc("agentrl_watch", args=(os.getpid(), _core_ids(self._llm)))
            await self._serve(self._llm, version)
        except BaseException as error:  # what was not attested must not serve
            if not launch.done():  # cancelled: a thread cannot be stopped, so what it starts is waited for and ended
                with contextlib.suppress(Exception):
                    self._llm = await launch
            await self._end()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            # vLLM raises RuntimeError, ValueError, pydantic's errors ... for what it cannot run
            raise EngineError(f"vLLM did not start: {type(error).__name__}: {_reason(error)}") from error
        return self._llm

    def _launch(self, folder: Path) -> Any:
        arguments = vllm_module("vllm.engine.arg_utils").AsyncEngineArgs(model=str(folder), **self.plan.arguments)
        with vllm_process.environment(compiled=self.plan.compiled):
            factory = vllm_module("vllm.v1.engine.async_llm").AsyncLLM
            return factory.from_engine_args(arguments, stat_loggers=[self._load.attach])

    async def _end(self) -> None:
        llm, self._llm, self._adapter, self._asleep = self._llm, None, None, False
        processes, self._processes = self._processes, []
        if llm is not None:
            processes += [found for pid in _core_ids(llm) for found in vllm_process.tree(pid) if found not in processes]
            fail_pending(llm, EngineError("vLLM was ended"))
            await asyncio.to_thread(llm.shutdown, GRACE)
        await asyncio.to_thread(vllm_process.end, processes)

    # -- weights -------------------------------------------------------------------------------------------------------

    async def _replace(self, llm: Any, version: int) -> None:
        """Write the policy, put it in place of what vLLM serves, attest it."""
        assert self._folder is not None
        folder = self._folder / f"{next(self._numbers)}"
        old = self._published if self._files.by_adapter else self._base
        if self._files.by_adapter:
            assert self._base is not None
            self._published = await asyncio.to_thread(self._files.write_adapter, folder, self._base)
        else:
            self._published = None
            self._base = await asyncio.to_thread(self._files.write, folder)
            if self._labels_tokens:
                await llm.pause_generation(mode="keep", clear_cache=True)
            await llm.collective_rpc("agentrl_load", args=(str(self._base.folder),))
            if not self._labels_tokens:
                await llm.reset_prefix_cache()
        await self._serve(llm, version)
        if self._labels_tokens and not self._files.by_adapter:
            await llm.resume_generation()
        if old is not None:
            await asyncio.to_thread(shutil.rmtree, old.folder, True)

    async def _serve(self, llm: Any, version: int) -> None:
        """Attest what vLLM holds and label what it samples from now on."""
        assert self._base is not None
        expected = self._base
        if self._files.by_adapter:
            if self._published is None:
                assert self._folder is not None
                folder = self._folder / f"{next(self._numbers)}"
                self._published = await asyncio.to_thread(self._files.write_adapter, folder, self._base)
            expected = self._published
            await self._swap_adapter(llm, expected.folder)
        number = self._adapter.lora_int_id if self._adapter else 0
        (digests,) = await llm.collective_rpc("agentrl_digests", args=(number,))
        weights_hash = expected.check(digests)
        label = str(next(self._numbers))
        if self._labels_tokens:
            await llm.update_weight_version(label)
        if not self._in_flight:
            self._served.clear()
        self._served[label] = (version, weights_hash)
        self._label = label

    async def _swap_adapter(self, llm: Any, folder: Path) -> None:
        request = vllm_module("vllm.lora.request").LoRARequest
        if self._adapter is not None:
            await llm.remove_lora(self._adapter.lora_int_id)
        number = next(self._numbers)
        self._adapter = request(f"agentrl-{number}", number, str(folder))
        if not await llm.add_lora(self._adapter):
            raise EngineError(f"vLLM did not take the adapter {self._adapter.lora_name}")

    # -- requests ------------------------------------------------------------------------------------------------------

    def _checked(self, prompt_ids: Sequence[int], sampling: Sampling) -> int:
        """The most tokens that may be sampled; what vLLM would die of or bend is refused."""
        if not prompt_ids:
            raise EngineRefusal("the prompt is empty")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self._vocabulary:
            raise EngineRefusal(f"the prompt has ids outside the model's vocabulary of {self._vocabulary}")
        if not (sampling.temperature == 0 or sampling.temperature >= COLDEST):
            raise ConfigError(f"temperature must be 0 or at least {COLDEST} with vLLM, got {sampling.temperature}")
        check_top_p(sampling)
        return min(sampling.max_tokens, self.max_context - len(prompt_ids))

    def _parameters(self, sampling: Sampling, limit: int) -> Any:
        vllm = vllm_module("vllm.sampling_params")
        seed = derive_seed(self._seed, next(self._numbers)) if sampling.seed is None else sampling.seed
        return vllm.SamplingParams(
            max_tokens=limit,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed % 2**63 if sampling.temperature else None,
            stop_token_ids=list(sampling.stop_ids or self.stop_ids),
            ignore_eos=True,  # the stop ids say what ends a turn, and nothing else
            logprobs=0,
            detokenize=False,
            output_kind=vllm.RequestOutputKind.FINAL_ONLY,
        )

    def _completion(self, output: Any, label: str) -> Completion:
        sample, times = output.outputs[0], output.metrics
        if sample.finish_reason not in (FinishReason.STOP.value, FinishReason.LENGTH.value):
            raise EngineError(f"vLLM ended the request: {sample.finish_reason}")
        ids = [int(token) for token in sample.token_ids]
        spans = list(getattr(sample, "weight_versions", None) or ())
        version, weights_hash = self._served[spans[0].version if spans else label]
        switches = tuple(Switch(span.start, *self._served[span.version]) for span in spans[1:])
        return Completion(
            ids=ids,
            logprobs=[float(row[token].logprob) for row, token in zip(sample.logprobs, ids, strict=True)],
            finish_reason=FinishReason(sample.finish_reason),
            policy_version=version,
            weights_hash=weights_hash,
            queue_seconds=max(times.scheduled_ts - times.queued_ts, 0.0),
            prefill_seconds=max(times.first_token_ts - times.scheduled_ts, 0.0),
            decode_seconds=max(times.last_token_ts - times.first_token_ts, 0.0),
            switches=switches,
        )


class _LoadWatch:
    """Keeps the newest figures of vLLM's scheduler; vLLM makes one logger an engine and calls `record` every step."""

    def __init__(self) -> None:
        self.latest = EngineLoad(0, 0, 0.0)

    def attach(self, vllm_config: Any, engine_index: int = 0) -> _LoadWatch:
        self.latest = EngineLoad(0, 0, 0.0)
        return self

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self.latest = EngineLoad(
                scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs, scheduler_stats.kv_cache_usage
            )

    def log(self) -> None:
        """vLLM's interface; the figures are read, not printed."""

    def log_engine_initialized(self) -> None:
        """As `log`."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """As `log`."""


def fail_pending(llm: Any, error: EngineError) -> None:
    """Every request that still waits for output gets `error`; vLLM's shutdown would leave it waiting."""
    with contextlib.suppress(AttributeError):
        llm.output_processor.propagate_error(error)


async def _last(outputs: Any) -> Any:
    async for output in outputs:  # one, since only the final output was asked for
        if output.finished:
            return output
    raise EngineError("vLLM ended the request without output")


def _kind_of(error: Exception) -> type[EngineError]:
    """A refusal for what vLLM calls the client's mistake; older versions raise ValueErrors for those."""
    mistake = getattr(vllm_module("vllm.exceptions"), "VLLMClientError", ValueError)
    return EngineRefusal if isinstance(error, mistake | ValueError) else EngineError


def _core_ids(llm: Any) -> list[int]:
    manager = llm.engine_core.resources.engine_manager
    return [process.pid for process in manager.processes] if manager is not None else []


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
