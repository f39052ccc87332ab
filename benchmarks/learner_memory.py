"""Peak memory of scoring tokens in chunks against whole logits.

Each case runs in a process of its own: float32, forward and backward through an output head alone, the head's gradient
included. Run: python benchmarks/learner_memory.py [--tokens 4096] [--vocabulary 49152] [--width 576]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time


def measure(case: str, tokens: int, vocabulary: int, width: int) -> dict[str, float]:
    """Peak resident memory above the start in MiB, and seconds."""
    import torch
    from torch import nn

    from agentrl.learner.logprobs import token_logprobs

    torch.manual_seed(0)
    head = nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(tokens, width, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    baseline = peak()
    began = time.perf_counter()
    if case == "chunked":
        logprobs = token_logprobs(hidden, head, targets).logprobs
    else:
        logprobs = torch.log_softmax(head(hidden), -1).gather(1, targets[:, None])[:, 0]
    logprobs.sum().backward()
    return {"peak_mib": peak() - baseline, "seconds": time.perf_counter() - began}


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--case", choices=["chunked", "whole"], help="measure one case in this process")
    options = parser.parse_args()
    shape = options.tokens, options.vocabulary, options.width
    if options.case:
        print(json.dumps(measure(options.case, *shape)))
        return
    for case in ("chunked", "whole"):
        command = [sys.executable, __file__, "--case", case]
        for name, value in zip(("--tokens", "--vocabulary", "--width"), shape, strict=True):
            command += [name, str(value)]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{case:8} {result['peak_mib']:8.0f} MiB above the start, {result['seconds']:6.1f} s")


if __name__ == "__main__":
    main()
