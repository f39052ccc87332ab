"""What a user installs: a wheel with every file of every package under its import name, and entry points that load."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"agentrl": "agentrl", "envs": "agentrl/envs", "tools": "agentrl/tools", "rollouts": "agentrl/rollouts"}
TOP = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = {"console_scripts": PROJECT["project"]["scripts"], **PROJECT["project"]["entry-points"]}
POINTS = [
    importlib.metadata.EntryPoint(name, value, group)
    for group, entries in GROUPS.items()
    for name, value in entries.items()
]


def expected(root: Path) -> set[str]:
    """Name inside the wheel of every file in the package folders: modules, recipes, templates, type markers."""
    return {
        f"{target}/{path.relative_to(root / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def build(source: Path, out: Path) -> set[str]:
    """Builds the wheel of a copy of `source`, offline, into `out`; returns the names in it."""
    copy = out / "source"  # a build writes into its tree, and an old build there would show in the next wheel
    copy.mkdir(parents=True)
    for name in TOP:
        shutil.copy(source / name, copy / name)
    for folder in FOLDERS:
        shutil.copytree(source / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run([*command, "--wheel-dir", str(out)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        archive.extractall(out / "installed")
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's `installed` tree."""
    out = tmp_path_factory.mktemp("wheel")
    build(ROOT, out)
    return out


def test_the_wheel_holds_every_file_under_its_import_name(wheel: Path) -> None:
    installed = {path.relative_to(wheel / "installed").as_posix() for path in (wheel / "installed").rglob("*")}
    missing = expected(ROOT) - installed
    assert not missing, f"not in the wheel: {sorted(missing)}; see packages and package-data in pyproject.toml"
    assert {"agentrl/py.typed", "agentrl/envs/py.typed", "agentrl/envs/__init__.py"} <= installed
    assert not [name for name in installed if name.split("/")[0] not in ("agentrl", f"agentrl-{version()}.dist-info")]


def test_the_check_notices_a_package_that_is_not_listed(tmp_path: Path) -> None:
    source = tmp_path / "checkout"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TOP:
        shutil.copy(ROOT / name, source / name)
    (source / "agentrl" / "forgotten").mkdir()
    (source / "agentrl" / "forgotten" / "__init__.py").touch()
    assert "agentrl/forgotten/__init__.py" in expected(source) - build(source, tmp_path / "out")


def version() -> str:
    return str(PROJECT["project"]["version"])


def test_the_version_is_one(wheel: Path) -> None:
    metadata = (wheel / "installed" / f"agentrl-{version()}.dist-info" / "METADATA").read_text(encoding="utf-8")
    assert f"\nVersion: {version()}\n" in metadata
    assert importlib.metadata.version("agentrl") == version()


def test_the_wheel_ships_the_licence_and_the_notice(wheel: Path) -> None:
    licences = wheel / "installed" / f"agentrl-{version()}.dist-info" / "licenses"
    for name in ("LICENSE", "NOTICE"):
        assert (licences / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_alone_imports_the_packs(wheel: Path) -> None:
    code = "import agentrl.envs, agentrl.tools, agentrl.rollouts as r; print(r.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(wheel / "installed")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=wheel)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.splitlines()[-1]).is_relative_to(wheel / "installed")


def test_the_wheel_declares_the_entry_points_of_the_project(wheel: Path) -> None:
    parser = ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their capitals
    parser.read(wheel / "installed" / f"agentrl-{version()}.dist-info" / "entry_points.txt", encoding="utf-8")
    declared = {(group, name, value) for group in parser.sections() for name, value in parser.items(group)}
    assert declared == {(point.group, point.name, point.value) for point in POINTS}


@pytest.mark.parametrize("point", POINTS, ids=[f"{point.group}:{point.name}" for point in POINTS])
def test_the_entry_point_loads(point: importlib.metadata.EntryPoint) -> None:
    assert callable(point.load())


def test_the_constraints_pin_every_dependency() -> None:
    """An install with `-c constraints.txt` is the tested one only when each direct dependency has an exact version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {normal(name) for name in [*PROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]}
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    assert wanted <= pinned


def normal(requirement: str) -> str:
    """A requirement's project name in its normal form: `Jinja2>=3` and `jinja2` are one project."""
    return requirement.split("[")[0].split(">")[0].split("=")[0].strip().lower().replace("_", "-")
