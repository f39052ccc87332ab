"""`agentrl probe`: tables for people, JSON for programs, plots, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Agentrl
from tests.learner.tiny_models import make_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A base model and one in which a third of the entries has moved."""
    folder = tmp_path_factory.mktemp("models")
    make_model().save_pretrained(folder / "base")
    make_model().save_pretrained(folder / "after")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + 1e-2 * (torch.rand(weight.shape, generator=generator) < 1 / 3)
        for name, weight in load_file(folder / "base" / "model.safetensors").items()
    }
    save_file(weights, folder / "after" / "model.safetensors")
    return str(folder / "base"), str(folder / "after")


def test_help_has_examples_of_one_line(agentrl: Agentrl) -> None:
    shown = agentrl("probe", "--help")
    assert shown.code == 0
    assert "agentrl probe base/ runs/a --second runs/b" in [line.strip() for line in shown.out.splitlines()]


def test_the_table_has_a_row_a_layer_type_and_a_summary(agentrl: Agentrl, models: tuple[str, str]) -> None:
    shown = agentrl("probe", *models)
    assert shown.code == 0, shown.err
    rows = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    assert {"q", "k", "v", "o", "gate", "up", "down", "embedding", "vector", "linear", "all"} <= set(rows)
    assert "unchanged in bfloat16" in shown.out
    assert "stored as float32 before, float32 after" in shown.out
    assert "probe weights" in shown.err


def test_json_and_files_hold_the_same_figures(agentrl: Agentrl, models: tuple[str, str], tmp_path: Path) -> None:
    shown = agentrl("probe", *models, "--second", models[1], "--out", str(tmp_path / "out"), "--json", "--top", "3")
    assert shown.code == 0, shown.err
    printed = json.loads(shown.out)
    written = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert printed == written
    assert printed["settings"] == {"top": 3, "rank": None, "share": 0.3}
    assert printed["model"]["agreement"] == 1
    assert 0.6 < printed["model"]["sparsity_bf16"] < 0.7
    assert printed["types"]["embedding"]["nss"] is None
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "probe.svg").read_text()


def test_the_same_folder_twice_is_unchanged(agentrl: Agentrl, models: tuple[str, str], tmp_path: Path) -> None:
    shown = agentrl("probe", models[0], models[0], "--second", models[0], "--out", str(tmp_path))
    assert shown.code == 0, shown.err
    assert ": 100% unchanged in bfloat16, 100% in float32" in shown.out
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["linear"]["overlap_low"] is None
    assert found["linear"]["agreement"] is None
    assert found["linear"]["nss"] == found["linear"]["angle_u_max"] == 0


def test_each_mistake_is_one_line(agentrl: Agentrl, models: tuple[str, str], tmp_path: Path) -> None:
    base = models[0]
    make_model("qwen2").save_pretrained(tmp_path / "other")
    agentrl("probe", base, str(tmp_path / "other")).fails_in_one_line("is a qwen2 model", "a llama one")
    make_model(num_hidden_layers=1).save_pretrained(tmp_path / "shallow")
    agentrl("probe", base, str(tmp_path / "shallow")).fails_in_one_line("lacks 9 of the tensors")
    agentrl("probe", base, str(tmp_path / "nowhere")).fails_in_one_line("there is no such folder")
    agentrl("probe", base, base, "--share", "1.5").fails_in_one_line("share is 1.5")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    agentrl("probe", base, str(tmp_path / "run")).fails_in_one_line("a run without a trained policy")
    (tmp_path / "file").write_text("")
    agentrl("probe", base, base, "--out", str(tmp_path / "file")).fails_in_one_line("--out", "cannot be written")


def test_a_file_that_cannot_be_written_after_the_measuring(
    agentrl: Agentrl, models: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "probe.json").mkdir()
    shown = agentrl("probe", *models, "--out", str(tmp_path))
    assert shown.code == 2
    assert shown.err.splitlines()[-1] == f"error: --out '{tmp_path}' cannot be written: Is a directory"
