"""glibc obeys: a block that was freed stays in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from agentrl.learner.memory import keep_freed_memory
def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident_mib()
torch.ones(32 * 2**20)  # 128 MiB, freed at once
print(resident_mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_block_that_was_freed_stays_in_the_process() -> None:
    kept, returned = (
        float(subprocess.run([sys.executable, "-c", SCRIPT, case], capture_output=True, text=True, check=True).stdout)
        for case in ("keep", "default")
    )
    assert kept > 100
    assert returned < 50
