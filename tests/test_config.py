"""A run as pydantic models: YAML, dotted overrides and Python give the same object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from agentrl.config import LoraConfig, RunConfig, WarmStartConfig, load_config, validate
from agentrl.errors import ConfigError, UnknownNameError
from agentrl.recipes import describe_recipe, load_recipe, recipe_names
from agentrl.settings import parse_overrides

SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**31),
    "steps": st.integers(0, 10_000),
    "name": st.sampled_from(["run", "second", "a-b_c"]),
    "model.precision": st.sampled_from(["bf16", "fp32"]),
    "model.gradient_checkpointing": st.booleans(),
    "model.lora": st.none() | st.fixed_dictionaries({"rank": st.integers(1, 64)}),
    "env.options": st.dictionaries(st.sampled_from(["levels", "digits"]), st.lists(st.integers(1, 4)), max_size=2),
    "rollout.temperature": st.floats(1e-3, 10),
    "rollout.group_size": st.integers(1, 64),
    "advantages": st.just(["rloo"]) | st.just([{"name": "turn_loo", "gamma": 0.5}]),
    "loss.norm": st.none() | st.floats(1e-3, 1e6),
    "optimiser.lr": st.floats(1e-9, 1.0),
    "optimiser.betas": st.tuples(st.floats(0, 1), st.floats(0, 1)).map(list),
}
settings_of_a_run = st.fixed_dictionaries({}, optional=SETTINGS)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    return tree


def flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


@given(flat=settings_of_a_run)
def test_yaml_overrides_and_python_give_the_same_object(flat: dict[str, Any], tmp_path_factory: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "same.yaml"
    file.write_text(yaml.safe_dump(nested(flat)))
    python = RunConfig(**nested(flat))
    assert load_config(file) == python
    assert load_config(overrides=[f"{key}={flow(value)}" for key, value in flat.items()]) == python
    assert load_config(**{key.replace(".", "__"): value for key, value in flat.items()}) == python


@given(flat=settings_of_a_run)
def test_the_resolved_configuration_reproduces_itself(flat: dict[str, Any], tmp_path_factory: Any) -> None:
    config = RunConfig(**nested(flat))
    file = tmp_path_factory.getbasetemp() / "resolved.yaml"
    file.write_text(config.to_yaml())
    assert load_config(file) == config


def test_precedence_from_recipe_to_override(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("steps: 7\nseed: 7\nmodel: {name: ./mine}\nrollout: {group_size: 7}\n")
    config = load_config(file, recipe="quickstart", overrides=["seed=9"], model__name="tiny")
    assert config.recipe == "quickstart"
    assert config.rollout.max_turn_tokens == load_recipe("quickstart")["rollout"]["max_turn_tokens"]  # from the recipe
    assert (config.steps, config.rollout.group_size) == (7, 7)  # the file beats the recipe, key by key
    assert config.model.name == "tiny"  # --model beats the file
    assert config.model.tool_prompt == "none"
    assert config.seed == 9  # an override beats all
    assert config.optimiser.eps == 1e-8  # a default where nobody says anything


def test_an_override_beats_the_same_key_given_in_python() -> None:
    assert load_config(overrides=["model.name=b"], model__name="a").model.name == "b"


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "1E-5", "0.00001", "1e-05"])
def test_learning_rates_as_people_write_them(text: str, tmp_path: Path) -> None:
    assert load_config(overrides=[f"optimiser.lr={text}"]).optimiser.lr == 1e-5
    file = tmp_path / "lr.yaml"
    file.write_text(f"optimiser: {{lr: {text}}}\n")
    assert load_config(file).optimiser.lr == 1e-5


def test_an_override_can_switch_a_section_off_and_on() -> None:
    assert load_config(recipe="quickstart", overrides=["warm_start=null"]).warm_start is None
    again = load_config(recipe="quickstart", overrides=["warm_start=null", "warm_start.steps=3"])
    assert again.warm_start == WarmStartConfig(steps=3)
    assert load_config(overrides=["model.lora={}"]).model.lora == LoraConfig()
    assert load_config(overrides=["model.lora.rank=4"]).model.lora == LoraConfig(rank=4)


def test_later_overrides_win_and_values_may_contain_the_sign() -> None:
    assert load_config(overrides=["seed=1", "seed=2"]).seed == 2
    assert parse_overrides(["expression=a=b"]) == {"expression": "a=b"}
    assert parse_overrides(["a.b=[1, x]", "a.c={d: 1}", "e="]) == {"a": {"b": [1, "x"], "c": {"d": 1}}, "e": None}


def sections(model: type[BaseModel], path: str = "") -> list[tuple[str, type[BaseModel]]]:
    found = [(path, model)]
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind, f"{path}{name}.")
    return found


KEYS = [(path, key) for path, model in sections(RunConfig) for key in model.model_fields]


def test_the_walk_reaches_optional_sections() -> None:
    assert {("model.lora.", "rank"), ("warm_start.", "lr"), ("", "seed")} <= set(KEYS)


@pytest.mark.parametrize(("path", "key"), KEYS, ids=[path + key for path, key in KEYS])
def test_a_misspelt_key_is_refused_with_the_nearest(path: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"{path}{key}x=1"])
    assert str(caught.value).startswith(f"{path}{key}x: unknown key; did you mean")
    assert repr(key) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("steps=two", "steps='two'"),
        ("steps=-1", "steps=-1"),
        ("steps=1.5", "steps=1.5"),
        ("rollout.group_size=0", "rollout.group_size=0"),
        ("optimiser.betas=[0.9]", "optimiser.betas"),
        ("model.precision=fp16", "'bf16' or 'fp32'"),
        ("loss.reduction=mean", "'token_mean'"),
        ("model=tiny", "model='tiny'"),
        ("model.lora=8", "model.lora=8"),
        ("advantages=grpo", "advantages='grpo'"),
        ("seed={a: 1}", "seed={'a': 1}"),
        ("seed", "'seed' is not of the form key=value"),
        ("=1", "'=1' is not of the form key=value"),
        ("seed=[1", "seed=[1: the value is not valid YAML"),
        ("seed.deeper=1", "seed"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_and_value(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_below_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seed\.deeper: 'seed' holds 3"):
        load_config(overrides=["seed=3", "seed.deeper=1"])


def test_several_mistakes_are_counted_and_long_values_cut() -> None:
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        load_config(overrides=["seed=a", "steps=b"])
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"seed={'x' * 500}"])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a: [1", "not valid YAML"), (b"- a\n- b\n", "holds a list"), (b"\xff\xfe\x00", "not valid YAML")],
)
def test_a_corrupt_file_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_config(tmp_path / "empty.yaml") == RunConfig()


def test_assignment_is_checked_too() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError):
        config.steps = -1
    with pytest.raises(ValidationError):
        config.stepz = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_says_what_it_is(name: str) -> None:
    config = validate(load_recipe(name))
    assert config == validate(yaml.safe_load(config.to_yaml()))
    about = describe_recipe(name)
    assert about["description"]
    assert about["paper"]


def test_recipes_by_name_and_by_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'quickstart'"):
        load_config(recipe="quikstart")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(recipe=str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("description: mine\nsteps: 3\n")
    assert load_config(recipe=str(tmp_path / "mine.yaml")).steps == 3
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(recipe=str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="keys and values"):
        load_config(recipe=str(tmp_path / "list.yaml"))


def test_loading_a_recipe_twice_shares_nothing() -> None:
    load_recipe("tiny")["rollout"]["group_size"] = 1000
    assert load_config(recipe="tiny").rollout.group_size != 1000
