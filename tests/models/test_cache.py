from __future__ import annotations

import shutil
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentrl.errors import ModelError
from agentrl.models import cache, resolve


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    pass


def put(target: Path, _scratch: Path) -> None:
    (target / "weights").write_bytes(b"0123456789")


def test_a_sound_entry_is_not_built_again() -> None:
    folder = cache.ensure("key", "model", {"name": "model"}, 0, put, silent)

    def never(_target: Path, _scratch: Path) -> None:
        raise AssertionError("built again")

    assert cache.ensure("key", "model", {}, 0, never, silent) == folder
    assert cache.read_manifest(folder)["origin"] == {"name": "model"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "weights").write_bytes(b"01234"), "has 5 bytes, not the 10 recorded"),
        (lambda folder: (folder / "weights").write_bytes(b"012345678X"), "does not match the SHA-256"),
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: (folder / cache.MANIFEST).write_text("{"), "missing or unreadable"),
        (lambda folder: (folder / cache.MANIFEST).unlink(), "missing or unreadable"),
    ],
)
def test_a_damaged_entry_is_built_again_with_a_warning(damage, said: str) -> None:
    folder = cache.ensure("key", "model", {}, 0, put, silent)
    damage(folder)
    assert cache.find("key") is None
    with pytest.warns(UserWarning, match=said):
        cache.ensure("key", "model", {}, 0, put, silent)
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert cache.fault(folder) is None


def test_a_failed_build_leaves_nothing_under_the_name_and_no_litter() -> None:
    def broken(target: Path, scratch: Path) -> None:
        put(target, scratch)
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        cache.ensure("key", "model", {}, 0, broken, silent)
    assert [path.name for path in cache.models_dir().iterdir() if path.is_dir()] == []


def test_what_a_killed_process_left_is_cleared() -> None:
    partial = cache.models_dir() / ".key.partial"
    (partial / "model").mkdir(parents=True)
    (partial / "model" / "half").write_bytes(b"0")
    folder = cache.ensure("key", "model", {}, 0, put, silent)
    assert sorted(path.name for path in folder.iterdir()) == [cache.MANIFEST, "weights"]
    assert not partial.exists()


def test_two_at_once_build_once_and_the_second_waits(watch, stages: list[str]) -> None:
    built: list[str] = []
    started = threading.Event()

    def slow(target: Path, scratch: Path) -> None:
        built.append("x")
        started.set()
        time.sleep(0.3)
        put(target, scratch)

    first = threading.Thread(target=cache.ensure, args=("key", "model", {}, 0, slow, silent))
    first.start()
    assert started.wait(5)
    cache.ensure("key", "model", {}, 0, slow, watch)
    first.join()
    assert built == ["x"]
    assert stages == ["waiting for another process that prepares model"]


def test_a_lock_that_is_never_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    cache.models_dir().mkdir(parents=True)
    with (
        cache.FileLock(cache.models_dir() / ".key.lock"),
        pytest.raises(ModelError, match=r"another process has held .* preparing model: end it"),
    ):
        cache.ensure("key", "model", {}, 0, put, silent)


def test_an_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")  # a folder below a file cannot be made, whoever asks (root may write anywhere)
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot write the model cache .*set AGENTRL_CACHE") as caught:
        resolve("tiny")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_noticed_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(ModelError, match=r"needs 750 MB, but .* has 5 MB free: make room, or set AGENTRL_CACHE"):
        cache.ensure("key", "model", {}, 750_000_000, put, silent)


def test_a_disk_that_fills_on_the_way() -> None:
    def full(_target: Path, _scratch: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="no space left in the model cache"):
        cache.ensure("key", "model", {}, 0, full, silent)


def test_a_damaged_tiny_model_is_rebuilt() -> None:
    source = resolve("tiny")
    original = (source.path / "model.safetensors").read_bytes()
    (source.path / "model.safetensors").write_bytes(original[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        assert resolve("tiny") == source
    assert (source.path / "model.safetensors").read_bytes() == original
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve("tiny")
