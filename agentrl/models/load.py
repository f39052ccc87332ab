"""Tokenizer and model of a `ModelSource`, through transformers' Auto classes only.

Invariant: a model that comes back has every weight from its files (transformers would fill gaps with random numbers and
a log line), and a tokenizer that comes back can end a turn (eos) and fill a batch (pad). No code of a model's is run.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agentrl.errors import ModelError
from agentrl.models.quiet import without_bars
from agentrl.models.source import ModelSource
from agentrl.models.text import one_line

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)
"""Files of which every tokenizer has one: the vocabulary in the forms that transformers reads."""


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`; raises `ModelError` where it is missing or names no end of turn.

    Where no pad token is set, pad becomes eos (no new vocabulary): padding must then be told from text by length or
    mask, never by id, because a sampled eos has the same id.
    """
    if not any((source.path / name).is_file() for name in TOKENIZER_FILES):
        # transformers would invent a tokenizer with an empty vocabulary for some architectures
        raise ModelError(
            f"model {source.name!r} has no tokenizer: {source.path} lacks {TOKENIZER_FILES[0]}; "
            "save the base model's tokenizer there"
        )
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source.path, local_files_only=True))
    except Exception as error:  # whatever a foreign reader raises, the folder's files are the matter
        raise ModelError(f"the tokenizer of model {source.name!r} cannot be loaded: {one_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model {source.name!r} has no eos_token: set it in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether messages can be rendered by the tokenizer's own template."""
    return bool(tokenizer.chat_template)


def load_model(
    source: ModelSource,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str = "sdpa",
) -> PreTrainedModel:
    """The causal language model of `source` in evaluation mode; raises `ModelError` in one line."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {str(device)!r} cannot be used here: {one_line(error)}") from error
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, "local_files_only": True}
    try:
        auto = cast(Any, AutoModelForCausalLM)  # its annotations leave out output_loading_info
        with without_bars():
            model, info = auto.from_pretrained(source.path, output_loading_info=True, **settings)
        placed = cast(PreTrainedModel, model.to(place).eval())
    except Exception as error:  # whatever a foreign reader raises, the folder's files or the settings are the matter
        raise ModelError(f"model {source.name!r} cannot be loaded: {one_line(error)}") from error
    gaps = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if gaps:
        raise ModelError(
            f"model {source.name!r} cannot be loaded: its files lack or misfit {len(gaps)} weights, the first {gaps[0]}"
        )
    return placed
