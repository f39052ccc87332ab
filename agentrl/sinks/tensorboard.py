"""Metrics as TensorBoard event files, in `tensorboard/PHASE/` of the run's folder: `tensorboard --logdir runs`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.sinks.base import Sink, SinkTarget


@registry.sinks.register("tensorboard")
class TensorBoardSink(Sink):
    """A scalar `phase/metric` for each metric, at the training step. `folder` replaces `<run>/tensorboard`.

    Invariant: each phase has files of its own, because a step that is done again voids what older files beside it hold
    from that step on, whatever phase it is of; a resumed run does not repeat its warm start.
    """

    package = "tensorboard"

    def __init__(self, target: SinkTarget, *, folder: str | None = None) -> None:
        super().__init__(target)
        from torch.utils.tensorboard import SummaryWriter

        self._place = Path(folder) if folder is not None else target.folder / "tensorboard"
        self._open = SummaryWriter
        self._writers: dict[str, Any] = {}
        try:
            self._place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"sink 'tensorboard': {str(self._place)!r} cannot be written: {error.strerror}") from None
        if not os.access(self._place, os.W_OK):
            raise ConfigError(f"sink 'tensorboard': {str(self._place)!r} cannot be written: Permission denied")

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        writer = self._writers.get(phase)
        if writer is None:
            writer = self._writers[phase] = self._open(str(self._place / phase), purge_step=step)
        for name, value in metrics.items():
            writer.add_scalar(f"{phase}/{name}", value, step)
        writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
