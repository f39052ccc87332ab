"""`agentrl doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Annotated

import typer

from agentrl import registry
from agentrl.cli.output import Json, examples, print_json, print_table
from agentrl.errors import ConfigError

EXAMPLES = examples("agentrl doctor", "agentrl doctor --fix-hints", "agentrl doctor --json")
_PACKAGES = ("agentrl", "torch", "transformers", "peft", "gymnasium", "pydantic", "sqlalchemy")
_OPTIONAL = {"psycopg": "PostgreSQL by URL", "duckdb": "DuckDB by URL", "mcp": "tools of MCP servers"}
_FREE_GB = 4.0
"""The main job keeps about 2 GB of model, checkpoints and temporary files."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    what: str
    ok: bool
    found: str
    hint: str = ""
    remedy: str = ""
    """Shell commands that would change it, on Debian or Ubuntu."""


def doctor_command(
    as_json: Json = False,
    fix_hints: Annotated[
        bool, typer.Option("--fix-hints", help="Print the commands that would make the missing parts work.")
    ] = False,
) -> None:
    """Say which parts work here: Python, packages, GPU, memory, disk, hub, sandboxes, databases."""
    findings = [finding for check in _CHECKS for finding in check()]
    if fix_hints:
        for finding in findings:
            if not finding.ok and finding.remedy:
                typer.echo(f"# {finding.what}: {finding.found}\n{finding.remedy}\n")
        return
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
            install = f"pip install -c constraints.txt {package}"
            yield Finding(package, False, "not installed", install, install)


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


def _sandboxes() -> Iterator[Finding]:
    for name in registry.sandboxes.names():
        try:
            backend = registry.sandboxes.get(name)
            reason = backend.why_not()
        except ConfigError as error:  # one package's mistake must not hide the other lines
            yield Finding(f"sandbox {name}", False, str(error))
            continue
        yield Finding(f"sandbox {name}", reason is None, reason or backend.summary(), remedy=backend.remedy)


def _databases() -> Iterator[Finding]:
    servers = sorted(glob("/usr/lib/postgresql/*/bin/postgres"))
    path = servers[-1] if servers else shutil.which("postgres")
    hint = "" if path else "only needed for a PostgreSQL server on this machine"
    yield Finding("postgresql", path is not None, path or "no server programs", hint, "apt-get install -y postgresql")
    for package, use in _OPTIONAL.items():
        try:
            yield Finding(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            install = f"pip install -c constraints.txt {package}"
            yield Finding(package, False, "not installed", f"only needed for {use}", install)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _compute, _disk, _hub, _sandboxes, _databases)
