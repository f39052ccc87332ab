"""transformers' progress bars, off for a while: loading is announced by whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from transformers.utils import logging as _logging

logging = cast(Any, _logging)  # without annotations


@contextmanager
def without_bars() -> Iterator[None]:
    """Switch the bars off and, where they were on, on again."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
