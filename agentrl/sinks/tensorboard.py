"""Metrics as TensorBoard event files, in `tensorboard/` of the run's folder: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.sinks.base import Sink, SinkTarget


@registry.sinks.register("tensorboard")
class TensorBoardSink(Sink):
    """A scalar `phase/metric` for each metric, at the training step. `folder` replaces `<run>/tensorboard`."""

    package = "tensorboard"

    def __init__(self, target: SinkTarget, *, folder: str | None = None) -> None:
        super().__init__(target)
        from torch.utils.tensorboard import SummaryWriter

        place = Path(folder) if folder is not None else target.folder / "tensorboard"
        try:
            # a reader drops what older files hold from the purged step on: a resumed run does those steps again
            self._writer = SummaryWriter(str(place), purge_step=target.step + 1 if target.step else None)
        except OSError as error:
            raise ConfigError(f"sink 'tensorboard': {str(place)!r} cannot be written: {error.strerror}") from None

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
