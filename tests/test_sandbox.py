"""The sandbox contract's own part: limits, names, one shared object a spec, refusal at start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.sandbox import NO_FILES, Limits, Outcome, Sandbox, Session, close_sandboxes, get_sandbox


class Nowhere(Sandbox):
    """Works nowhere."""

    name = "nowhere"

    @classmethod
    def why_not(cls) -> str | None:
        return "the moon is missing: install it"

    async def open(self, *, limits: Limits = Limits(), files: Mapping[str, bytes] = NO_FILES) -> Session:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Somewhere(Nowhere):
    """Works, and counts its ends."""

    name = "somewhere"
    closed = 0

    def __init__(self, *, depth: int = 1) -> None:
        self.depth = depth

    @classmethod
    def why_not(cls) -> str | None:
        return None

    def close(self) -> None:
        Somewhere.closed += 1


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    backends = {**registry.sandboxes._registered, "nowhere": Nowhere, "somewhere": Somewhere}
    monkeypatch.setattr(registry.sandboxes, "_registered", backends)
    monkeypatch.setattr("agentrl.sandbox._shared", {})
    yield
    close_sandboxes()


def test_one_object_for_one_spec() -> None:
    first = get_sandbox("somewhere")
    assert get_sandbox({"name": "somewhere"}) is first
    deep = get_sandbox({"name": "somewhere", "depth": 2})
    assert deep is not first
    assert isinstance(deep, Somewhere) and deep.depth == 2


def test_closing_ends_all_and_the_next_asks_anew() -> None:
    first, before = get_sandbox("somewhere"), Somewhere.closed
    close_sandboxes()
    close_sandboxes()
    assert Somewhere.closed == before + 1
    assert get_sandbox("somewhere") is not first


def test_what_does_not_work_here_is_refused_with_reason_and_remedy() -> None:
    with pytest.raises(ConfigError, match="sandbox 'nowhere' does not work here: the moon is missing: install it"):
        get_sandbox("nowhere")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("frok", "sandbox 'frok' is unknown; did you mean 'fork'"),
        ({"name": "somewhere", "dept": 1}, "did you mean 'depth'"),
        ({"name": "somewhere", "depth": "deep"}, "depth"),
        ({"depth": 1}, "it needs the key 'name'"),
    ],
)
def test_a_wrong_spec_is_one_line(spec: str | dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_sandbox(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, True, float("inf"), float("nan"), "1"])
@pytest.mark.parametrize("key", ["wall", "memory"])
def test_a_limit_is_a_positive_number(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"sandbox limit {key}="):
        Limits(**{key: value})  # type: ignore[arg-type]


def test_which_outcomes_end_a_session() -> None:
    assert {outcome for outcome in Outcome if outcome.fatal} == {Outcome.TIMEOUT, Outcome.MEMORY, Outcome.KILLED}
