"""Weight changes between two checkpoints: what training moved, where, and how far.

    report = probe("smollm2-135m-instruct", "runs/quickstart")
    report.total().figures()["sparsity_bf16"]

Source: "The Path Not Taken", arXiv 2511.08567; methods specification, 02. `docs/probe.md` explains each figure.
"""

from agentrl.probe.measure import ProbeReport, ProbeSettings, TensorReport, probe

__all__ = ["ProbeReport", "ProbeSettings", "TensorReport", "probe"]
