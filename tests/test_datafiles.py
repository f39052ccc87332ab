"""Task files: every kind that is read, and one line for everything that is wrong with one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from agentrl.datafiles import read_lines, read_rows
from agentrl.errors import ConfigError

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "größer?", "answer": "ja"}]


def written(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        ("a.jsonl.gz", "\n".join(json.dumps(row) for row in ROWS)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.csv", "question,answer\n1 + 1?,2\ngrößer?,ja\n"),
        ("a.csv", "\ufeffquestion,answer\n1 + 1?,2\ngrößer?,ja\n"),
    ],
)
def test_rows_are_read(tmp_path: Path, name: str, text: str) -> None:
    assert read_rows(written(tmp_path / name, text), required=["question", "answer"], what="source") == ROWS


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"question": 1}\n{"question"', "line 2: not JSON"),
        ("a.jsonl", '{"question": 1}\n[1]', "row 2: expected an object, not list"),
        ("a.jsonl", '{"questions": 1}', "row 1: there is no key 'question'; did you mean 'questions'?"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.json", '{"a": 1}', "an object that holds one list"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.txt", "x", "the kind '.txt' is unknown"),
        ("a.jsonl.gz", "", "has no rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(written(tmp_path / name, text), required=["question"], what="source")
    assert said in str(caught.value)
    assert str(caught.value).startswith("source=")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_broken_or_of_no_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when that library was imported
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(b"no gzip")
    binary = tmp_path / "c.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for source in (tmp_path / "none.jsonl", broken, binary, "hf://datasets/owner/name", "hf://datasets/no/such/f.json"):
        with pytest.raises(ConfigError, match="source="):
            read_rows(source, what="source")


def test_lines_are_read_with_their_numbers_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = "\n".join(["", json.dumps(ROWS[0]), "", json.dumps(ROWS[1])])
    for name in ("a.json", "a.jsonl", "a.json.gz", "a"):
        assert read_lines(written(tmp_path / name, lines), what="path") == [(2, ROWS[0]), (4, ROWS[1])]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n\n{"a"', "line 3: not JSON"),
        (json.dumps(ROWS), "line 1: expected an object a line"),
        ("[\n{}\n]", "line 1: not JSON"),
        ("\n", "has no rows"),
    ],
)
def test_what_is_wrong_with_lines_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_lines(written(tmp_path / "a.json", text), what="path")
    assert said in str(caught.value) and str(caught.value).startswith("path=") and "\n" not in str(caught.value)


def test_lines_of_a_file_that_is_absent_or_broken_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip")
    for name in ("none.jsonl", "b.jsonl.gz"):
        with pytest.raises(ConfigError, match="path="):
            read_lines(tmp_path / name, what="path")
