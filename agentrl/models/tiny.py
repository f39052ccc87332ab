"""A small policy for tests and teaching: a real decoder of transformers' own classes that learns in seconds on a CPU.

Three layers of width 128 (0.7M parameters): two layers are the least that can copy ("find where this stood before,
take what followed"), which calling a calculator asks for; a third makes it quick. Its vocabulary is the printable ASCII
characters, one token each, so that operands are copied digit by digit, plus single tokens for the frame of chats and
tool calls and a few words, which keep an episode to a few dozen tokens. Invariant: `decode(encode(text)) == text` for
printable ASCII and newlines; any other character becomes `<unk>`. The weights depend on the seed alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentrl.models import cache
from agentrl.models.progress import Report
from agentrl.models.quiet import without_bars
from agentrl.models.source import ModelKind, ModelSource

TINY_VERSION = 2
"""Part of the cached folder's name: raise it with any change below, or old folders would be taken for new ones."""
CONTEXT = 1024
UNKNOWN, PADDING, TURN_START, TURN_END = "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHARACTERS = ["\n", *(chr(code) for code in range(32, 127))]
CALLS = {
    "calculator": "expression",
    "python": "code",
    "run_tests": "code",
    "search": "query",
    "sql": "query",
    "submit": "answer",
}
"""The bundled tools of one text argument, with its name."""
FRAME = [
    *("system\n", "user\n", "assistant\n", "tool\n"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"),
    *("<think>", "</think>", "<answer>", "</answer>"),
    *('{"name": "', '", "arguments": {', '"}}'),
    *(f'{{"name": "{tool}", "arguments": {{"{argument}": "' for tool, argument in CALLS.items()),
]
"""Single tokens beside the characters: roles of ChatML and the scaffolding of Hermes-style tool calls."""
WORDS = ["The answer is ", "SELECT ", "COUNT(*)", " FROM ", " WHERE ", "def f(", "return ", ": expected ", ", got "]
"""Pieces that questions and tools repeat and real vocabularies hold in one or two tokens."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Plain ChatML: no tools, no default system prompt."""


def build_tiny(seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A fresh float32 model on the CPU, in evaluation mode, and its tokenizer; leaves the global random state alone."""
    tokenizer = _tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        model = cast(PreTrainedModel, Qwen3ForCausalLM(config))
    _initialise(model, seed)
    model.train(False)
    return model, tokenizer


def tiny_source(name: str, seed: int, report: Report) -> ModelSource:
    """The tiny model as a cached folder in transformers form, like any other model."""

    def build(target: Path, _scratch: Path) -> None:
        model, tokenizer = build_tiny(seed)
        with without_bars():
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    origin = {"name": name, "kind": ModelKind.TINY, "seed": seed}
    folder = cache.ensure(f"tiny-v{TINY_VERSION}-seed{seed}", name, origin, 10_000_000, build, report)
    return ModelSource(name, ModelKind.TINY, folder)


def _initialise(model: PreTrainedModel, seed: int) -> None:
    """Draw every matrix from a normal distribution of standard deviation fan_in^-1/2; norms stay at one.

    The usual 0.02 is made for widths in the thousands: at 128 it leaves the attention flat for many steps.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)


def _tokenizer() -> PreTrainedTokenizerFast:
    special = [UNKNOWN, PADDING, TURN_START, TURN_END]
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    # Without merges byte-pair encoding is one token a character.
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in [*FRAME, *WORDS]])
    tokenizer = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        eos_token=TURN_END,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return cast(PreTrainedTokenizerFast, tokenizer)
