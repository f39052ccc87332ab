"""The engine that serves a policy by vLLM's own server, over HTTP: what an in-process vLLM cannot be, a process apart.

The server is started here, in a process group of its own, or was started by somebody else (`base_url`). Tokens travel
as ids (`OpenAIEngine` in mode `tokens`), weights as files that the server reads in place, by the development route
`/collective_rpc`. The invariants are those of `agentrl.engines.vllm`: same weights, same digests, same hash.

That route runs whatever method it is asked for: the server listens on the loopback address alone, and one that was
started elsewhere must not be open to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from agentrl.engines import vllm_process
from agentrl.engines.base import Capabilities, Completion, Engine, EngineLoad, Sampling
from agentrl.engines.openai import OpenAIEngine
from agentrl.engines.vllm_plan import Plan
from agentrl.engines.vllm_policy import Published
from agentrl.engines.weights import check_weights
from agentrl.errors import ConfigError, EngineError

log = logging.getLogger(__name__)

POLL = 0.25
"""Seconds between looks at a server that is starting."""
TELL = 15.0
"""Seconds between the lines that say so."""
START_SECONDS = 600.0
RPC_SECONDS = 600.0
GRACE = 10.0
"""Seconds that the server gets to end by itself."""
NAME = "policy"
LOG_BYTES = 60_000
"""Of the end of the server's output, where the error that ended it is looked for."""
CAUSE = re.compile(r"\b\w+Error: .+")


class VllmServer:
    """One server process and its children."""

    def __init__(self, arguments: Mapping[str, Any], *, compiled: bool) -> None:
        """`arguments` are the server's options by their Python names; True and False become `--x` and `--no-x`."""
        self.arguments = dict(arguments)
        self.compiled = compiled
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._output: Any = None

    @property
    def alive(self) -> bool:
        """Whether the process runs; not yet that it answers."""
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def processes(self) -> list[int]:
        """Ids of the process and its descendants, parents first."""
        return [] if self._process is None else [process.pid for process in vllm_process.tree(self._process.pid)]

    async def start(self, folder: Path) -> None:
        """Serve the model in `folder`; returns when the server answers, raises `EngineError` if it ends before."""
        self.port = _free_port()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process writes
        own = {"model": str(folder), "served_model_name": NAME, "host": "127.0.0.1", "port": self.port}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_flags({**own, **self.arguments})]
        with vllm_process.environment(compiled=self.compiled):
            environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            await self._healthy()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the whole group. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        family = vllm_process.tree(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await asyncio.to_thread(vllm_process.end, family, GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        self._output.close()

    async def _healthy(self) -> None:
        loop = asyncio.get_running_loop()
        began = told = loop.time()
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                if not self.alive:
                    raise EngineError(f"vLLM's server ended while starting: {self._last_words()}")
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"{self.address}/health")).is_success:
                        return
                now = loop.time()
                if now - began > START_SECONDS:
                    raise EngineError(f"vLLM's server did not answer within {START_SECONDS:g} s: {self._last_words()}")
                if now - told > TELL:
                    told = now
                    log.warning("vLLM's server is starting (%.0f s so far) ...", now - began)
                await asyncio.sleep(POLL)

    def _last_words(self) -> str:
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - LOG_BYTES))
        text: str = self._output.read().decode(errors="replace")
        causes = CAUSE.findall(text)  # the first is where it began, the last says that something failed
        return str([*causes, text.strip() or "no output"][0])[-500:]


class VllmServerEngine(Engine):
    """A policy behind a vLLM server, made by `VllmEngine.for_policy` with the option `server`."""

    def __init__(
        self,
        model: Any,
        plan: Plan,
        *,
        stop_ids: Sequence[int],
        base_url: str | None = None,
    ) -> None:
        """`plan` is made for `model`; with `base_url` a server that runs already is used, which took its own options.

        Raises `ConfigError` for what cannot be done over HTTP.
        """
        if plan.files.by_adapter or plan.arguments["enable_sleep_mode"]:
            option = "lora='adapter'" if plan.files.by_adapter else "sleep"
            raise ConfigError(f"engine 'vllm': option {option} does not go with 'server'")
        self.model = model
        self.stop_ids = tuple(stop_ids)
        self.capabilities = Capabilities(publish=True, max_context=plan.max_context, top_p=True)
        self.server = None if base_url else VllmServer(plan.arguments, compiled=plan.compiled)
        self._concurrency = 2 * plan.max_slots
        """Some wait in the server, so that none of its slots waits for us."""
        self._files = plan.files
        self._base_url = base_url
        self._numbers = itertools.count(1)
        self._folder: Path | None = None
        self._published: Published | None = None
        self._client: OpenAIEngine | None = None
        self._version = 0
        self._hash = ""
        self._in_flight = 0
        self._lock = asyncio.Lock()

    @property
    def weights_hash(self) -> str:
        """See `Engine.weights_hash`."""
        return self._hash

    async def start(self) -> None:
        """Start the server, or start it again after it died, and attest what it serves. Idempotent."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        """End the server if it is ours, remove the files; pending requests fail. Idempotent."""
        async with self._lock:
            await self._end()
            folder, self._folder, self._published = self._folder, None, None
            if folder is not None:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str | None = None
    ) -> Completion:
        """See `Engine.generate`."""
        async with self._lock:  # not while weights are being replaced
            client = await self._running()
            self._in_flight += 1
        version, weights_hash = self._version, self._hash
        try:
            completion = await client.generate(prompt_ids, sampling, session=session)
        finally:
            self._in_flight -= 1
        return replace(completion, policy_version=version, weights_hash=weights_hash)

    def load(self) -> EngineLoad | None:
        """Requests in flight and waiting, as the client counts them."""
        return self._client.load() if self._client is not None else None

    async def publish(self, weights: Mapping[str, Any] | None, version: int) -> str:
        """See `Engine.publish` and `VllmEngine.publish`; refused while requests are in flight."""
        async with self._lock:
            if self._in_flight:
                raise EngineError(f"weights cannot be published while {self._in_flight} requests are in flight")
            if weights is not None:
                check_weights(self.model, weights)
                self.model.load_state_dict(dict(weights), strict=False)
            await self._running()
            before = self._published
            try:
                await self._replace(version)
            except BaseException:  # half-loaded weights must not serve, whatever interrupted the load
                self._published = before
                await self._end()
                raise
            return self._hash

    # -- life ----------------------------------------------------------------------------------------------------------

    async def _running(self) -> OpenAIEngine:
        """A client of a server that lives and serves what was published last; the caller holds the lock."""
        if self._client is not None and (self.server is None or self.server.alive):
            return self._client
        await self._end()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agentrl-vllm-"))
        if self._published is None:
            self._published = await asyncio.to_thread(self._files.write, self._folder / "base")
        if self.server is not None:
            await self.server.start(self._published.folder)
        base_url = self._base_url or f"{self.server.address}/v1"  # type: ignore[union-attr]  # one of both is there
        client = OpenAIEngine(
            base_url,
            NAME if self.server is not None else None,
            stop_ids=self.stop_ids,
            api_key_env=None,
            concurrency=self._concurrency,
            retries=1,
            max_context=self.capabilities.max_context,
            extra_body={"ignore_eos": True},  # the stop ids say what ends a turn, and nothing else
        )
        try:
            await client.start()
            self._client = client
            if self.server is not None:
                await self._rpc("agentrl_watch", os.getpid(), self.server.processes)
                await self._attest()
            else:
                await self._replace(self._version)
        except BaseException:
            await client.close()
            await self._end()
            raise
        return client

    async def _end(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self.server is not None:
            await self.server.close()

    async def _replace(self, version: int) -> None:
        """Write the policy, have the server read it, attest it."""
        assert self._folder is not None
        old = self._published
        self._published = await asyncio.to_thread(self._files.write, self._folder / f"{next(self._numbers)}")
        await self._rpc("agentrl_load", str(self._published.folder))
        await self._post("/reset_prefix_cache")
        await self._attest()
        self._version = version
        if old is not None:
            await asyncio.to_thread(shutil.rmtree, old.folder, True)

    async def _attest(self) -> None:
        assert self._published is not None
        (digests,) = (await self._rpc("agentrl_digests"))["results"]
        self._hash = self._published.check(digests)

    async def _rpc(self, method: str, *arguments: Any) -> Any:
        return await self._post("/collective_rpc", {"method": method, "args": list(arguments)})

    async def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer of a development route, which is beside `/v1`."""
        root = self.server.address if self.server is not None else str(self._base_url).rstrip("/").removesuffix("/v1")
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=RPC_SECONDS) as http:
                answer = await http.post(f"{root}{path}", json=body)
        except httpx.HTTPError as error:
            raise EngineError(f"vLLM's server at {root} failed: {type(error).__name__}: {error}") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise ConfigError(
                f"the server at {root} cannot be given weights: start it with VLLM_SERVER_DEV_MODE=1 and "
                "--worker-extension-cls agentrl.engines.vllm_worker.WeightsExtension"
            )
        if not answer.is_success:
            raise EngineError(f"vLLM's server at {root}: status {answer.status_code} for {path}: {answer.text[:300]}")
        return answer.json() if answer.content else None


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{option}" if value else f"--no-{option}")
        else:
            flags += [f"--{option}", str(value)]
    return flags


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
