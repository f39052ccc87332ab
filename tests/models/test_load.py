from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentrl.errors import ModelError
from agentrl.models import ModelSource, build_tiny, has_chat_template, load_model, load_tokenizer, resolve


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    model, tokenizer = build_tiny()
    model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    return resolve(str(tmp_path / "mine"))


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def fails(call, *arguments, **settings) -> str:
    with pytest.raises(ModelError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dtype_is_honoured(source: ModelSource) -> None:
    assert load_model(source, dtype=torch.bfloat16).dtype is torch.bfloat16
    assert load_model(source).dtype is torch.float32


def test_missing_weights_are_an_error_not_random_numbers(source: ModelSource) -> None:
    file = source.path / "model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if k != "model.norm.weight"}, file, metadata={"format": "pt"})
    assert "model.norm.weight" in fails(load_model, source)


def test_weights_of_another_shape(source: ModelSource) -> None:
    edit(source.path / "config.json", intermediate_size=256)
    assert "cannot be loaded" in fails(load_model, source)


def test_damaged_weights(source: ModelSource) -> None:
    (source.path / "model.safetensors").write_bytes(b"not a safetensors file")
    assert "cannot be loaded" in fails(load_model, source)


def test_unknown_architecture(source: ModelSource) -> None:
    edit(source.path / "config.json", model_type="nosuch", architectures=["NoSuchModel"])
    assert "nosuch" in fails(load_model, source)


def test_unknown_attention_and_device(source: ModelSource) -> None:
    assert "nosuch" in fails(load_model, source, attn_implementation="nosuch")
    assert "device 'nosuch' cannot be used" in fails(load_model, source, device="nosuch")


def test_folder_without_tokenizer(source: ModelSource) -> None:
    (source.path / "tokenizer.json").unlink()
    assert "has no tokenizer" in fails(load_tokenizer, source)


def test_damaged_tokenizer(source: ModelSource) -> None:
    (source.path / "tokenizer.json").write_text("{}")
    assert "the tokenizer of model" in fails(load_tokenizer, source)


def test_pad_falls_back_to_eos_and_nothing_is_added(source: ModelSource) -> None:
    edit(source.path / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(source)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == len(build_tiny()[1])


def test_tokenizer_without_eos(source: ModelSource) -> None:
    edit(source.path / "tokenizer_config.json", eos_token=None)
    assert "no eos_token" in fails(load_tokenizer, source)


def test_model_without_chat_template(source: ModelSource) -> None:
    assert has_chat_template(load_tokenizer(source))
    (source.path / "chat_template.jinja").unlink()
    assert not has_chat_template(load_tokenizer(source))
