"""The learner: the policy, packed updates, supervised steps and checkpoints. Importing this imports torch."""

from __future__ import annotations

from agentrl.learner.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from agentrl.learner.policy import Policy
from agentrl.learner.update import Learner

__all__ = ["Learner", "Policy", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]
