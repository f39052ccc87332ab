from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from agentrl.errors import ModelError
from agentrl.models import ModelKind, list_models, load_model, load_tokenizer, resolve


def test_a_gguf_file_becomes_a_model_that_can_be_saved_and_trained(
    tmp_path: Path, watch, stages: list[str], write_gguf
) -> None:
    written = write_gguf(tmp_path / "small.gguf")
    source = resolve(str(tmp_path / "small.gguf"), progress=watch)
    assert source.kind is ModelKind.GGUF
    assert [stage.split(": ")[1] for stage in stages] == [
        "reading the weights",
        "reading the tokenizer",
        "writing safetensors",
    ]
    model = load_model(source)
    np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), written["token_embd.weight"])
    assert not hasattr(model.config, "quantization_config")
    ids = torch.tensor([[5, 9, 33, 70]])
    direct = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small.gguf", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, direct(input_ids=ids).logits)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    model.save_pretrained(tmp_path / "again")
    tokenizer = load_tokenizer(source)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "<|im_start|>user\na<|im_end|>\n"
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.decode(tokenizer.encode("a b <|im_end|>")) == "a b <|im_end|>"


def test_a_conversion_is_kept_by_content_not_by_path(tmp_path: Path, watch, stages: list[str], write_gguf) -> None:
    write_gguf(tmp_path / "one.gguf")
    first = resolve(str(tmp_path / "one.gguf"))
    (tmp_path / "one.gguf").rename(tmp_path / "two.gguf")
    assert resolve(str(tmp_path / "two.gguf"), progress=watch).path == first.path
    assert stages == []
    write_gguf(tmp_path / "one.gguf", seed=1)
    assert resolve(str(tmp_path / "one.gguf")).path != first.path
    listed = [info for info in list_models() if info.kind is ModelKind.GGUF]
    assert len(listed) == 2
    assert all(info.present and info.size > 10_000 for info in listed)
    assert resolve(listed[0].name).path == listed[0].path


def test_a_truncated_file(tmp_path: Path, write_gguf) -> None:
    whole = tmp_path / "small.gguf"
    write_gguf(whole)
    whole.write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(ModelError, match=r"small\.gguf is no readable GGUF file .*: fetch it again"):
        resolve(str(whole))


def test_a_file_that_lacks_a_weight(tmp_path: Path, write_gguf) -> None:
    write_gguf(tmp_path / "small.gguf", without="blk.0.ffn_up.weight")
    with pytest.raises(ModelError, match=r"cannot read .*weights are missing: .*up_proj"):
        resolve(str(tmp_path / "small.gguf"))
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
