"""`agentrl doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from agentrl.cli.output import Json, examples, print_json, print_table

EXAMPLES = examples("agentrl doctor", "agentrl doctor --json")
_PACKAGES = ("agentrl", "torch", "transformers", "peft", "gymnasium", "pydantic", "sqlalchemy")
_FREE_GB = 4.0
"""The main job keeps about 2 GB of model, checkpoints and temporary files."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    what: str
    ok: bool
    found: str
    hint: str = ""


def doctor_command(as_json: Json = False) -> None:
    """Say which parts work here: Python, packages, GPU, memory, disk, hub, container tools."""
    findings = [finding for check in _CHECKS for finding in check()]
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    rows = [["ok" if f.ok else "no", f.what, f.found, f.hint] for f in findings]
    print_table(["", "part", "found", "what to do"], rows)


def _python() -> Iterator[Finding]:
    yield Finding("python", True, f"{platform.python_version()} on {platform.machine()}")
    for package in _PACKAGES:
        try:
            yield Finding(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, False, "not installed", f"pip install -c constraints.txt {package}")


def _compute() -> Iterator[Finding]:
    try:
        import torch
    except ImportError:  # the line of the package says so
        return
    yield Finding("cpu", True, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        yield Finding("gpu", True, torch.cuda.get_device_name())
    else:
        yield Finding("gpu", False, "none that torch sees", "not needed: everything runs on the CPU, only slower")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = pages * size / 1e9
    yield Finding("memory", memory >= 8, f"{memory:.0f} GB", "" if memory >= 8 else "the main job needs up to 8 GB")


def _disk() -> Iterator[Finding]:
    from agentrl.models.cache import models_dir

    for what, folder in {"cache folder": models_dir(), "runs folder": Path("runs").absolute()}.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e9
        writable = _writable(existing)
        hint = "" if writable else "choose another one (AGENTRL_CACHE, out=...)"
        hint = hint or ("" if free >= _FREE_GB else f"{_FREE_GB:.0f} GB should be free")
        yield Finding(what, writable and free >= _FREE_GB, f"{folder}, {free:.0f} GB free", hint)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _hub() -> Iterator[Finding]:
    try:
        from agentrl.models.hub import hub_absence
    except ImportError:
        return
    absence = hub_absence()
    hint = "not needed for smollm2-135m-instruct, which comes as a package, nor for local models"
    yield Finding("hub", absence is None, absence or "it answers", "" if absence is None else hint)


def _programs() -> Iterator[Finding]:
    for program, use in {"docker": "container sandboxes", "bwrap": "bubblewrap sandboxes"}.items():
        path = shutil.which(program)
        yield Finding(program, path is not None, path or "not on PATH", "" if path else f"only needed for {use}")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _compute, _disk, _hub, _programs)
