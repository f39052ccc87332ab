from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.errors import ConfigError, ModelError
from agentrl.models import ModelKind, build_tiny, kind_of, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = build_tiny()
    path = tmp_path / "mine"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def refusal(name: str, **settings: bool) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name, **settings)
    message = str(caught.value)
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in message
    assert name.split("/")[-1] in message
    return message


def test_a_folder_is_used_where_it_lies(folder: Path) -> None:
    source = resolve(str(folder))
    assert (source.kind, source.path, source.name) == (ModelKind.FOLDER, folder, str(folder))


def test_a_relative_folder_becomes_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve("mine").path == folder


def test_built_in_names_win_over_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("tiny"))
    monkeypatch.chdir(folder.parent)
    assert kind_of("tiny") is ModelKind.TINY
    assert resolve("./tiny").kind is ModelKind.FOLDER


def test_an_existing_folder_wins_over_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/mine"
    assert kind_of(name) is ModelKind.FOLDER
    assert kind_of("nobody/nothing-here") is ModelKind.HUB


def test_tiny_is_built_once() -> None:
    first = resolve("tiny", offline=True)
    written = (first.path / "model.safetensors").stat().st_mtime_ns
    assert resolve("tiny") == first
    assert (first.path / "model.safetensors").stat().st_mtime_ns == written


def test_misspelt_built_in_name() -> None:
    assert "did you mean 'smollm2-135m-instruct'?" in refusal("SmolLM2-135M-Instrct")


@pytest.mark.parametrize("name", ["gpt2", "", "a b/c d", "org/na me"])
def test_malformed_names(name: str) -> None:
    assert "hub id (org/name)" in refusal(name)


def test_missing_folder_names_its_neighbours(folder: Path) -> None:
    assert "did you mean 'mine'?" in refusal(str(folder.with_name("mime")))
    assert "nor a folder" in refusal(str(folder / "deeper" / "still"))


def test_missing_gguf_names_its_neighbours(tmp_path: Path, write_gguf) -> None:
    write_gguf(tmp_path / "small.gguf")
    assert "did you mean 'small.gguf'?" in refusal(str(tmp_path / "smal.gguf"))


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it" in refusal(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"'])
def test_folder_with_a_config_that_is_none(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "no transformers configuration" in refusal(str(folder))


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(str(folder))


def test_folder_with_a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    build_tiny()[0].save_pretrained(folder, max_shard_size="1MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert resolve(str(folder)).path == folder
    shards[-1].unlink()
    assert f"{shards[-1].name} named by model.safetensors.index.json" in refusal(str(folder))


def test_a_file_that_is_no_gguf(folder: Path, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"PK\x03\x04 and so on")
    assert "is not a GGUF file" in refusal(str(fake))
    fake.write_bytes(b"")
    assert "is not a GGUF file" in refusal(str(fake))
    assert "give the folder that holds it" in refusal(str(folder / "model.safetensors"))


def test_hub_id_without_hub() -> None:
    assert "HF_HUB_OFFLINE is set" in refusal("nobody/nothing")
    assert "fetching is off" in refusal("nobody/nothing", offline=True)


def test_naming_and_listing_need_no_torch() -> None:
    code = (
        "import sys, agentrl.models as m; m.list_models(); m.kind_of('tiny'); "
        "assert callable(m.resolve); assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
