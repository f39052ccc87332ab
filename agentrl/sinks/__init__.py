"""Where a run's metrics go beside its store: TensorBoard, Weights & Biases, or one's own.

Bundled: `tensorboard`, `wandb`; a component registered in `agentrl.registry.sinks` joins them.
"""

from agentrl.sinks.base import Sink, SinkTarget, build_sinks, check_sinks
from agentrl.sinks.tensorboard import TensorBoardSink
from agentrl.sinks.wandb import WandbSink

__all__ = ["Sink", "SinkTarget", "TensorBoardSink", "WandbSink", "build_sinks", "check_sinks"]
