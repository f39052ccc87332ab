"""Which part of a network a tensor is, read off its name and shape.

Names are those of transformers' decoders (`model.layers.3.self_attn.q_proj.weight`); what is not recognised is
`other`, and is measured all the same. Invariant: embeddings (input and output) and vectors (norms, biases) are never
among the matrices whose spectra are measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LAYER_TYPES = ("q", "k", "v", "o", "gate", "up", "down", "other")
"""Matrices of the linear layers."""
EXCLUDED_TYPES = ("embedding", "vector")
"""Everything else: entries are counted, spectra are not measured."""
_PROJECTION = re.compile(r"(?:^|\.)(q|k|v|o|gate|up|down)_proj\.")
_SAME = {"fc_in": "up", "fc_out": "down", "w1": "gate", "w2": "down", "w3": "up"}
_ALIAS = re.compile(r"(?:^|\.)(fc_in|fc_out|w1|w2|w3)\.")
_EMBEDDING = re.compile(r"(?:^|[._])(embed\w*|wte|wpe|lm_head|output_embedding\w*)(?:\.|$)")
_DEPTH = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the network a tensor stands."""

    kind: str
    """One of `LAYER_TYPES` or `EXCLUDED_TYPES`."""
    depth: int | None
    """Number of the layer; None outside the stack."""

    @property
    def linear(self) -> bool:
        """Whether it is a matrix of a linear layer."""
        return self.kind in LAYER_TYPES


def place_of(name: str, shape: tuple[int, ...]) -> Place:
    """The place of tensor `name`. A stack of matrices (three dimensions) is counted like a vector, not decomposed."""
    found = _DEPTH.search(f".{name}")
    depth = int(found[1]) if found else None
    if _EMBEDDING.search(name):
        return Place("embedding", depth)
    if len(shape) != 2 or "norm" in name:
        return Place("vector", depth)
    if projection := _PROJECTION.search(name):
        return Place(projection[1], depth)
    if alias := _ALIAS.search(name):
        return Place(_SAME[alias[1]], depth)
    return Place("other", depth)
