"""Staleness admission: which samples may begin, and which may still be trained on, while the weights move on.

With B samples (`per_step`) to a training step and a bound of eta versions, a sample may begin under version v only
while (eta + v + 1) * B are not yet accepted or running (AReaL, arXiv 2505.24298, section 5.1: the samples that the
next eta + 1 steps can take). That alone bounds the age of samples which finish in the order in which they began; one
that others overtake is found too old when it is done, and rejected.

Invariant: accepted samples, trained on in the order in which they were accepted, are never more than eta versions
older at their head than the version that is trained. The head of a sample is its oldest token, that of a group its
oldest member's.
"""

from __future__ import annotations

from agentrl.errors import ConfigError


def capacity(version: int, accepted: int, running: int, bound: int, per_step: int) -> int:
    """How many more samples may begin; not positive: none. All counts are of samples, since version 0."""
    return (bound + version + 1) * per_step - (accepted + running)


def is_stale(oldest_version: int, current: int, bound: int) -> bool:
    """Whether a sample whose oldest token came from `oldest_version` is too old to train version `current`."""
    return current - oldest_version > bound


class StalenessAdmission:
    """The books of who runs and who was accepted. A sample is whatever a step counts: trajectories, or groups.

    Begin a sample with `begin`, end it with `accept` or `reject`, and report new weights by `version`. A run that is
    resumed at version v begins with v * per_step accepted samples.
    """

    def __init__(self, bound: int, per_step: int, version: int = 0) -> None:
        """Raises `ConfigError`: the bound is at least 0 (0: synchronous), `per_step` at least 1."""
        for key, value, least in (("bound", bound, 0), ("per_step", per_step, 1), ("version", version, 0)):
            if value < least:
                raise ConfigError(f"staleness: {key}={value!r} must be at least {least}")
        self.bound = bound
        self.per_step = per_step
        self.accepted = version * per_step
        self.running = 0
        self._version = version

    @property
    def version(self) -> int:
        """Version of the weights that new samples begin under."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        if version < self._version:
            raise ValueError(f"version={version!r} is below {self._version}: weights do not go back within a run")
        self._version = version

    @property
    def capacity(self) -> int:
        """How many more samples may begin now; not positive: none."""
        return capacity(self._version, self.accepted, self.running, self.bound, self.per_step)

    def begin(self) -> bool:
        """Take a slot for a new sample, if there is one."""
        if self.capacity <= 0:
            return False
        self.running += 1
        return True

    def accept(self, oldest_version: int) -> bool:
        """A sample is done: whether it is counted and may be trained on; False: it is too old and was rejected.

        Judged by the version that will be trained when its turn comes, behind all that were accepted before it.
        """
        if is_stale(oldest_version, max(self._version, self.accepted // self.per_step), self.bound):
            self.reject()
            return False
        self._end()
        self.accepted += 1
        return True

    def reject(self) -> None:
        """A sample ends unused (failed, filtered, too old): its slot is free, and another may take its place."""
        self._end()

    def _end(self) -> None:
        if self.running < 1:
            raise RuntimeError("a sample ended that never began")
        self.running -= 1
