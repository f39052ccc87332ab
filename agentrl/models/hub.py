"""Models from the hub, without the long waits of a machine that has none.

Invariant: whether the hub answers is settled in `HUB_SECONDS`, name resolution included; only then does the real
download with its retries begin. What is in the hub's own cache needs no network at all.
"""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from agentrl.errors import ModelError
from agentrl.models.folder import folder_fault
from agentrl.models.progress import Report
from agentrl.models.text import one_line

HUB_SECONDS = 4.0
"""A hub that has not answered a HEAD request by then counts as absent: a healthy one needs well under a second."""
CONFIG_AND_TOKENIZER = ["*.json", "*.jinja", "*.model", "*.txt"]
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""The older format is taken only where there is no other."""
OTHER_FORMATS = ["*/*"]
"""Sub-folders of a repository hold the same model for other libraries."""


def cached_snapshot(hub_id: str) -> Path | None:
    """The complete snapshot in the hub's cache, or None; no network."""
    for weights in WEIGHTS:
        try:
            folder = _snapshot(hub_id, weights, local_files_only=True)
        except (OSError, ValueError):  # nothing or not all of it is cached; the id is malformed
            continue
        if folder_fault(folder) is None:
            return folder
    return None


def hub_absence() -> str | None:
    """Why the hub cannot be used from here, in a few words; None when it answers."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    answer: list[str | None] = []

    def ask() -> None:
        try:
            httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
            answer.append(None)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            answer.append(one_line(error))

    # A thread, because no timeout of an HTTP client bounds the resolver's.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answer[0] if answer else f"no answer in {HUB_SECONDS:g} s"


def download(hub_id: str, report: Report) -> Path:
    """Fetch a snapshot into the hub's cache; its folder is named after the commit. Raises `ModelError`."""
    try:
        for weights in WEIGHTS:
            folder = _snapshot(hub_id, weights, tqdm_class=_bar(f"downloading {hub_id}", report))
            fault = folder_fault(folder)
            if fault is None:
                return folder
    except GatedRepoError as error:
        raise ModelError(
            f"hub model {hub_id!r} is gated: accept its terms on the hub and log in (hf auth login)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"hub model {hub_id!r} does not exist, or is private: check the spelling, or log in (hf auth login)"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"hub model {hub_id!r} cannot be downloaded ({one_line(error)}): "
            "check the network and the room in the hub's cache (HF_HOME)"
        ) from error
    raise ModelError(f"hub model {hub_id!r} cannot be used: {fault}")


def _snapshot(hub_id: str, weights: str, **settings: Any) -> Path:
    # The same patterns for downloading and for looking: the client compares the cache with all that they match.
    patterns = [*CONFIG_AND_TOKENIZER, weights]
    return Path(
        huggingface_hub.snapshot_download(
            hub_id, allow_patterns=patterns, ignore_patterns=OTHER_FORMATS, etag_timeout=HUB_SECONDS, **settings
        )
    )


def _bar(stage: str, report: Report) -> type[Any]:
    furthest = 0

    class Forward(tqdm):
        """Shows nothing itself: hands the bytes to `report`. The bar that counts files is ignored."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal furthest
            self.n += n or 0
            if self.counts_bytes and self.n > furthest:  # the hub counts transfer and reconstruction apart
                furthest = int(self.n)
                report(stage, furthest, int(self.total or 0))
            return None

    return Forward
