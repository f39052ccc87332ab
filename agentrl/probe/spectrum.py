"""Singular values and leading singular vectors, exact or randomised, and how two matrices' compare.

Up to `EXACT_SIDE` all singular values are computed, in float64: from the eigenvalues of the smaller Gram matrix, which
takes a third of the time of a decomposition, or by that where leading values are too small for it. Above, the leading
part comes from randomised subspace iteration, whose residuals are measured: it is repeated with more iterations, and in
the end replaced by a full decomposition, until they are small. Invariants: singular values are in descending order; U
and V are never mixed up; subspaces are compared, never vectors one by one, which near-equal values would upset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

EXACT_SIDE = 2048
"""Largest smaller side of a matrix all of whose singular values are computed."""
GRAM_RANGE = 1e-3
"""Smallest leading singular value, over the largest, whose vectors a Gram matrix gives: its square costs digits, and at
1e-3 ten of sixteen are left."""
OVERSAMPLING = 1.5
"""Columns of the randomised basis over those that are wanted."""
ITERATIONS = (4, 16)
"""Subspace iterations of the first and of the second attempt."""
RESIDUAL = 1e-3
"""Largest |W v - s u| / s of a leading pair that counts as converged: a rotation below a tenth of a degree shows."""


class Decomposition(NamedTuple):
    """W = U diag(s) V^T, or the leading part of it: at least as many values as vectors."""

    u: Tensor
    """Shape (rows, k)."""
    s: Tensor
    """Shape (k or more,), descending."""
    v: Tensor
    """Shape (columns, k)."""


def full(matrix: Tensor) -> Decomposition:
    """The exact decomposition, in float64."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Decomposition(u, s, vh.T)


def truncated(matrix: Tensor, k: int) -> Decomposition:
    """The leading k singular triplets of a matrix, in float64, and all singular values up to `EXACT_SIDE`."""
    return alike([matrix], k)[0]


def alike(matrices: Sequence[Tensor], k: int) -> list[Decomposition]:
    """`truncated` of matrices of one shape, all in the same way: what an approximation lacks, it lacks in all of them.

    Otherwise its errors, which are larger than a small change, would look like one.
    """
    smaller = min(matrices[0].shape)
    if smaller <= EXACT_SIDE:
        return [_by_gram(matrix.double(), min(k, smaller)) or full(matrix) for matrix in matrices]
    wanted = min(smaller, math.ceil(k * OVERSAMPLING) + 8)
    for iterations in ITERATIONS if wanted * 2 <= smaller else ():
        found = [_randomised(matrix, wanted, iterations) for matrix in matrices]
        if all(residual(matrix, one, k) <= RESIDUAL for matrix, one in zip(matrices, found, strict=True)):
            return [Decomposition(u[:, :k], s[:k], v[:, :k]) for u, s, v in found]  # the others have not converged
    return [full(matrix) for matrix in matrices]


def _by_gram(matrix: Tensor, k: int) -> Decomposition | None:
    """k triplets and all values from the smaller Gram matrix; None where the k-th value is too small for that."""
    if matrix.shape[0] < matrix.shape[1]:
        found = _by_gram(matrix.T, k)
        return None if found is None else Decomposition(found.v, found.s, found.u)
    squares, vectors = torch.linalg.eigh(matrix.T @ matrix)
    s, v = squares.clamp(min=0.0).sqrt().flip(0), vectors[:, -k:].flip(1)
    if not float(s[k - 1]) > GRAM_RANGE * float(s[0]):
        return None
    return Decomposition(matrix @ v / s[:k], s, v)


def residual(matrix: Tensor, found: Decomposition, k: int) -> float:
    """max_i |W v_i - s_i u_i| / s_i over the first k triplets; 0 for an exact decomposition."""
    u, s, v = found.u[:, :k], found.s[:k], found.v[:, :k]
    gap = torch.linalg.vector_norm(matrix.double() @ v - u * s, dim=0)
    return float((gap / s.clamp(min=torch.finfo(torch.float64).tiny)).max())


def _randomised(matrix: Tensor, columns: int, iterations: int) -> Decomposition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same for every matrix: see `alike`
        u, s, v = torch.svd_lowrank(matrix.double(), q=columns, niter=iterations)
    return Decomposition(u, s, v)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles in degrees, descending, between the spans of two orthonormal bases (n, k): shape (k,), float64.

    The cosines are the singular values of first^T second; below 45 degrees, where a cosine hides small angles in its
    rounding, the sines tell them (Bjorck and Golub 1973).
    """
    first, second = first.double(), second.double()
    product = first.T @ second
    cosines = torch.linalg.svdvals(product).clamp(0.0, 1.0).flip(0)
    sines = torch.linalg.svdvals(second - first @ product).clamp(0.0, 1.0)
    return torch.rad2deg(torch.where(cosines.square() > 0.5, torch.asin(sines), torch.acos(cosines)))


@dataclass(frozen=True, slots=True)
class Drift:
    """How spectrum and leading subspaces moved from W0 to W+."""

    spectrum_change: float
    """||s(W+) - s(W0)||_2, over all singular values where `exact`, else over the leading ones: then a lower bound."""
    exact: bool
    angles_u: Tensor
    angles_v: Tensor
    """Degrees, descending, shape (k,)."""
    wedin: float
    """Upper bound of sin(largest angle): ||W+ - W0||_2 / (s_k(W0) - s_{k+1}(W+)); NaN unless that gap is positive."""


def drift(before: Decomposition, after: Decomposition, change: Tensor, k: int) -> Drift:
    """Compare two matrices of one shape that differ by `change`, decomposed alike; angles of the first k directions.

    Of each at least k triplets, and one value more where there are more.
    """
    count = min(len(before.s), len(after.s))
    gap = float(before.s[k - 1]) - (float(after.s[k]) if len(after.s) > k else 0.0)
    return Drift(
        spectrum_change=float(torch.linalg.vector_norm(after.s[:count] - before.s[:count])),
        exact=count == min(change.shape),
        angles_u=angles(before.u[:, :k], after.u[:, :k]),
        angles_v=angles(before.v[:, :k], after.v[:, :k]),
        wedin=spectral_norm(change) / gap if gap > 0 else math.nan,
    )


def spectral_norm(matrix: Tensor) -> float:
    """||W||_2, the largest singular value; of large matrices by iteration, which may miss a few per mille of it."""
    if min(matrix.shape) > EXACT_SIDE:
        return float(_randomised(matrix, 32, ITERATIONS[-1]).s[0])
    wide = matrix.double() if matrix.shape[0] < matrix.shape[1] else matrix.double().T
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(wide @ wide.T)[-1])))
