"""Every test of models has caches of its own and no hub, unless it brings one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from huggingface_hub import constants

WIDTH, HEADS, HIDDEN = 32, 2, 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def stages() -> list[str]:
    """Filled by `watch`."""
    return []


@pytest.fixture
def watch(stages: list[str]):
    """A report that keeps each stage once."""

    def report(stage: str, done: int = 0, total: int = 0) -> None:
        if stage not in stages:
            stages.append(stage)

    return report


@pytest.fixture
def write_gguf() -> Callable[..., dict[str, np.ndarray]]:
    """Writes a real GGUF file: a Llama of one layer with a byte-level vocabulary, about 100 kB."""
    return _write_gguf


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in GPT-2's order of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(shifted))]


def _write_gguf(path: Path, seed: int = 0, without: str = "") -> dict[str, np.ndarray]:
    """Write the file and return its tensors; `without` leaves one tensor out."""
    tokens = ["<unk>", "<|im_start|>", "<|im_end|>", *_byte_symbols(), "ab"]
    writer = GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * 257)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    tensors = _tensors(len(tokens), np.random.default_rng(seed))
    tensors.pop(without, None)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def _tensors(vocabulary: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    def draw(*shape: int) -> np.ndarray:
        return random.normal(0, 0.2, shape).astype(np.float32)

    square = {f"blk.0.attn_{part}.weight": draw(WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    return {
        "token_embd.weight": draw(vocabulary, WIDTH),
        "blk.0.attn_norm.weight": 1 + draw(WIDTH),
        **square,
        "blk.0.ffn_norm.weight": 1 + draw(WIDTH),
        "blk.0.ffn_gate.weight": draw(HIDDEN, WIDTH),
        "blk.0.ffn_up.weight": draw(HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": draw(WIDTH, HIDDEN),
        "output_norm.weight": 1 + draw(WIDTH),
    }
