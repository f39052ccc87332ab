"""Metrics as a run of Weights & Biases, on its servers or offline (`mode: offline`, sent later by `wandb sync`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.sinks.base import Sink, SinkTarget


@registry.sinks.register("wandb")
class WandbSink(Sink):
    """Metrics `phase/metric` over the axis `step`. A resumed run goes on in the same run of Weights & Biases: it shows
    the steps that were done again twice, since that service forgets nothing."""

    package = "wandb"

    def __init__(
        self,
        target: SinkTarget,
        *,
        project: str = "agentrl",
        entity: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        super().__init__(target)
        import wandb

        place = target.folder.resolve()
        identity = hashlib.sha256(f"{place}".encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(
                project=project,
                entity=entity,
                name=target.name,
                id=identity,
                resume="allow",
                mode=mode,
                dir=str(place),
                config=dict(target.config),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"sink 'wandb': {reason}; log in by `wandb login`, or set mode: offline") from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{phase}/{name}": value for name, value in metrics.items()}})

    def close(self) -> None:
        self._run.finish()
