from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentrl.models import build_tiny, has_chat_template, load_model, load_tokenizer, resolve
from agentrl.models.tiny import CHARACTERS, FRAME, WORDS

TOKENIZER = build_tiny()[1]
PIECES = [*CHARACTERS, *FRAME, *WORDS, "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join)


@given(TEXTS)
def test_printable_text_survives_encoding_and_decoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.text())
def test_any_text_encodes_within_the_vocabulary(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= index < len(TOKENIZER) for index in ids)
    assert len(ids) <= len(text)


def test_foreign_characters_become_unk_one_by_one() -> None:
    assert TOKENIZER.encode("aéß") == [TOKENIZER.encode("a")[0], TOKENIZER.unk_token_id, TOKENIZER.unk_token_id]


def test_frame_pieces_are_single_tokens_and_the_longest_wins() -> None:
    for piece in [*FRAME, *WORDS, "<|im_start|>", "<|im_end|>"]:
        assert len(TOKENIZER.encode(piece)) == 1, piece
    call = '<tool_call>{"name": "calculator", "arguments": {"expression": "12 + 7"}}</tool_call>'
    assert len(TOKENIZER.encode(call)) == 4 + len("12 + 7")


def test_chat_template_is_plain_chatml_without_default_system_prompt() -> None:
    messages = [{"role": "user", "content": "2 + 3?"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n"
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_scaffolding_stays_when_special_tokens_are_skipped() -> None:
    ids = TOKENIZER.encode("<tool_call>1</tool_call><|im_end|>")
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<tool_call>1</tool_call>"


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_tiny(3)[0].state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build_tiny(3)[0].state_dict(), build_tiny(4)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_it_is_small_and_float32() -> None:
    model = build_tiny()[0]
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_loads_like_any_other_model(attention: str) -> None:
    source = resolve("tiny", offline=True)
    tokenizer, model = load_tokenizer(source), load_model(source, attn_implementation=attention)
    built, _ = build_tiny(0)
    assert has_chat_template(tokenizer)
    text = 'user\n {"name": " a  b .<|im_end|>'
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = torch.tensor([tokenizer.encode("What is 12 + 7?")])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, built(input_ids=ids).logits)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_it_learns_to_copy() -> None:
    """The property that it exists for: a few steps move it far below the loss of guessing the digits."""
    model, tokenizer = build_tiny(0)
    random = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loss = torch.tensor(0.0)
    for _ in range(80):
        numbers = torch.randint(1000, 10000, (16,), generator=random).tolist()
        ids = torch.tensor([tokenizer.encode(f"{number}<tool_call>{number}<|im_end|>") for number in numbers])
        logits = model(input_ids=ids).logits[:, 4:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 5:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    guessing = 4 / 5 * torch.log(torch.tensor(10.0))  # four digits of ten each, one end token for certain
    assert loss.item() < guessing / 2
