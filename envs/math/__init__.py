"""`agentrl/Math-v0`: exercises of our own generators, or of a file, judged by mathematical equivalence."""
