"""The rules of the house, held by walking the syntax tree of every module.

Each rule is a function from a parsed module to the places that break it, and each has a self-test on a snippet that
breaks it: a rule that cannot fail proves nothing.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKS = ("envs", "tools", "rollouts")
SHIPPED = ("agentrl", *PACKS)
MODULE_LINES = 500
FUNCTION_LINES = 80
HEAVY = ("torch", "transformers", "matplotlib", "sqlalchemy", "peft")

Rule = Callable[[ast.Module, str], Iterator[str]]


def modules(*folders: str) -> list[str]:
    """Paths of every module in these folders of the checkout, relative to its root."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def imported(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports, names of `from` imports included."""
    parts = Path(path).with_suffix("").parts
    package = list(parts[:-1]) if parts[0] == "agentrl" else ["agentrl", *parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and is_import_call(node):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value


def is_import_call(node: ast.Call) -> bool:
    """Whether a call is `import_module(...)` or `__import__(...)`: an import all the same."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__")


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden_packs(tree: ast.Module, path: str) -> Iterator[str]:
    """The kernel imports no pack; a pack imports no other pack; both write their own pack's name relatively."""
    owner = Path(path).parts[0]
    for line, name in imported(tree, path):
        for pack in PACKS:
            if inside(name, f"agentrl.{pack}") and pack != owner:
                yield f"{path}:{line} imports {name}"
            if inside(name, pack) and owner in SHIPPED:
                yield f"{path}:{line} imports {name}: the import name is agentrl.{pack}"


def absolute_in_pack(tree: ast.Module, path: str) -> Iterator[str]:
    """A pack reaches its own files by relative import, so that it can be copied out as a package of its own."""
    owner = f"agentrl.{Path(path).parts[0]}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [] if node.level else [f"{node.module}.{name}" for name in names]
        yield from (
            f"{path}:{node.lineno} imports {name}: use a relative import" for name in names if inside(name, owner)
        )


def private_imports(tree: ast.Module, path: str) -> Iterator[str]:
    """An example imports only public names: no part of the name starts with an underscore, nothing is relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{path}:{node.lineno} is a relative import"
    for line, name in imported(tree, path):
        parts = name.split(".")
        if parts[0] in (*PACKS, "tests") or (parts[0] == "agentrl" and any(part.startswith("_") for part in parts)):
            yield f"{path}:{line} imports {name}"


def long_functions(tree: ast.Module, path: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{path}:{node.lineno} {node.name} has {lines} lines"


def missing_docstring(tree: ast.Module, path: str) -> Iterator[str]:
    private = Path(path).name.startswith("_") and Path(path).name != "__init__.py"
    if not private and not ast.get_docstring(tree):
        yield f"{path} has no docstring"


def swallowed(tree: ast.Module, path: str) -> Iterator[str]:
    """`except:` names what it expects, and a broad handler does something with what it caught."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in kinds)
        if node.type is None or (broad and all(is_empty(statement) for statement in node.body)):
            yield f"{path}:{node.lineno} swallows exceptions"


def is_empty(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Continue)


def long_module(source: str, path: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{path} has {lines} lines"] if lines > MODULE_LINES else []


RULES: list[tuple[Rule, tuple[str, ...]]] = [
    (forbidden_packs, SHIPPED),
    (absolute_in_pack, PACKS),
    (private_imports, ("examples",)),
    (long_functions, (*SHIPPED, "examples")),
    (missing_docstring, (*SHIPPED, "examples")),
    (swallowed, (*SHIPPED, "examples")),
]


@pytest.mark.parametrize(("rule", "folders"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_every_module_keeps_the_rule(rule: Rule, folders: tuple[str, ...]) -> None:
    broken = [place for path in modules(*folders) for place in rule(ast.parse(read(path)), path)]
    assert not broken, "\n".join(broken)


def test_no_module_is_over_the_line_budget() -> None:
    broken = [place for path in modules(*SHIPPED, "examples") for place in long_module(read(path), path)]
    assert not broken, "\n".join(broken)


def test_the_walk_sees_every_shipped_folder() -> None:
    assert {Path(path).parts[0] for path in modules(*SHIPPED)} == set(SHIPPED)


BAD = [
    (forbidden_packs, "agentrl/trainer.py", "from agentrl.rollouts import manager"),
    (forbidden_packs, "agentrl/trainer.py", "from agentrl import envs"),
    (forbidden_packs, "agentrl/trainer.py", "from . import envs"),
    (forbidden_packs, "agentrl/learner/update.py", "from ..tools.calculator import Calculator"),
    (forbidden_packs, "agentrl/trainer.py", "def f():\n    import agentrl.tools.calculator"),
    (forbidden_packs, "agentrl/trainer.py", "from importlib import import_module\nimport_module('agentrl.envs')"),
    (forbidden_packs, "envs/arithmetic.py", "from agentrl.tools import calculator"),
    (forbidden_packs, "envs/arithmetic.py", "from ..tools import calculator"),
    (forbidden_packs, "envs/arithmetic.py", "from tools import calculator"),
    (absolute_in_pack, "envs/arithmetic.py", "from agentrl.envs.questions import Question"),
    (private_imports, "examples/train.py", "from agentrl.trainer import _step"),
    (private_imports, "examples/train.py", "from agentrl._private import step"),
    (private_imports, "examples/train.py", "from .helper import step"),
    (private_imports, "examples/train.py", "from envs import arithmetic"),
    (long_functions, "agentrl/a.py", "async def f():\n" + "    x = 1\n" * FUNCTION_LINES),
    (missing_docstring, "agentrl/a.py", "x = 1"),
    (missing_docstring, "agentrl/__init__.py", "x = 1"),
    (swallowed, "agentrl/a.py", "try:\n    f()\nexcept:\n    g()"),
    (swallowed, "agentrl/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (swallowed, "agentrl/a.py", "try:\n    f()\nexcept (ValueError, BaseException):\n    ..."),
]


@pytest.mark.parametrize(("rule", "path", "source"), BAD)
def test_the_rule_finds_what_breaks_it(rule: Rule, path: str, source: str) -> None:
    assert list(rule(ast.parse(source), path))


GOOD = [
    (forbidden_packs, "agentrl/trainer.py", "from agentrl.rollout import Rollout\nfrom .env import Env"),
    (forbidden_packs, "envs/arithmetic.py", "from agentrl.tool import Tool\nfrom .questions import Question"),
    (absolute_in_pack, "envs/arithmetic.py", "from agentrl.env import ToolEnv\nfrom . import questions"),
    (private_imports, "examples/train.py", "from __future__ import annotations\nfrom agentrl.trainer import Trainer"),
    (long_functions, "agentrl/a.py", "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)),
    (missing_docstring, "agentrl/a.py", '"""An idea."""'),
    (swallowed, "agentrl/a.py", "try:\n    f()\nexcept Exception as error:\n    log(error)"),
    (swallowed, "agentrl/a.py", "try:\n    f()\nexcept KeyError:\n    pass"),
]


@pytest.mark.parametrize(("rule", "path", "source"), GOOD)
def test_the_rule_lets_good_code_pass(rule: Rule, path: str, source: str) -> None:
    assert not list(rule(ast.parse(source), path))


def test_the_line_budget_is_exact() -> None:
    assert not long_module("x = 1\n" * MODULE_LINES, "agentrl/a.py")
    assert long_module("x = 1\n" * (MODULE_LINES + 1), "agentrl/a.py")


def loaded_by(statement: str) -> tuple[set[str], float]:
    """Top-level names in `sys.modules` of a fresh interpreter after a statement, and the seconds it took."""
    probe = (
        f"import json, sys, time; t = time.perf_counter(); {statement}; t = time.perf_counter() - t; "
        "print(json.dumps([sorted({name.split('.')[0] for name in sys.modules}), t]))"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    names, seconds = json.loads(out.splitlines()[-1])
    return set(names), float(seconds)


def test_importing_agentrl_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    names, seconds = loaded_by("import agentrl")
    with capsys.disabled():
        print(f"\nimport agentrl: {seconds:.2f} s")
    assert "agentrl" in names
    assert not names & set(HEAVY)


def test_the_probe_sees_a_heavy_module() -> None:
    assert "sqlalchemy" in loaded_by("import agentrl, sqlalchemy")[0]
