"""`agentrl/Code-v0`: write a Python function that passes hidden tests.

What runs what: `families` and `by_example` make problems, `files` reads them from benchmark files; `runner` is the
program that calls a submission inside a sandbox, `wire` the plain data that it answers with; `grader` compares them
here, with values that no sandbox ever sees.
"""

from .env import CodeEnv

__all__ = ["CodeEnv"]
