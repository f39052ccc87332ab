"""Packed attention is exact and keeps rows apart."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from agentrl.learner.attention import ATTENTION, Segments
from tests.learner.tiny_models import VOCABULARY, make_model

LENGTHS = [9, 3, 14, 9, 1]


def rows(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def packed_logits(model: PreTrainedModel, parts: list[torch.Tensor]) -> torch.Tensor:
    segments = Segments.of([len(part) for part in parts])
    with torch.no_grad():
        hidden = model.model(input_ids=torch.cat(parts)[None], **segments.forward_arguments()).last_hidden_state
        return model.lm_head(hidden)[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_packed_equals_single_row_and_padded(family: str) -> None:
    model, parts = make_model(family), rows()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        single = torch.cat([model(part[None]).logits[0] for part in parts])
    padded_ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    model.set_attn_implementation(ATTENTION)
    with torch.no_grad():
        padded = model(padded_ids, attention_mask=mask.long()).logits[mask]
    packed = packed_logits(model, parts)
    assert (packed - single).abs().max() < 1e-5
    assert (packed - padded).abs().max() < 1e-5


def test_no_row_sees_another_bit_for_bit() -> None:
    model, parts = make_model(), rows()
    model.set_attn_implementation(ATTENTION)
    before = packed_logits(model, parts).split(LENGTHS)
    changed = [parts[0], parts[1], (parts[2] + 1) % VOCABULARY, *parts[3:]]
    after = packed_logits(model, changed).split(LENGTHS)
    for index in (0, 1, 3, 4):
        assert torch.equal(before[index], after[index])
    assert not torch.equal(before[2], after[2])


def test_generation_with_a_key_value_cache_and_left_padding_equals_sdpa() -> None:
    model = make_model()
    ids = torch.stack([rows()[0], rows(1)[0]])
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    outputs = []
    for implementation in ("sdpa", ATTENTION):
        model.set_attn_implementation(implementation)
        outputs.append(
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=8,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
            )
        )
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    for left, right in zip(outputs[0].logits, outputs[1].logits, strict=True):
        assert torch.equal(left, right)


def test_gradients_of_packed_and_single_rows_agree() -> None:
    gradients = []
    for packed in (True, False):
        model, parts = make_model("qwen3"), rows()
        model.set_attn_implementation(ATTENTION)
        if packed:
            segments = Segments.of(LENGTHS)
            states = [model.model(input_ids=torch.cat(parts)[None], **segments.forward_arguments()).last_hidden_state]
        else:
            states = [model.model(part[None]).last_hidden_state for part in parts]
        sum(state.square().sum() for state in states).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.model.parameters()]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[1].abs().max()
