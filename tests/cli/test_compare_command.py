"""`agentrl compare` and `agentrl report` on real evaluations, and the mistakes that one makes with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.evaluation import evaluate
from agentrl.trajectory import Trajectory
from tests.cli.conftest import Agentrl
from tests.report.reading import assert_inert, read

TASKS, SAMPLES = 6, 2


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle and a random agent on the same tasks of Arithmetic."""
    folder = tmp_path_factory.mktemp("eval")
    for model in ("oracle", "random"):
        evaluate("agentrl/Arithmetic-v0", model, tasks=TASKS, samples=SAMPLES, out=folder / model)
    return folder


def test_the_oracles_report_is_that_of_its_episodes(played: Path) -> None:
    tree = json.loads((played / "oracle" / "report.json").read_text())
    lines = (played / "oracle" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    episodes = [Trajectory.from_json(json.dumps(json.loads(line)["trajectory"])) for line in lines]
    total = tree["total"]
    assert len(episodes) == TASKS * SAMPLES == total["judged"] == total["planned"] == total["correct"]
    assert total["accuracy"]["value"] == total["pass_hat_k"][-1]["value"] == 1.0
    assert total["accuracy"]["low"] < 1.0  # that all were right does not show that all would be
    calls = [call for episode in episodes for turn in episode.turns for call in turn.tool_calls]
    assert (total["tools"]["calls"], total["tools"]["error_share"]) == (len(calls), 0.0)
    assert sum(total["stages"].values()) == pytest.approx(sum(episode.seconds for episode in episodes))
    assert tree["finished"] and tree["model"] == {"name": "oracle", "kind": "oracle", "weights_hash": None}
    assert_inert(played / "oracle" / "report.html")


def test_a_table_json_and_a_page(played: Path, agentrl: Agentrl, tmp_path: Path) -> None:
    places = [str(played / model) for model in ("random", "oracle")]
    shown = agentrl("compare", *places)
    assert shown.code == 0 and "A random, B oracle" in shown.out and shown.err == ""
    page = tmp_path / "compared.html"
    shown = agentrl("compare", *places, "--json", "--out", str(page))
    tree = json.loads(shown.out)
    assert tree["total"]["accuracy"]["difference"]["value"] == tree["total"]["accuracy"]["mean_b"] == 1.0
    assert tree["total"]["accuracy"]["pairs"] == TASKS * SAMPLES and tree["unit"] == "sample"
    assert len(tree["only_b"]) == TASKS
    assert_inert(page)
    assert "B alone solves" in read(page).text


def test_a_report_is_built_again(played: Path, agentrl: Agentrl) -> None:
    folder = played / "oracle"
    before = (folder / "report.json").read_bytes()
    for name in ("report.json", "report.html", "episodes.jsonl"):
        (folder / name).unlink()
    shown = agentrl("report", str(folder))
    assert shown.code == 0 and "report.html" in shown.out
    assert (folder / "report.json").read_bytes() == before
    assert (folder / "report.html").is_file() and (folder / "episodes.jsonl").is_file()


def test_mistakes_are_one_line(played: Path, agentrl: Agentrl, tmp_path: Path) -> None:
    oracle = str(played / "oracle")
    agentrl("compare", oracle, str(tmp_path / "nothing")).fails_in_one_line("B=", "neither an evaluation's folder nor")
    agentrl("compare", oracle, str(tmp_path)).fails_in_one_line("holds no run")
    agentrl("compare", "orcle", "random", "--store", oracle).fails_in_one_line("no run 'orcle'", "oracle")
    agentrl("report", str(tmp_path)).fails_in_one_line("holds no run")
    agentrl("compare", oracle, oracle, "--out", str(tmp_path / "no" / "page.html")).fails_in_one_line(
        "cannot be written"
    )
    broken = tmp_path / "report.json"
    broken.write_text(
        (played / "oracle" / "report.json").read_text().replace('"schema_version": 1', '"schema_version": 2')
    )
    agentrl("compare", oracle, str(broken)).fails_in_one_line("no report of an evaluation", "schema_version")
    evaluate("agentrl/Arithmetic-v0", "oracle", tasks=TASKS + 1, out=tmp_path / "more")
    agentrl("compare", oracle, str(tmp_path / "more")).fails_in_one_line("different tasks", "digest")
    evaluate("agentrl/Arithmetic-v0", "random", tasks=TASKS, out=tmp_path / "hot", temperature=0.5)
    agentrl("compare", oracle, str(tmp_path / "hot")).fails_in_one_line("sampling.temperature", "--other-sampling")
