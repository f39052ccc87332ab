"""OpenAIEngine against a real server on loopback that misbehaves in every way that servers do."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from agentrl.engines import endpoint
from agentrl.engines.base import EngineLoad, FinishReason, Sampling
from agentrl.engines.endpoint import _asked_pause
from agentrl.engines.openai import OpenAIEngine
from agentrl.engines.replicas import ReplicatedEngine
from agentrl.errors import ConfigError, EngineError, EngineRefusal
from agentrl.messages import ToolCall, system, user
from agentrl.registry import engines
from tests.engines import stub_server
from tests.engines.stub_server import EOS, MODEL, StubServer, logprob, sampled

KEY = "sk-very-secret-0123456789"
QUICK: dict[str, Any] = {"backoff_seconds": 0.001, "timeout_seconds": 20.0}


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StubServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with stub_server.stub_server() as server:
        yield server


@pytest.fixture
async def engine(stub: StubServer) -> AsyncIterator[OpenAIEngine]:
    built = OpenAIEngine(stub.url, **QUICK)
    await built.start()
    stub.asked.clear()
    yield built
    await built.close()


@pytest.fixture
async def chat(stub: StubServer) -> AsyncIterator[OpenAIEngine]:
    built = OpenAIEngine(stub.url, mode="chat", **QUICK)
    await built.start()
    yield built
    await built.close()


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_ids_and_logprobs_are_exactly_what_the_server_sampled(stub: StubServer, engine: OpenAIEngine) -> None:
    completion = await engine.generate([5, 6, 7], Sampling(max_tokens=9, seed=3, stop_ids=(EOS, 98)))
    assert completion.ids == sampled([5, 6, 7], 3, 9)
    assert completion.logprobs == [logprob(token) for token in completion.ids]
    assert completion.finish_reason is FinishReason.STOP
    (asked,) = stub.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/completions", f"Bearer {KEY}")
    assert asked.body["prompt"] == [5, 6, 7]
    assert (asked.body["max_tokens"], asked.body["stop_token_ids"], asked.body["seed"]) == (9, [EOS, 98], 3)
    assert asked.body["model"] == MODEL
    # The whole distribution, whatever the model's generation_config.json says.
    assert (asked.body["top_p"], asked.body["top_k"], asked.body["min_p"]) == (1.0, -1, 0.0)
    assert (asked.body["repetition_penalty"], asked.body["stream"]) == (1.0, False)
    assert completion.decode_seconds > 0


async def test_limits_of_the_context_cut_a_completion(stub: StubServer, engine: OpenAIEngine) -> None:
    assert engine.capabilities.max_context == 4096
    completion = await engine.generate([1] * 4094, Sampling(max_tokens=50))
    assert (len(completion.ids), completion.finish_reason) == (2, FinishReason.LENGTH)
    stub.asked.clear()
    assert (await engine.generate([1] * 4096, Sampling())).ids == []
    assert stub.asked == []  # there is nothing to ask for


async def test_ids_may_come_in_the_older_form(stub: StubServer, engine: OpenAIEngine) -> None:
    stub.faults.append(stub_server.changed(lambda answer: answer["choices"][0].pop("token_ids") and None))
    assert (await engine.generate([5, 6, 7], Sampling(seed=3))).ids == sampled([5, 6, 7], 3, 256)


def alter(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer["choices"][0].update(fields)


def alter_logprobs(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer["choices"][0]["logprobs"].update(fields)


def as_text(answer: dict[str, Any]) -> None:
    answer["choices"][0].update(token_ids=None)
    answer["choices"][0]["logprobs"]["tokens"] = ["token_id:5", " a", " b", "<eos>"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: [], "malformed answer: the whole: input should be a valid dictionary"),
        (lambda answer: {"choices": []}, "malformed answer: choices: list should have at least 1 item"),
        (lambda answer: {"object": "error"}, "malformed answer: choices: field required"),
        (as_text, "no token ids"),
        (alter(logprobs=None), "no log-probabilities"),
        (alter_logprobs(token_logprobs=None), "no log-probabilities"),
        (alter_logprobs(token_logprobs=[-1.0]), "4 ids and 1 log-probabilities"),
        (alter_logprobs(token_logprobs=[-1.0, None, -1.0, -1.0]), r"choices.0.logprobs.token_logprobs.1: input"),
        (alter_logprobs(token_logprobs=[-1.0, float("nan"), -1.0, -1.0]), "finite number"),
        (alter_logprobs(token_logprobs=[-1.0, 0.5, -1.0, -1.0]), "less than or equal to 0.001"),
        (alter(token_ids=[5, 6, -7, 8]), "choices.0.token_ids.2: input should be greater than or equal to 0"),
        (alter(token_ids=[5, 6, 7.0, 8]), "choices.0.token_ids.2: input should be a valid integer"),
        (alter(token_ids=[5, True, 7, 8]), "choices.0.token_ids.1: input should be a valid integer"),
        (alter(token_ids=[], logprobs={"token_logprobs": []}), "the answer has 0 ids"),
        (alter(token_ids=[1] * 99, logprobs={"token_logprobs": [-1.0] * 99}), "has 99 ids, asked for were 1 to 9"),
        (alter(prompt_token_ids=[0, 5, 6, 7]), r"another prompt \(4 ids\)"),
        (alter(finish_reason="abort"), "finish_reason is 'abort'"),
        (alter(finish_reason=None), "finish_reason is None"),
    ],
)
async def test_an_answer_that_is_not_exact_is_an_error(
    stub: StubServer, engine: OpenAIEngine, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    stub.faults.append(stub_server.changed(change))
    with pytest.raises(EngineError, match=message) as caught:
        await engine.generate([5, 6, 7], Sampling(max_tokens=9))
    assert "\n" not in str(caught.value)
    assert len(stub.asked) == 1  # it is not asked again
    assert (await engine.generate([5], Sampling())).ids


async def test_times_inside_the_server_are_counted_where_it_tells_them(stub: StubServer, engine: OpenAIEngine) -> None:
    metrics = {"queue_time_ms": 200.0, "time_to_first_token_ms": 30.0, "generation_time_ms": 5.0}
    stub.faults.append(stub_server.changed(lambda answer: answer.update(metrics=metrics)))
    completion = await engine.generate([5], Sampling())
    assert completion.queue_seconds == pytest.approx(0.2, abs=0.01)
    assert completion.prefill_seconds == pytest.approx(0.03)


# -- start -------------------------------------------------------------------------------------------------------------


async def test_start_finds_the_model_and_its_context(stub: StubServer) -> None:
    stub.models, stub.max_model_len = ("a", "big-model"), 128
    for options, message in (
        ({}, "name the model; valid: a, big-model"),
        ({"model": "big-modle"}, "'big-modle' is not served; did you mean 'big-model'"),
        ({"model": "a", "max_context": 200}, "max_context=200 is more than the 128"),
    ):
        with pytest.raises(ConfigError, match=message):
            await OpenAIEngine(stub.url, **options, **QUICK).start()
    assert stub.connections == 0 or await settled(lambda: stub.connections == 0)
    engine = OpenAIEngine(stub.url, "a", max_context=100, **QUICK)
    await engine.start()
    await engine.start()
    assert (len(stub.asked), engine.capabilities.max_context) == (2, 100)
    assert engine.capabilities.tokens and engine.capabilities.logprobs and not engine.capabilities.publish
    await engine.close()


@pytest.mark.parametrize(
    "fault",
    [
        stub_server.status(400, "prompt must be text"),
        stub_server.status(404, "no such path"),
        stub_server.changed(alter(token_ids=None, logprobs=None)),
        stub_server.changed(alter_logprobs(token_logprobs=None)),
    ],
)
async def test_mode_tokens_is_refused_at_start_where_ids_do_not_come_back(
    stub: StubServer, fault: stub_server.Fault
) -> None:
    stub.faults.append(fault)
    with pytest.raises(ConfigError, match=r"needs an endpoint that takes and gives token ids.*try mode='chat'"):
        await OpenAIEngine(stub.url, **QUICK).start()


async def test_a_temperature_that_the_logprobs_leave_out_is_refused(stub: StubServer) -> None:
    stub.processed = False
    engine = OpenAIEngine(stub.url, **QUICK)
    await engine.start()
    for temperature in (0.0, 1.0):
        assert (await engine.generate([5], Sampling(temperature=temperature))).ids
    with pytest.raises(ConfigError, match=r"temperature=0.7.*--logprobs-mode processed_logprobs"):
        await engine.generate([5], Sampling(temperature=0.7))
    await engine.close()
    stub.processed = True
    await engine.start()
    completion = await engine.generate([5], Sampling(temperature=0.5))
    assert completion.logprobs == [logprob(token, 0.5) for token in completion.ids]
    await engine.close()


async def test_the_probe_looks_on_where_the_next_token_is_all_but_certain(stub: StubServer) -> None:
    peaked = stub_server.changed(alter_logprobs(token_logprobs=[-1e-5], top_logprobs=[{"token_id:0": -1e-5}]))
    stub.faults.extend([peaked, peaked])
    engine = OpenAIEngine(stub.url, **QUICK)
    await engine.start()
    assert engine.counts_temperature
    assert [asked.body["prompt"] for asked in stub.asked] == [[0], [0], [1], [1]]
    await engine.close()


async def test_a_refused_key_is_named_by_its_variable(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(exchange: stub_server.Exchange) -> None:
        await stub_server.status(401, f"Incorrect API key provided: {KEY}")(exchange)

    monkeypatch.setattr(StubServer, "_answer", lambda self, exchange: refuse(exchange))
    with pytest.raises(ConfigError, match=r"the key in OPENAI_API_KEY was refused.*provided: \*\*\*"):
        await OpenAIEngine(stub.url, **QUICK).start()


async def test_an_endpoint_without_a_list_of_models_needs_the_name(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = StubServer._answer

    async def without(self: StubServer, exchange: stub_server.Exchange) -> None:
        if exchange.asked.path == "/v1/models":
            await stub_server.status(404)(exchange)
        else:
            await answer(self, exchange)

    monkeypatch.setattr(StubServer, "_answer", without)
    with pytest.raises(ConfigError, match="name the model"):
        await OpenAIEngine(stub.url, mode="chat", **QUICK).start()
    engine = OpenAIEngine(stub.url, "m", mode="chat", **QUICK)
    await engine.start()
    assert (await engine.reply([user("hi")], [], Sampling())).message.text == "Hello."
    assert engine.capabilities.max_context is None
    await engine.close()


async def test_nobody_listens() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    engine = OpenAIEngine(f"http://127.0.0.1:{port}/v1", retries=1, **QUICK)
    with pytest.raises(EngineError, match="no answer in 2 attempts, the last time: ConnectError"):
        await engine.start()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url='localhost:8000' must be like"),
        ({"base_url": "http://user:password@host/v1"}, "base_url holds a password"),
        ({"mode": "text"}, "mode is 'text'; valid: chat, tokens"),
        ({"max_tokens_key": "max"}, "max_tokens_key is 'max'; valid: max_completion_tokens, max_tokens"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "api_key_env='NO_SUCH_VARIABLE'"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"retries": -1}, "retries=-1"),
        ({"timeout_seconds": 0}, "timeout_seconds=0"),
        ({"max_context": 1}, "max_context=1"),
        ({"headers": {"x-key": "one\ntwo"}}, "'x-key' is no header"),
        ({"extra_body": {"stream": True}}, "'stream' is the engine's own"),
        ({"extra_body": {"top_p": 0.9}}, "'top_p' is the engine's own in mode 'tokens'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        OpenAIEngine(**{"base_url": "http://127.0.0.1:1/v1", **options})


def test_it_is_found_by_name_and_cannot_be_trained_against() -> None:
    assert engines.get("openai") is OpenAIEngine
    with pytest.raises(ConfigError, match="use engine 'vllm' with server="):
        OpenAIEngine.for_policy(None, stop_ids=())
    with pytest.raises(ConfigError, match="cannot do: publish"):
        OpenAIEngine("http://127.0.0.1:1/v1").require(publish=True)


# -- failures that pass ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        *(stub_server.status(code) for code in (408, 409, 429, 500, 502, 503, 529)),
        stub_server.status(429, retry_after="0"),
        stub_server.status(503, b"<html>nonsense</html>", retry_after="soon"),
        stub_server.drop,
        stub_server.cut,
    ],
)
async def test_what_may_pass_is_tried_again(stub: StubServer, engine: OpenAIEngine, fault: stub_server.Fault) -> None:
    stub.faults.extend([fault] * 3)
    completion = await engine.generate([5, 6], Sampling(seed=1))
    assert completion.ids == sampled([5, 6], 1, 256)
    assert len(stub.asked) == 4
    assert all(asked.body == stub.asked[0].body for asked in stub.asked)


async def test_attempts_are_bounded_and_the_last_failure_is_told(stub: StubServer, engine: OpenAIEngine) -> None:
    stub.faults.extend([stub_server.status(500, "first")] * 4 + [stub_server.status(503, "out of\nmemory")])
    message = "no answer in 5 attempts, the last time: status 503: out of memory"
    with pytest.raises(EngineError, match=message) as caught:
        await engine.generate([5], Sampling())
    assert not isinstance(caught.value, EngineRefusal)
    assert len(stub.asked) == 5
    assert engine.load() == EngineLoad(0, 0)


@pytest.mark.parametrize("fault", [stub_server.hang, stub_server.drip])
async def test_an_attempt_has_a_deadline(stub: StubServer, fault: stub_server.Fault) -> None:
    engine = OpenAIEngine(stub.url, retries=1, timeout_seconds=0.2, backoff_seconds=0.001)
    await engine.start()
    stub.faults.append(fault)
    assert (await engine.generate([5], Sampling())).ids
    stub.faults.extend([fault] * 2)
    with pytest.raises(EngineError, match=r"in 2 attempts, the last time: no whole answer within 0.2 s"):
        await engine.generate([5], Sampling())
    assert await settled(lambda: stub.in_flight == 0)  # the server saw that nobody waits any more
    await engine.close()


async def test_a_server_is_given_the_pause_that_it_asks_for(
    stub: StubServer, engine: OpenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(endpoint.asyncio, "sleep", noted)
    stub.faults.extend([stub_server.status(429, retry_after="7"), stub_server.status(429), stub_server.status(429)])
    await engine.generate([5], Sampling())
    assert 7 <= pauses[0] <= 7.001
    assert 0 <= pauses[1] <= 0.002 and 0 <= pauses[2] <= 0.004
    stub.faults.append(stub_server.status(429, "come back tomorrow", retry_after="86400"))
    with pytest.raises(EngineError, match="come back tomorrow; it asks for a pause of 86400 s"):
        await engine.generate([5], Sampling())


def test_a_pause_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < _asked_pause(date) <= 30
    assert [_asked_pause(text) for text in ("-3", "nan", "later", "Mon, 01 Jan 2001 00:00:00 GMT", None)] == [0.0] * 5


# -- failures that stay ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
async def test_a_refusal_is_not_tried_again(stub: StubServer, engine: OpenAIEngine, code: int) -> None:
    stub.faults.append(stub_server.status(code, "the prompt is too long"))
    with pytest.raises(EngineError, match=f"status {code}: the prompt is too long") as caught:
        await engine.generate([5], Sampling())
    assert isinstance(caught.value, EngineRefusal) == (code in (400, 413, 422))
    assert len(stub.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>ok</html>", b'{"choices": [', b"\xff\xfe", b"[" * 100_000])
async def test_garbage_is_an_error_of_one_line(stub: StubServer, engine: OpenAIEngine, body: bytes) -> None:
    stub.faults.append(stub_server.raw(body))
    with pytest.raises(EngineError, match="the answer is not JSON") as caught:
        await engine.generate([5], Sampling())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"object":"error","message":"too long"}', "too long"),
        (b'{"detail":"not found"}', "not found"),
        (b'{"error":"flat"}', "flat"),
        (b'{"error":{"code":7}}', r'\{"error":\{"code":7\}\}'),
        (b"plain\n words" * 5000, r"plain words.* \.\.\.$"),
    ],
)
async def test_what_a_server_says_is_shown_briefly(
    stub: StubServer, engine: OpenAIEngine, body: bytes, said: str
) -> None:
    stub.faults.append(stub_server.status(400, body))
    with pytest.raises(EngineError, match=f"status 400: {said}") as caught:
        await engine.generate([5], Sampling())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


async def test_redirects_are_not_followed(stub: StubServer, engine: OpenAIEngine) -> None:
    async with stub_server.stub_server() as other:
        stub.faults.append(stub_server.status(307, location=f"{other.url}/completions"))
        with pytest.raises(EngineError, match=r"redirects to http://127.*\(307\); set base_url to where it leads"):
            await engine.generate([5], Sampling())
        assert other.asked == []  # nobody else got the key


async def test_a_huge_answer_is_not_read(
    stub: StubServer, engine: OpenAIEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "MAX_ANSWER", 200_000)
    stub.faults.append(stub_server.huge(100_000_000))
    with pytest.raises(EngineError, match="longer than 200000 bytes"):
        await engine.generate([5], Sampling())
    assert (await engine.generate([5], Sampling())).ids


# -- the key -----------------------------------------------------------------------------------------------------------


async def test_the_key_is_in_no_error_and_no_log(
    stub: StubServer, engine: OpenAIEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"your key {KEY} and {KEY}!"
    faults: list[stub_server.Fault] = [
        *(stub_server.status(code, echo) for code in (400, 401, 404, 422)),
        stub_server.raw(KEY.encode()),
        stub_server.changed(alter(finish_reason="abort")),
    ]
    told = [repr(engine), str(engine), str(engine.endpoint)]
    for fault in faults:
        stub.faults.append(fault)
        with pytest.raises(EngineError) as caught:
            await engine.generate([5], Sampling())
        told.append("".join(traceback.format_exception(caught.value)))
    stub.faults.extend([stub_server.status(500, echo)] * 5)
    with pytest.raises(EngineError) as caught:
        await engine.generate([5], Sampling())
    told.append("".join(traceback.format_exception(caught.value)))
    logged = caplog.text
    stub.faults.append(stub_server.status(307, location=f"http://elsewhere/{KEY}"))  # httpcore logs received headers
    with pytest.raises(EngineError) as caught:
        await engine.generate([5], Sampling())
    told.append("".join(traceback.format_exception(caught.value)))
    assert stub.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert not [text for text in [*told, logged] if KEY in text]
    assert sum("***" in text for text in told) >= 6


@pytest.mark.parametrize("value", ["sk-se\x00cret-key", "sk-sécret-key", "sk-secret\nkey: x"])
def test_a_key_that_is_no_header_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": value})
    with pytest.raises(ConfigError, match="its value is not shown") as caught:
        OpenAIEngine("http://127.0.0.1:1/v1")
    assert "cret" not in str(caught.value)


async def test_without_a_key_none_is_sent(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", " other-key\n")
    for options, sent in (
        ({"api_key_env": None}, None),
        ({"api_key_env": "OTHER_KEY"}, "Bearer other-key"),
        ({"headers": {"Authorization": "Basic abc", "x-team": "blue"}}, "Basic abc"),
    ):
        engine = OpenAIEngine(stub.url, mode="chat", **QUICK, **options)
        await engine.start()
        await engine.reply([user("hi")], [], Sampling())
        await engine.close()
        assert stub.asked[-1].headers.get("authorization") == sent
    assert stub.asked[-1].headers["x-team"] == "blue"


# -- many at once ------------------------------------------------------------------------------------------------------


async def settled(condition: Callable[[], bool]) -> bool:
    """Whether it comes true while the server's side catches up."""
    for _ in range(500):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize("answered", [200, pytest.param(5000, marks=pytest.mark.slow)])
async def test_thousands_of_queued_requests_are_bounded_by_the_semaphore(stub: StubServer, answered: int) -> None:
    engine = OpenAIEngine(stub.url, concurrency=16, **QUICK)
    await engine.start()
    stub.asked.clear()
    gate = asyncio.Event()
    stub.faults.extend([stub_server.held(gate)] * 100)
    calls = [asyncio.create_task(engine.generate([index % 80], Sampling(seed=index))) for index in range(5000)]
    assert await settled(lambda: stub.in_flight == 16)
    assert engine.load() == EngineLoad(running=16, waiting=5000 - 16)
    gate.set()
    answers = await asyncio.gather(*calls[:answered])
    assert [answer.ids for answer in answers] == [sampled([index % 80], index, 256) for index in range(answered)]
    assert answers[-1].queue_seconds > answers[0].queue_seconds
    for call in calls[answered:]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert engine.load() == EngineLoad(0, 0)
    assert stub.most_in_flight == 16 and len(stub.asked) < answered + 1000
    await engine.close()
    assert await settled(lambda: stub.connections == 0)


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.slow)])
async def test_calls_leave_no_descriptor_and_no_task(stub: StubServer, count: int) -> None:
    engine = OpenAIEngine(stub.url, concurrency=8, **QUICK)
    await engine.start()
    faults = [stub_server.drop, stub_server.cut, stub_server.status(500), stub_server.raw(b"?")]

    async def calls(number: int) -> int:
        for index in range(number // 20):
            stub.faults.append(faults[index % len(faults)])
        results = await asyncio.gather(
            *(engine.generate([1, 2], Sampling()) for _ in range(number)), return_exceptions=True
        )
        return sum(isinstance(result, EngineError) for result in results)

    await calls(40)
    gc.collect()
    before, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    assert await calls(count) == count // 80  # garbage is not tried again
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 8  # both ends of what is kept alive
    assert len(asyncio.all_tasks()) <= tasks + 8  # the stub's connections
    await engine.close()
    assert await settled(lambda: stub.connections == 0)


async def test_cancelling_a_call_closes_its_connection(stub: StubServer, engine: OpenAIEngine) -> None:
    stub.delay = 30.0
    calls = [asyncio.create_task(engine.generate([5], Sampling())) for _ in range(5)]
    assert await settled(lambda: stub.in_flight == 5)
    for call in calls[:3]:
        call.cancel()
    assert [type(each) for each in await asyncio.gather(*calls[:3], return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 3
    assert await settled(lambda: stub.in_flight == 2)
    assert (stub.abandoned, engine.load()) == (3, EngineLoad(running=2, waiting=0))
    for call in calls[3:]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    stub.delay = 0.0
    assert (await engine.generate([5], Sampling())).ids


async def test_closing_fails_what_is_pending(stub: StubServer) -> None:
    engine = OpenAIEngine(stub.url, concurrency=2, **QUICK)
    await engine.start()
    stub.delay = 30.0
    stub.faults.append(stub_server.status(503, retry_after="30"))
    calls = [asyncio.create_task(engine.generate([5], Sampling())) for _ in range(6)]
    assert await settled(lambda: stub.in_flight == 2)
    await engine.close()
    await engine.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [EngineError] * 6
    assert all("closed" in str(result) for result in results)
    with pytest.raises(EngineError, match="closed, or not started"):
        await engine.generate([5], Sampling())
    assert await settled(lambda: stub.connections == 0)
    stub.delay = 0.0
    await engine.start()  # and it may be opened again
    assert (await engine.generate([5], Sampling())).ids
    await engine.close()


# -- chat --------------------------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}]


async def test_messages_and_tools_go_out_and_a_message_comes_back(stub: StubServer, chat: OpenAIEngine) -> None:
    stub.chat = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Let me see.",
        "tool_calls": [
            {"id": "c1", "type": "function", "index": 0, "function": {"name": "calculator", "arguments": '{"a": 1'}},
            {"function": {"name": "calculator", "arguments": {"a": 2}}},
        ],
        "audio": None,
    }
    conversation = [system("Be brief."), user("What is 1 + 2?")]
    reply = await chat.reply(conversation, TOOLS, Sampling(max_tokens=50, temperature=0.5, seed=9))
    assert reply.message.tool_calls == (
        ToolCall(id="c1", name="calculator", arguments='{"a": 1'),  # the model's mistake, for the tool to answer
        ToolCall(id="call_1", name="calculator", arguments='{"a": 2}'),
    )
    assert (reply.message.text, reply.reasoning) == ("", "Let me see.")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (11, 3, FinishReason.STOP)
    assert reply.seconds > 0
    (asked,) = stub.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 2?"}],
        "tools": TOOLS,
        "max_tokens": 50,
        "temperature": 0.5,
        "seed": 9,
        "stream": False,
    }
    follow_up = [*conversation, reply.message]
    await chat.reply(follow_up, TOOLS, Sampling())
    assert stub.asked[-1].body["messages"][-1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1'


async def test_any_text_arrives(stub: StubServer, chat: OpenAIEngine) -> None:
    for text in ("naïve 日本 🙂", "half a pair: \ud83d", 'a "quote"\n\x00'):
        await chat.reply([user(text)], [], Sampling())
        assert stub.asked[-1].body["messages"][0]["content"] == text


async def test_content_may_come_in_parts(stub: StubServer, chat: OpenAIEngine) -> None:
    stub.chat = {"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}
    assert (await chat.reply([user("hi")], [], Sampling())).message.text == "ab"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: {"choices": None}, "choices: input should be a valid list"),
        (lambda answer: {"choices": [{"finish_reason": "stop"}]}, "choices.0.message: field required"),
        (alter(message="hello"), "choices.0.message: input should be a valid dictionary"),
        (alter(message={"content": 5}), "choices.0.message.content"),
        (alter(message={"tool_calls": [{"id": "x"}]}), "tool_calls.0.function: field required"),
        (alter(message={"tool_calls": [{"function": {"name": ""}}]}), "function.name: string should have at least 1"),
        (alter(finish_reason="content_filter"), "finish_reason is 'content_filter'"),
        (lambda answer: answer.update(usage={"prompt_tokens": "many"}), "usage.prompt_tokens"),
    ],
)
async def test_malformed_replies_are_errors(
    stub: StubServer, chat: OpenAIEngine, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    stub.faults.append(stub_server.changed(change))
    with pytest.raises(EngineError, match=message) as caught:
        await chat.reply([user("hi")], [], Sampling())
    assert "\n" not in str(caught.value)


async def test_a_reply_without_usage_says_that_nobody_counted(stub: StubServer, chat: OpenAIEngine) -> None:
    stub.faults.append(stub_server.changed(lambda answer: answer.pop("usage") and None))
    assert (await chat.reply([user("hi")], [], Sampling())).completion_tokens is None


async def test_fields_may_be_added_renamed_and_taken_out(stub: StubServer) -> None:
    engine = OpenAIEngine(
        stub.url, mode="chat", max_tokens_key="max_completion_tokens", **QUICK,
        extra_body={"temperature": None, "reasoning_effort": "low", "top_p": 0.9},
    )  # fmt: skip
    await engine.start()
    await engine.reply([user("hi")], [], Sampling(max_tokens=7))
    body = stub.asked[-1].body
    assert (body["max_completion_tokens"], body["reasoning_effort"], body["top_p"]) == (7, "low", 0.9)
    assert "temperature" not in body and "max_tokens" not in body
    await engine.close()


async def test_each_mode_has_its_own_call(chat: OpenAIEngine, engine: OpenAIEngine) -> None:
    assert not chat.capabilities.tokens and not chat.capabilities.logprobs
    with pytest.raises(ConfigError, match="takes messages: call reply"):
        await chat.generate([5], Sampling())
    with pytest.raises(ConfigError, match="takes token ids: call generate"):
        await engine.reply([user("hi")], [], Sampling())


# -- several addresses -------------------------------------------------------------------------------------------------


async def test_several_addresses_are_replicas(stub: StubServer) -> None:
    async with stub_server.stub_server() as other:
        engine = OpenAIEngine.connect([stub.url, other.url], **QUICK)
        assert isinstance(engine, ReplicatedEngine)
        await engine.start()
        for session in ("a", "b", "a", "b"):
            await engine.generate([5], Sampling(), session=session)
        assert (len(stub.asked), len(other.asked)) == (2 + 2, 2 + 2)
        stub.faults.extend([stub_server.drop] * 5)
        assert (await engine.generate([5], Sampling(), session="a")).ids
        assert len(other.asked) == 5
        await engine.close()


def test_connecting_checks_its_options() -> None:
    one = OpenAIEngine.connect("http://127.0.0.1:1/v1", concurrency="8")
    assert isinstance(one, OpenAIEngine) and one.endpoint.limits.concurrency == 8
    with pytest.raises(ConfigError, match="no option 'concurency'; did you mean 'concurrency'"):
        OpenAIEngine.connect("http://127.0.0.1:1/v1", concurency=8)
    with pytest.raises(ConfigError, match="names no address"):
        OpenAIEngine.connect([])


async def test_a_conversation_of_128k_tokens(stub: StubServer) -> None:
    stub.max_model_len = 200_000
    engine = OpenAIEngine(stub.url, **QUICK)
    await engine.start()
    prompt = [index % 50_000 for index in range(131_072)]
    assert (await engine.generate(prompt, Sampling(seed=1))).ids == sampled(prompt, 1, 256)
    assert json.loads(json.dumps(stub.asked[-1].body["prompt"])) == prompt
    await engine.close()
