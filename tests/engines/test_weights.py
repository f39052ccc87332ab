"""The hash of what is served."""

from __future__ import annotations

import numpy as np
import torch

from agentrl.engines.weights import module_hash, weights_hash
from tests.engines.small import make_model


def test_one_bit_a_name_a_shape_or_a_type_changes_it() -> None:
    base = torch.arange(12, dtype=torch.float32)
    flipped = base.clone()
    flipped.view(torch.int32)[7] ^= 1
    variants = [
        {"a": base},
        {"b": base},
        {"a": flipped},
        {"a": base.reshape(3, 4)},
        {"a": base.bfloat16()},
        {"a": base.view(torch.int32)},
        {"a": base, "b": base},
        {},
    ]
    assert len({weights_hash(variant) for variant in variants}) == len(variants)


def test_order_and_memory_layout_do_not() -> None:
    one, two = torch.rand(4, 6), torch.rand(3)
    assert weights_hash({"a": one, "b": two}) == weights_hash({"b": two, "a": one.t().contiguous().t()})


def test_arrays_and_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert weights_hash({"a": array}) == weights_hash({"a": np.asfortranarray(array)})
    assert weights_hash({"a": array}) != weights_hash({"a": array.T})
    assert weights_hash({"a": b"one"}) == weights_hash({"a": bytearray(b"one")}) != weights_hash({"a": b"two"})


def test_a_module_counts_tied_weights_once() -> None:
    tied = make_model(tie_word_embeddings=True)
    assert module_hash(tied) == module_hash(make_model(tie_word_embeddings=True))
    before = module_hash(tied)
    with torch.no_grad():
        tied.lm_head.weight[0, 0] += 1
    assert module_hash(tied) != before
