"""The real small model, 135M parameters, against a copy in which three entries of ten have moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentrl.models import resolve
from agentrl.probe import probe

NOISE, TOUCHED = 1e-4, 0.3


@pytest.mark.slow
def test_a_model_of_135m_parameters_is_measured_as_a_whole(tmp_path: Path) -> None:
    """Minutes at the most: about 40 seconds of one core for 210 matrices."""
    source = resolve("smollm2-135m-instruct").path
    generator = torch.Generator().manual_seed(0)
    after = {
        name: weight
        + NOISE
        * torch.randn(weight.shape, generator=generator)
        * (torch.rand(weight.shape, generator=generator) < TOUCHED)
        for name, weight in load_file(source / "model.safetensors").items()
    }
    save_file(after, tmp_path / "model.safetensors")
    del after
    shutil.copy(source / "config.json", tmp_path)
    report = probe("smollm2-135m-instruct", str(tmp_path))
    found, linear = report.total().figures(), report.to_dict()["linear"]
    assert (found["entries"], found["tensors"]) == (134_515_008, 272)
    assert found["sparsity_fp32"] == pytest.approx(1 - TOUCHED, abs=1e-3)
    assert found["sparsity_bf16"] > found["sparsity_fp32"]
    assert report.depths() == list(range(30))
    assert report.total("q", "k", "v", "o", "gate", "up", "down").spectra == 210
    assert linear["nss_is_lower_bound"] == 0
    assert 0 < linear["nss"] < linear["frobenius_ratio"] < 1e-3
    assert 0 < linear["angle_u_mean"] < linear["angle_u_max"] < 10
    assert linear["overlap_low"] > linear["chance_low"] > linear["overlap_principal"], "bfloat16 is finer near zero"
