"""The measures of weight changes against the specification's numbers (02) and its pitfalls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.probe import ProbeSettings, entries, masks, spectrum
from agentrl.probe.figures import Sums
from agentrl.probe.layers import Place
from agentrl.probe.measure import measure

Q = Place("q", 0)
W0 = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
W1 = torch.tensor([[3, 0, 0], [0, 2, 0.1], [0, 0, 1.05]], dtype=torch.float64)
SQUARE = torch.tensor([[4, 3, 0.1, 0.2], [3, 2, 0.3, 0.1], [0.2, 0.1, 0.5, 0.05], [0.1, 0.2, 0.05, 0.4]])


def figures(before: Tensor, after: Tensor, second: Tensor | None = None, **settings: float) -> dict[str, float]:
    chosen = ProbeSettings(**settings)  # type: ignore[arg-type]
    return measure(before, after, second, place=Q, settings=chosen)[0].figures()  # type: ignore[return-value]


def mask_of(*places: int, shape: tuple[int, ...] = (4, 4)) -> Tensor:
    flat = torch.zeros(math.prod(shape), dtype=torch.bool)
    flat[list(places)] = True
    return flat.reshape(shape)


def places(mask: Tensor) -> set[int]:
    return set(mask.reshape(-1).nonzero()[:, 0].tolist())


def turned(matrix: Tensor, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(*matrix.shape, generator=generator, dtype=torch.float64))[0]


# ---------------------------------------------------------------------------------------------------- (a) the numbers


def test_spectral_drift_and_rotation_are_the_specified_ones() -> None:
    sums, wedin = measure(W0, W1, place=Q, settings=ProbeSettings(top=2))
    found = sums.figures()
    assert spectrum.full(W1).s.tolist() == pytest.approx([3, 2.003444, 1.048195], abs=1e-6)
    assert found["nss"] == pytest.approx(0.012914, abs=1e-6)
    assert found["frobenius_ratio"] == pytest.approx(0.029881, abs=1e-6)
    assert found["angle_u_max"] == pytest.approx(2.065564, abs=1e-6)
    assert found["angle_v_max"] == pytest.approx(3.943442, abs=1e-6)
    assert math.sin(math.radians(3.943442)) <= wedin == pytest.approx(math.hypot(0.1, 0.05) / (2 - 1.048195), abs=1e-6)


WEIGHTS = torch.tensor([1, 1, 0.5, -2, 0, 1e-3])
CHANGES = torch.tensor([0.003, 0.005, -0.0009, 0.004, 1e-9, 5e-6])


def test_bfloat16_sparsity_of_the_specified_weights() -> None:
    after = WEIGHTS + CHANGES
    expected = [True, False, True, False, False, False]
    assert entries.unchanged(WEIGHTS, after).tolist() == expected
    assert (~entries.update_mask(WEIGHTS, after)).tolist() == expected
    found = figures(WEIGHTS[None], after[None])
    assert found["sparsity_bf16"] == pytest.approx(1 / 3)
    assert found["sparsity_fp32"] == 0


def test_an_absolute_tolerance_would_be_wrong() -> None:
    """The pitfall: with 1e-5 the smallest weights look unchanged."""
    a, b = WEIGHTS.bfloat16().float(), (WEIGHTS + CHANGES).bfloat16().float()
    assert float(((a - b).abs() <= 1e-5).float().mean()) == pytest.approx(0.666667, abs=1e-6)
    assert float(entries.unchanged(WEIGHTS, WEIGHTS + CHANGES).float().mean()) == pytest.approx(0.333333, abs=1e-6)


def test_masks_are_the_specified_ones() -> None:
    principal = masks.principal_mask(masks.approximation(*spectrum.full(SQUARE), 1), 0.25)
    low = masks.low_mask(SQUARE, 0.25)
    assert places(principal) == {0, 1, 4, 5}
    assert places(low) == {2, 7, 11, 14}
    assert float((low | ~principal).float().mean()) == 0.75


def test_overlaps_and_run_agreement_are_the_specified_ones() -> None:
    def moved(*places: int) -> Tensor:
        return torch.where(mask_of(*places), SQUARE * 1.5, SQUARE)

    found = figures(SQUARE, moved(2, 10, 11, 14, 15), moved(2, 3, 10, 11, 15), rank=1, share=0.25)
    assert found["changed"] == 5
    assert found["overlap_principal"] == 0
    assert found["overlap_low"] == pytest.approx(0.6)
    assert found["chance_principal"] == found["chance_low"] == found["chance_principal_not_low"] == 0.25
    assert found["agreement"] == pytest.approx(0.666667, abs=1e-6)
    assert found["agreement_chance"] == pytest.approx(0.185185, abs=1e-6)


# -------------------------------------------------------------------------------------------------- (b) the behaviour


@pytest.fixture(scope="module")
def perturbed() -> tuple[Tensor, dict[str, Tensor]]:
    """A matrix with a decaying spectrum, and three changes of one norm: off its principal directions, random, on."""
    generator = torch.Generator().manual_seed(0)
    square = torch.empty(128, 128)
    u, v = turned(square, generator), turned(square, generator)
    weights = u @ torch.diag(10 * torch.exp(-torch.arange(128, dtype=torch.float64) / 10) + 0.1) @ v.T
    noise = torch.randn(128, 128, generator=generator, dtype=torch.float64)
    raw = {
        "off": u[:, 16:] @ noise[:112, :112] @ v[:, 16:].T,
        "random": noise,
        "on": u[:, :16] @ noise[:16, :16] @ v[:, :16].T,
    }
    size = 0.02 * weights.norm()
    return weights, {name: weights + change * (size / change.norm()) for name, change in raw.items()}


def test_rotation_orders_changes_off_across_and_on_the_principal_directions(
    perturbed: tuple[Tensor, dict[str, Tensor]],
) -> None:
    weights, after = perturbed
    found = {name: figures(weights, matrix, top=8) for name, matrix in after.items()}
    for side in ("u", "v"):
        turns = {name: item[f"angle_{side}_max"] for name, item in found.items()}
        assert turns["off"] < 1e-6
        assert 0.3 < turns["random"] < 1.2
        assert 1.5 < turns["on"] < 3.5
    assert all(item["frobenius_ratio"] == pytest.approx(0.02) for item in found.values())
    assert all(item["nss"] <= item["frobenius_ratio"] for item in found.values())


def test_the_rotation_never_passes_the_wedin_bound(perturbed: tuple[Tensor, dict[str, Tensor]]) -> None:
    weights, after = perturbed
    for matrix in after.values():
        for top in (1, 4, 8, 20):
            sums, wedin = measure(weights, matrix, place=Q, settings=ProbeSettings(top=top))
            worst = max(sums.angle_u_max, sums.angle_v_max)
            assert math.isnan(wedin) or math.sin(math.radians(worst)) <= wedin + 1e-12


def test_subspaces_of_equal_singular_values_do_not_rotate_by_relabelling() -> None:
    """Vector by vector, the tenth of a per cent that splits equal values would look like a right angle."""
    weights = torch.diag(torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64))
    after = weights + torch.tensor([[0, 3e-3, 0], [3e-3, 0, 0], [0, 0, 0]], dtype=torch.float64)
    assert figures(weights, after, top=2)["angle_u_max"] < 1e-6


def test_angles_are_those_of_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    bases = [turned(torch.empty(30, 7), generator) for _ in range(2)]
    expected = [math.degrees(angle) for angle in linalg.subspace_angles(*(base.numpy() for base in bases))]
    assert spectrum.angles(*bases).tolist() == pytest.approx(expected, abs=1e-9)


# ------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-4, 1e-2])
def test_fp32_sparsity_is_never_above_bf16_sparsity(scale: float) -> None:
    generator = torch.Generator().manual_seed(2)
    before = torch.randn(64, 48, generator=generator)
    touched = torch.rand(64, 48, generator=generator) < 0.5
    after = before + scale * touched * torch.randn(64, 48, generator=generator)
    sums, _ = measure(before, after, place=Q, settings=ProbeSettings())
    assert sums.unchanged_fp32 <= sums.unchanged_bf16
    assert sums.unchanged_bf16 + sums.changed_bf16 == sums.entries


def test_the_tolerance_is_equality_of_bits_for_every_pair_of_neighbours() -> None:
    bits = torch.arange(0x0080, 0x7F7F, dtype=torch.int32).to(torch.int16)  # every positive normal number
    low, high = bits.view(torch.bfloat16).float(), (bits + 1).view(torch.bfloat16).float()
    assert not entries.unchanged(low, high).any()
    assert not entries.unchanged(-low, low).any()
    assert entries.unchanged(low, low).all()


def test_half_an_ulp_is_half_the_distance_to_the_next_bfloat16() -> None:
    bits = torch.tensor([0x0000, 0x0001, 0x0080, 0x3F80, 0x3F81, 0x3FFF, 0x4000, 0x7F00], dtype=torch.int16)
    numbers, above = bits.view(torch.bfloat16).double(), (bits + 1).view(torch.bfloat16).double()
    assert entries.half_ulp(numbers).tolist() == ((above - numbers) / 2).tolist()


def test_hidden_updates_are_those_below_half_an_ulp() -> None:
    before = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    after = torch.tensor([[1.0, 1.0 + 2**-9, 1.0 + 2**-8, 1.0 - 2**-10]])
    assert entries.hidden_updates(before, after).tolist() == [[False, True, False, True]]
    assert figures(before, after)["hidden"] == 0.5


def test_groups_sum_counts_and_squares() -> None:
    generator = torch.Generator().manual_seed(3)
    pairs = []
    for shape, scale in (((8, 6), 1e-3), ((40, 30), 1e-1)):
        before = torch.randn(shape, generator=generator)
        pairs.append((before, before + scale * torch.randn(shape, generator=generator)))
    total = Sums()
    parts = [measure(before, after, place=Q, settings=ProbeSettings(top=3))[0] for before, after in pairs]
    for part in parts:
        total.add(part)
    found, each = total.figures(), [part.figures() for part in parts]
    assert found["sparsity_bf16"] == (parts[0].unchanged_bf16 + parts[1].unchanged_bf16) / (48 + 1200)
    assert found["sparsity_bf16"] != pytest.approx((each[0]["sparsity_bf16"] + each[1]["sparsity_bf16"]) / 2, abs=1e-3)
    flat = [torch.cat([pair[side].reshape(-1) for pair in pairs]) for side in (0, 1)]
    assert found["frobenius_ratio"] == pytest.approx(float((flat[1] - flat[0]).norm() / flat[0].norm()), rel=1e-5)
    assert found["angle_u_max"] == max(item["angle_u_max"] for item in each)
    assert found["angle_u_mean"] == pytest.approx(sum(item["angle_u_mean"] for item in each) / 2)


# ---------------------------------------------------------------------------------------------------- what has no value


def test_without_updates_overlaps_and_agreement_are_undefined() -> None:
    found = figures(SQUARE, SQUARE, SQUARE)
    assert found["sparsity_bf16"] == found["sparsity_fp32"] == 1
    assert found["nss"] == found["frobenius_ratio"] == found["angle_u_max"] == found["angle_v_mean"] == 0
    undefined = [f"{kind}_{target}" for kind in ("overlap", "chance") for target in ("principal", "low")]
    assert all(math.isnan(found[name]) for name in [*undefined, "agreement", "agreement_chance"])


def test_a_zero_matrix_has_no_drift() -> None:
    found = figures(torch.zeros(5, 4), torch.ones(5, 4))
    assert found["sparsity_bf16"] == 0
    assert all(math.isnan(found[name]) for name in ("nss", "frobenius_ratio", "angle_u_max", "overlap_low"))


def test_no_spectra_of_embeddings_and_vectors() -> None:
    for kind in ("embedding", "vector"):
        sums, wedin = measure(SQUARE, SQUARE * 1.5, place=Place(kind, None), settings=ProbeSettings())
        found = sums.figures()
        assert found["sparsity_bf16"] == 0
        assert all(math.isnan(found[name]) for name in ("nss", "angle_v_max", "overlap_low"))
        assert math.isnan(wedin)


@pytest.mark.parametrize(("name", "value"), [("top", 0), ("rank", 0), ("share", 0.0), ("share", 1.0)])
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        ProbeSettings(**{name: value})  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- randomised SVD


def test_a_gram_matrix_gives_the_decomposition() -> None:
    generator = torch.Generator().manual_seed(6)
    for shape in ((40, 25), (25, 40)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        found, exact = spectrum.truncated(matrix, 10), spectrum.full(matrix)
        assert found.u.shape == (shape[0], 10), "the full decomposition was taken: nothing was compared"
        assert found.s.tolist() == pytest.approx(exact.s.tolist(), abs=1e-9)
        for side in ("u", "v"):
            ours, theirs = getattr(found, side), getattr(exact, side)[:, :10]
            assert (ours.T @ ours - torch.eye(10)).abs().max() < 1e-9
            assert float(spectrum.angles(ours, theirs)[0]) < 1e-6
        assert spectrum.residual(matrix, found, 10) < 1e-9
        assert spectrum.spectral_norm(matrix) == pytest.approx(float(exact.s[0]))


def test_directions_of_vanishing_values_come_from_the_full_decomposition() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-5, 0.0], dtype=torch.float64))
    found = spectrum.truncated(matrix, 2)
    assert found.s.tolist() == pytest.approx([1.0, 1e-5, 0.0], abs=1e-15)
    assert (found.u.T @ found.u - torch.eye(3)).abs().max() < 1e-12


def test_a_randomised_decomposition_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "EXACT_SIDE", 50)
    generator = torch.Generator().manual_seed(4)
    u, v = turned(torch.empty(300, 200), generator), turned(torch.empty(200, 200), generator)
    values = 1 / torch.arange(1, 201, dtype=torch.float64) ** 0.5
    matrix = (u * values) @ v.T
    state = torch.get_rng_state()
    cheap, exact = spectrum.truncated(matrix, 20), spectrum.full(matrix)
    assert torch.equal(state, torch.get_rng_state()), "the random state is left alone"
    assert len(cheap.s) == 20, "the exact decomposition was taken: nothing was compared"
    assert cheap.s[:20].tolist() == pytest.approx(exact.s[:20].tolist(), rel=1e-5)
    assert float(spectrum.angles(cheap.u[:, :20], exact.u[:, :20])[0]) < 0.5
    assert spectrum.residual(matrix, cheap, 20) <= spectrum.RESIDUAL
    assert spectrum.spectral_norm(matrix) == pytest.approx(1.0, rel=1e-3)


def test_where_iteration_does_not_converge_the_exact_decomposition_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "EXACT_SIDE", 50)
    generator = torch.Generator().manual_seed(7)
    matrix = torch.randn(200, 200, generator=generator, dtype=torch.float64)
    assert len(spectrum.truncated(matrix, 40).s) < 200
    monkeypatch.setattr(spectrum, "ITERATIONS", (0, 1))
    found = spectrum.truncated(matrix, 40)
    assert len(found.s) == 200
    assert spectrum.residual(matrix, found, 40) <= 1e-12


def test_only_leading_values_are_called_a_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    u, v = (turned(torch.empty(80, 80), generator) for _ in range(2))
    before = (u * torch.exp(-torch.arange(80, dtype=torch.float64) / 4)) @ v.T
    after = before + 1e-3 * torch.randn(80, 80, generator=generator, dtype=torch.float64)
    exact = figures(before, after, top=4, rank=4)
    monkeypatch.setattr(spectrum, "EXACT_SIDE", 20)
    leading = figures(before, after, top=4, rank=4)
    assert (exact["nss_is_lower_bound"], leading["nss_is_lower_bound"]) == (0, 1)
    assert 0 < leading["nss"] < exact["nss"]
    assert leading["angle_u_max"] == pytest.approx(exact["angle_u_max"], rel=1e-2)


def test_a_small_change_of_a_large_matrix_is_not_drowned_by_errors_of_the_approximation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The principal mask needs more directions than the angles, and both matrices get as many."""
    generator = torch.Generator().manual_seed(8)
    u, v = turned(torch.empty(400, 300), generator), turned(torch.empty(300, 300), generator)
    before = (u / torch.arange(1, 301, dtype=torch.float64) ** 0.5) @ v.T
    after = before + 1e-5 * torch.randn(400, 300, generator=generator, dtype=torch.float64)
    exact = figures(before, after, top=8, rank=40)
    monkeypatch.setattr(spectrum, "EXACT_SIDE", 20)
    leading = figures(before, after, top=8, rank=40)
    assert (exact["nss_is_lower_bound"], leading["nss_is_lower_bound"]) == (0, 1)
    assert 0.1 * exact["nss"] < leading["nss"] < exact["nss"] < exact["frobenius_ratio"]
    for side in ("u", "v"):
        assert leading[f"angle_{side}_max"] == pytest.approx(exact[f"angle_{side}_max"], rel=1e-2)
    _, wedin = measure(before, after, place=Q, settings=ProbeSettings(top=8, rank=4))
    assert wedin == pytest.approx(1e-5 * (20 + 300**0.5) / (8**-0.5 - 9**-0.5), rel=0.1)


def test_matrices_are_decomposed_alike_where_one_of_them_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "EXACT_SIDE", 20)
    monkeypatch.setattr(spectrum, "residual", lambda matrix, found, k: float(matrix[0, 0]))
    generator = torch.Generator().manual_seed(9)
    good, bad = torch.rand(60, 60, generator=generator), torch.rand(60, 60, generator=generator)
    good[0, 0], bad[0, 0] = 0.0, 1.0
    assert [len(one.s) for one in spectrum.alike([good, good], 5)] == [5, 5]
    assert [len(one.s) for one in spectrum.alike([good, bad], 5)] == [60, 60]
