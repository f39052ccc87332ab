"""A user's mistake is one line on stderr, exit code 2, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.env import register
from agentrl.models.tiny import build_tiny

TRAIN = ("train", "--recipe", "tiny", "eval.episodes=2", "steps=1")


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "plain"
    model, tokenizer = build_tiny()
    tokenizer.chat_template = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert not (folder / "chat_template.jinja").exists()
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--env", "agentrl/Arithmetik-v0"), ["agentrl/Arithmetik-v0", "did you mean 'agentrl/Arithmetic-v0'"]),
        (("--model", "smolm2"), ["smolm2", "smollm2-135m-instruct"]),
        (("--model", "./nowhere"), ["./nowhere", "no such folder"]),
        (("stepz=1",), ["stepz: unknown key", "did you mean 'steps'"]),
        (("model.lora.rnk=1",), ["model.lora.rnk: unknown key", "'rank'"]),
        (("steps=many",), ["steps='many'"]),
        (("optimiser.lr=0",), ["optimiser.lr=0"]),
        (("env.options={levels: [9]}",), ["9"]),
        (("env.options={level: [1]}",), ["level", "did you mean 'levels'"]),
        (("advantages=[grop]",), ["grop", "did you mean 'grpo'"]),
        (("loss.objective={name: clip, eps: 1}",), ["eps", "eps_low"]),
        (("engine.name=transformer",), ["transformer", "did you mean 'transformers'"]),
        (("one.yaml", "two.yaml"), ["more than one config file: one.yaml, two.yaml"]),
        (("missing.yaml",), ["missing.yaml", "No such file"]),
        (("--resume", "runs/tiny"), ["--resume takes the run's own configuration", "steps=N"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "real"])
def test_train(agentrl, tmp_path, monkeypatch, arguments: tuple[str, ...], said: list[str], dry: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "config.yaml").write_text("{}")
    shown = agentrl(*TRAIN, *arguments, *(["--dry-run"] if dry else []))
    shown.fails_in_one_line(*said)
    assert shown.out == ""
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--recipe", "quikstart"), ["quikstart", "did you mean 'quickstart'"]),
        (("recipes", "show", "quikstart"), ["quikstart", "did you mean 'quickstart'"]),
        (("envs", "show", "Arithmetic"), ["Arithmetic", "agentrl/Arithmetic-v0"]),
        (("envs", "show", "agentrl/Arithmetic-v0", "digits=x"), ["digits", "'x'"]),
        (("envs", "play", "agentrl/Arithmetic-v0", "--task", "test:x"), ["test:x"]),
        (("tools", "show", "calculatr"), ["calculatr", "did you mean 'calculator'"]),
        (("tools", "call", "calculatr"), ["calculatr", "did you mean 'calculator'"]),
        (("tools", "call", "calculator", "1+1"), ["1+1", "key=value"]),
        (("models", "fetch", "tinny"), ["tinny", "did you mean 'tiny'"]),
        (("report", "nowhere"), ["nowhere", "holds no run"]),
        (("train", "--resume", "nowhere"), ["nowhere", "no run"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_names_and_values(agentrl, tmp_path, monkeypatch, arguments: tuple[str, ...], said: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shown = agentrl(*arguments)
    shown.fails_in_one_line(*said)
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["a: [1\n", "- a\n", "steps: {deep: 1}\n"])
def test_a_corrupt_config_file_and_recipe(agentrl, tmp_path, content: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    agentrl("train", str(tmp_path / "bad.yaml")).fails_in_one_line()
    agentrl("train", "--recipe", str(tmp_path / "bad.yaml")).fails_in_one_line()


def test_an_unwritable_folder(agentrl, tmp_path) -> None:
    """A file in the way: no user, root included, can make a folder below it."""
    (tmp_path / "file").write_text("")
    agentrl(*TRAIN, f"out={tmp_path}/file/runs").fails_in_one_line("out", "cannot be written")
    asked = ("eval", "agentrl/Arithmetic-v0", "--model", "oracle", "-n", "1")
    agentrl(*asked, "--out", f"{tmp_path}/file/kept").fails_in_one_line("file/kept", "cannot be written")


def test_a_model_without_a_chat_template(agentrl, tmp_path, without_template: Path) -> None:
    agentrl(*TRAIN, f"model.name={without_template}", f"out={tmp_path}").fails_in_one_line("chat template")
    asked = ("eval", "agentrl/Arithmetic-v0", "-n", "1", "--out", f"{tmp_path}/kept")
    agentrl(*asked, "--model", str(without_template)).fails_in_one_line("chat template")


def test_a_broken_model_folder(agentrl, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    asked = ("eval", "agentrl/Arithmetic-v0", "-n", "1", "--out", f"{tmp_path}/kept")
    agentrl(*asked, "--model", str(tmp_path / "empty")).fails_in_one_line("config.json")
    for part in build_tiny():
        part.save_pretrained(tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    agentrl(*asked, "--model", str(tmp_path / "torn")).fails_in_one_line("cannot be loaded")


def test_a_recipes_environment_options_stay_with_its_environment(agentrl, tmp_path) -> None:
    """The recipe's `levels` are Arithmetic's: another environment starts from its own defaults."""
    register("tests/Other-v0", "agentrl.envs.arithmetic:ArithmeticEnv")
    plan = agentrl("train", "--recipe", "tiny", "--env", "tests/Other-v0", "--dry-run", f"out={tmp_path}")
    assert plan.code == 0, plan.err
    assert "levels" not in plan.out
    same = agentrl("train", "--recipe", "tiny", "--env", "agentrl/Arithmetic-v0", "--dry-run", f"out={tmp_path}")
    assert "levels" in same.out
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_infinities(agentrl, tmp_path) -> None:
    """The interval of one task's reward is unbounded: null, since JSON has no infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    asked = ("eval", "agentrl/Arithmetic-v0", "--model", "oracle", "-n", "1", "--out", f"{tmp_path}/kept", "--json")
    result = json.loads(agentrl(*asked).out, parse_constant=refuse)
    assert result["total"]["reward"] == {"value": 1.0, "low": None, "high": None}
