"""Two (or three) checkpoints compared, one tensor at a time, and the figures by layer type and by depth.

Invariant: at any moment one tensor of each checkpoint is in memory. What is compared must be one architecture: the same
names with the same shapes.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.observe import Observer
from agentrl.probe import entries, masks, spectrum
from agentrl.probe.figures import Sums
from agentrl.probe.layers import EXCLUDED_TYPES, LAYER_TYPES, Place, place_of
from agentrl.probe.weights import Weights, open_weights
from agentrl.registry import nearest

FORMAT = 1
"""Version of the form of `ProbeReport.to_dict`."""
SLICE = 1 << 24
"""Entries that are counted at a time, so that embeddings need no copies of themselves in float64."""


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """What is measured."""

    top: int = 50
    """Leading singular directions whose rotation is measured; at most one less than the smaller side."""
    rank: int | None = None
    """Rank of the approximation behind the principal mask; None: 10 % of the smaller side, at most 512."""
    share: float = 0.3
    """Alpha: share of entries in the principal and in the low-magnitude mask."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top is {self.top}; it counts singular directions, so at least 1")
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank is {self.rank}; it is the rank of a matrix, so at least 1")
        if not 0 < self.share < 1:
            raise ConfigError(f"share is {self.share}; it is a share of entries, above 0 and below 1")


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor."""

    name: str
    kind: str
    depth: int | None
    shape: tuple[int, ...]
    sums: Sums
    wedin: float
    """Bound of the sine of its largest angles; NaN where undefined."""


@dataclass
class ProbeReport:
    """What was found."""

    before: dict[str, Any]
    after: dict[str, Any]
    second: dict[str, Any] | None
    settings: ProbeSettings
    seconds: float = 0.0
    tensors: list[TensorReport] = field(default_factory=list)

    def total(self, *kinds: str, depth: int | None = None) -> Sums:
        """The sums over tensors of these kinds (all if none is given), of one depth where it is given."""
        total = Sums()
        for tensor in self.tensors:
            if (not kinds or tensor.kind in kinds) and depth in (None, tensor.depth):
                total.add(tensor.sums)
        return total

    def by_type(self) -> dict[str, Sums]:
        """Sums of each layer type that occurs, in the usual order."""
        present = {tensor.kind for tensor in self.tensors}
        return {kind: self.total(kind) for kind in (*LAYER_TYPES, *EXCLUDED_TYPES) if kind in present}

    def depths(self) -> list[int]:
        """Numbers of the layers that hold matrices."""
        return sorted({item.depth for item in self.tensors if item.depth is not None and item.kind in LAYER_TYPES})

    def to_dict(self) -> dict[str, Any]:
        """For `probe.json`; figures that are not defined are NaN (written as null)."""
        return {
            "format": FORMAT,
            "before": self.before,
            "after": self.after,
            "second": self.second,
            "settings": asdict(self.settings),
            "seconds": self.seconds,
            "model": self.total().figures(),
            "linear": self.total(*LAYER_TYPES).figures(),
            "types": {kind: sums.figures() for kind, sums in self.by_type().items()},
            "depths": {str(depth): self.total(*LAYER_TYPES, depth=depth).figures() for depth in self.depths()},
            "tensors": [
                {
                    "name": item.name,
                    "type": item.kind,
                    "depth": item.depth,
                    "shape": list(item.shape),
                    **item.sums.figures(),
                    "wedin": item.wedin,
                }
                for item in self.tensors
            ],
        }


def probe(
    before: str,
    after: str,
    second: str | None = None,
    *,
    settings: ProbeSettings | None = None,
    observer: Observer | None = None,
) -> ProbeReport:
    """Compare checkpoint `after` with `before`, and the entries it changed with those of the run `second`.

    Each is a hub id, a folder, a GGUF file, a built-in name, a run's folder or checkpoint, or a LoRA adapter's folder.
    Raises `ConfigError` (`ModelError` for a checkpoint that cannot be read) before anything is measured where they are
    not of one architecture.
    """
    chosen, watch = settings or ProbeSettings(), observer or Observer()
    began = time.perf_counter()
    with ExitStack() as stack:
        names = [before, after] if second is None else [before, after, second]
        opened = [stack.enter_context(open_weights(name)) for name in names]
        for other in opened[1:]:
            check_comparable(opened[0], other)
        origins = [_origin(item) for item in opened]
        report = ProbeReport(origins[0], origins[1], origins[2] if second is not None else None, chosen)
        watch.phase("probe weights", len(opened[0].entries))
        for name, entry in opened[0].entries.items():
            place = place_of(name, entry.shape)
            sums, wedin = measure(*(item.read(name) for item in opened), place=place, settings=chosen)
            report.tensors.append(TensorReport(name, place.kind, place.depth, entry.shape, sums, wedin))
            watch.advance(1)
    report.seconds = time.perf_counter() - began
    return report


def _origin(weights: Weights) -> dict[str, Any]:
    return {"name": weights.name, "path": str(weights.path), "type": weights.model_type, "stored": weights.dtypes}


def check_comparable(before: Weights, after: Weights) -> None:
    """Raise `ConfigError` unless both hold the same tensors."""
    if before.model_type and after.model_type and before.model_type != after.model_type:
        raise ConfigError(
            f"{after.name!r} is a {after.model_type} model, {before.name!r} a {before.model_type} one: "
            "only checkpoints of one architecture can be compared"
        )
    for here, there in ((before, after), (after, before)):
        lacking = sorted(set(here.entries) - set(there.entries))
        if lacking:
            raise ConfigError(
                f"{there.name!r} lacks {len(lacking)} of the tensors of {here.name!r}, the first {lacking[0]} "
                f"({nearest(lacking[0], sorted(there.entries))})"
            )
    for name, entry in before.entries.items():
        if entry.shape != after.entries[name].shape:
            raise ConfigError(
                f"{name} is {entry.shape} in {before.name!r} and {after.entries[name].shape} in {after.name!r}: "
                "only checkpoints of one architecture can be compared"
            )


@torch.no_grad()
def measure(
    before: Tensor, after: Tensor, second: Tensor | None = None, *, place: Place, settings: ProbeSettings
) -> tuple[Sums, float]:
    """The sums of one tensor, and the Wedin bound of its rotation; tensors of one shape, any float type."""
    sums = Sums(tensors=1, entries=before.numel(), compared=second is not None)
    given = [before, after] if second is None else [before, after, second]
    flat = [torch.split(tensor.reshape(-1), SLICE) for tensor in given]
    elsewhere = 0
    for pieces in zip(*flat, strict=True):
        mask = _count(sums, pieces[0], pieces[1])
        if second is not None:
            other = entries.update_mask(pieces[0], pieces[2])
            sums.both += int((mask & other).sum())
            sums.either += int((mask | other).sum())
            elsewhere += int(other.sum())
    if second is not None and sums.entries:
        p, q = sums.changed_bf16 / sums.entries, elsewhere / sums.entries
        sums.both_expected, sums.either_expected = sums.entries * p * q, sums.entries * (p + q - p * q)
    if not place.linear or not sums.before_squared:
        return sums, math.nan  # of a zero matrix every direction is as good as any other
    return sums, _spectral(sums, before, after, settings)


def _count(sums: Sums, before: Tensor, after: Tensor) -> Tensor:
    """Add what the entries of a slice tell; returns its update mask."""
    mask = entries.update_mask(before, after)
    sums.changed_bf16 += int(mask.sum())
    sums.unchanged_bf16 += int(entries.unchanged(before, after).sum())
    sums.unchanged_fp32 += int((before == after).sum())
    sums.hidden += int(entries.hidden_updates(before, after).sum())
    sums.change_squared += float((after.double() - before.double()).square().sum())
    sums.before_squared += float(before.double().square().sum())
    return mask


def _spectral(sums: Sums, before: Tensor, after: Tensor, settings: ProbeSettings) -> float:
    """Add what the spectra tell; returns the Wedin bound."""
    shape = tuple(before.shape)
    k = max(1, min(settings.top, min(shape) - 1))
    rank = masks.mask_rank(shape, settings.rank)
    sums.spectra, sums.spectrum_squared, sums.angles = 1, sums.before_squared, k
    if not sums.change_squared:  # nothing moved, which no decomposition need find out
        sums.angle_u_max = sums.angle_v_max = 0.0
        return 0.0
    start, end = spectrum.alike([before, after], max(k + 1, rank))
    found = spectrum.drift(start, end, after.double() - before.double(), k)
    sums.spectrum_change_squared = found.spectrum_change**2
    sums.truncated = int(not found.exact)
    sums.angle_u_max, sums.angle_v_max = float(found.angles_u[0]), float(found.angles_v[0])
    sums.angle_u_sum, sums.angle_v_sum = float(found.angles_u.sum()), float(found.angles_v.sum())
    mask = entries.update_mask(before, after)
    principal = masks.principal_mask(masks.approximation(*start, rank), settings.share)
    low = masks.low_mask(before, settings.share)
    sums.masked_updates = sums.changed_bf16
    for name, target in {"principal": principal, "low": low, "principal_not_low": principal & ~low}.items():
        setattr(sums, f"hit_{name}", int((target & mask).sum()))
        setattr(sums, f"expected_{name}", sums.changed_bf16 * int(target.sum()) / sums.entries)
    return found.wedin


__all__ = ["ProbeReport", "ProbeSettings", "TensorReport", "check_comparable", "measure", "probe"]
