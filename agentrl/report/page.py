"""What every page of a report shares: templates that escape, numbers as text, files put in place whole.

Invariants: whatever a template is given is escaped unless it is `Markup` that holds none of the run's texts; a reader
never meets half of a file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from agentrl.errors import ConfigError
from agentrl.text import one_line

DASH = "\N{EN DASH}"
"""What stands where a number is missing."""


def render_page(package: str, template: str, **values: Any) -> str:
    """The page that `template` of `package` makes of `values`; it may extend and import this package's templates."""
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("agentrl.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "line": one_line,
        "percent": percent,
        "count": count,
        "figure": figure,
        "seconds": seconds,
    }
    return environment.get_template(template).render(**values)


def put_files(folder: Path, files: Mapping[str, bytes | Iterable[bytes]]) -> None:
    """Write files of a report into `folder`, each whole; raises `ConfigError` where that is not possible."""
    for name, content in files.items():
        try:
            put(folder / name, [content] if isinstance(content, bytes) else content)
        except OSError as error:
            raise ConfigError(f"the report {str(folder / name)!r} cannot be written: {error.strerror}") from None


def put(file: Path, pieces: Iterable[bytes]) -> None:
    """Put `pieces`, one after another, in the place of whatever `file` held, all at once."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as out:
            out.writelines(pieces)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def figure(value: float | None) -> str:
    """A number in four significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a number of per cent, without the sign."""
    return DASH if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def seconds(value: float | None) -> str:
    """A time in seconds, with the unit."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s"


def count(value: float | None) -> str:
    """A whole number with its thousands parted."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.0f}"
