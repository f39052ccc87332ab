"""The figures of one tensor or of many: what is added up, and what is read off the sums.

Invariant: a group of tensors has the figures of its summed counts and squares, never a mean of ratios; a figure that is
not defined (no updates, a zero matrix, no spectrum) is NaN. Angles are the exception: their largest and their mean over
all measured directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from agentrl.probe.entries import ratio

TARGETS = ("principal", "low", "principal_not_low")
"""Masks of W0 that updates are compared with."""


@dataclass(slots=True)
class Sums:
    """What a tensor adds. Fields of the second block are 0 where no spectrum is measured."""

    tensors: int = 0
    entries: int = 0
    unchanged_bf16: int = 0
    changed_bf16: int = 0
    """|M|."""
    unchanged_fp32: int = 0
    hidden: int = 0
    change_squared: float = 0.0
    """||W+ - W0||_F^2."""
    before_squared: float = 0.0
    """||W0||_F^2."""

    spectra: int = 0
    """Matrices with a spectrum."""
    truncated: int = 0
    """Those of them of which only leading singular values are known."""
    spectrum_change_squared: float = 0.0
    spectrum_squared: float = 0.0
    """The sum of squares of all singular values of W0, which is ||W0||_F^2 (0 without a spectrum)."""
    angles: int = 0
    angle_u_sum: float = 0.0
    angle_v_sum: float = 0.0
    angle_u_max: float = -math.inf
    angle_v_max: float = -math.inf
    hit_principal: int = 0
    hit_low: int = 0
    hit_principal_not_low: int = 0
    """Updates inside each mask."""
    expected_principal: float = 0.0
    expected_low: float = 0.0
    expected_principal_not_low: float = 0.0
    """Updates that a mask of its density would meet by chance."""
    masked_updates: int = 0
    """Updates of the matrices that have masks."""

    both: int = 0
    either: int = 0
    both_expected: float = 0.0
    either_expected: float = 0.0
    """Entries that the two runs changed, and what two independent masks of their densities would give."""
    compared: bool = False

    def add(self, other: Sums) -> None:
        """Add another tensor's, or another group's."""
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            joined = max(mine, theirs) if entry.name.endswith("_max") else mine + theirs
            setattr(self, entry.name, bool(joined) if entry.name == "compared" else joined)

    def figures(self) -> dict[str, float | int | None]:
        """The figures by name. Fractions in [0, 1], angles in degrees; `agreement` is None without a second run."""
        found: dict[str, float | int | None] = {
            "tensors": self.tensors,
            "entries": self.entries,
            "changed": self.changed_bf16,
            "sparsity_bf16": ratio(self.unchanged_bf16, self.entries),
            "sparsity_fp32": ratio(self.unchanged_fp32, self.entries),
            "hidden": ratio(self.hidden, self.entries),
            "frobenius": math.sqrt(self.change_squared),
            "frobenius_ratio": ratio(math.sqrt(self.change_squared), math.sqrt(self.before_squared)),
            "nss": ratio(math.sqrt(self.spectrum_change_squared), math.sqrt(self.spectrum_squared)),
            "nss_is_lower_bound": self.truncated,
        }
        for side in ("u", "v"):
            found[f"angle_{side}_max"] = getattr(self, f"angle_{side}_max") if self.angles else math.nan
            found[f"angle_{side}_mean"] = ratio(getattr(self, f"angle_{side}_sum"), self.angles)
        for target in TARGETS:
            found[f"overlap_{target}"] = ratio(getattr(self, f"hit_{target}"), self.masked_updates)
            found[f"chance_{target}"] = ratio(getattr(self, f"expected_{target}"), self.masked_updates)
        found["agreement"] = ratio(self.both, self.either) if self.compared else None
        found["agreement_chance"] = ratio(self.both_expected, self.either_expected) if self.compared else None
        return found
